"""`hf-tickets env`: what a bug report needs."""

import argparse
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_LIBRARIES = (
    "hf_tickets", "torch", "torchvision", "transformers", "accelerate", "datasets", "evaluate", "huggingface_hub",
    "safetensors", "timm", "numpy", "scikit-learn", "deepspeed", "peft", "trl", "sentence-transformers",
)  # fmt: skip


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand's arguments."""
    description = "Print the versions and the machine, to be pasted into a bug report."
    subparsers.add_parser("env", help="print what a bug report needs", description=description)


def run(arguments: argparse.Namespace) -> int:
    """Print platform, Python, libraries, and what torch computes on."""
    import torch

    lines = {"platform": platform.platform(), "python": platform.python_version()}
    lines |= {name: _version(name) for name in _LIBRARIES}
    lines["CPU"] = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads of torch"
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    lines["GPU"] = ", ".join(devices) or ("mps" if torch.backends.mps.is_available() else "none")
    sys.stdout.writelines(f"- {name}: {value}\n" for name, value in lines.items())
    return 0


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
