"""Time of loading and applying a ticket, beside masks stored as float32 tensors (Linux).

Claims, for BERT-base on two cores: a ticket of one mask is loaded and applied in at most 0.3 s, the last of a ladder
of nine in at most 1.5 s. Beside it: `torch.load` of the same mask as float32 tensors, 342 MB, as the papers' code
stores it, and multiplying it in.

The methods take turns, after one untimed turn. Cold: the files are dropped from the page cache before each run.

Command: python tests/benchmarks/ticket_apply.py
"""

import os
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from measuring import INTERVALS, MEBIBYTE, arguments, console, median, start, timed, verdict
from models import bert
from rich.progress import track
from rich.table import Table
from ticket_size import LADDERS, nested
from torch import Tensor, nn

from hf_tickets import Mask, Ticket
from hf_tickets.pruning.scope import prunable_weights

NINE_RUNGS = "9 rungs of 10 % of original"


@dataclass(frozen=True)
class Method:
    """One way to bring a mask from files into a model.

    Args:
        files: What it reads.
        run: Load and apply.
        goal: Most seconds, where there is a goal.
    """

    files: list[Path]
    run: Callable[[nn.Module], None]
    goal: float | None


def ticket_method(masks: list[Mask], folder: Path, goal: float) -> Method:
    """Save masks as a ticket, to be loaded and applied at the last rung."""
    Ticket(masks).save_pretrained(folder)
    return Method(list(folder.iterdir()), lambda model: _apply_ticket(folder, model), goal)


def float_method(mask: Mask, path: Path) -> Method:
    """Save a mask as float32 tensors, to be loaded and multiplied in."""
    torch.save({name: kept.float() for name, kept in mask.items()}, path)
    return Method([path], lambda model: _multiply(path, model), None)


def _apply_ticket(folder: Path, model: nn.Module) -> None:
    Ticket.from_pretrained(folder).apply(model)


@torch.no_grad()
def _multiply(path: Path, model: nn.Module) -> None:
    mask: dict[str, Tensor] = torch.load(path, weights_only=True, mmap=False)
    weights = prunable_weights(model)
    for name, kept in mask.items():
        weights[name].mul_(kept)


def drop_from_cache(files: list[Path]) -> None:
    """Let the next read of these files be one of the disk."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)  # pages not yet written are not dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def check(method: Method, masks: list[Mask], quick: bool) -> None:
    """Stop unless a method prunes exactly what the last mask says."""
    model = bert(quick)
    expected = {name: weight * masks[-1][name] for name, weight in prunable_weights(model).items()}
    method.run(model)
    for name, weight in prunable_weights(model).items():
        if not torch.equal(weight, expected[name]):
            raise SystemExit(f"{name} is not pruned as its mask says: the times mean nothing")


def apply_table(options: Namespace, folder: Path) -> Table:
    """Time all methods in turn, cold and warm."""
    model: nn.Module = bert(options.quick)
    ladder = list(nested(model, LADDERS[NINE_RUNGS]))
    one = ladder[6:7]  # 70 %
    cases = {
        "ticket of one mask, 70 %": (ticket_method(one, folder / "one", 0.3), one),
        "float32 tensors, 70 %": (float_method(one[-1], folder / "one.pt"), one),
        "ticket of nine masks, the last": (ticket_method(ladder, folder / "nine", 1.5), ladder),
        "float32 tensors, 90 %": (float_method(ladder[-1], folder / "nine.pt"), ladder),
    }
    for method, masks in cases.values():
        check(method, masks, options.quick)
    seconds: dict[tuple[str, bool], list[float]] = {}
    for _ in track(range(options.runs), "load and apply", console=console, transient=True):
        for cold in (True, False):
            for name, (method, _) in cases.items():
                if cold:
                    drop_from_cache(method.files)
                seconds.setdefault((name, cold), []).append(timed(method.run, model))
    table = Table("", "on disk, MiB", "cold, s", "warm, s", "goal", title="Loading and applying a mask of BERT")
    for name, (method, _) in cases.items():
        cold_seconds, warm_seconds = seconds[name, True], seconds[name, False]
        slower = float(max(np.median(cold_seconds), np.median(warm_seconds)))
        size = sum(path.stat().st_size for path in method.files)
        table.add_row(
            name,
            f"{size / MEBIBYTE:.1f}",
            median(cold_seconds),
            median(warm_seconds),
            f"≤ {method.goal} s: {verdict(slower <= method.goal)}" if method.goal is not None else "–",
        )
    table.caption_justify = "left"
    table.caption = INTERVALS
    return table


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int, default=9, help="timed runs of each method, cold and warm")
    options = parser.parse_args()
    if options.quick:
        options.runs = 2
    start(options)
    with TemporaryDirectory() as folder:
        console.print(apply_table(options, Path(folder)))


if __name__ == "__main__":
    main()
