"""Figures of a study: the transfer heat map, and results against remaining weights."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy
import pandas

from hf_tickets.analysis.blocks import lettering
from hf_tickets.studies.comparisons import DENSE, SHARED, TICKET, dark_counts, dense_of
from hf_tickets.studies.formatting import signed
from hf_tickets.studies.statistics import Summary

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind tell apart, without the yellow that is lost on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Curve:
    """Results against sparsity.

    Args:
        name: For the legend.
        sparsities: Shares of pruned weights, ascending.
        means: Mean results there.
        stds: Their standard deviations; NaN draws no band.
    """

    name: str
    sparsities: Sequence[float]
    means: Sequence[float]
    stds: Sequence[float]


def curves_of(cells: pandas.DataFrame, by: str, names: Iterable[str]) -> list[Curve]:
    """Return a curve for each value of a column.

    Args:
        cells: Rows of `compare_cells`, all of one target.
        by: "source" or "control".
        names: The values, in order; those without any row are left out.
    """
    found = []
    for name in names:
        rows = cells[cells[by] == name].sort_values("wanted")
        if not rows.empty:
            found.append(Curve(name, list(rows["wanted"]), list(rows["mean"]), list(rows["std"])))
    return found


def curves_figure(
    panels: Mapping[str, Sequence[Curve]],
    metrics: Mapping[str, str],
    dense: Mapping[str, Mapping[str, Summary]],
    columns: int = 3,
) -> "Figure":
    """Draw results against remaining weights on a logarithmic axis, a panel each (CV tickets, figure 3).

    Args:
        panels: Curves by title of the panel.
        metrics: Name of the metric by title.
        dense: Results of the dense model by title, and there by the name of the curve that they belong to, "" for all:
            lines with a band; panels without stay without.
        columns: Panels side by side.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    layout = ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1)
    figure = Figure(figsize=(max(5.6, 3.9 * columns), 3.3 * rows + 0.7), layout=layout)
    grid = figure.subplots(rows, columns, squeeze=False)
    names = list(dict.fromkeys(curve.name for curves in panels.values() for curve in curves))
    for axes, (title, curves) in zip(grid.flat, panels.items(), strict=False):
        for name, level in dense.get(title, {}).items():
            _draw_dense(axes, level, COLORS[names.index(name) % len(COLORS)] if name in names else "0.35")
        for curve in curves:
            _draw_curve(axes, curve, names.index(curve.name))
        _label(axes, [share for curve in curves for share in curve.sparsities])
        axes.set_title(lettering(title), fontsize=12)
        axes.set_ylabel(lettering(metrics.get(title, "").replace("_", " ")), fontsize=11)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    entries: dict[str, Artist] = {}
    for axes in grid.flat:
        handles, labels = axes.get_legend_handles_labels()
        entries.update(zip(labels, handles, strict=True))
    order = in_legend(entries, names)
    handles = [entries[name] for name in order]
    across = min(len(order), 2 * columns)
    figure.legend(handles, order, loc="outside lower center", ncols=across, fontsize=11, frameon=False)
    return figure


def in_legend(entries: Iterable[str], names: Sequence[str]) -> list[str]:
    """Return the labels of a legend: the curves in order, the dense level last."""
    wanted = [lettering(name) for name in names]
    return sorted(entries, key=lambda label: wanted.index(label) if label in wanted else len(wanted))


def transfer_figure(matrix: pandas.DataFrame, targets: Sequence[str], title: str = "") -> "Figure":
    """Draw the transfer matrix as BERT tickets, figure 2: dark cells framed, and counted on the right.

    Colours tell the difference from the dense model as a share of its result, so that metrics of several units stand
    side by side; the numbers are in each metric's unit.

    Args:
        matrix: What `transfer_matrix` returned.
        targets: Order of the columns.
        title: Title of the figure.
    """
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    rows = list(dict.fromkeys(matrix["row"]))
    differences, shares = (numpy.full((len(rows), len(targets)), numpy.nan) for _ in range(2))
    dark, counts = set(), dark_counts(matrix)
    for cell in matrix.itertuples():
        place = rows.index(cell.row), list(targets).index(cell.target)
        level = cell.mean - cell.difference
        sign = 1 if cell.greater_is_better else -1
        differences[place], shares[place] = cell.difference, sign * 100 * cell.difference / abs(level or numpy.nan)
        if cell.dark is True:
            dark.add(place)
    figure = Figure(figsize=(max(6.0, 1.05 * len(targets) + 3.6), 0.52 * len(rows) + 2.2), layout="constrained")
    axes = figure.subplots()
    limit = _color_limit(shares[: matrix[matrix["control"] == TICKET]["row"].nunique()])
    image = axes.imshow(shares, cmap="RdBu", norm=TwoSlopeNorm(0, -limit, limit), aspect="auto")
    for place, difference in numpy.ndenumerate(differences):
        _write_cell(axes, place, difference, shares[place], limit, place in dark)
    for row, column in dark:
        axes.add_patch(Rectangle((column - 0.46, row - 0.45), 0.92, 0.9, fill=False, linewidth=2.6, edgecolor="black"))
    axes.set_xticks(range(len(targets)), [lettering(name) for name in targets], rotation=30, ha="right", fontsize=11)
    axes.set_yticks(range(len(rows)), [lettering(name) for name in rows], fontsize=11)
    axes.set_xlabel("target", fontsize=12)
    axes.set_ylabel("source or control", fontsize=12)
    if any(possible for _, possible in counts.values()):
        beside = axes.secondary_yaxis("right")
        beside.set_yticks(range(len(rows)), ["{} / {}".format(*counts[row]) for row in rows], fontsize=11)
        beside.tick_params(length=0)
        beside.set_ylabel("dark cells", fontsize=12, labelpad=8)
    bar = figure.colorbar(image, ax=axes, shrink=0.9, extend="both")
    bar.set_label("better than dense (% of its result)", fontsize=11)
    bar.ax.tick_params(labelsize=10)
    axes.set_title(title, fontsize=13)
    return figure


