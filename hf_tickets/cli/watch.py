"""A display that is shown every training inside a block, and ends with it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from transformers import Trainer

from hf_tickets.cli.display import Display
from hf_tickets.cli.progress_callback import show_progress


@contextmanager
def watching(
    console: Console,
    metric: str | None = None,
    rounds: int = 0,
    current_round: Callable[[], tuple[int, float]] | None = None,
) -> Iterator[Callable[[Trainer], None]]:
    """Give a function that attaches the display to a trainer.

    Args:
        console: Where to show it.
        metric: Metric to show (default: the loss).
        rounds: Number of pruning rounds; 0 for single trainings.
        current_round: Number and sparsity of the round whose training begins.
    """
    display = Display(metric, console)
    display.start(rounds)
    try:
        yield lambda trainer: show_progress(trainer, display, current_round)
    finally:
        display.finish()
