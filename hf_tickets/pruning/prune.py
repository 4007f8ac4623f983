"""`prune`: choose a mask over the weights of a model."""

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from hf_tickets.errors import PruningError
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.criteria import CRITERIA, Block
from hf_tickets.pruning.distributions import Group, allocate
from hf_tickets.pruning.mask import Mask
from hf_tickets.pruning.parallel import share_out
from hf_tickets.pruning.schedules import sparsity_schedule
from hf_tickets.pruning.scope import prunable_weights
from hf_tickets.pruning.threshold import PRUNED, SAMPLE, all_finite, order_keys, threshold

# Entries worked on at once: small enough for a core's cache, large enough to hide the cost of a call.
_BLOCK = 1 << 18
_BLOCK_ON_DEVICE = 1 << 22

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@torch.no_grad()
def prune(
    model: nn.Module,
    config: PruningConfig | None = None,
    mask: Mask | None = None,
    sparsity: float | None = None,
) -> Mask:
    """Choose which weights of a model to keep; the model is not changed.

    Exactly round(sparsity * n) of the n weights in scope are pruned; among equal scores the first in parameter
    order and flat index go first, so the result is the same on every device.

    Args:
        model: Any module, from transformers, timm or torch.
        config: What to prune and how (default: global magnitude over the backbone).
        mask: Mask so far: what it prunes stays pruned, and is told by the mask, not by being zero.
        sparsity: Share of the weights in scope to be pruned in all, at least 0 and below 1 (default: the next
            of the config's schedule).

    Returns:
        The mask, on the weights' devices, named relative to the backbone.

    Raises:
        PruningError: Nothing is in scope, a weight is NaN or infinite or of another type than float32, bfloat16
            and float16 (the message names the parameter), or the sparsity is out of range or below the mask's.

    Example:
        >>> mask = prune(nn.Linear(10, 10), sparsity=0.3)
        >>> mask.kept
        70
    """
    config = config or PruningConfig()
    if not isinstance(model, nn.Module) or not isinstance(config, PruningConfig):
        given = f"{type(model).__name__} and {type(config).__name__}"
        raise PruningError(f"prune takes a module and a PruningConfig, not {given}: prune(model, sparsity=0.5)")
    weights = prunable_weights(model, config)
    if mask is not None and mask.shapes != {name: tuple(weight.shape) for name, weight in weights.items()}:
        different = sorted(set(mask) ^ set(weights))
        raise PruningError(f"the mask is over other weights than the scope: {', '.join(different[:3]) or 'shapes'}")
    if sparsity is None:
        sparsity = _next_sparsity(config, mask)
    for name, weight in weights.items():
        if weight.dtype not in _DTYPES:
            raise PruningError(f"{name} is {weight.dtype}; prune the model in float32, bfloat16 or float16")
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    kept = mask.kept_by_layer if mask is not None else None
    pruned = {name: weight.numel() - (kept[name] if kept else weight.numel()) for name, weight in weights.items()}
    result: dict[str, Tensor] = {}
    for group in allocate(config.distribution, shapes, sparsity, pruned):
        ranking = _Ranking({name: weights[name] for name in group.names}, config, mask)
        result |= ranking.keep(group)
    return Mask({name: result[name] for name in weights})


def _next_sparsity(config: PruningConfig, mask: Mask | None) -> float:
    reached = mask.sparsity if mask is not None else 0.0
    # Half a weight of tolerance: a mask at a rung of the schedule is past it.
    tolerance = 0.5 / mask.numel if mask is not None and mask.numel else 0.0
    for sparsity in sparsity_schedule(config):
        if sparsity > reached + tolerance:
            return sparsity
    raise PruningError(f"the schedule ends at or below the mask's sparsity {reached:.4f}; give a sparsity")


class _Ranking:
    """The weights that compete with each other, read as blocks of order keys."""

    def __init__(self, weights: Mapping[str, Tensor], config: PruningConfig, mask: Mask | None) -> None:
        self._weights = {name: weight.detach().reshape(-1) for name, weight in weights.items()}
        self._shapes = {name: weight.shape for name, weight in weights.items()}
        self._criterion = CRITERIA[config.criterion]
        self._seed = config.pruning_seed
        self._mask = mask

    def keep(self, group: Group) -> dict[str, Tensor]:
        """Return the bool tensors that prune exactly as many weights as the group says."""
        blocks = [(name, start) for name in self._weights for start in self._starts(name)]
        first_kept, ties = PRUNED, 0
        if group.pruned:
            total = sum(weight.numel() for weight in self._weights.values())
            reads = [partial(self._read, name, start) for name, start in blocks]
            first_kept, ties = threshold(reads, self._sample(total), group.pruned, total)
        kept = {
            name: torch.empty(weight.numel(), dtype=torch.bool, device=weight.device)
            for name, weight in self._weights.items()
        }

        def cut(queue: Iterator[tuple[str, int]]) -> list[tuple[str, int]]:
            """Write the flags of blocks; return the blocks that hold ties."""
            tied = []
            for name, start in queue:
                keys = self._read(name, start)
                torch.ge(keys, first_kept, out=kept[name][start : start + keys.numel()])
                if ties and bool((keys == first_kept).any()):
                    tied.append((name, start))
            return tied

        tied = {block for part in share_out(cut, blocks) for block in part}
        for name, start in [block for block in blocks if block in tied]:
            where = (self._read(name, start) == first_kept).nonzero().reshape(-1)[:ties]
            kept[name][start + where] = False
            ties -= where.numel()
        return {name: flags.reshape(self._shapes[name]) for name, flags in kept.items()}

    def _starts(self, name: str) -> range:
        weight = self._weights[name]
        return range(0, weight.numel(), _BLOCK if weight.device.type == "cpu" else _BLOCK_ON_DEVICE)

    def _read(self, name: str, start: int) -> Tensor:
        size = self._starts(name).step
        return self._block_keys(name, slice(start, start + size))

    def _sample(self, total: int) -> Tensor:
        """Every n-th key over all weights, as if they were one tensor."""
        step, offset, sample = max(1, total // SAMPLE), 0, []
        for name, weight in self._weights.items():
            if offset < weight.numel():
                sample.append(self._block_keys(name, slice(offset, weight.numel(), step)).cpu())
            offset = (offset - weight.numel()) % step
        return torch.cat(sample)

    def _block_keys(self, name: str, where: slice) -> Tensor:
        block = Block(name, self._weights[name][where], where.start, where.step or 1, self._seed)
        scores = self._criterion(block)
        keys = order_keys(scores)
        # Scores that are floats are NaN where weights are; whole numbers, such as random ones, hide it.
        if not (all_finite(keys) and (scores.is_floating_point() or bool(block.weights.isfinite().all()))):
            raise PruningError(f"{name} holds NaN or infinity: the training diverged; nothing was pruned")
        if self._mask is not None:
            kept = self._mask[name].reshape(-1)[where].to(keys.device)
            keys = torch.where(kept, keys, PRUNED)
        return keys
