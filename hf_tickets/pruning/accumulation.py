"""`Accumulation`: what criteria of first order add up while a model trains."""

import torch
from torch import Tensor, nn

from hf_tickets.errors import PruningError
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.criteria import FIRST_ORDER
from hf_tickets.pruning.scope import prunable_weights
from hf_tickets.pruning.shards import is_spread


class Accumulation:
    """Sums over the steps of a training, one for each weight in scope, in float32.

    Args:
        model: The model that trains, wrapped or not.
        config: Its criterion says what a step adds.

    Raises:
        PruningError: The criterion is not of first order, or the weights are spread over processes.

    Example:
        >>> sums = Accumulation(model, PruningConfig(criterion="snip"))
        >>> loss(model).backward()
        >>> sums.add_()
        >>> mask = prune(model, PruningConfig(criterion="snip"), sparsity=0.5, accumulated=sums.sums)
    """

    def __init__(self, model: nn.Module, config: PruningConfig) -> None:
        if config.criterion not in FIRST_ORDER:
            raise PruningError(f"criterion must be one of {', '.join(FIRST_ORDER)}, not {config.criterion!r}")
        self._weights = prunable_weights(model, config)
        if any(map(is_spread, self._weights.values())):
            raise PruningError(
                f"criterion {config.criterion} adds up gradients in one process or under DDP, not where weights are "
                "spread over processes; use magnitude there"
            )
        self._step = FIRST_ORDER[config.criterion]
        self.sums: dict[str, Tensor] = {
            name: torch.zeros_like(weight, dtype=torch.float32, requires_grad=False)
            for name, weight in self._weights.items()
        }

    @torch.no_grad()
    def add_(self) -> None:
        """Add what this step says: call it when gradients are there, before the optimizer changes the weights."""
        for name, weight in self._weights.items():
            if weight.grad is not None:
                self.sums[name] += self._step(weight.float(), weight.grad.float())

    def restore_(self, sums: dict[str, Tensor]) -> None:
        """Go on from sums of before.

        Args:
            sums: What `sums` was, on any device.

        Raises:
            PruningError: They are of another model.
        """
        if {name: value.shape for name, value in sums.items()} != {n: own.shape for n, own in self.sums.items()}:
            raise PruningError("these sums are of another model or another scope")
        for name, own in self.sums.items():
            own.copy_(sums[name])
