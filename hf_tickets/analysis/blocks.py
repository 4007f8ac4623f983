"""Blocks: the parts that a model repeats, told from the names of its layers, and marked in figures."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LETTER = 0.11  # inches that a letter of a label takes


def block_of(name: str) -> str:
    """Return the block that a layer lies in: its name up to the first part with a number, else its first part.

    Args:
        name: Name of the layer's weight.

    Example:
        >>> block_of("layer1.0.conv2.weight"), block_of("encoder.layer.3.output.dense.weight")
        ('layer1', 'encoder.layer.3')
    """
    parts = name.split(".")
    numbered = (index for index, part in enumerate(parts) if any(letter.isdigit() for letter in part))
    return ".".join(parts[: next(numbered, 0) + 1])


def lettering(text: str) -> str:
    """Return text that may come from a stranger so that a figure shows it and does nothing else with it."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text).replace("$", r"\$")


def mark_blocks(axes: "Axes", names: Sequence[str], width: float = 7.0) -> None:
    """Draw a line where one block ends and the next begins, and name the blocks above.

    Args:
        axes: Axes whose x positions 1, 2, … are the layers.
        names: Names of the layers' weights, in order.
        width: Width of the axes in inches: names that would overlap are left out.
    """
    spans: list[tuple[str, float, float]] = []
    for block, members in groupby(block_of(name) for name in names):
        start = spans[-1][2] if spans else 0.5
        spans.append((block, start, start + len(list(members))))
    for _, start, _ in spans[1:]:
        axes.axvline(start, color="black", linewidth=1, linestyle=":")
    inches = width / max(1, len(names))
    ticks: dict[float, str] = {}
    taken = 0.0
    for block, start, end in spans:
        label = block.rpartition(".")[2]
        center, half = (start + end) / 2, len(label) * _LETTER / 2 / inches
        if not ticks or center - half > taken:
            ticks[center], taken = lettering(label), center + half
    above = axes.secondary_xaxis("top")
    above.set_xticks(list(ticks), list(ticks.values()), fontsize=11)
    above.tick_params(length=0)
