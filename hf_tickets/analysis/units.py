"""Pruned units: outputs that a layer no longer computes and inputs that it no longer reads."""

from typing import TYPE_CHECKING

import pandas
from torch import Tensor

from hf_tickets.analysis.blocks import block_of, mark_blocks
from hf_tickets.pruning.mask import Mask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEAST_SHOWN = 5.0  # percent, so that a few zero units do not look like many
_COLUMNS = ["block", "rows", "zero_rows", "columns", "zero_columns"]


def unit_table(mask: Mask) -> pandas.DataFrame:
    """Count the rows and columns of each layer's weight that are wholly zero.

    A row is a slice of the first dimension (an output channel or neuron), a column one of the second (an input
    channel or neuron); transformers' Conv1D, as in GPT-2, has them the other way round.

    Args:
        mask: A mask.

    Returns:
        A row a layer, indexed by its name: block, rows, zero_rows, columns, zero_columns.

    Example:
        >>> kept = torch.tensor([[True, False], [False, False]])
        >>> unit_table(Mask({"fc.weight": kept}))[["zero_rows", "zero_columns"]]
                   zero_rows  zero_columns
        fc.weight          1             1
    """
    rows = {}
    for name, kept in mask.items():
        matrix = connections(kept)
        zero_rows, zero_columns = (int((~matrix.any(axis)).count_nonzero()) for axis in (1, 0))
        rows[name] = (block_of(name), matrix.shape[0], zero_rows, matrix.shape[1], zero_columns)
    return pandas.DataFrame.from_dict(rows, orient="index", columns=_COLUMNS)


def connections(kept: Tensor) -> Tensor:
    """Return which rows a weight connects to which columns: a bool matrix.

    Args:
        kept: Bool tensor of a weight; what lies beyond its second dimension is the kernel.
    """
    if kept.dim() < 2:
        return kept.reshape(-1, 1)
    return kept if kept.dim() == 2 else kept.flatten(2).any(-1)


def unit_figure(units: pandas.DataFrame, title: str = "") -> "Figure":
    """Draw the share of rows and columns that are wholly zero in each layer, from input to output.

    Args:
        units: What `unit_table` returned.
        title: Title of the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for kind, label, marker in (("rows", "outputs (rows)", "o"), ("columns", "inputs (columns)", "s")):
        zero, all_of_them = units[f"zero_{kind}"], units[kind]
        named = f"{label}: {zero.sum():,} of {all_of_them.sum():,}"
        places, share = range(1, len(units) + 1), 100 * zero / all_of_them
        axes.plot(places, share, marker=marker, markersize=4, linewidth=1.6, label=named, clip_on=False)
    if not units[["zero_rows", "zero_columns"]].to_numpy().any():
        words = "every output and input keeps a weight"
        axes.annotate(words, (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", fontsize=13, color="0.35")
    mark_blocks(axes, list(units.index))
    axes.set_xlim(0.5, len(units) + 0.5)
    axes.set_ylim(0, max(_LEAST_SHOWN, *axes.get_ylim()))
    axes.set_xlabel("layer, from input to output", fontsize=12)
    axes.set_ylabel("wholly zero (%)", fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(axis="y", alpha=0.3)
    axes.set_title(title, fontsize=13)
    figure.legend(loc="outside lower center", ncols=2, fontsize=11)
    return figure
