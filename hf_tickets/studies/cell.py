"""One training with a result that is kept: run again, it is read; changed, it is refused."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_tickets.errors import RunFolderError
from hf_tickets.files import write_atomically
from hf_tickets.studies.controls import CONTROLS
from hf_tickets.tasks.base import PreparedTask
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.registry import prepare
from hf_tickets.ticket.ticket import Ticket
from hf_tickets.trainer.checkpoints import last_complete_checkpoint
from hf_tickets.trainer.provenance import significant_arguments
from hf_tickets.trainer.run_folder import RunFolder, differences
from hf_tickets.trainer.trainer import TicketTrainer

logger = logging.getLogger(__name__)

RESULT_FILE = "result.json"


class FullTrainer(TicketTrainer):
    """Trains the full model just as rounds and tickets are trained: resumed to the bit, and with the same repairs."""

    @property
    def exact(self) -> bool:
        """Always."""
        return True


def train_cell(
    config: TaskConfig,
    args: TrainingArguments,
    make_ticket: Callable[[PreparedTask], Ticket | None] = lambda task: None,
    mask: dict[str, Any] | None = None,
    watch: Callable[[Trainer], None] = lambda trainer: None,
    keep_model: bool = True,
) -> dict[str, Any]:
    """Train once, dense or with a ticket held, and keep the model and its metrics in `args.output_dir`.

    Args:
        config: The task; nothing is loaded where the result is there already.
        args: Training arguments.
        make_ticket: Gives the ticket to hold for the prepared task; None trains dense.
        mask: What says which ticket that is.
        watch: Is shown the trainer before it trains.
        keep_model: Write the trained model too, not only its result.

    Returns:
        The result: metric (the name of the main one), sparsity, kept, metrics (without the "eval_" prefix), steps
        and seconds.

    Raises:
        RunFolderError: The folder holds a result of other settings.
    """
    folder = Path(args.output_dir)
    described = {"task": describe_task(config), **(mask or {})}
    settings = json.loads(json.dumps({**described, "training": significant_arguments(args), "seed": args.seed}))
    result = _read(folder / RESULT_FILE, settings)
    if result is not None:
        return result
    if RunFolder(folder).begun:
        raise RunFolderError(f"{folder} holds a search for a ticket; use another output_dir")
    task = prepare(config)
    task.adapt_(args)
    ticket = make_ticket(task)
    trainer_class = FullTrainer if ticket is None else TicketTrainer
    trainer = trainer_class(model=task.model, args=args, ticket=ticket, **task.trainer_arguments(args))
    watch(trainer)
    checkpoint = last_complete_checkpoint(folder)
    output = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    measured = trainer.evaluate()
    if keep_model:
        trainer.save_model()
    held = trainer.ticket.mask if trainer.ticket is not None else None
    result = {
        "settings": settings,
        "metric": task.metric,
        "greater_is_better": task.greater_is_better,
        "sparsity": held.sparsity if held is not None else 0.0,
        "kept": held.kept if held is not None else None,
        "metrics": {name.removeprefix("eval_"): value for name, value in measured.items() if name.startswith("eval_")},
        "steps": output.global_step,
        "seconds": round(trainer.seconds, 3),
    }
    if trainer.is_world_process_zero():
        write_atomically(folder / RESULT_FILE, json.dumps(result, indent=2).encode())
        for checkpoint in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):  # nothing goes on from them any more
            shutil.rmtree(checkpoint)
    trainer.accelerator.wait_for_everyone()
    return result


def train_control(
    config: TaskConfig,
    args: TrainingArguments,
    ticket: Ticket,
    control: str,
    sparsity: float,
    watch: Callable[[Trainer], None] = lambda trainer: None,
    keep_model: bool = True,
) -> dict[str, Any]:
    """Train a ticket or one of its controls.

    Args:
        config: The task.
        args: Training arguments; their seed is the control's too.
        ticket: The ticket.
        control: A name in CONTROLS.
        sparsity: Rung of the ticket.
        watch: As in `train_cell`.
        keep_model: As in `train_cell`.

    Returns:
        The result, as `train_cell` returns it.
    """
    mask = {"control": control}
    if control != "dense":
        mask |= {"digest": ticket.at(sparsity).mask.digest}

    def make_ticket(task: PreparedTask) -> Ticket | None:
        return CONTROLS[control](ticket, task.model, sparsity, args.seed)

    return train_cell(config, args, make_ticket, {"mask": mask}, watch, keep_model)


def describe_task(config: TaskConfig) -> dict[str, Any]:
    """Return the task's fields as plain JSON values, without paths of this machine."""
    fields = vars(config)
    local = {name for name in ("model", "dataset", "tokenizer") if fields[name] and Path(fields[name]).exists()}
    return {name: Path(value).name if name in local else value for name, value in fields.items()}


def _read(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(f"{path} cannot be read: {error}; use another output_dir") from None
    changed = differences(result.get("settings"), settings)
    if changed:
        raise RunFolderError(f"{path.parent} holds a result of other settings ({'; '.join(changed)})")
    logger.info("%s: done already", path.parent)
    return result
