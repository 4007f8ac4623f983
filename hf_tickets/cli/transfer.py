"""The `transfer:` section of a recipe: the ticket beside its controls, each trained on the same task."""

from typing import Any

from rich.console import Console
from rich.table import Column, Table

from hf_tickets.analysis.accuracy import save_accuracy_figure
from hf_tickets.cli.settings import Settings, leads
from hf_tickets.cli.watch import watching
from hf_tickets.studies.cell import train_control
from hf_tickets.ticket.ticket import Ticket


def transfer(settings: Settings, ticket: Ticket, console: Console, on_same_task: bool = False) -> None:
    """Train the controls at each sparsity, show them as a table, and draw them.

    Args:
        settings: The task of the transfer; its recipe names `controls` and `at`.
        ticket: The ticket.
        console: Where to show it.
        on_same_task: Whether the ticket was found on this very task: its rounds stand beside the controls then.
    """
    values = settings.recipe.values
    controls = values.get("controls", ["ticket", "random", "dense"])
    sparsities = [ticket.at(value).sparsity for value in values.get("at") or ticket.sparsities]
    console.rule("transfer")
    results: dict[str, dict[float, dict[str, Any]]] = _rounds(ticket) if on_same_task else {}
    for control in controls:
        for sparsity in [0.0] if control == "dense" else sparsities:
            results.setdefault(control, {})[sparsity] = _train(settings, ticket, control, sparsity, console)
    metric = next(iter(results[controls[0]].values()))["metric"]
    console.print(results_side_by_side(results, sparsities, metric))
    curves = {
        control: [(sparsity, cell["metrics"][metric]) for sparsity, cell in cells.items()]
        for control, cells in results.items()
        if control != "dense"
    }
    dense = results["dense"][0.0]["metrics"][metric] if "dense" in results else None
    if leads():
        save_accuracy_figure(settings.output_dir / "transfer.png", curves, metric, dense)


def _rounds(ticket: Ticket) -> dict[str, dict[float, dict[str, Any]]]:
    """Return what the rounds of the search reached, as results of ticket and dense model."""
    rungs = dict(zip(ticket.sparsities, ticket.config.rungs, strict=True))
    return {"ticket": rungs, "dense": {0.0: ticket.config.dense}}


def _train(settings: Settings, ticket: Ticket, control: str, sparsity: float, console: Console) -> dict[str, Any]:
    folder = settings.output_dir / "transfer" / (control if control == "dense" else f"{control}-{sparsity:.4f}")
    console.print(f"{control}, sparsity {sparsity:.2%}", highlight=False)
    with watching(console, current_round=lambda: (0, sparsity)) as watch:
        return train_control(settings.task, settings.arguments(folder), ticket, control, sparsity, watch)


def results_side_by_side(
    results: dict[str, dict[float, dict[str, Any]]], sparsities: list[float], metric: str
) -> Table:
    """Return a table of what each control reached at each sparsity.

    Args:
        results: Control → sparsity → result of the training; the dense model's at 0.
        sparsities: Those of the ticket.
        metric: The one to show.
    """

    def cell(control: str, sparsity: float) -> str:
        measured = results[control].get(sparsity, results[control].get(0.0))
        return f"{measured['metrics'][metric]:.4f}" if measured else "–"

    rows = [[f"{sparsity:.2%}", *(cell(control, sparsity) for control in results)] for sparsity in sparsities]
    lines = [["sparsity", *results], *rows]
    if len(results) > len(sparsities):  # the longer side downwards, where there is room for it
        lines = [list(column) for column in zip(*lines, strict=True)]
    table = Table(*(Column(name, justify="right") for name in lines[0]), title=metric)
    for line in lines[1:]:
        table.add_row(*line)
    return table
