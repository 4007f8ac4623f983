"""`prune`: choose a mask over the weights of a model."""

from collections.abc import Iterator, Mapping
from functools import partial
from math import prod

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
from hf_tickets.pruning.shards import Team, assemble, cut, first_entry, local, whole_shape
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
    accumulated: Mapping[str, Tensor] | None = None,
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
        accumulated: For a criterion of first order, what a training added up for each weight (`Accumulation.sums`).

    Returns:
        The mask, on the weights' devices, named relative to the backbone.

    Raises:
        PruningError: Nothing is in scope, a weight is NaN or infinite or of another type than float32, bfloat16
            and float16 (the message names the parameter), the sparsity is out of range or below the mask's, or nothing
            is accumulated for a criterion of first order.

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
    if mask is not None and mask.shapes != {name: tuple(whole_shape(weight)) for name, weight in weights.items()}:
        different = sorted(set(mask) ^ set(weights))
        raise PruningError(f"the mask is over other weights than the scope: {', '.join(different[:3]) or 'shapes'}")
    if sparsity is None:
        sparsity = _next_sparsity(config, mask)
    before = {name: cut(kept, weights[name]) for name, kept in mask.items()} if mask is not None else None
    kept = mask.kept_by_layer if mask is not None else None
    parts = prune_parts(weights, config, sparsity, before, kept, accumulated)
    return Mask({name: assemble(part, weights[name]) for name, part in parts.items()})


