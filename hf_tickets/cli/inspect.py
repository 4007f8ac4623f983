"""`hf-tickets inspect`: what a ticket keeps of each layer, its rungs, and where it comes from."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hf_tickets.errors import TicketsError

if TYPE_CHECKING:
    from rich.table import Table

    from hf_tickets.ticket.ticket import Ticket


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand's arguments."""
    description = "Show a ticket: the sparsity of each layer, its rungs, and where it comes from."
    parser = subparsers.add_parser("inspect", help="show what is in a ticket", description=description)
    parser.add_argument("path", metavar="TICKET", help="folder or Hub id of the ticket")
    parser.add_argument("--revision", metavar="R", help="revision on the Hub")
    parser.add_argument("--sparsity", type=float, help="rung to show; the recorded default by default")
    parser.add_argument("--plots", metavar="FOLDER", help="write figures (PNG) and tables (CSV) into this folder")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Print the ticket at `arguments.path`.

    Raises:
        TicketFileError: The ticket cannot be read.
        SparsityError: It has no rung at `arguments.sparsity`.
        RecipeError: The folder for the plots cannot be written.
    """
    from hf_tickets.ticket.ticket import Ticket

    ticket = Ticket.from_pretrained(arguments.path, arguments.sparsity, revision=arguments.revision)
    description = describe(ticket)
    shown = _plot(ticket, description, arguments.plots) if arguments.plots else []
    if arguments.json:
        sys.stdout.write(json.dumps(description, indent=2) + "\n")
    else:
        show(description, shown)
    return 0


def _plot(ticket: "Ticket", description: Mapping[str, Any], folder: str) -> list[Any]:
    """Write the figures and tables; return what to show of them."""
    from hf_tickets.analysis.units import unit_table
    from hf_tickets.cli.plots import make_folder, plot_ticket
    from hf_tickets.cli.removable import count_removable, units_table

    into, removable, shown = make_folder(folder), None, []
    try:
        removable = count_removable(ticket)
    except TicketsError as error:
        shown.append(f"not counted: what could be removed of the model ({plain(error)})")
    plot_ticket(ticket, description, _metric(description), into, removable)
    return [units_table(unit_table(ticket.mask), removable), *shown]


def describe(ticket: "Ticket") -> dict[str, Any]:
    """Return what there is to say about a ticket as plain JSON values.

    Returns:
        sparsity, weights, kept and digest of the selected rung's mask; layers (name, shape, weights, kept,
        sparsity); dense (round 0, where it is known); rungs (sparsity and kept of each; round, metrics, steps,
        seconds where they are known);
        provenance (the config without its rungs).
    """
    mask = ticket.mask
    kept, sparsity = mask.kept_by_layer, mask.sparsity_by_layer
    layers = [
        {
            "name": name,
            "shape": list(values.shape),
            "weights": values.numel(),
            "kept": kept[name],
            "sparsity": sparsity[name],
        }
        for name, values in mask.items()
    ]
    provenance = ticket.config.to_dict()
    known, dense = provenance.pop("rungs"), provenance.pop("dense")
    if len(known) != len(ticket.sparsities):
        known = [{} for _ in ticket.sparsities]
    rungs = [
        {**rung, "sparsity": value, "kept": round((1 - value) * mask.numel)}
        for rung, value in zip(known, ticket.sparsities, strict=True)
    ]
    return {
        "sparsity": ticket.sparsity,
        "weights": mask.numel,
        "kept": mask.kept,
        "digest": mask.digest,
        "layers": layers,
        "dense": dense,
        "rungs": rungs,
        "provenance": provenance,
    }


def show(description: Mapping[str, Any], more: Iterable[Any] = ()) -> None:
    """Print tables of layers, rungs and provenance.

    Args:
        description: What `describe` returned.
        more: What else to print, after the layers.
    """
    from rich.console import Console

    from hf_tickets.cli.display import results_table

    console = Console()
    console.print(_layers_table(description))
    for item in more:
        console.print(item, soft_wrap=isinstance(item, str), highlight=False)
    rows = [description["dense"], *description["rungs"]] if description["dense"] else description["rungs"]
    rungs = results_table(rows, _metric(description))
    rungs.title = "rungs"
    console.print(rungs)
    console.print(_provenance_table(description))


def _layers_table(description: Mapping[str, Any]) -> "Table":
    from rich.table import Table

    table = Table(title=f"layers at sparsity {description['sparsity']:.4f}", show_footer=True)
    table.add_column("name", "total", overflow="fold")
    table.add_column("shape", justify="right")
    table.add_column("weights", f"{description['weights']:,}", justify="right")
    table.add_column("kept", f"{description['kept']:,}", justify="right")
    table.add_column("sparsity", f"{description['sparsity']:.2%}", justify="right")
    for layer in description["layers"]:
        table.add_row(
            plain(layer["name"]),
            " × ".join(map(str, layer["shape"])),
            f"{layer['weights']:,}",
            f"{layer['kept']:,}",
            f"{layer['sparsity']:.2%}",
        )
    return table


def _provenance_table(description: Mapping[str, Any]) -> "Table":
    from rich.table import Table

    table = Table(title="provenance", show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    table.add_row("mask digest", description["digest"])
    for name, value in _flat(description["provenance"]):
        table.add_row(plain(name), plain(value))
    return table


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values that are known, a nested one under `outer.inner`."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None and value != []:
            yield f"{prefix}{name}", value


def _metric(description: Mapping[str, Any]) -> str:
    """Return the name of the task's metric, or of any metric of the rungs."""
    from hf_tickets.cli.display import result_names

    task_metric = description["provenance"]["task"].get("metric")
    if isinstance(task_metric, str) and task_metric.isprintable():
        return task_metric
    metrics = (rung.get("metrics") for rung in description["rungs"])
    names = (name for values in metrics if isinstance(values, dict) for name in result_names(values))
    return next(names, "loss")


def plain(value: Any) -> str:
    """Return a ticket's own text, which may come from a stranger, without markup and terminal codes."""
    from rich.markup import escape

    return escape("".join(letter if letter.isprintable() else "�" for letter in str(value)))
