"""What the terminal shows during long work: rounds, steps, metric and time left; and the table of results.

On a terminal the display is live; elsewhere it is plain lines, few enough for a log file. It is told what
happens and computes nothing, so that nothing in it can stop a training; only its output may close, and then
the training goes on without it.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from numbers import Real
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

logger = logging.getLogger(__name__)

_NOT_RESULTS = ("loss", "time", "_per_second", "samples", "steps", "epoch", "sparsity")
_SHOWN = 3  # metrics of an evaluation
_LINES_A_ROUND = 10
_SHORTEST_PAUSE, _LONGEST_PAUSE = 2.0, 30.0  # seconds between two plain lines about steps


class Display:
    """Progress of a number of rounds, each of a number of steps.

    Args:
        metric: Name of the metric to show first, with or without `eval_`; by default, and in evaluations that lack it,
            the first that is there, and the loss where there is no other.
        console: Where to show it; standard output by default.
        clock: Seconds from any start; for tests.
    """

    def __init__(
        self,
        metric: str | None = None,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metric = metric
        self.console = console or Console()
        self.clock = clock
        self.rounds = 0
        self.round = 0
        self.sparsity = 0.0
        self.steps = 0
        self._progress: Progress | None = None
        self._first_step: int | None = None
        self._line_step = 0
        self._round_time = self._line_time = clock()

    def start(self, rounds: int) -> None:
        """Begin the work: `rounds` rounds of pruning after round 0; 0 for a single training."""
        self.rounds = rounds
        if not self.console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[count]}", justify="right"),
            TimeRemainingColumn(),
            console=self.console,
            expand=True,
            speed_estimate_period=300,
        )
        self._all_rounds = self._progress.add_task("all rounds", total=rounds + 1, count="", visible=rounds > 0)
        self._this_round = self._progress.add_task("", total=None, count="")
        self._progress.start()

    def round_started(self, round: int, sparsity: float, steps: int) -> None:
        """Begin round `round` at `sparsity` (0 to 1), a training of `steps` optimizer steps."""
        self.round, self.sparsity, self.steps = round, sparsity, steps
        self._first_step, self._line_step = None, 0
        self._round_time = self._line_time = self.clock()
        if self._progress is None:
            self._line(f"{self._title()} · {steps} steps")
            return
        self._progress.reset(self._this_round, total=steps or None, description=self._title(), count=f"0/{steps}")
        self._progress.update(self._all_rounds, completed=round, count=f"{round}/{self.rounds}")

    def step(self, step: int, loss: float | None = None) -> None:
        """Say that `step` steps of this round are done, with the training `loss` where it is known."""
        if self._first_step is None:
            self._first_step = self._line_step = step - 1  # a resumed round starts in the middle
        shown_loss = "" if loss is None else f" · loss {loss:.4g}"
        if self._progress is not None:
            done = self.round + (step / self.steps if self.steps else 0)
            self._progress.update(self._all_rounds, completed=done)
            self._progress.update(
                self._this_round,
                completed=step,
                description=f"{self._title()}{shown_loss}",
                count=f"{step}/{self.steps}",
            )
            return
        pause = self.clock() - self._line_time
        far_enough = step - self._line_step >= self.steps / _LINES_A_ROUND and pause >= _SHORTEST_PAUSE
        if far_enough or pause >= _LONGEST_PAUSE:
            self._line_step, self._line_time = step, self.clock()
            left = (self.clock() - self._round_time) / (step - self._first_step) * (self.steps - step)
            shown_left = timedelta(seconds=max(0, round(left)))
            self._line(f"{self._title()} · step {step}/{self.steps}{shown_loss} · {shown_left} left in this round")

    def evaluated(self, metrics: Mapping[str, Any]) -> None:
        """Show the metric of an evaluation during this round."""
        first, *more = self._results(metrics) or [f"{self.metric or 'loss'} –"]
        shown = " · ".join([first, *more]) if self._progress is None else first
        if self._progress is None:
            self._line(f"{self._title()} · {shown}")
        else:
            self._progress.update(self._all_rounds, description=f"all rounds · {shown} (round {self.round})")

    def round_finished(self, metrics: Mapping[str, Any]) -> None:
        """End this round, whose final metrics are `metrics`; a line about it stays in view."""
        if self._progress is not None:
            self._progress.update(self._all_rounds, completed=self.round + 1)
        shown = "".join(f" · {result}" for result in self._results(metrics))
        duration = timedelta(seconds=round(self.clock() - self._round_time))
        self._line(f"{self._title()} · trained in {duration}{shown}")

    def finish(self) -> None:
        """End the display, also after an error; calling it twice does nothing more."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _results(self, metrics: Mapping[str, Any]) -> list[str]:
        """Name and value of each metric of an evaluation, the wanted one first; the loss where there is no other."""
        names = result_names(metrics)
        wanted = (self.metric or "").removeprefix("eval_")
        if metric_value(metrics, wanted) is not None:
            names = [wanted, *(name for name in names if name != wanted)]
        names = names or (["loss"] if metric_value(metrics, "loss") is not None else [])
        return [f"{name} {_number(metric_value(metrics, name))}" for name in names[:_SHOWN]]

    def _title(self) -> str:
        if not self.rounds:
            return f"training · sparsity {self.sparsity:.2%}"
        return f"round {self.round} of {self.rounds} · sparsity {self.sparsity:.2%}"

    def _line(self, text: str) -> None:
        try:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        except (OSError, SystemExit) as error:  # rich exits when the reader of a pipe is gone
            self.console.quiet = True
            logger.warning("cannot show progress any more, the training goes on: %s", error)