@torch.no_grad()
def prune_parts(
    weights: Mapping[str, Tensor],
    config: PruningConfig,
    sparsity: float,
    before: Mapping[str, Tensor] | None = None,
    kept: Mapping[str, int] | None = None,
    accumulated: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Choose which weights to keep where they are spread over processes; none holds more of the mask than its part.

    Args:
        weights: The weights in scope, as `prunable_weights` gives them.
        config: How masks are chosen.
        sparsity: Share of the weights to be pruned in all, at least 0 and below 1.
        before: This process's part of the mask so far (`shards.cut`).
        kept: How many weights of each layer the whole mask so far keeps.
        accumulated: What was added up for this process's part of each weight.

    Returns:
        This process's part of each layer's mask.

    Raises:
        PruningError: As for `prune`.
    """
    for name, weight in weights.items():
        if weight.dtype not in _DTYPES:
            raise PruningError(f"{name} is {weight.dtype}; prune the model in float32, bfloat16 or float16")
        if accumulated is not None and (name not in accumulated or accumulated[name].shape != local(weight).shape):
            raise PruningError(f"accumulated holds nothing of the shape of {name}: it belongs to another model")
    shapes = {name: tuple(whole_shape(weight)) for name, weight in weights.items()}
    pruned = {name: prod(shape) - kept[name] if kept else 0 for name, shape in shapes.items()}
    result: dict[str, Tensor] = {}
    for group in allocate(config.distribution, shapes, sparsity, pruned):
        ranking = _Ranking({name: weights[name] for name in group.names}, config, before, accumulated)
        result |= ranking.keep(group)
    return {name: result[name] for name in weights}


def _next_sparsity(config: PruningConfig, mask: Mask | None) -> float:
    reached = mask.sparsity if mask is not None else 0.0
    # Half a weight of tolerance: a mask at a rung of the schedule is past it.
    tolerance = 0.5 / mask.numel if mask is not None and mask.numel else 0.0
    for sparsity in sparsity_schedule(config):
        if sparsity > reached + tolerance:
            return sparsity
    raise PruningError(f"the schedule ends at or below the mask's sparsity {reached:.4f}; give a sparsity")


class _Ranking:
    """The weights that compete with each other, read as blocks of order keys.

    Where they are spread over processes, each reads its own part, and only counts are exchanged.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        config: PruningConfig,
        before: Mapping[str, Tensor] | None,
        accumulated: Mapping[str, Tensor] | None,
    ) -> None:
        self._parts = {name: local(weight).detach() for name, weight in weights.items()}
        self._weights = {name: part.reshape(-1) for name, part in self._parts.items()}
        self._first = {name: first_entry(weight) for name, weight in weights.items()}
        self._total = sum(whole_shape(weight).numel() for weight in weights.values())
        self._team = Team(weights.values())
        self._criterion = CRITERIA[config.criterion]
        self._seed = config.pruning_seed
        self._before = {name: part.reshape(-1) for name, part in before.items()} if before is not None else None
        self._accumulated = {name: sums.reshape(-1) for name, sums in (accumulated or {}).items()}

    def keep(self, group: Group) -> dict[str, Tensor]:
        """Return this process's part of the mask that prunes exactly as many weights as the group says."""
        blocks = [(name, start) for name in self._weights for start in self._starts(name)]
        first_kept, ties = PRUNED, 0
        if group.pruned:
            reads = [partial(self._read, name, start) for name, start in blocks]
            first_kept, ties = threshold(reads, self._sample(), group.pruned, self._total, self._team.sum_)
        kept = {
            name: torch.empty(weight.numel(), dtype=torch.bool, device=weight.device)
            for name, weight in self._weights.items()
        }

        def cut_off(queue: Iterator[tuple[str, int]]) -> dict[tuple[str, int], int]:
            """Write the flags of blocks; return how many ties each holds that holds any."""
            tied = {}
            for name, start in queue:
                keys = self._read(name, start)
                torch.ge(keys, first_kept, out=kept[name][start : start + keys.numel()])
                count = int((keys == first_kept).count_nonzero()) if ties else 0
                if count:
                    tied[name, start] = count
            return tied

        tied: dict[tuple[str, int], int] = {}
        for part in share_out(cut_off, blocks):
            tied |= part
        for name, quota in self._quotas(tied, ties).items():
            for start in (start for start in self._starts(name) if (name, start) in tied):
                where = (self._read(name, start) == first_kept).nonzero().reshape(-1)[:quota]
                kept[name][start + where] = False
                quota -= where.numel()
        return {name: kept[name].reshape(part.shape) for name, part in self._parts.items()}

    def _quotas(self, tied: Mapping[tuple[str, int], int], ties: int) -> dict[str, int]:
        """Say how many of the ties in each weight's part go: the first in parameter order and flat index."""
        if not ties:
            return {}
        own = dict.fromkeys(self._weights, 0)
        for (name, _), count in tied.items():
            own[name] += count
        quotas: dict[str, int] = {}
        everyone = self._team.collect(own)
        for name in self._weights:
            before = sum(part[name] for part in everyone[: self._team.rank])
            quotas[name] = min(max(0, ties - before), own[name])
            ties -= min(ties, sum(part[name] for part in everyone))
        return quotas

    def _starts(self, name: str) -> range:
        weight = self._weights[name]
        return range(0, weight.numel(), _BLOCK if weight.device.type == "cpu" else _BLOCK_ON_DEVICE)

    def _read(self, name: str, start: int) -> Tensor:
        size = self._starts(name).step
        return self._block_keys(name, slice(start, start + size))

    def _sample(self) -> Tensor:
        """Every n-th key over all weights, as if they were one tensor.

        Raises:
            PruningError: A process found weights that are not finite; all raise then, and none waits for the others.
        """
        step, offset, sample, error = max(1, self._total // SAMPLE), 0, [], ""
        try:
            for name, weight in self._weights.items():
                for start in self._starts(name) if self._team.spread else ():
                    self._read(name, start)
                if offset < weight.numel():
                    sample.append(self._block_keys(name, slice(offset, weight.numel(), step)).cpu())
                offset = (offset - weight.numel()) % step
        except PruningError as found:
            error = str(found)
        everyone = self._team.collect((error, torch.cat(sample) if sample and not error else torch.empty(0).int()))
        for message, _ in everyone:
            if message:
                raise PruningError(message)
        return torch.cat([keys for _, keys in everyone])

    def _block_keys(self, name: str, where: slice) -> Tensor:
        first = self._first[name]
        sums = self._accumulated[name][where] if self._accumulated else None
        block = Block(name, self._weights[name][where], first + where.start, where.step or 1, self._seed, sums)
        scores = self._criterion(block)
        keys = order_keys(scores)
        # Scores that are floats are NaN where weights are; whole numbers, such as random ones, and sums hide it.
        shows_nan = scores.is_floating_point() and sums is None
        if not (all_finite(keys) and (shows_nan or bool(block.weights.isfinite().all()))):
            raise PruningError(f"{name} holds NaN or infinity: the training diverged; nothing was pruned")
        if self._before is not None:
            kept = self._before[name][where].to(keys.device)
            keys = torch.where(kept, keys, PRUNED)
        return keys
