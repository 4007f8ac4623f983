"""Overlap of masks, beside the overlap that chance alone would give."""

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING

import numpy
import pandas

from hf_tickets.analysis.blocks import block_of, lettering, mark_blocks
from hf_tickets.errors import PruningError
from hf_tickets.pruning.mask import Mask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMED = 3


def mask_overlap(masks: Mapping[str, Mask]) -> pandas.DataFrame:
    """Compare every pair of masks (CV tickets, relative mask similarity).

    Args:
        masks: Two or more masks over the same weights, by name.

    Returns:
        A row a pair: first, second (names), first_sparsity, second_sparsity, jaccard (share of the weights kept in
        either that are kept in both), chance (the same for masks drawn at random with these sparsities),
        layer_chance (drawn at random with these sparsities in each layer), relative (jaccard over chance).

    Raises:
        PruningError: There are fewer than two masks, or they are over other weights.

    Example:
        >>> mask = Mask({"weight": torch.tensor([True, True, False, False])})
        >>> mask_overlap({"a": mask, "b": ~mask})[["jaccard", "chance"]].round(3)
           jaccard  chance
        0      0.0   0.333
    """
    if len(masks) < 2:
        raise PruningError("an overlap is that of two masks or more")
    check_same_weights(masks)
    rows = []
    for first, second in combinations(masks, 2):
        counts = _counts(masks[first], masks[second])
        total = counts.sum()
        expected = (counts["first"] * counts["second"] / counts["weights"].clip(lower=1)).sum()
        jaccard, chance = _jaccard(total), _chance(total)
        rows.append(
            {
                "first": first,
                "second": second,
                "first_sparsity": masks[first].sparsity,
                "second_sparsity": masks[second].sparsity,
                "jaccard": jaccard,
                "chance": chance,
                "layer_chance": _ratio(expected, total["first"] + total["second"] - expected),
                "relative": _ratio(jaccard, chance),
            }
        )
    return pandas.DataFrame(rows)


def layer_overlap(first: Mask, second: Mask) -> pandas.DataFrame:
    """Compare two masks layer by layer.

    Args:
        first: A mask.
        second: A mask over the same weights.

    Returns:
        A row a layer, indexed by its name: block, weights, first_sparsity, second_sparsity, jaccard, chance (that of
        masks drawn at random with the sparsities of this layer), relative (jaccard over chance).

    Raises:
        PruningError: The masks are over other weights.
    """
    check_same_weights({"the first mask": first, "the second": second})
    counts = _counts(first, second)
    jaccard, chance = _jaccard(counts), _chance(counts)
    return pandas.DataFrame(
        {
            "block": [block_of(name) for name in counts.index],
            "weights": counts["weights"],
            "first_sparsity": 1 - counts["first"] / counts["weights"],
            "second_sparsity": 1 - counts["second"] / counts["weights"],
            "jaccard": jaccard,
            "chance": chance,
            "relative": _ratio(jaccard, chance),
        }
    )


def chance_overlap(first: float, second: float) -> float:
    """Return the Jaccard index that two large masks drawn at random have, 0 to 1.

    Args:
        first: Density of the one, the share of its weights that is kept.
        second: Density of the other.

    Example:
        >>> round(chance_overlap(0.5, 0.5), 4)
        0.3333
    """
    return float(_ratio(first * second, first + second - first * second))


def check_same_weights(masks: Mapping[str, Mask]) -> None:
    """Refuse masks over other weights.

    Args:
        masks: Masks by name.

    Raises:
        PruningError: The message names the first layers that differ, and their shapes.
    """
    (name, mask), *others = masks.items()
    for other_name, other in others:
        shapes, other_shapes = mask.shapes, other.shapes
        different = [layer for layer in {**shapes, **other_shapes} if shapes.get(layer) != other_shapes.get(layer)]
        if different:
            listed = "; ".join(
                f"{layer} is {_shape(mask, layer)} and {_shape(other, layer)}" for layer in different[:_NAMED]
            )
            more = f"; and {len(different) - _NAMED} more layers" if len(different) > _NAMED else ""
            raise PruningError(f"{name} and {other_name} are over other weights: {listed}{more}")


