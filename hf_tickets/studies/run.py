"""The cells of a study, one after another in this process."""

import time

from hf_tickets.studies.plan import Plan
from hf_tickets.studies.run_cell import try_cell
from hf_tickets.studies.study_cell import StudyCell
from hf_tickets.studies.study_folder import DONE, RUNNING, StudyFolder, read_json

_SECONDS_TO_WAIT = 0.5


def run_study(plan: Plan, folder: StudyFolder) -> dict[str, str]:
    """Run every cell that is not done; wait for those that other processes run.

    Args:
        plan: The study.
        folder: Where it lies.

    Returns:
        Key → why it failed, of each cell that failed in this run, here or in another process.

    Raises:
        TicketsError: The disk is full.
    """
    pending = {key: cell for key, cell in plan.cells.items() if not folder.is_done(cell)}
    known_errors = {key: read_json(folder.cell(cell) / "error.json") for key, cell in pending.items()}
    failed: dict[str, str] = {}
    while pending:
        progressed = False
        for key, cell in list(pending.items()):
            if any(need not in pending and not folder.is_done(plan.cells[need]) for need in cell.needs.values()):
                del pending[key]  # what it needs has failed
                progressed = True
                continue
            if any(need in pending for need in cell.needs.values()):
                continue
            error = read_json(folder.cell(cell) / "error.json")
            if error is not None and error != known_errors[key]:
                failed[key] = error["error"]  # another process has just tried it
                del pending[key]
                continue
            state, why = try_cell(folder, cell, bool(plan.settings["keep_models"]))
            if state == RUNNING:
                continue
            del pending[key]
            progressed = True
            if state != DONE:
                failed[key] = why
        if pending and not progressed:
            time.sleep(_SECONDS_TO_WAIT)
    return failed


def wait_for_cell(folder: StudyFolder, cell: StudyCell, keep_model: bool = False) -> tuple[str, str]:
    """Run a cell as `try_cell` does, or wait while another process runs it.

    Args:
        folder: The study's folder.
        cell: The cell.
        keep_model: Keep the weights of a training on a target too.

    Returns:
        "done" or "failed", and why it failed.
    """
    while (end := try_cell(folder, cell, keep_model))[0] == RUNNING:
        time.sleep(_SECONDS_TO_WAIT)
    return end
