"""Overlap against sparsity: the rungs of tickets compared wherever two of them have the same sparsity."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import pandas

from hf_tickets.analysis.blocks import lettering
from hf_tickets.analysis.overlap import mask_overlap
from hf_tickets.errors import PruningError
from hf_tickets.pruning.mask import Mask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rungs = tuple[Sequence[float], Callable[[float], Mask]]

_COLUMNS = ["first", "second", "sparsity", "jaccard", "chance", "layer_chance", "relative"]


def rung_overlap(tickets: Mapping[str, Rungs], tolerance: float = 0.005) -> pandas.DataFrame:
    """Compare every pair of tickets at each sparsity that both have (CV tickets, relative mask similarity).

    Args:
        tickets: By name, the sparsities of a ticket's rungs, 0 to 1, and what gives the mask of one of them.
        tolerance: How far two sparsities may lie apart and still be compared.

    Returns:
        A row a pair and sparsity: first, second (names), sparsity (of the first), jaccard, chance, layer_chance and
        relative as in `mask_overlap`. No row where a pair has no sparsity in common.

    Raises:
        PruningError: The masks are over other weights.
    """
    rows = []
    for (first, (own, mask)), (second, (others, other_mask)) in combinations(tickets.items(), 2):
        for sparsity in own:
            nearest = min(others, key=lambda other: abs(other - sparsity))
            if abs(nearest - sparsity) <= tolerance:
                (row,) = mask_overlap({first: mask(sparsity), second: other_mask(nearest)}).to_dict("records")
                rows.append({**row, "sparsity": sparsity})
    return pandas.DataFrame(rows, columns=_COLUMNS)


def rung_overlap_figure(overlaps: pandas.DataFrame, title: str = "") -> "Figure":
    """Draw the overlap of each pair against the sparsity, with the chance level dashed.

    Args:
        overlaps: What `rung_overlap` returned.
        title: Title of the figure.

    Raises:
        PruningError: There is nothing to draw.
    """
    from matplotlib.figure import Figure

    if overlaps.empty:
        raise PruningError("the tickets have no sparsity in common, and so no overlap to draw against it")
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axes = figure.subplots()
    markers = "osD^v*PX" * len(overlaps)
    for ((first, second), table), marker in zip(
        overlaps.groupby(["first", "second"], sort=False), markers, strict=False
    ):
        places, name = 100 * table["sparsity"], lettering(f"{first}, {second}")
        (line,) = axes.plot(places, table["jaccard"], marker=marker, linewidth=2, label=name)
        axes.plot(places, table["layer_chance"], linestyle="--", linewidth=1.6, color=line.get_color())
    axes.plot([], [], linestyle="--", color="0.4", label="by chance, at each layer's sparsity")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("sparsity (%)", fontsize=12)
    axes.set_ylabel("overlap of kept weights (Jaccard)", fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.3)
    axes.set_title(title, fontsize=13)
    figure.legend(loc="outside lower center", ncols=2, fontsize=11)
    return figure
