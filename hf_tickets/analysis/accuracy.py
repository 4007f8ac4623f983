"""Accuracy against remaining weights, the figure in which lottery tickets are shown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]


def accuracy_figure(curves: Mapping[str, Points], metric: str, dense: float | None = None, title: str = "") -> "Figure":
    """Draw a metric against the share of remaining weights (BERT tickets, figure 1; CV tickets, figure 3).

    Args:
        curves: Points (sparsity, metric) by name of the curve.
        metric: Name of the metric, for the axis.
        dense: The dense model's level, drawn as a line.
        title: Title of the figure.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    if dense is not None:
        axes.axhline(dense, color="0.4", linestyle="--", linewidth=1.5, label=f"dense ({dense:.4g})")
    remaining: set[float] = set()
    for name, points in curves.items():
        ordered = sorted(points)
        shares = [100 * (1 - sparsity) for sparsity, _ in ordered]
        remaining.update(shares)
        axes.plot(shares, [value for _, value in ordered], marker="o", linewidth=2, label=name)
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(FixedLocator(_spread(sorted(remaining, reverse=True))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.set_xlabel("remaining weights (%)", fontsize=12)
    axes.set_ylabel(metric.replace("_", " "), fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.3)
    axes.set_title(title, fontsize=13)
    axes.legend(fontsize=11)
    return figure


def save_accuracy_figure(
    path: Path, curves: Mapping[str, Points], metric: str, dense: float | None = None, title: str = ""
) -> None:
    """Draw `accuracy_figure` into a PNG file; arguments as there."""
    accuracy_figure(curves, metric, dense, title).savefig(path, dpi=150)


def _spread(shares: list[float]) -> list[float]:
    """Keep ticks that stand far enough apart on a logarithmic axis to be read."""
    kept: list[float] = []
    for share in shares:
        if not kept or share / kept[-1] < 0.87:
            kept.append(share)
    return kept
