"""What happens in a `Trainer`, told to the display."""

from collections.abc import Callable
from typing import Any

from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from hf_tickets.cli.display import Display


class DisplayCallback(TrainerCallback):
    """Tells a display of each training, step, loss and evaluation, on the first process only.

    Args:
        display: The display; whoever made it starts and finishes it.
        current_round: Returns the number and the sparsity of the round whose training begins; without it each
            training is one more round of sparsity 0.
    """

    def __init__(self, display: Display, current_round: Callable[[], tuple[int, float]] | None = None) -> None:
        self.display = display
        self.current_round = current_round
        self._trainings = 0
        self._loss: float | None = None
        self._metrics: dict[str, float] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin a round."""
        round, sparsity = self.current_round() if self.current_round else (self._trainings, 0.0)
        self._trainings += 1
        self._loss, self._metrics = None, {}
        if state.is_world_process_zero:
            self.display.round_started(round, sparsity, state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar on."""
        if state.is_world_process_zero:
            self.display.step(state.global_step, self._loss)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the loss for the next step; the training itself is not slowed to read it."""
        self._loss = (logs or {}).get("loss", self._loss)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the metric."""
        self._metrics = dict(metrics or {})
        if state.is_world_process_zero:
            self.display.evaluated(self._metrics)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the round with the last metrics that were seen in it."""
        if state.is_world_process_zero:
            self.display.round_finished(self._metrics)


def show_progress(
    trainer: Trainer, display: Display, current_round: Callable[[], tuple[int, float]] | None = None
) -> None:
    """Let `display` show what `trainer` does, in place of transformers' progress bar or printed logs."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(DisplayCallback(display, current_round))
