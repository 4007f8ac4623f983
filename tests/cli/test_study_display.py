"""What the terminal shows of a study."""

from rich.console import Console

from hf_tickets.cli.study_display import failures, overview, share_done, time_left
from hf_tickets.studies.plan import Plan
from hf_tickets.studies.study_cell import StudyCell
from hf_tickets.studies.study_folder import DONE, FAILED, HELD, RUNNING, WAITING, CellState

HALF = {"rounds": 1, "round": 1, "step": 0, "steps": 10, "metrics": {"accuracy": 0.75}, "metric": "accuracy"}


def cell(label: str, kind: str = "train") -> StudyCell:
    return StudyCell(kind, label, {"family": "simclr", "model": label}, {})


def made(**states: CellState) -> tuple[Plan, dict[str, CellState]]:
    cells = {name: cell(name, "find" if name.startswith("find") else "train") for name in states}
    plan = Plan({}, {cell.key: cell for cell in cells.values()})
    return plan, {cells[name].key: state for name, state in states.items()}


def shown(renderable: object) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def done(seconds: float) -> CellState:
    return CellState(DONE, {"seconds": seconds, "metric": "accuracy", "metrics": {"accuracy": 0.5}})


def test_time_left_is_that_of_finished_cells_of_the_same_kind_shared_by_those_that_run() -> None:
    plan, states = made(
        find_a=done(100), a=done(8), b=done(12), find_b=CellState(RUNNING, progress=HALF), c=CellState(WAITING)
    )
    assert time_left(plan, states) == 100 / 2 + 10
    plan, states = made(a=done(10), b=CellState(RUNNING), c=CellState(RUNNING), d=CellState(WAITING))
    assert time_left(plan, states) == 30 / 2


def test_time_left_is_unknown_before_a_cell_of_each_kind_is_done() -> None:
    assert time_left(*made(a=done(10), find_a=CellState(WAITING))) is None


def test_a_search_in_its_second_of_four_rounds() -> None:
    assert share_done({"rounds": 3, "round": 1, "step": 5, "steps": 10}) == 1.5 / 4
    assert share_done({"rounds": 3, "round": 0, "step": 0, "steps": 0}) == 0


def test_counts_and_running_cells_are_shown() -> None:
    plan, states = made(a=done(60), find_b=CellState(RUNNING, progress=HALF), c=CellState(WAITING))
    text = shown(overview(plan, states))
    assert "3 cells: 1 done, 1 running, 1 waiting" in text
    assert "find_b" in text
    assert "round 1 of 1  step 0/10  accuracy 0.7500" in text


def test_failures_are_shown_with_why_and_what_they_hold_up() -> None:
    plan, states = made(a=CellState(FAILED, error="DataError: [red]no"), b=CellState(HELD, error="needs a"), c=done(1))
    text = shown(failures(plan, states))
    assert "DataError: [red]no" in text
    assert "held up" in text
    assert failures(*made(a=done(1))) is None