def dense_levels(cells: pandas.DataFrame, sources: Iterable[str], target: str) -> dict[str, Summary]:
    """Return the dense model's results on a target by source; by "" where all share them.

    Args:
        cells: What `compare_cells` returned.
        sources: Names of the sources.
        target: Name of the target.
    """
    found = pandas.concat([dense_of(cells, source, target) for source in sources]).drop_duplicates("source")
    return {row["source"]: Summary(row["mean"], row["std"], row["n"]) for row in found.to_dict("records")}


def ticket_panels(cells: pandas.DataFrame, targets: Iterable[str], sources: Sequence[str]) -> dict[str, list[Curve]]:
    """Return the tickets of every source, a panel for each target."""
    tickets = cells[cells["control"] == TICKET]
    panels = {target: curves_of(tickets[tickets["target"] == target], "source", sources) for target in targets}
    return {target: curves for target, curves in panels.items() if curves}


def control_panels(
    cells: pandas.DataFrame, pairs: Iterable[tuple[str, str]], controls: Sequence[str]
) -> dict[tuple[str, str], list[Curve]]:
    """Return ticket and controls of every (source, target) that has a control, a panel each."""
    panels = {}
    for source, target in pairs:
        here = cells[(cells["target"] == target) & cells["source"].isin([source, SHARED]) & (cells["control"] != DENSE)]
        if here["control"].nunique() > 1:
            panels[source, target] = curves_of(here, "control", controls)
    return panels


def _draw_curve(axes: "Axes", curve: Curve, index: int) -> None:
    color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
    dashes = DASHES[index // len(COLORS) % len(DASHES)]
    remaining = [100 * (1 - sparsity) for sparsity in curve.sparsities]
    means, stds = numpy.array(curve.means), numpy.array(curve.stds)
    name = lettering(curve.name)
    axes.plot(remaining, means, color=color, marker=marker, markersize=5, linestyle=dashes, linewidth=1.8, label=name)
    axes.fill_between(remaining, means - stds, means + stds, color=color, alpha=0.18, linewidth=0)


def _draw_dense(axes: "Axes", dense: Summary, color: str) -> None:
    axes.axhline(dense.mean, color=color, linestyle="--", linewidth=1.4)
    axes.plot([], [], color="0.35", linestyle="--", linewidth=1.4, label="dense")
    if dense.std > 0:
        axes.axhspan(dense.mean - dense.std, dense.mean + dense.std, color=color, alpha=0.15, linewidth=0)


def _label(axes: "Axes", sparsities: Iterable[float]) -> None:
    """Let an axis run from many remaining weights to few, with ticks where there are results."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ticks: list[float] = []
    remaining = sorted({100 * (1 - sparsity) for sparsity in sparsities}, reverse=True)
    apart = (remaining[-1] / remaining[0]) ** (1 / 6) if remaining[-1] > 0 else 1
    for share in remaining:
        if share > 0 and (not ticks or share <= ticks[-1] * max(apart, 0.01)):
            ticks.append(share)
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.set_xlabel("remaining weights (%)", fontsize=11)
    axes.tick_params(labelsize=10)
    axes.grid(alpha=0.3)


def _color_limit(shares: numpy.ndarray) -> float:
    """Return where colours end: tickets tell apart, and a control that fails is simply at the end."""
    known = numpy.abs(shares[numpy.isfinite(shares)])
    return max(1.0, float(numpy.quantile(known, 0.9))) if known.size else 1.0


def _write_cell(
    axes: "Axes", place: tuple[int, ...], difference: float, share: float, limit: float, dark: bool
) -> None:
    row, column = place
    color = "white" if abs(share) > 0.6 * limit else "black"
    weight = "bold" if dark else "normal"
    text = axes.text(column, row, signed(difference), ha="center", va="center", color=color, fontsize=10.5)
    text.set_fontweight(weight)
