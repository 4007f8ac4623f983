"""One cell of a study: run from its content, in a folder that other processes are kept from."""

import errno
import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate.utils.memory import clear_device_cache
from transformers import Trainer, TrainingArguments

from hf_tickets.errors import TicketsError
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.studies.cell import train_cell, train_control
from hf_tickets.studies.progress import ProgressFile, follow
from hf_tickets.studies.search import make_search
from hf_tickets.studies.study_cell import StudyCell
from hf_tickets.studies.study_folder import DONE, FAILED, RUNNING, StudyFolder, write_json
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.ticket.ticket import Ticket
from hf_tickets.trainer.arguments import training_arguments
from hf_tickets.trainer.rewind import RewindConfig

logger = logging.getLogger(__name__)

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def try_cell(folder: StudyFolder, cell: StudyCell, keep_model: bool = False) -> tuple[str, str]:
    """Run a cell unless it is done or another process runs it; keep why it failed in its folder.

    Args:
        folder: The study's folder; what the cell needs is done there.
        cell: The cell.
        keep_model: Keep the weights of a training on a target too.

    Returns:
        "done", "failed" or "running" (in another process), and the first line of why it failed.

    Raises:
        TicketsError: The disk is full: nothing that is finished is lost, and no other cell could run either.
    """
    with _explaining_a_full_disk(folder, cell), folder.locked(cell) as is_ours:
        if not is_ours:
            return RUNNING, ""
        if folder.is_done(cell):
            return DONE, ""
        path = folder.cell(cell)
        try:
            (path / "error.json").unlink(missing_ok=True)
            write_json(path / "cell.json", cell.to_dict())
            logger.info("%s begins", cell.label)
            run_cell(folder, cell, keep_model)
        except Exception as error:  # whatever it is, the other cells go on
            if disk_is_full(error):
                raise
            message = " ".join(str(error).split()) or type(error).__name__
            if not isinstance(error, TicketsError):
                message = f"{type(error).__name__}: {message}"
            write_json(path / "error.json", {"error": message, "traceback": traceback.format_exc()})
            return FAILED, message
        finally:
            (path / "progress.json").unlink(missing_ok=True)
            clear_device_cache(garbage_collection=True)
    return DONE, ""


@contextmanager
def _explaining_a_full_disk(folder: StudyFolder, cell: StudyCell) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not disk_is_full(error):
            raise
        raise TicketsError(
            f"{cell.label}: no space left on the disk of {folder.path}; free some and give the command again, "
            "finished cells and rounds are kept"
        ) from error


def run_cell(folder: StudyFolder, cell: StudyCell, keep_model: bool = False) -> dict[str, Any]:
    """Run a cell, or go on with it where it stopped, and return its result, which is in its folder then.

    Args:
        folder: The study's folder; what the cell needs is done there.
        cell: The cell.
        keep_model: Keep the weights of a training on a target too.
    """
    path = folder.cell(cell)
    path.mkdir(parents=True, exist_ok=True)
    task = TaskConfig(**cell.task)
    if "base" in cell.needs:
        task = replace(task, model=str(folder.find(cell.needs["base"])), model_revision=None, pretrained=True)
    args = training_arguments({"run_name": cell.label, **cell.training}, path)
    progress = ProgressFile(path / "progress.json")
    progress.write()
    if cell.kind == "find":
        return _find(cell, task, args, path, progress)

    def watch(trainer: Trainer) -> None:
        follow(trainer, progress)

    if cell.kind == "base":
        return train_cell(task, args, watch=watch)
    if "search" not in cell.needs:
        return train_cell(task, args, mask={"mask": {"control": cell.control}}, watch=watch, keep_model=keep_model)
    ticket = Ticket.from_pretrained(folder.find(cell.needs["search"]))
    sparsity = min(ticket.sparsities, key=lambda rung: abs(rung - cell.sparsity))
    return train_control(task, args, ticket, cell.control or "ticket", sparsity, watch, keep_model)


def _find(
    cell: StudyCell, task: TaskConfig, args: TrainingArguments, path: Path, progress: ProgressFile
) -> dict[str, Any]:
    pruning, rewind = PruningConfig(**(cell.pruning or {})), RewindConfig(**(cell.rewind or {}))
    recipe = {**vars(task), **(cell.pruning or {}), **(cell.rewind or {}), **cell.training}
    trainer, prepared = make_search(task, args, pruning, rewind, recipe)
    progress.values |= {"rounds": pruning.rounds, "metric": prepared.metric}
    progress.current_round = lambda: len(trainer.history)
    follow(trainer, progress)
    trainer.train()
    rounds = trainer.history
    result = {
        "metric": prepared.metric,
        "greater_is_better": prepared.greater_is_better,
        "rounds": [
            {name: getattr(done, name) for name in ("round", "sparsity", "kept", "metrics", "steps", "seconds")}
            for done in rounds
        ],
        "seconds": round(sum(done.seconds for done in rounds), 3),
    }
    write_json(path / "result.json", result)
    return result


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that the disk is full; safetensors and torch say it in words."""
    while error is not None:
        words = os.strerror(errno.ENOSPC) in str(error) or os.strerror(errno.EDQUOT) in str(error)
        if words or (isinstance(error, OSError) and error.errno in NO_SPACE):
            return True
        error = error.__cause__ or error.__context__
    return False