def overlap_figure(overlap: pandas.DataFrame, title: str = "") -> "Figure":
    """Draw the overlap of every pair as a grid: Jaccard index, and below it how many times chance that is.

    Args:
        overlap: What `mask_overlap` returned.
        title: Title of the figure.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys([*overlap["first"], *overlap["second"]]))
    grid = numpy.eye(len(names))
    relative = numpy.full_like(grid, numpy.nan)
    for row in overlap.itertuples():
        here = names.index(row.first), names.index(row.second)
        for where in (here, here[::-1]):
            grid[where], relative[where] = row.jaccard, row.relative
    side = 1.1 * len(names)
    figure = Figure(figsize=(max(5.0, side + 2.8), max(3.6, side + 1.4)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(grid, vmin=0, vmax=1, cmap="Blues")
    for (row, column), value in numpy.ndenumerate(grid):
        times = "" if numpy.isnan(relative[row, column]) else f"\n{relative[row, column]:.2f} × chance"
        color = "white" if value > 0.55 else "black"
        axes.text(column, row, f"{value:.3f}{times}", ha="center", va="center", color=color, fontsize=11)
    labels = [lettering(name) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=25, ha="right", rotation_mode="anchor", fontsize=12)
    axes.set_yticks(range(len(names)), labels, fontsize=12)
    bar = figure.colorbar(image, ax=axes, shrink=0.9)
    bar.set_label("overlap of kept weights (Jaccard)", fontsize=12)
    bar.ax.tick_params(labelsize=11)
    axes.set_title(title, fontsize=13)
    return figure


def layer_overlap_figure(overlaps: Mapping[str, pandas.DataFrame], title: str = "") -> "Figure":
    """Draw the overlap of each layer, from input to output, with the chance level of each pair dashed.

    Args:
        overlaps: What `layer_overlap` returned, by name of the pair; of the same layers.
        title: Title of the figure.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    layers = list(next(iter(overlaps.values())).index)
    places = range(1, len(layers) + 1)
    for name, table in overlaps.items():
        (line,) = axes.plot(places, table["jaccard"], "o-", markersize=4, label=lettering(name))
        # darker and in front, so that it is seen where the overlap is no more than chance
        dark = [0.5 * channel for channel in to_rgb(line.get_color())]
        axes.plot(places, table["chance"], linestyle="--", linewidth=1.4, color=dark, zorder=3)
        axes.fill_between(places, table["chance"], table["jaccard"], color=line.get_color(), alpha=0.15, linewidth=0)
    axes.plot([], [], linestyle="--", color="0.2", label="by chance")
    mark_blocks(axes, layers)
    axes.set_xlim(0.5, len(layers) + 0.5)
    axes.set_ylim(0, None)
    axes.set_xlabel("layer, from input to output", fontsize=12)
    axes.set_ylabel("overlap (Jaccard)", fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(axis="y", alpha=0.3)
    axes.set_title(title, fontsize=13)
    figure.legend(loc="outside lower center", ncols=2, fontsize=11)
    return figure


def _counts(first: Mask, second: Mask) -> pandas.DataFrame:
    return pandas.DataFrame(
        {
            "weights": {name: value.numel() for name, value in first.items()},
            "first": first.kept_by_layer,
            "second": second.kept_by_layer,
            "both": (first & second).kept_by_layer,
        }
    )


def _jaccard(counts: "pandas.DataFrame | pandas.Series") -> "pandas.Series":
    return _ratio(counts["both"], counts["first"] + counts["second"] - counts["both"])


def _chance(counts: "pandas.DataFrame | pandas.Series") -> "pandas.Series":
    first, second = counts["first"] / counts["weights"], counts["second"] / counts["weights"]
    return _ratio(first * second, first + second - first * second)


def _ratio(part: "pandas.Series | float", whole: "pandas.Series | float") -> "pandas.Series":
    with numpy.errstate(divide="ignore", invalid="ignore"):
        return numpy.divide(part, whole)


def _shape(mask: Mask, layer: str) -> str:
    return "×".join(map(str, mask.shapes[layer])) if layer in mask else "missing"
