"""`hf-tickets convert`: a published checkpoint as a folder that timm, transformers and this library load."""

import argparse
from typing import Any


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand's arguments."""
    parser = subparsers.add_parser(
        "convert",
        help="make a published checkpoint loadable",
        description=(
            "Write a published checkpoint (MoCo v1 and v2, SimCLR's ResNets, ResNets of torchvision and timm, or a "
            "SimCLR or MoCo folder of this library) as a folder that timm and transformers load. Nothing in the file "
            "is run. What of it fits nothing is listed."
        ),
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="file, or folder that SimCLR or MoCo was saved to")
    parser.add_argument("output", metavar="OUTPUT", help="folder to write; it must be empty or missing")
    parser.add_argument("--architecture", metavar="NAME", help="timm's name; recognised by default")
    parser.add_argument("--moco", action="store_true", help="write all of MoCo: heads, key encoder and queue too")
    parser.add_argument(
        "--unnormalised",
        action="store_true",
        help="the model was trained on pixels between 0 and 1, as SimCLR's published ones were",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the folder, and say what it holds and what was left out."""
    from pathlib import Path

    from rich.console import Console

    from hf_tickets.errors import RecipeError
    from hf_tickets.tasks.published import read_published, save_as_moco, save_as_timm

    source, output = Path(arguments.checkpoint), Path(arguments.output)
    if not source.exists():
        raise RecipeError(f"there is no file {source}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RecipeError(f"{output} is not an empty folder; give another")
    published = read_published(source, arguments.architecture)
    console = Console()
    left_out = published.left_out
    if arguments.moco:
        save_as_moco(published, output)
        left_out = [name for name in left_out if not name.startswith("module.encoder_") and name != "module.queue"]
    elif arguments.unnormalised:
        save_as_timm(published, output, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    else:
        save_as_timm(published, output)
    head = f"{published.classes} classes" if published.classes else "no classifier"
    console.print(f"{published.architecture}, {head}: {output}", soft_wrap=True, highlight=False)
    if left_out:
        console.print(f"{len(left_out)} keys of {source.name} have no place there and were left out:")
        for line in grouped(left_out):
            console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)
    return 0


def grouped(names: list[str]) -> list[str]:
    """Return names, those of one part of a model in one line where they are many.

    Args:
        names: Dotted names.
    """
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(".".join(name.split(".")[:2]), []).append(name)
    lines: list[str] = []
    for part, own in parts.items():
        lines += own if len(own) <= 8 else [f"{part}.… ({len(own)} keys, {own[0]} to {own[-1]})"]
    return lines
