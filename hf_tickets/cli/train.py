"""`hf-tickets train`: fine-tune a ticket, or the dense model, by a recipe."""

import argparse
from typing import TYPE_CHECKING, Any

from hf_tickets.cli.control import add_control_arguments, check_control_arguments
from hf_tickets.cli.find import SECTIONS
from hf_tickets.cli.launch import add_launch_arguments
from hf_tickets.cli.options import recipe_options
from hf_tickets.pruning.controls import MASK_CONTROLS, WEIGHT_CONTROLS

if TYPE_CHECKING:
    from hf_tickets.cli.settings import Settings
    from hf_tickets.tasks.base import PreparedTask
    from hf_tickets.ticket.ticket import Ticket


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand's arguments."""
    parser = subparsers.add_parser(
        "train",
        help="fine-tune a ticket by a recipe",
        description=(
            "Fine-tune a ticket with its mask held, on its own base model unless --model names one; without "
            "--ticket, train the dense model."
        ),
        options=recipe_options,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file; what it says of pruning is not used")
    parser.add_argument("--ticket", metavar="TICKET", help="folder or Hub id of the ticket")
    parser.add_argument(
        "--sparsity", type=float, metavar="S", help="rung of the ticket; its recorded default by default"
    )
    add_control_arguments(parser, {**MASK_CONTROLS, **WEIGHT_CONTROLS}, "train a control of the ticket in its place")
    add_launch_arguments(parser)


def run(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Train once, print the metrics, and say where the model is."""
    from rich.console import Console

    from hf_tickets.cli.display import results_table
    from hf_tickets.cli.recipe import load_recipe
    from hf_tickets.cli.settings import Settings, leads, quieten
    from hf_tickets.cli.watch import watching
    from hf_tickets.errors import RecipeError
    from hf_tickets.studies.cell import train_cell
    from hf_tickets.studies.controls import control
    from hf_tickets.ticket.ticket import Ticket

    if arguments.sparsity is not None and arguments.ticket is None:
        raise RecipeError("--sparsity chooses a rung of a ticket; give --ticket too")
    if arguments.control is not None and arguments.ticket is None:
        raise RecipeError("--control changes a ticket; give --ticket too")
    check_control_arguments(arguments)
    quieten()
    console = Console(quiet=not leads())
    settings = Settings.read(load_recipe(arguments.recipe, overrides, recipe_options(), SECTIONS))
    ticket = Ticket.from_pretrained(arguments.ticket, arguments.sparsity) if arguments.ticket else None
    if ticket is not None and "model" not in overrides:
        settings = on_base(settings, ticket)
    described: dict[str, Any] = {"mask": None}
    args = settings.arguments(settings.output_dir)
    if ticket is not None:
        described["mask"] = ticket.mask.digest
        console.print(f"ticket: {_where_from(ticket)}", highlight=False, markup=False, soft_wrap=True)
    if arguments.control is not None:
        seed = args.seed if arguments.control_seed is None else arguments.control_seed
        described["control"] = {"name": arguments.control, "seed": seed}
        console.print(f"control: {arguments.control}, seed {seed}", highlight=False)

    def make_ticket(task: "PreparedTask") -> "Ticket | None":
        if ticket is None or arguments.control is None:
            return ticket
        return control(arguments.control, ticket, task.model, seed=seed)

    sparsity = ticket.sparsity if ticket is not None else 0.0
    with watching(console, current_round=lambda: (0, sparsity)) as watch:
        result = train_cell(settings.task, args, make_ticket, described, watch=watch)
    console.print(results_table([result], result["metric"]))
    console.print(f"model: {settings.output_dir}", soft_wrap=True)
    return 0


def _where_from(ticket: "Ticket") -> str:
    """Say which mask this is: that of another task is a control too."""
    task = ticket.config.task
    named = "/".join(str(task[key]) for key in ("dataset", "task") if task.get(key))
    return f"sparsity {ticket.sparsity:.2%}, found on {named or 'a task that it does not name'}"


def on_base(settings: "Settings", ticket: "Ticket") -> "Settings":
    """Return the settings with the ticket's own base model, in place of the recipe's."""
    from hf_tickets.ticket.auto import save_base

    config = ticket.config
    if config.base_model is not None:
        return settings.on(config.base_model, config.base_model_revision)
    if ticket.theta is None or "backbone_config" in config.base_config:
        return settings  # a backbone inside a detector or segmenter: the recipe's own takes the weights it carries
    folder = settings.output_dir / "base"
    save_base(ticket, folder)
    return settings.on(folder)
