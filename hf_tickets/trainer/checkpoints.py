"""Checkpoints that are whole or passed over, and that resume to the bit.

Trainer writes a checkpoint as a dozen files, and drops from it the loss summed since the last log, the state
of callbacks, and whether training was over. `MARKER`, written last, says that a checkpoint is whole, and holds
what Trainer drops.
"""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_tickets.errors import TicketsError
from hf_tickets.files import write_atomically
from hf_tickets.ticket.config import CONFIG_FILE
from hf_tickets.ticket.publishing import public_config, ticket_in
from hf_tickets.ticket.ticket import Ticket

MARKER = "complete.json"


def last_complete_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint in a folder, or None."""
    complete = [path.parent for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{MARKER}")]
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def save_beside(ticket: Ticket, folder: Path) -> None:
    """Write the mask that a model holds beside it, without a path of this machine.

    Where it lies there already nothing is touched: an upload may be reading the folder.

    Args:
        ticket: At the rung that is held.
        folder: Folder of the model.
    """
    config = replace(public_config(ticket.config), default_sparsity=ticket.sparsity, theta_digest=None)
    if not lies_in(ticket, folder) or (folder / CONFIG_FILE).read_bytes() != config.to_json():
        Ticket(ticket.ladder, config).save_pretrained(folder)


def lies_in(ticket: Ticket, folder: Path) -> bool:
    """Whether a whole ticket of the same masks lies in a folder.

    Args:
        ticket: The ticket to look for.
        folder: It may be missing.
    """
    try:
        return ticket_in(folder).ladder.digests == ticket.ladder.digests
    except TicketsError:
        return False  # there is none, or not a whole one


class KeepsState(TrainerCallback):
    """A callback with more to save than the plain values of an `ExportableState`."""

    def save_state(self, folder: Path) -> None:
        """Write it into a checkpoint that is not marked as whole yet.

        Args:
            folder: The checkpoint's.
        """
        raise NotImplementedError


def write_marker(trainer: Trainer, checkpoint: Path, seconds: float) -> None:
    """Mark a checkpoint as whole, once every process has written its part of it.

    Args:
        trainer: The trainer in training.
        checkpoint: The checkpoint's folder.
        seconds: Time spent on this training so far.
    """
    stopped = trainer.control.should_training_stop
    sums = {
        "tr_loss": gather_object([float(trainer._tr_loss)]),  # of each process
        "total_loss": float(trainer._total_loss_scalar),
        "last_logged": trainer._globalstep_last_logged,
        "stopped_at": trainer.state.max_steps if stopped else None,
        "seconds": seconds,
    }
    if trainer.args.should_save:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, KeepsState):
                callback.save_state(checkpoint)
        write_atomically(checkpoint / MARKER, json.dumps(sums).encode())


def read_marker(checkpoint: Path) -> dict[str, Any]:
    """Return the sums that `write_marker` stored."""
    return json.loads((checkpoint / MARKER).read_text())


class RestoreSums(TrainerCallback):
    """Put the loss sums of a checkpoint back once Trainer has zeroed them, so that logs go on exactly.

    Args:
        trainer: The trainer whose sums are restored.
        sums: What `read_marker` gave.
    """

    def __init__(self, trainer: Trainer, sums: dict[str, Any]) -> None:
        self.trainer = trainer
        self.sums = sums

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        own = self.sums["tr_loss"][self.trainer.args.process_index]
        self.trainer._tr_loss = torch.tensor(own, device=self.trainer.args.device)
        self.trainer._total_loss_scalar = self.sums["total_loss"]
        self.trainer._globalstep_last_logged = self.sums["last_logged"]


class SaveAfterEpoch(TrainerCallback):
    """Put off a save at the last step of an epoch until the epoch has ended.

    Trainer resumes from such a checkpoint with the next epoch, without the evaluation and log of the one that
    ended, and so with another random state.
    """

    def __init__(self) -> None:
        self.due = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if float(state.epoch or 0).is_integer() or control.should_training_stop:
            self._put_off(control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if control.should_training_stop:  # by early stopping
            self._put_off(control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_save |= self.due
        self.due = False

    def _put_off(self, control: TrainerControl) -> None:
        self.due |= control.should_save
        control.should_save = False


def callback_states(trainer: Trainer) -> list[tuple[TrainerCallback, dict[str, Any]]]:
    """Return the state of each callback that has one, such as early stopping's patience."""
    callbacks = trainer.callback_handler.callbacks
    return [(callback, copy.deepcopy(callback.state())) for callback in callbacks if _exportable(callback)]


def restore_callback_states(states: list[tuple[TrainerCallback, dict[str, Any]]]) -> None:
    """Put callbacks back into the states that `callback_states` took."""
    for callback, state in states:
        vars(callback).update(copy.deepcopy(state.get("attributes", {})))


def resume_callback_states(trainer: Trainer) -> None:
    """Put callbacks into the states that the loaded checkpoint recorded, in place."""
    saved = {name: _as_list(state) for name, state in trainer.state.stateful_callbacks.items()}
    for callback in trainer.callback_handler.callbacks:
        if _exportable(callback) and saved.get(type(callback).__name__):
            restore_callback_states([(callback, saved[type(callback).__name__].pop(0))])


def _exportable(callback: TrainerCallback) -> bool:
    return isinstance(callback, ExportableState)


def _as_list(state: Any) -> list[dict[str, Any]]:
    return list(state) if isinstance(state, list) else [state]
