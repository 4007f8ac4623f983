"""The layer profile: how much of each layer a mask keeps."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hf_tickets.analysis.blocks import block_of, mark_blocks
from hf_tickets.pruning.mask import Mask

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


def layer_table(mask: Mask) -> "pandas.DataFrame":
    """Count the weights that a mask keeps of each layer.

    Args:
        mask: A mask.

    Returns:
        A row a layer, indexed by its name: block, shape (such as "64×3×7×7"), weights, kept, sparsity.

    Example:
        >>> layer_table(Mask({"fc.weight": torch.tensor([[True, False]])}))
                  block shape  weights  kept  sparsity
        fc.weight    fc   1×2        2     1       0.5
    """
    import pandas

    return pandas.DataFrame(
        {
            "block": {name: block_of(name) for name in mask},
            "shape": {name: "×".join(map(str, shape)) for name, shape in mask.shapes.items()},
            "weights": {name: value.numel() for name, value in mask.items()},
            "kept": mask.kept_by_layer,
            "sparsity": mask.sparsity_by_layer,
        }
    )


def layer_figure(sparsity_by_layer: Mapping[str, float], sparsity: float, title: str = "") -> "Figure":
    """Draw the remaining weights of each layer, from input to output, beside those of the whole.

    Args:
        sparsity_by_layer: Share of pruned weights by name of the layer, 0 to 1, in the model's order.
        sparsity: Share of pruned weights of the whole mask, 0 to 1.
        title: Title of the figure.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    remaining = [100 * (1 - value) for value in sparsity_by_layer.values()]
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(1, len(remaining) + 1), remaining, width=0.8)
    overall = 100 * (1 - sparsity)
    axes.axhline(overall, color="0.3", linestyle="--", linewidth=1.5, label=f"all layers ({overall:.4g} %)")
    mark_blocks(axes, list(sparsity_by_layer))
    axes.set_xlim(0.25, len(remaining) + 0.75)
    axes.set_ylim(0, max([*remaining, overall]) * 1.15 or 1)
    axes.set_xlabel("layer, from input to output", fontsize=12)
    axes.set_ylabel("remaining weights (%)", fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(axis="y", alpha=0.3)
    axes.set_title(title, fontsize=13)
    axes.legend(fontsize=11)
    return figure


def save_layer_figure(path: Path, sparsity_by_layer: Mapping[str, float], sparsity: float, title: str = "") -> None:
    """Draw `layer_figure` into a PNG file; arguments as there."""
    layer_figure(sparsity_by_layer, sparsity, title).savefig(path, dpi=120)
