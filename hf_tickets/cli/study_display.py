"""What the terminal shows of a study: counts, what runs and how far, time left; and what failed.

It reads the study's folder, as any other terminal can, and is told nothing by what runs.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Mapping
from datetime import timedelta
from statistics import mean
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hf_tickets.cli.display import metric_value
from hf_tickets.errors import TicketsError
from hf_tickets.studies.plan import Plan
from hf_tickets.studies.study_folder import DONE, FAILED, HELD, RUNNING, WAITING, CellState, StudyFolder

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN = 1.0
_ROWS = 20  # of running cells in the live view


class StudyDisplay:
    """Shows a study while a block runs: live on a terminal, elsewhere a line for each cell that ends.

    Args:
        plan: The study.
        folder: Where it lies.
        console: Where to show it.
    """

    def __init__(self, plan: Plan, folder: StudyFolder, console: Console) -> None:
        self.plan, self.folder, self.console = plan, folder, console
        self._states = folder.states(plan)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "StudyDisplay":
        if self._live is not None:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ends.set()
        self._thread.join()
        self._show()
        if self._live is not None:
            self._live.stop()

    def _watch(self) -> None:
        while not self._ends.wait(_SECONDS_BETWEEN):
            self._show()

    def _show(self) -> None:
        try:
            before, self._states = self._states, self.folder.states(self.plan)
            self._say_what_ended(before)
            if self._live is not None:
                self._live.update(overview(self.plan, self._states), refresh=True)
        except (OSError, SystemExit, TicketsError) as error:  # rich exits when the reader of a pipe is gone
            self.console.quiet = True
            logger.warning("cannot show the study any more, it goes on: %s", error)

    def _say_what_ended(self, before: Mapping[str, CellState]) -> None:
        done = sum(state.state == DONE for state in self._states.values())
        for key, state in self._states.items():
            if state.state == before[key].state or state.state not in (DONE, FAILED):
                continue
            words = [self.plan.cells[key].label, state.state, *([state.error] if state.error else _reached(state))]
            line = Text(f"{done}/{len(self._states)} · {' · '.join(words)}")
            self.console.print(line, soft_wrap=True)


def overview(plan: Plan, states: Mapping[str, CellState], limit: int | None = _ROWS) -> RenderableType:
    """Return counts and time left, and a row for each cell that runs.

    Args:
        plan: The study.
        states: Key → how far the cell is.
        limit: The most rows; None for all.
    """
    counts = {name: sum(state.state == name for state in states.values()) for name in (DONE, RUNNING, FAILED, HELD)}
    words = [f"{count} {_NAMES[name]}" for name, count in counts.items() if count or name == DONE]
    waiting = sum(state.state == WAITING for state in states.values())
    left = time_left(plan, states)
    if waiting:
        words.append(f"{waiting} waiting")
    if left is not None:
        words.append(f"about {timedelta(seconds=round(left))} left")
    running = [(plan.cells[key].label, state.progress) for key, state in states.items() if state.state == RUNNING]
    table = Table.grid(padding=(0, 2))
    for label, progress in running[:limit]:
        table.add_row(Text(label), *map(Text, _how_far(progress)))
    more = [Text(f"… and {len(running) - limit} more")] if limit is not None and len(running) > limit else []
    return Group(Text(f"{len(states)} cells: {', '.join(words)}"), *([table] if running else []), *more)


_NAMES = {DONE: "done", RUNNING: "running", FAILED: "failed", HELD: "held up"}


def failures(plan: Plan, states: Mapping[str, CellState]) -> Table | None:
    """Return a table of the cells that failed or are held up, and why; None where there are none.

    Args:
        plan: The study.
        states: Key → how far the cell is.
    """
    stopped = [(plan.cells[key].label, state) for key, state in states.items() if state.state in (FAILED, HELD)]
    if not stopped:
        return None
    table = Table(title="failed")
    for header in ("cell", "state", "why"):
        table.add_column(header, overflow="fold")
    for label, state in stopped:
        table.add_row(Text(label), _NAMES[state.state], Text(state.error or ""))
    return table


def time_left(plan: Plan, states: Mapping[str, CellState]) -> float | None:
    """Return the seconds until the study is done, by the training times of finished cells; None before the first.

    A cell is taken to need as long as those of its kind; running cells go on side by side.

    Args:
        plan: The study.
        states: Key → how far the cell is.
    """
    times: dict[str, list[float]] = defaultdict(list)
    for key, state in states.items():
        if state.state == DONE:
            times[plan.cells[key].kind].append(state.result["seconds"])
    left = 0.0
    unfinished = [key for key, state in states.items() if state.state in (RUNNING, WAITING)]
    for key in unfinished:
        kind = plan.cells[key].kind
        if kind not in times:
            return None
        left += mean(times[kind]) * (1 - share_done(states[key].progress))
    side_by_side = sum(state.state == RUNNING for state in states.values())
    return left / max(1, side_by_side) if unfinished else None


def share_done(progress: Mapping[str, Any]) -> float:
    """Return how much of a cell's training is done, 0 to 1.

    Args:
        progress: What its progress file says.
    """
    if not progress.get("steps"):
        return 0.0
    return (progress["round"] + progress["step"] / progress["steps"]) / (progress["rounds"] + 1)


def _how_far(progress: Mapping[str, Any]) -> list[str]:
    round = f"round {progress['round']} of {progress['rounds']}" if progress["rounds"] else ""
    step = f"step {progress['step']}/{progress['steps']}" if progress["steps"] else "loading"
    metrics = progress["metrics"]
    value = metric_value(metrics, progress.get("metric") or "loss")
    shown = f"{progress.get('metric') or 'loss'} {value:.4f}" if isinstance(value, float) else ""
    return [round, step, shown]


def _reached(state: CellState) -> list[str]:
    metric = state.result["metric"]
    reached = state.result["rounds"][-1] if "rounds" in state.result else state.result
    value = reached["metrics"].get(metric)
    seconds = timedelta(seconds=round(state.result["seconds"]))
    return [f"{metric} {value:.4f}", str(seconds)] if isinstance(value, float) else [str(seconds)]
