"""`hf-tickets train`: fine-tune a ticket, or the dense model, by a recipe."""

import argparse
from typing import Any

from hf_tickets.cli.find import SECTIONS
from hf_tickets.cli.options import recipe_options


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand's arguments."""
    parser = subparsers.add_parser(
        "train",
        help="fine-tune a ticket by a recipe",
        description="Fine-tune a ticket with its mask held; without --ticket, the dense model.",
        options=recipe_options,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file; what it says of pruning is not used")
    parser.add_argument("--ticket", metavar="PATH", help="folder of the ticket")
    parser.add_argument("--sparsity", type=float, metavar="S", help="rung of the ticket; the last by default")


def run(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Train once, print the metrics, and say where the model is."""
    from rich.console import Console

    from hf_tickets.cli.display import results_table
    from hf_tickets.cli.recipe import load_recipe
    from hf_tickets.cli.settings import Settings, quieten
    from hf_tickets.cli.watch import watching
    from hf_tickets.errors import RecipeError
    from hf_tickets.studies.cell import train_cell
    from hf_tickets.ticket.ticket import Ticket

    if arguments.sparsity is not None and arguments.ticket is None:
        raise RecipeError("--sparsity chooses a rung of a ticket; give --ticket too")
    quieten()
    console = Console()
    settings = Settings.read(load_recipe(arguments.recipe, overrides, recipe_options(), SECTIONS))
    ticket = Ticket.from_pretrained(arguments.ticket, arguments.sparsity) if arguments.ticket else None
    described = {"task": settings.describe(), "mask": ticket.mask.digest if ticket is not None else None}
    sparsity = ticket.sparsity if ticket is not None else 0.0
    with watching(console, current_round=lambda: (0, sparsity)) as watch:
        result = train_cell(
            settings.prepare, settings.arguments(settings.output_dir), lambda task: ticket, described, watch
        )
    console.print(results_table([result], result["metric"]))
    console.print(f"model: {settings.output_dir}", soft_wrap=True)
    return 0
