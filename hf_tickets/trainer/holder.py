"""`MaskHolder`: keep pruned weights at zero while any transformers `Trainer` trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_tickets.errors import PruningError
from hf_tickets.pruning.mask import Mask, bit_pattern, pack, unpack_pattern, zero_pruned_
from hf_tickets.pruning.shards import cut, is_partitioned, is_spread, local
from hf_tickets.ticket.ticket import Ticket

# Optimizers whose step leaves a weight at zero when weight, gradient and state are zero. After any other one
# (Muon, 8-bit states, your own) the mask is applied again.
_KEEP_ZEROS = frozenset(
    getattr(torch.optim, name)
    for name in ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD")
)


class MaskHolder(TrainerCallback):
    """Hold the mask of a ticket through a training: the machinery under `PruningCallback` and the rounds.

    Args:
        ticket: The ticket or mask to hold; None holds nothing.
        prefix: Where the backbone lies, for models that hold several; one name or a list.
    """

    def __init__(self, ticket: Ticket | Mask | None = None, prefix: str | Sequence[str] | None = None) -> None:
        self.ticket = Ticket(ticket) if isinstance(ticket, Mask) else ticket
        self.prefix = prefix
        self._held: list[tuple[nn.Parameter, Tensor]] = []
        self._hooks: list[RemovableHandle] = []
        self._mask_after_step = False

    @property
    def mask(self) -> Mask | None:
        """The mask that is held now."""
        return self.ticket.mask if self.ticket is not None else None

    def apply_(self) -> None:
        """Set the pruned weights of the model in training to zero."""
        for parameter, pattern in self._held:
            zero_pruned_(parameter, pattern)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._bind(kwargs["model"], kwargs["optimizer"], getattr(args, "deepspeed_plugin", None) is not None)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._mask_after_step:
            self.apply_()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.ticket is None:
            return
        for logs in (kwargs.get("logs"), state.log_history[-1] if state.log_history else None):
            if logs is not None:
                logs["sparsity"] = self.ticket.sparsity

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.apply_()  # the best model of a gradual pruning may be an earlier, denser one
        self._release()

    def _bind(self, model: nn.Module, optimizer: Any, under_deepspeed: bool = False) -> None:
        """Zero the pruned weights of a model, and mask its gradients from now on."""
        self._release()
        if self.ticket is None:
            return
        while hasattr(optimizer, "optimizer"):  # inside Accelerate's wrapper, and DeepSpeed's
            optimizer = optimizer.optimizer
        self._mask_after_step = type(optimizer) not in _KEEP_ZEROS
        report = self.ticket.match(model, prefix=self.prefix)
        for parameter, kept in self.ticket.matched_masks(model, report):
            pattern = bit_pattern(cut(kept, parameter).to(local(parameter).device, copy=is_spread(parameter)))
            self._held.append((parameter, pattern))
            if parameter.requires_grad and under_deepspeed:  # it takes gradients away as soon as they are there
                self._hooks.append(parameter.register_hook(_masked_gradient(parameter, pattern, kept)))
            elif parameter.requires_grad:
                self._hooks.append(parameter.register_post_accumulate_grad_hook(_gradient_mask(pattern)))
        if under_deepspeed:
            self._check_deepspeed(optimizer)
        self.apply_()
        self._mask_state(optimizer)

    def _check_deepspeed(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse what would revive weights: DeepSpeed's own copies of them are out of reach."""
        if self._mask_after_step:
            raise PruningError(
                f"under DeepSpeed {type(optimizer).__name__} may revive pruned weights; use one of torch.optim, "
                'as with optim="adamw_torch"'
            )
        if any(bool((local(parameter).detach() != 0)[pattern == 0].any()) for parameter, pattern in self._held):
            raise PruningError(
                "under DeepSpeed the model must be sparse before training begins: call ticket.apply(model) first"
            )

    def _mask_state(self, optimizer: torch.optim.Optimizer) -> None:
        """Zero the moments of pruned weights: those of an earlier, denser training would revive them."""
        for parameter, pattern in self._held:
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape and value.is_floating_point():
                    zero_pruned_(value, pattern)

    def _release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._held = [], []


def checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """Return where Trainer saves the checkpoint of the current step."""
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def _gradient_mask(pattern: Tensor) -> Callable[[Tensor], None]:
    def mask_gradient(parameter: Tensor) -> None:
        if parameter.grad is not None:
            zero_pruned_(parameter.grad, pattern)

    return mask_gradient


def _masked_gradient(parameter: Tensor, pattern: Tensor, kept: Tensor) -> Callable[[Tensor], Tensor]:
    # ZeRO-3 shows whole gradients and keeps parts: the whole mask is kept as bits.
    packed = pack(kept.to(pattern.device)) if is_partitioned(parameter) else None

    def mask_gradient(gradient: Tensor) -> Tensor:
        masked = gradient.clone()
        zero_pruned_(masked, pattern if packed is None else unpack_pattern(packed, gradient.shape))
        return masked

    return mask_gradient
