"""What the benchmarks share: medians with intervals, peak memory, fresh processes, tables."""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console
from scipy.stats import quantile_test

T = TypeVar("T")

MEBIBYTE = 1 << 20
INTERVALS = (
    "Brackets: 95 % interval of the median from order statistics, of any distribution; with fewer than six runs, "
    "their range."
)
console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and few runs: shows that it works")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own choice)")
    return parser


def start(options: argparse.Namespace) -> None:
    """Set the threads and the seed, and print what it runs on."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.cuda.get_device_name() if getattr(options, "device", "cpu") == "cuda" else "CPU"
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    console.print(f"torch {torch.__version__}, {threads} threads on {os.cpu_count()} cores, {device}, load {load:.1f}")
    if load > 0.5:
        console.print(
            "[yellow]The machine is not at rest: threads that wait for each other may take many times longer."
        )


def timed(function: Callable[..., Any], *values: Any) -> float:
    """Return the seconds that a call takes."""
    begin = time.perf_counter()
    function(*values)
    return time.perf_counter() - begin


def median(values: Sequence[float], form: str = "{:.3f}") -> str:
    """Write a sample as `median [low, high]`.

    Args:
        values: The sample.
        form: Format of one number.
    """
    low, high = min(values), max(values)
    if len(values) >= 6:  # below, no order statistics hold the median with 95 % confidence
        low, high = quantile_test(values, p=0.5).confidence_interval(confidence_level=0.95)
    return f"{form.format(np.median(values))} [{form.format(low)}, {form.format(high)}]"


def verdict(met: bool) -> str:
    """Write whether a goal is met."""
    return "[green]met[/green]" if met else "[red]missed[/red]"


def in_fresh_process(function: Callable[..., T], *values: Any) -> T:
    """Call a module's function in a process that has run nothing yet, so that no memory is there to be used again.

    The libraries are imported once, in a server from which each process is forked.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["transformers.trainer", "transformers.models.bert.modeling_bert", "measuring"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *values).result()


def peak_memory(function: Callable[[], T]) -> tuple[int, T]:
    """Return by how many bytes the process grew at most during a call, and what the call returned (Linux).

    It is the kernel's own mark of the most memory resident at any moment, not a sample.
    """
    Path("/proc/self/clear_refs").write_text("5")  # sets the mark to the memory resident now
    before = _most_resident()
    result = function()
    return _most_resident() - before, result


def _most_resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not report VmHWM in /proc/self/status: run the benchmark on Linux")
