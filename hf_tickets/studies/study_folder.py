"""The folder of a study: what is planned, and how far each cell is.

    <output_dir>/study.json                    the plan: settings, cells, and what each result is read from
    <output_dir>/cells/<label>-<key>/cell.json      the cell's content, from which it can be run anywhere
    <output_dir>/cells/<label>-<key>/lock           held while a process runs the cell
    <output_dir>/cells/<label>-<key>/progress.json  how far it is, while it runs
    <output_dir>/cells/<label>-<key>/error.json     why it failed when it was last tried
    <output_dir>/cells/<label>-<key>/result.json    written last: the cell is done

Beside these lie the run's own files: a search's ticket, a base model, checkpoints.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hf_tickets.errors import RunFolderError
from hf_tickets.files import write_atomically
from hf_tickets.studies.plan import Plan
from hf_tickets.studies.study_cell import StudyCell

VERSION = 1
DONE, RUNNING, FAILED, HELD, WAITING = "done", "running", "failed", "held", "waiting"


@dataclass(frozen=True)
class CellState:
    """How far a cell is.

    Args:
        state: "done", "running", "failed", "held" (what it needs failed) or "waiting".
        result: What it reached, of a cell that is done.
        progress: How far its training is, of one that runs.
        error: The first line of why it failed or is held.
    """

    state: str
    result: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


class StudyFolder:
    """Paths and records of one study.

    Args:
        path: The study's `output_dir`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._plan = self.path / "study.json"
        self._done: dict[str, CellState] = {}

    def cell(self, cell: StudyCell) -> Path:
        """Return a cell's folder."""
        return self.path / "cells" / cell.folder_name

    def find(self, key: str) -> Path:
        """Return the folder of the cell with this key, whatever it was called.

        Raises:
            RunFolderError: There is none.
        """
        found = next(self.path.glob(f"cells/*-{key[:12]}"), None)
        if found is None:
            raise RunFolderError(f"{self.path} has no cell {key[:12]}, which another needs; run the study again")
        return found

    def read_plan(self) -> Plan:
        """Return the plan that was last run here.

        Raises:
            RunFolderError: There is none, it is damaged, or it is of another version of the format.
        """
        record = self._read_record()
        if record is None:
            raise RunFolderError(f"{self.path} holds no study yet; begin it with: hf-tickets study run STUDY.yaml")
        return Plan.from_dict(record)

    def write_plan(self, plan: Plan) -> None:
        """Write the plan, where it is not what is written already.

        Raises:
            RunFolderError: The folder is of another version of the format; nothing is changed then.
        """
        values = {"version": VERSION, **plan.to_dict()}
        if values != self._read_record():
            write_json(self._plan, values)

    def _read_record(self) -> dict[str, Any] | None:
        record = read_json(self._plan)
        if record is not None and record.get("version") != VERSION:
            raise RunFolderError(
                f"{self._plan} is of format {record.get('version')}, and this version of hf_tickets reads "
                f"{VERSION}; use another output_dir, or the version that began it"
            )
        return record

    @contextmanager
    def locked(self, cell: StudyCell) -> Iterator[bool]:
        """Keep other processes from a cell while this one runs it; give whether that was possible at once."""
        folder = self.cell(cell)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def states(self, plan: Plan) -> dict[str, CellState]:
        """Return how far each cell of a plan is, by key."""
        states: dict[str, CellState] = {}
        for key, cell in plan.cells.items():
            state = self._state(cell)
            stopped = [plan.cells[need].label for need in cell.needs.values() if states[need].state in (FAILED, HELD)]
            if stopped and state.state in (WAITING, FAILED):
                state = CellState(HELD, error=f"needs {stopped[0]}, which failed")
            states[key] = state
        return states

    def is_done(self, cell: StudyCell) -> bool:
        """Whether a cell has its result."""
        return cell.key in self._done or (self.cell(cell) / "result.json").exists()

    def _state(self, cell: StudyCell) -> CellState:
        if cell.key in self._done:
            return self._done[cell.key]
        folder = self.cell(cell)
        result = read_json(folder / "result.json")
        if result is not None:
            self._done[cell.key] = CellState(DONE, result)  # it never changes again
            return self._done[cell.key]
        progress = read_json(folder / "progress.json")
        if progress is not None and self._is_locked(folder):
            return CellState(RUNNING, progress=progress)
        error = read_json(folder / "error.json")
        return CellState(FAILED, error=error["error"]) if error is not None else CellState(WAITING)

    def _is_locked(self, folder: Path) -> bool:
        lock = FileLock(folder / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return True
        lock.release()
        return False


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file that is either whole or absent."""
    write_atomically(path, json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return what a JSON file holds, or None where there is none.

    Raises:
        RunFolderError: The file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}; delete it, or use another output_dir") from None
