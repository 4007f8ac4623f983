"""`EarlyBird`: end a round's training once the mask that it would yield has settled."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_tickets.errors import RunFolderError, TicketsError
from hf_tickets.files import write_atomically
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.mask import Mask
from hf_tickets.ticket.ladder import Ladder
from hf_tickets.trainer.checkpoints import KeepsState
from hf_tickets.trainer.holder import checkpoint_folder

_MASK_FILE, _DISTANCES_FILE = "early_bird.safetensors", "early_bird.json"


class EarlyBird(KeepsState):
    """Draw a mask again and again, and stop when the distances of the last ones are all small.

    As in Early-Bird Tickets (You et al. 2020, arXiv 1909.11957, algorithm 1) and EarlyBERT (Chen et al. 2021). The last
    distance is logged; masks and distances are saved with checkpoints.

    Args:
        pruning: Its `early_bird_…` fields say how often, how many and how small.
        draw: Chooses the next round's mask from the weights of now.
        earliest: Maps the number of steps of a whole round to the first step after which it may end.
    """

    def __init__(
        self, pruning: PruningConfig, draw: Callable[[], Mask], earliest: Callable[[int], int] = lambda steps: 0
    ) -> None:
        self.pruning = pruning
        self.draw = draw
        self.earliest = earliest
        self.distances: list[float] = []
        self._mask: Mask | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.distances, self._mask = [], None
        if state.global_step > 0:
            self._restore(checkpoint_folder(args, state))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        steps = self.pruning.early_bird_steps
        if steps is not None and state.global_step % steps == 0:
            self._look(state, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.pruning.early_bird_steps is None:
            self._look(state, control)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.distances and state.log_history:
            state.log_history[-1]["early_bird_distance"] = self.distances[-1]

    def save_state(self, folder: Path) -> None:
        write_atomically(folder / _DISTANCES_FILE, json.dumps(self.distances).encode())
        Ladder([] if self._mask is None else [self._mask]).save(folder / _MASK_FILE)

    def _look(self, state: TrainerState, control: TrainerControl) -> None:
        mask = self.draw()
        if self._mask is not None:
            self.distances.append(mask.distance(self._mask))
        self._mask = mask
        last = self.distances[-self.pruning.early_bird_window :]
        settled = len(last) == self.pruning.early_bird_window and max(last) < (self.pruning.early_bird_distance or 0)
        if settled and state.global_step >= self.earliest(state.max_steps):
            control.should_training_stop = True

    def _restore(self, folder: Path) -> None:
        try:
            self.distances = json.loads((folder / _DISTANCES_FILE).read_text())
            ladder = Ladder.load(folder / _MASK_FILE)
        except (OSError, ValueError, TicketsError) as error:
            raise RunFolderError(f"{folder} does not say which masks were drawn: {error}; train it again") from None
        self._mask = ladder.mask(0) if ladder.rungs else None