def metric_value(metrics: Mapping[str, Any], metric: str) -> Any:
    """Return the value of `metric` in `metrics`, named with or without `eval_`; None where it is missing."""
    name = metric.removeprefix("eval_")
    return metrics.get(f"eval_{name}", metrics.get(name))


def result_names(metrics: Mapping[str, Any]) -> list[str]:
    """Return the metrics of an evaluation without `eval_`: neither losses nor times and counts."""
    names = [name.removeprefix("eval_") for name, value in metrics.items() if isinstance(value, Real)]
    return [name for name in names if name.isprintable() and not name.endswith(_NOT_RESULTS)]


def results_table(rows: Iterable[Mapping[str, Any]], metric: str) -> Table:
    """Return a table of rounds.

    Args:
        rows: One mapping a round with round, sparsity (0 to 1), metrics (name → value), steps, seconds, and
            kept (number of remaining weights) where it is known.
        metric: Name of the metric to show first, with or without `eval_`.
    """
    table = Table()
    rows = list(rows)
    name = metric.removeprefix("eval_")
    measured = [row["metrics"] for row in rows if isinstance(row.get("metrics"), Mapping)]
    others = dict.fromkeys(other for metrics in measured for other in result_names(metrics) if other != name)
    more = list(others)[: _SHOWN - 1]
    for header in ("round", "sparsity", "remaining weights", name, *more, "steps", "seconds"):
        words = header.replace("_", " ") if header in more else header  # which may go on in the next line
        table.add_column(Text(words), justify="right", no_wrap=header == name, overflow="fold")
    for row in rows:
        metrics = row["metrics"] if isinstance(row.get("metrics"), Mapping) else {}
        table.add_row(
            _number(row.get("round"), ""),
            _number(row.get("sparsity"), ".2%"),
            _number(row.get("kept"), ",.0f"),
            *(_number(metric_value(metrics, shown)) for shown in (name, *more)),
            _number(row.get("steps"), ""),
            _number(row.get("seconds"), ".1f"),
        )
    return table


def _number(value: Any, form: str = ".4f") -> str:
    return format(value, form) if isinstance(value, Real) else "–"
