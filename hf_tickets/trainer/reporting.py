"""Results of whole rounds for what a training reports to: TensorBoard, trackio, Weights & Biases."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from hf_tickets.trainer.run_folder import RoundResult

if TYPE_CHECKING:
    from transformers import Trainer

REPORTERS = (TensorBoardCallback, TrackioCallback, WandbCallback)


def report_round(trainer: Trainer, result: RoundResult) -> None:
    """Report sparsity, steps, seconds and metrics of a finished round as scalars, with the round in place of the step.

    Only what `report_to` names hears of it; the trainer's state and log history stay as they are.

    Args:
        trainer: The trainer of the search.
        result: The round.
    """
    scalars = {"sparsity": result.sparsity, "steps": result.steps, "seconds": result.seconds, **result.metrics}
    logs = {f"round/{name}": value for name, value in scalars.items()}
    state = copy.copy(trainer.state)
    state.global_step = result.round
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, REPORTERS):
            callback.on_log(trainer.args, state, trainer.control, logs=dict(logs), model=trainer.model)
