"""The kernel map: which convolution kernels a mask prunes wholly (CV tickets, figure 7)."""

from typing import TYPE_CHECKING

import numpy
import pandas
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from hf_tickets.analysis.blocks import block_of, mark_blocks
from hf_tickets.errors import PruningError
from hf_tickets.pruning.mask import Mask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEIGHT, _WIDTH = 192, 16  # cells that a layer gets in the picture


def kernel_table(mask: Mask) -> pandas.DataFrame:
    """Count the kernels that are wholly zero, one for each output and input channel of a convolution.

    Args:
        mask: A mask; layers that are not convolutions are left out.

    Returns:
        A row a convolution, indexed by its name: block, size (such as "3×3"), kernels, zero, share.

    Example:
        >>> kernel_table(Mask({"conv.weight": torch.ones(4, 2, 3, 3).bool()}))[["kernels", "zero"]]
                     kernels  zero
        conv.weight        8     0
    """
    rows = {}
    for name, zero in _zero_kernels(mask).items():
        count = int(zero.count_nonzero())
        rows[name] = {
            "block": block_of(name),
            "size": "×".join(map(str, mask.shapes[name][2:])),
            "kernels": zero.numel(),
            "zero": count,
            "share": count / zero.numel(),
        }
    return pandas.DataFrame.from_dict(rows, orient="index", columns=["block", "size", "kernels", "zero", "share"])


def kernel_figure(mask: Mask, title: str = "") -> "Figure":
    """Draw the kernels that are wholly zero: each layer a strip of output channels by input channels, in depth order.

    Args:
        mask: A mask over convolutions; other layers are left out.
        title: Title of the figure.

    Raises:
        PruningError: The mask has no convolution.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    zero = _zero_kernels(mask)
    if not zero:
        raise PruningError("the mask has no convolution, and so no kernels to draw")
    strips = [adaptive_avg_pool2d(values.float()[None], (_HEIGHT, _WIDTH))[0].cpu().numpy() for values in zero.values()]
    figure = Figure(figsize=(8, 6), layout="constrained")
    picture, shares = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    extent = (0.5, len(strips) + 0.5, 0, 1)
    image = picture.imshow(
        numpy.hstack(strips), cmap="Blues", vmin=0, vmax=1, aspect="auto", extent=extent, interpolation="nearest"
    )
    mark_blocks(picture, list(zero), width=6.5)
    picture.set_yticks([0, 1], ["last", "first"], fontsize=11)
    picture.set_ylabel("output channel", fontsize=12)
    picture.set_title(title, fontsize=13)
    bar = figure.colorbar(image, ax=picture, format=PercentFormatter(1))
    bar.set_label("zero kernels here", fontsize=12)
    bar.ax.tick_params(labelsize=11)
    table = kernel_table(mask)
    for size, marker in zip(table["size"].unique(), "osD^v*PX" * len(table), strict=False):
        chosen = numpy.flatnonzero(table["size"] == size)
        shares.plot(chosen + 1, 100 * table["share"].iloc[chosen], marker, markersize=5, label=f"{size} kernels")
    shares.set_ylim(-4, 104)
    shares.set_xlabel("convolution, from input to output", fontsize=12)
    shares.set_ylabel("zero kernels (%)", fontsize=12)
    shares.tick_params(labelsize=11)
    shares.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=11)
    return figure


def _zero_kernels(mask: Mask) -> dict[str, Tensor]:
    """Flags of output channel by input channel for each convolution."""
    return {name: ~kept.flatten(2).any(-1) for name, kept in mask.items() if kept.dim() > 2}
