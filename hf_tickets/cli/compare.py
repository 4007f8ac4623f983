"""`hf-tickets compare`: how far the masks of tickets overlap, beside chance."""

import argparse
import json
import sys
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tickets.errors import RecipeError, SparsityError

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas
    from rich.table import Table

    from hf_tickets.pruning.mask import Mask
    from hf_tickets.ticket.ticket import Ticket


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand's arguments."""
    description = "Compare the masks of tickets: their overlap (Jaccard index), beside that of random masks."
    parser = subparsers.add_parser("compare", help="compare the masks of tickets", description=description)
    parser.add_argument("first", metavar="TICKET", help="folder or Hub id of a ticket")
    parser.add_argument("others", metavar="TICKET", nargs="+", help="tickets of the same architecture")
    parser.add_argument("--sparsity", type=float, help="rung of each; its recorded default by default")
    parser.add_argument("--layers", action="store_true", help="compare layer by layer too")
    parser.add_argument("--plots", metavar="FOLDER", help="write figures (PNG) and tables (CSV) into this folder")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Print the overlap of every two tickets.

    Raises:
        RecipeError: A ticket is named twice, or the folder for the plots cannot be written.
        TicketFileError: A ticket cannot be read.
        SparsityError: A ticket has no rung at `arguments.sparsity`.
        PruningError: The tickets are over other weights; the message names the layers.
    """
    names = short_names([arguments.first, *arguments.others])

    from hf_tickets.analysis.overlap import check_same_weights, layer_overlap, mask_overlap
    from hf_tickets.cli.plots import make_folder
    from hf_tickets.ticket.ticket import Ticket

    tickets = {}
    for source, name in names.items():
        try:
            tickets[name] = Ticket.from_pretrained(source, arguments.sparsity)
        except SparsityError as error:
            raise SparsityError(f"{name}: {error}") from None
    masks = {name: ticket.mask for name, ticket in tickets.items()}
    check_same_weights(masks)
    folder = make_folder(arguments.plots) if arguments.plots else None
    overlap = mask_overlap(masks)
    wanted = arguments.layers or folder is not None
    layers = {pair: layer_overlap(masks[pair[0]], masks[pair[1]]) for pair in combinations(masks, 2) if wanted}
    if folder is not None:
        _plot(overlap, layers, folder)
        _plot_rungs(tickets, folder)
    if arguments.json:
        found: dict[str, Any] = {"overlap": _records(overlap)}
        if arguments.layers:
            found["layers"] = _records(_together(layers))
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return 0
    _show(overlap, layers if arguments.layers else {})
    return 0


def short_names(sources: list[str]) -> dict[str, str]:
    """Return what each ticket is called in tables: a folder's own name where no other is called so.

    Raises:
        RecipeError: A ticket is named twice.
    """
    sources = [source.rstrip("/") or source for source in sources]
    twice = next((source for source in sources if sources.count(source) > 1), None)
    if twice is not None:
        raise RecipeError(f"{twice} is named twice; compare it with another ticket")
    folders = {source: Path(source).resolve().name if Path(source).is_dir() else source for source in sources}
    return {source: name if list(folders.values()).count(name) == 1 else source for source, name in folders.items()}


def _plot(overlap: "pandas.DataFrame", layers: "dict[tuple[str, str], pandas.DataFrame]", folder: Path) -> None:
    from hf_tickets.analysis.overlap import layer_overlap_figure, overlap_figure
    from hf_tickets.cli.plots import write

    write(folder, "overlap", overlap, overlap_figure(overlap))
    first = next(iter(layers))[0]  # all pairs of many tickets would be too many curves
    curves = {f"{a}, {b}": table for (a, b), table in layers.items() if a == first}
    write(folder, "layer_overlap", _together(layers), layer_overlap_figure(curves))


def _plot_rungs(tickets: "dict[str, Ticket]", folder: Path) -> None:
    """Draw the overlap at each sparsity that two tickets have in common, where there are two such sparsities."""
    from hf_tickets.analysis.rungs import rung_overlap, rung_overlap_figure
    from hf_tickets.cli.plots import write

    rungs = rung_overlap({name: (ticket.sparsities, _masks(ticket)) for name, ticket in tickets.items()})
    if rungs["sparsity"].nunique() > 1:
        write(folder, "overlap_by_sparsity", rungs, rung_overlap_figure(rungs))


def _masks(ticket: "Ticket") -> "Callable[[float], Mask]":
    return lambda sparsity: ticket.at(sparsity).mask


def _together(layers: "dict[tuple[str, str], pandas.DataFrame]") -> "pandas.DataFrame":
    """One table of all pairs, a row a pair and layer."""
    import pandas

    return pandas.concat(layers, names=["first", "second", "layer"]).reset_index()


def _records(table: "pandas.DataFrame") -> list[dict[str, Any]]:
    """Rows as plain JSON values, null where a number is missing."""
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return rows


def _show(overlap: "pandas.DataFrame", layers: "dict[tuple[str, str], pandas.DataFrame]") -> None:
    from rich.console import Console

    console = Console()
    console.print(_overlap_table(overlap))
    for (first, second), table in layers.items():
        console.print(_layers_table(first, second, table))


def _overlap_table(overlap: "pandas.DataFrame") -> "Table":
    from rich.table import Table

    from hf_tickets.cli.inspect import plain

    table = Table(title="overlap of the kept weights (Jaccard index)")
    for header in ("tickets", "sparsity"):
        table.add_column(header, overflow="fold")
    for header in ("overlap", "chance", "in layers", "× chance"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in overlap.to_dict("records"):
        table.add_row(
            f"{plain(row['first'])}\n{plain(row['second'])}",
            f"{row['first_sparsity']:.2%}\n{row['second_sparsity']:.2%}",
            f"{row['jaccard']:.4f}",
            f"{row['chance']:.4f}",
            f"{row['layer_chance']:.4f}",
            f"{row['relative']:.2f}",
            end_section=True,
        )
    table.caption = "in layers: chance at the sparsities of each layer"
    return table


def _layers_table(first: str, second: str, layers: "pandas.DataFrame") -> "Table":
    from rich.table import Table

    from hf_tickets.cli.inspect import plain

    table = Table(title=f"{plain(first)}, {plain(second)}")
    table.add_column("layer", overflow="fold")
    for header in ("sparsity", "sparsity", "overlap", "chance", "× chance"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, row in layers.iterrows():
        table.add_row(
            plain(name),
            f"{row['first_sparsity']:.2%}",
            f"{row['second_sparsity']:.2%}",
            f"{row['jaccard']:.4f}",
            f"{row['chance']:.4f}",
            f"{row['relative']:.2f}",
        )
    return table
