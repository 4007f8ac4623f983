"""`PruningCallback`: hold a mask in a stock `Trainer`, or prune within one training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_tickets.errors import PruningError, RunFolderError
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.criteria import FIRST_ORDER
from hf_tickets.pruning.mask import Mask
from hf_tickets.pruning.prune import prune
from hf_tickets.pruning.schedules import sparsity_schedule
from hf_tickets.ticket.config import CONFIG_FILE, TicketConfig
from hf_tickets.ticket.ticket import Ticket
from hf_tickets.trainer.checkpoints import KeepsState, save_beside
from hf_tickets.trainer.first_order import FirstOrder
from hf_tickets.trainer.holder import MaskHolder, checkpoint_folder


class PruningCallback(MaskHolder, KeepsState):
    """Keep pruned weights at exactly zero during training, in any `transformers.Trainer`.

    Weights are zeroed when training begins, gradients are masked in place as soon as they are accumulated (so
    before clipping), and the mask is saved with every checkpoint and its sparsity logged. With a
    `PruningConfig` it prunes at evenly spaced steps of the training instead (gradual magnitude pruning).

    Args:
        ticket: The ticket to hold: a `Ticket`, a `Mask`, a folder, or a Hub id.
        pruning: Prune within the training by this schedule; from dense, or on from `ticket`.
        start: Share of the training's steps after which it is pruned first, 0 to 1.
        end: Share of the steps after which it is pruned last, `start` to 1.
        prefix: Where the backbone lies, for models that hold several; one name or a list.

    Raises:
        PruningError: Neither ticket nor pruning is given, or start and end are out of range.

    Example:
        >>> trainer = Trainer(model, args, train_dataset=data, callbacks=[PruningCallback(ticket)])
    """

    def __init__(
        self,
        ticket: Ticket | Mask | str | Path | None = None,
        pruning: PruningConfig | None = None,
        start: float = 0.0,
        end: float = 0.75,
        prefix: str | Sequence[str] | None = None,
    ) -> None:
        if ticket is None and pruning is None:
            raise PruningError("PruningCallback needs a ticket to hold, or a PruningConfig to prune by")
        if not 0 <= start <= end <= 1:
            raise PruningError(f"start and end must satisfy 0 <= start <= end <= 1, not {start} and {end}")
        super().__init__(Ticket.from_pretrained(ticket) if isinstance(ticket, (str, Path)) else ticket, prefix)
        self._given = self.ticket
        first = next(iter(sparsity_schedule(pruning)), 1.0) if pruning is not None else 1.0
        if self._given is not None and self._given.sparsity > first + 0.5 / self._given.ladder.numel:
            raise PruningError(
                f"the ticket's sparsity {self._given.sparsity:.4f} is above {first:.4f}, the first of the schedule; "
                "give sparsities that go on from the ticket's"
            )
        if pruning is not None and pruning.early_bird_distance is not None:
            raise PruningError(
                "early_bird_distance ends rounds of a search; PruningCallback prunes within one training"
            )
        self.pruning = pruning
        self.first_order = FirstOrder(pruning) if pruning is not None and pruning.criterion in FIRST_ORDER else None
        self.start = start
        self.end = end

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.pruning is not None and getattr(args, "deepspeed_plugin", None) is not None:
            raise PruningError("gradual pruning does not run under DeepSpeed, whose own copy would revive the weights")
        self.ticket = self._given  # and not what an earlier training reached
        if state.global_step > 0:
            self._resume(checkpoint_folder(args, state), state)
        if self.first_order is not None:
            self.first_order.on_train_begin(args, state, control, **kwargs)
        super().on_train_begin(args, state, control, **kwargs)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.first_order is not None:
            self.first_order.on_pre_optimizer_step(args, state, control, **kwargs)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        sparsity = self._pruning_steps(state.max_steps).get(state.global_step)
        if sparsity is None or self.pruning is None:
            return
        sums = self.first_order.sums if self.first_order is not None else None
        mask = prune(kwargs["model"], self.pruning, self.mask, sparsity, sums)
        if self.ticket is None:
            self.ticket = Ticket(mask, TicketConfig(pruning=self.pruning.to_dict()))
        else:
            self.ticket = Ticket([*self.ticket.masks, mask], self.ticket.config)
        self._bind(kwargs["model"], kwargs["optimizer"])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = checkpoint_folder(args, state)
        self._save(folder, state)
        if state.is_world_process_zero and folder.is_dir():
            self.save_state(folder)
        if self.ticket is None and state.is_world_process_zero:
            # An earlier training in the same output_dir may have left one here.
            (folder / CONFIG_FILE).unlink(missing_ok=True)

    def on_push_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put the mask beside what is about to be pushed: a checkpoint is pushed before `on_save`."""
        self._save(Path(args.output_dir), state)
        self._save(checkpoint_folder(args, state), state)

    def save_state(self, folder: Path) -> None:
        if self.first_order is not None:
            self.first_order.save_state(folder)

    def _save(self, folder: Path, state: TrainerState) -> None:
        if self.ticket is not None and state.is_world_process_zero and folder.is_dir():
            save_beside(self.ticket, folder)

    def _pruning_steps(self, steps: int) -> dict[int, float]:
        """Map each step after which to prune to the sparsity to reach."""
        if self.pruning is None:
            return {}
        sparsities = sparsity_schedule(self.pruning)
        gap = (self.end - self.start) / max(1, len(sparsities) - 1)
        places = (max(1, round((self.start + index * gap) * steps)) for index in range(len(sparsities)))
        return dict(zip(places, sparsities, strict=True))

    def _resume(self, folder: Path, state: TrainerState) -> None:
        """Take up the masks that a gradual pruning had reached; refuse a checkpoint of another mask."""
        saved = Ticket.from_pretrained(folder) if (folder / CONFIG_FILE).exists() else None
        if self.pruning is not None and saved is not None:
            self.ticket = saved
        elif any(step <= state.global_step for step in self._pruning_steps(state.max_steps)):
            raise RunFolderError(f"{folder} holds no ticket: resume a gradual pruning from a checkpoint of its own")
        elif saved is not None and saved.mask != self.mask:
            raise RunFolderError(
                f"{folder} was trained with a mask of sparsity {saved.sparsity:.4f}, not with this one; "
                "resume it with its own ticket"
            )
