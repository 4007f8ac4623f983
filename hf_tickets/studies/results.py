"""The results of a study as one table, and the masks that its searches found."""

import math
from pathlib import Path
from typing import Any

import pandas

from hf_tickets.pruning.mask import Mask
from hf_tickets.studies.plan import Measurement
from hf_tickets.studies.study_folder import DONE, HELD, WAITING, CellState, StudyFolder
from hf_tickets.ticket.ticket import Ticket

COLUMNS = (
    "kind", "source", "target", "control", "sparsity", "wanted", "seed", "search_seed", "metric", "value",
    "greater_is_better", "metrics", "steps", "seconds", "status", "error", "folder", "key",
)  # fmt: skip


def load_results(path: str | Path) -> pandas.DataFrame:
    """Return the results of a study, those that are still missing too.

    Args:
        path: The study's folder.

    Returns:
        A row a measurement:

        - kind: "search" (a round of a search, round 0 included) or "training".
        - source: name of the source; None for a dense training that all sources share.
        - target: name of the target; None for a search, whose metric is the source's own.
        - control: name in CONTROLS; "ticket" or "dense" for rounds.
        - sparsity: 0 to 1, exact once it is known; 0 for dense. wanted: the study's sparsity that it stands for, 0 for
          dense, NaN for rounds.
        - seed, search_seed: of the training, of the search (NaN for dense).
        - metric: name of the main one; value: NaN while missing; greater_is_better; metrics: all of them.
        - steps, seconds: of this training.
        - status: "done", "running", "failed" or "waiting"; error: the first line of why it failed or is held up.
        - folder: the cell's, relative to the study's; key: of its content. A cell may stand for several rows: random
          masks do not depend on the source, and a round is the ticket's training on the task it was found on.

    Raises:
        RunFolderError: The folder holds no study, or one of another version.
    """
    folder = StudyFolder(path)
    plan = folder.read_plan()
    states = folder.states(plan)
    rows = [
        _row(measurement, states[measurement.cell], f"cells/{plan.cells[measurement.cell].folder_name}")
        for measurement in plan.measurements
    ]
    return pandas.DataFrame(rows, columns=list(COLUMNS))


def load_settings(path: str | Path) -> dict[str, Any]:
    """Return what the study recipe says, as plain values.

    Args:
        path: The study's folder.
    """
    return StudyFolder(path).read_plan().settings


def load_masks(path: str | Path) -> dict[str, dict[float, Mask]]:
    """Return the masks of each source at each sparsity of the study, of the first search seed.

    Args:
        path: The study's folder.

    Returns:
        Source → the study's sparsity → mask; only of searches that are done.
    """
    folder = StudyFolder(path)
    plan = folder.read_plan()
    wanted = plan.settings["sparsities"]
    masks: dict[str, dict[float, Mask]] = {}
    for measurement in plan.measurements:
        name, cell = measurement.source, plan.cells[measurement.cell]
        if measurement.kind != "search" or name is None or name in masks or not folder.is_done(cell):
            continue
        ticket = Ticket.from_pretrained(folder.cell(cell))
        masks[name] = {
            sparsity: ticket.at(min(ticket.sparsities, key=lambda rung: abs(rung - sparsity))).mask
            for sparsity in wanted or plan.settings["sources"][name]["sparsities"]
        }
    return masks


_TIMES = ("runtime", "_per_second", "preparation_time")


def _row(measurement: Measurement, state: CellState, folder: str) -> dict[str, Any]:
    done = state.result if state.state == DONE else {}
    reached = done if measurement.round is None or not done else done["rounds"][measurement.round]
    metrics = {name: value for name, value in reached.get("metrics", {}).items() if not name.endswith(_TIMES)}
    return {
        "kind": measurement.kind,
        "source": measurement.source,
        "target": measurement.target,
        "control": measurement.control,
        "sparsity": reached.get("sparsity", measurement.sparsity),
        "wanted": math.nan if measurement.wanted is None else measurement.wanted,
        "seed": measurement.seed,
        "search_seed": measurement.search_seed,
        "metric": done.get("metric"),
        "value": metrics.get(done.get("metric"), math.nan),
        "greater_is_better": done.get("greater_is_better", True),
        "metrics": metrics,
        "steps": reached.get("steps"),
        "seconds": reached.get("seconds"),
        "status": WAITING if state.state == HELD else state.state,
        "error": state.error,
        "folder": folder,
        "key": measurement.cell,
    }
