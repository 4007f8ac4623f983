"""Optimizers and schedules of vision papers that transformers lacks: timm's optimizers, and steps of the rate."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_tickets.errors import RecipeError
from hf_tickets.tasks.nearest import nearest


class TimmOptimizer:
    """What Trainer calls to make an optimizer of timm; biases and norms get no weight decay, nor LARS's scaling."""

    def __call__(self, model: nn.Module, **arguments: Any) -> torch.optim.Optimizer:
        """Make the optimizer.

        Args:
            model: the model.
            **arguments: as in timm's `create_optimizer_v2`.
        """
        optimizer: torch.optim.Optimizer = create_optimizer_v2(model, filter_bias_and_bn=True, **arguments)
        return optimizer


def timm_optimizer(name: str, args: TrainingArguments) -> tuple[type, dict[str, Any]]:
    """Trainer's `optimizer_cls_and_kwargs` for an optimizer of timm.

    Args:
        name: timm's name, such as lars.
        args: its learning_rate, weight_decay and optim_args are used.

    Raises:
        RecipeError: timm has no optimizer of that name, or optim_args are not name=number pairs.
    """
    known = list_optimizers()
    if name not in known:
        raise RecipeError(f"timm_optimizer: no optimizer {name}; {nearest(name, known)}")
    return TimmOptimizer, {
        "opt": name,
        "lr": args.learning_rate,
        "weight_decay": args.weight_decay,
        **_numbers(args.optim_args),
    }


def _numbers(optim_args: str | None) -> dict[str, float]:
    try:
        pairs = [pair.split("=") for pair in (optim_args or "").replace(" ", "").split(",") if pair]
        return {name: float(value) for name, value in pairs}
    except ValueError:
        raise RecipeError(f"optim_args: {optim_args} is not like momentum=0.9,trust_coeff=0.001") from None


class StepDecay(TrainerCallback):
    """Lowers the learning rate at given points of a training, on top of whatever schedule it has.

    Args:
        milestones: shares of the training's steps, between 0 and 1.
        factor: what the rate is multiplied by at each.
    """

    def __init__(self, milestones: Sequence[float], factor: float = 0.1) -> None:
        self.milestones = tuple(milestones)
        self.factor = factor

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        scheduler = getattr(kwargs["lr_scheduler"], "scheduler", kwargs["lr_scheduler"])  # inside Accelerate's wrapper
        if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
            raise RecipeError(f"learning_rate_milestones do not go with {args.lr_scheduler_type.value}")
        steps = [round(share * state.max_steps) for share in self.milestones]
        scheduler.lr_lambdas = [self._lowered(rate, steps) for rate in scheduler.lr_lambdas]

    def _lowered(self, rate: Callable[[int], float], steps: Sequence[int]) -> Callable[[int], float]:
        return lambda step: rate(step) * self.factor ** sum(step >= milestone for milestone in steps)
