"""Learning rates of backbone and head apart, in an optimizer that is already there."""

import torch
from torch import nn

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
