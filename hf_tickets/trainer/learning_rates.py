"""Learning rates of backbone and head apart, and a schedule that goes on from a later step."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hf_tickets.errors import TicketsError
from hf_tickets.pruning.scope import unwrap
from hf_tickets.trainer.weights import head_names


def split_head_(
    optimizer: torch.optim.Optimizer, model: nn.Module, learning_rate: float | None
) -> torch.optim.Optimizer:
    """Move what is not backbone into parameter groups of their own; every group keeps its other settings.

    Args:
        optimizer: Of this model, before a schedule is made for it.
        model: Any module, wrapped or not.
        learning_rate: Of the new groups (None: nothing is moved).

    Returns:
        The optimizer.
    """
    if learning_rate is None:
        return optimizer
    names = head_names(model)
    heads = {id(parameter) for name, parameter in unwrap(model).named_parameters() if name in names}
    for group in list(optimizer.param_groups):
        head = [parameter for parameter in group["params"] if id(parameter) in heads]
        if head:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in heads]
            optimizer.add_param_group({**group, "params": head, "lr": learning_rate})
    return optimizer


def forward_(scheduler: Any, steps: int) -> Any:
    """Shift a schedule so that its first step is a later one.

    Args:
        scheduler: Of a new training.
        steps: How many steps later.

    Raises:
        TicketsError: Its class has no factors to shift.
    """
    if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        raise TicketsError(f"rewind=none cannot continue a {type(scheduler).__name__}; use rewind=learning_rate")
    scheduler.lr_lambdas = [_later(factor, steps) for factor in scheduler.lr_lambdas]
    for group, base, factor in zip(
        scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    ):
        group["lr"] = base * factor(0)
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]
    return scheduler


def _later(factor: Callable[[int], float], steps: int) -> Callable[[int], float]:
    return lambda step: factor(step + steps)
