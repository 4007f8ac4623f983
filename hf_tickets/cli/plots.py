"""Tables and figures as files: a CSV and a PNG of one name, side by side in a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tickets.errors import RecipeError

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from hf_tickets.ticket.ticket import Ticket

_DPI = 120


def make_folder(path: str) -> Path:
    """Return a folder to write into, made if it is missing.

    Raises:
        RecipeError: It is a file, or it cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(f"--plots {path}: cannot make this folder: {error.strerror}") from None
    return folder


def write(folder: Path, name: str, table: "pandas.DataFrame | None" = None, figure: "Figure | None" = None) -> None:
    """Write `name`.csv and `name`.png into a folder.

    Args:
        folder: An existing folder.
        name: Name of the files.
        table: What the CSV holds.
        figure: What the PNG shows.

    Raises:
        RecipeError: A file cannot be written.
    """
    try:
        if table is not None:
            table.to_csv(folder / f"{name}.csv", index=not _numbered(table), index_label="layer")
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=_DPI)
    except OSError as error:
        raise RecipeError(f"--plots {folder}: cannot write {name}: {error.strerror}") from None


def plot_ticket(
    ticket: "Ticket",
    description: Mapping[str, Any],
    metric: str,
    folder: Path,
    removable: "pandas.DataFrame | None" = None,
) -> None:
    """Write what there is to see of a ticket at its selected rung: layers, units, kernels, and its results.

    Args:
        ticket: The ticket.
        description: What `inspect.describe` returned for it.
        metric: Name of the metric of its rungs.
        folder: Where the files go.
        removable: What can be removed with dead units, where it was counted.
    """
    from hf_tickets.analysis.accuracy import accuracy_figure
    from hf_tickets.analysis.kernels import kernel_figure, kernel_table
    from hf_tickets.analysis.layers import layer_figure, layer_table
    from hf_tickets.analysis.removable import removable_figure
    from hf_tickets.analysis.units import unit_figure, unit_table

    mask, title = ticket.mask, f"sparsity {ticket.sparsity:.2%}"
    write(folder, "layers", layer_table(mask), layer_figure(mask.sparsity_by_layer, mask.sparsity, title))
    units = unit_table(mask)
    write(folder, "units", units, unit_figure(units, title))
    if removable is not None:
        write(folder, "removable", removable, removable_figure(removable, title))
    kernels = kernel_table(mask)
    if not kernels.empty:
        write(folder, "kernels", kernels, kernel_figure(mask, title))
    results = [(rung["sparsity"], _result(rung, metric)) for rung in description["rungs"]]
    points = [(sparsity, value) for sparsity, value in results if value is not None]
    if len(points) > 1:
        dense = _result(description["dense"], metric)
        write(folder, "accuracy", figure=accuracy_figure({"ticket": points}, metric, dense))


def _result(rung: Mapping[str, Any] | None, metric: str) -> float | None:
    from hf_tickets.cli.display import metric_value

    metrics = (rung or {}).get("metrics")
    value = metric_value(metrics, metric) if isinstance(metrics, Mapping) else None
    return float(value) if isinstance(value, (int, float)) else None


def _numbered(table: "pandas.DataFrame") -> bool:
    return table.index.dtype.kind == "i"
