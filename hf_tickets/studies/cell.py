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
from hf_tickets.tasks.base import PreparedTask
from hf_tickets.ticket.ticket import Ticket
from hf_tickets.trainer.checkpoints import last_complete_checkpoint
from hf_tickets.trainer.provenance import significant_arguments
from hf_tickets.trainer.run_folder import RunFolder, differences
from hf_tickets.trainer.trainer import TicketTrainer

logger = logging.getLogger(__name__)

RESULT_FILE = "result.json"


def train_cell(
    make_task: Callable[[], PreparedTask],
    args: TrainingArguments,
    make_ticket: Callable[[PreparedTask], Ticket | None],
    settings: dict[str, Any],
    watch: Callable[[Trainer], None] = lambda trainer: None,
) -> dict[str, Any]:
    """Train once, dense or with a ticket held, and keep the model and its metrics in `args.output_dir`.

    Args:
        make_task: Loads model and data; not called where the result is there already.
        args: Training arguments.
        make_ticket: Gives the ticket to hold for the prepared task; None trains dense.
        settings: What else the result depends on.
        watch: Is shown the trainer before it trains.

    Returns:
        The result: metric (the name of the main one), sparsity, kept, metrics (without the "eval_" prefix), steps
        and seconds.

    Raises:
        RunFolderError: The folder holds a result of other settings.
    """
    folder = Path(args.output_dir)
    settings = json.loads(json.dumps({**settings, "training": significant_arguments(args), "seed": args.seed}))
    result = _read(folder / RESULT_FILE, settings)
    if result is not None:
        return result
    if RunFolder(folder).begun:
        raise RunFolderError(f"{folder} holds a search for a ticket; use another output_dir")
    task = make_task()
    task.adapt_(args)
    ticket = make_ticket(task)
    trainer = TicketTrainer(model=task.model, args=args, ticket=ticket, **task.trainer_arguments(args))
    watch(trainer)
    checkpoint = last_complete_checkpoint(folder) if ticket is not None else None
    output = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    measured = trainer.evaluate()
    trainer.save_model()
    mask = trainer.ticket.mask if trainer.ticket is not None else None
    result = {
        "settings": settings,
        "metric": task.metric,
        "sparsity": mask.sparsity if mask is not None else 0.0,
        "kept": mask.kept if mask is not None else None,
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
