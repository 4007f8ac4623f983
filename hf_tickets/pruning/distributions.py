"""Distributions: how the sparsity of a model is spread over its layers.

A distribution maps the shapes of the layers and a sparsity to a density for each layer, or to None where all
layers compete in one ranking.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from hf_tickets.errors import PruningError

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Group:
    """Layers ranked together, and how many of their weights are pruned in all."""

    names: tuple[str, ...]
    pruned: int


def global_ranking(shapes: Shapes, sparsity: float) -> None:
    """All layers in one ranking (both papers)."""


def uniform(shapes: Shapes, sparsity: float) -> dict[str, float]:
    """The same density in every layer."""
    return dict.fromkeys(shapes, 1 - sparsity)


def erdos_renyi_kernel(shapes: Shapes, sparsity: float) -> dict[str, float]:
    """Density in proportion to sum(shape) / prod(shape), at most 1 (Evci et al. 2020, RigL, section 3)."""
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    ratios = {name: sum(shape) / prod(shape) for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        left = (1 - sparsity) * sum(sizes.values()) - sum(sizes[name] for name in dense)
        weighted = sum(ratios[name] * sizes[name] for name in shapes if name not in dense)
        scale = left / weighted if weighted else 0.0
        full = {name for name in shapes if name not in dense and scale * ratios[name] > 1}
        if not full:
            return {name: 1.0 if name in dense else scale * ratios[name] for name in shapes}
        dense |= full


DISTRIBUTIONS: dict[str, Callable[[Shapes, float], dict[str, float] | None]] = {
    "global": global_ranking,
    "uniform": uniform,
    "erk": erdos_renyi_kernel,
}


def allocate(name: str, shapes: Shapes, sparsity: float, pruned: Mapping[str, int]) -> list[Group]:
    """Say how many weights of each group of layers are pruned at a sparsity.

    Args:
        name: Name of the distribution.
        shapes: Shape of each layer's weight, in parameter order.
        sparsity: Share of all weights to be pruned, in all, between 0 and 1.
        pruned: How many are pruned already in each layer; these stay so.

    Returns:
        Groups whose `pruned` add up to round(sparsity * number of weights) exactly.

    Raises:
        PruningError: The distribution is not registered, or fewer weights would be pruned than are already.
    """
    if name not in DISTRIBUTIONS:
        raise PruningError(f"distribution must be one of {', '.join(DISTRIBUTIONS)}, not {name!r}")
    if not 0 <= sparsity < 1:
        raise PruningError(f"sparsity must be at least 0 and below 1, not {sparsity}")
    sizes = [prod(shape) for shape in shapes.values()]
    lower = [pruned[layer] for layer in shapes]
    target = round(sparsity * sum(sizes))
    if target < sum(lower):
        raise PruningError(
            f"the mask is sparser already ({sum(lower) / sum(sizes):.2%}) than the sparsity asked for ({sparsity:.2%})"
        )
    densities = DISTRIBUTIONS[name](shapes, sparsity)
    if densities is None:
        return [Group(tuple(shapes), target)]
    ideal = [(1 - densities[layer]) * size for layer, size in zip(shapes, sizes, strict=True)]
    counts = _apportion(ideal, lower, sizes, target)
    return [Group((layer,), count) for layer, count in zip(shapes, counts, strict=True)]


def _apportion(ideal: Sequence[float], lower: Sequence[int], upper: Sequence[int], total: int) -> list[int]:
    """Round to integers within bounds that add up to a total, largest remainders first."""
    counts = [min(max(int(x), low), up) for x, low, up in zip(ideal, lower, upper, strict=True)]
    while (missing := total - sum(counts)) != 0:
        step = 1 if missing > 0 else -1
        free = [i for i in range(len(counts)) if lower[i] <= counts[i] + step <= upper[i]]
        free.sort(key=lambda i: (ideal[i] - counts[i]) * step, reverse=True)
        # One each at first; in equal parts where bounds have pushed the counts far from the total.
        part = max(1, abs(missing) // max(1, len(free)))
        for i in free[: abs(missing)]:
            room = upper[i] - counts[i] if step > 0 else counts[i] - lower[i]
            counts[i] += step * min(part, room)
    return counts
