"""How far a cell is, written into its folder as it trains, for every terminal to read."""

import json
import time
from collections.abc import Callable
from pathlib import Path
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

_SECONDS_BETWEEN = 1.0


class ProgressFile(TrainerCallback):
    """Writes round, step and metric of a training into a file, about once a second.

    Args:
        path: The file.
        rounds: Number of rounds after round 0; 0 for a single training.
        metric: Name of the metric to show.
        current_round: Returns the number of the round whose training begins.
    """

    def __init__(self, path: Path, rounds: int = 0, current_round: Callable[[], int] = lambda: 0) -> None:
        self.path = path
        self.current_round = current_round
        self.values: dict[str, Any] = {"rounds": rounds, "round": 0, "step": 0, "steps": 0, "metrics": {}}
        self._written = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say which round begins."""
        self.values |= {"round": self.current_round(), "step": state.global_step, "steps": state.max_steps}
        self.write()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Say how far the round is."""
        self.values["step"] = state.global_step
        if time.monotonic() - self._written >= _SECONDS_BETWEEN:
            self.write()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Say what was reached."""
        self.values["metrics"] = {name.removeprefix("eval_"): value for name, value in (metrics or {}).items()}
        self.write()

    def write(self) -> None:
        """Write the file now, in one piece but without waiting for the disk: it is of no use after a crash."""
        self._written = time.monotonic()
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.values), encoding="utf-8")
        temporary.replace(self.path)


def follow(trainer: Trainer, progress: ProgressFile) -> None:
    """Let a file tell what a trainer does, in place of transformers' progress bar or printed logs."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(progress)
