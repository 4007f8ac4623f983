"""`KeepStep`: keep the weights of an early step, to which later rounds rewind."""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_tickets.errors import PruningError
from hf_tickets.trainer.rewind import RewindConfig
from hf_tickets.trainer.weights import save_weights


class KeepStep(TrainerCallback):
    """Keep θ_i, the weights at the step of round 0 that later rounds rewind to.

    Args:
        rewind: Says which step.
        path: File to write.
    """

    def __init__(self, rewind: RewindConfig, path: Path) -> None:
        self.rewind = rewind
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        step = self.rewind.step(state.max_steps)
        if step > state.max_steps:
            raise PruningError(f"rewind_step is {step}, but a round has {state.max_steps} steps; use a smaller one")
        if step == 0 and state.global_step == 0:  # a share of less than half a step
            save_weights(kwargs["model"], self.path, state.is_world_process_zero)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step == self.rewind.step(state.max_steps):
            save_weights(kwargs["model"], self.path, state.is_world_process_zero)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        step = self.rewind.step(state.max_steps)
        if state.global_step < step:
            raise PruningError(f"round 0 stopped at step {state.global_step}, before step {step} to rewind to")
