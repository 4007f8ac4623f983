"""`hf-tickets find`: find a ticket by a recipe, and compare it with its controls."""

import argparse
from typing import TYPE_CHECKING, Any

from hf_tickets.cli.control import add_control_arguments, check_control_arguments
from hf_tickets.cli.launch import add_launch_arguments
from hf_tickets.cli.options import Option, recipe_options
from hf_tickets.pruning.controls import MASK_CONTROLS, WEIGHT_CONTROLS

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from hf_tickets.cli.recipe import Recipe
    from hf_tickets.cli.settings import Settings
    from hf_tickets.pruning.config import PruningConfig
    from hf_tickets.ticket.ticket import Ticket
    from hf_tickets.trainer.trainer import TicketTrainer

_CONTROLS = ", ".join(["ticket", "dense", *MASK_CONTROLS, *WEIGHT_CONTROLS])

SECTIONS = {
    "pretrain": [],
    "transfer": [
        Option("controls", "list[str]", ["ticket", "random", "dense"], f"what to train and compare: {_CONTROLS}"),
        Option("at", "list[float] | None", None, "sparsities to compare at; every rung by default"),
    ],
}


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand's arguments."""
    parser = subparsers.add_parser(
        "find",
        help="find a ticket by a recipe",
        description=(
            "Find a ticket by iterative magnitude pruning. Started again, the same command goes on where it "
            "stopped. A section `pretrain:` trains the base model first; a section `transfer:` trains the "
            "ticket and its controls afterwards."
        ),
        options=recipe_options,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file")
    add_control_arguments(parser, WEIGHT_CONTROLS, "start the search from other weights than θ0")
    add_launch_arguments(parser)


def run(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Find the ticket that a recipe describes, show the rounds, and say where the ticket is."""
    from rich.console import Console

    from hf_tickets.cli.recipe import load_recipe
    from hf_tickets.cli.settings import Settings, leads, quieten
    from hf_tickets.pruning.config import PruningConfig
    from hf_tickets.studies.controls import check_weight_control
    from hf_tickets.trainer.rewind import RewindConfig

    check_control_arguments(arguments)
    if arguments.control is not None:
        check_weight_control(arguments.control)
    quieten()
    console = Console(quiet=not leads())
    recipe = load_recipe(arguments.recipe, overrides, recipe_options(), SECTIONS)
    settings = Settings.read(recipe)
    pruning, rewind = recipe.build(PruningConfig), recipe.build(RewindConfig)
    transfer = _transfer_settings(recipe, pruning)
    if "pretrain" in recipe.sections:
        settings = settings.on(_pretrain(Settings.of_section(recipe, "pretrain"), console))
    trainer, metric = _find(settings, pruning, rewind, arguments, console)
    if transfer is not None and trainer.ticket is not None:
        _transfer(transfer.on(settings.task.model, settings.task.model_revision), trainer.ticket, settings, console)
    drawn = [() if pruning.gradual else ("accuracy.png",), () if transfer is None else ("transfer.png",)]
    figures = ", ".join(name for names in drawn for name in names)
    more = f" ({metric} against remaining weights: {figures})" if figures else ""
    console.print(f"ticket: {settings.output_dir}{more}", soft_wrap=True)
    return 0


def _transfer_settings(recipe: "Recipe", pruning: "PruningConfig") -> "Settings | None":
    """Check the `transfer` section before anything runs."""
    from hf_tickets.cli.settings import Settings
    from hf_tickets.studies.controls import check_controls
    from hf_tickets.studies.search import rung_near

    if "transfer" not in recipe.sections:
        return None
    settings = Settings.of_section(recipe, "transfer")
    check_controls(settings.recipe.values.get("controls", []))
    for sparsity in settings.recipe.values.get("at") or ():
        rung_near(pruning, sparsity, "transfer.at")
    return settings


def _pretrain(settings: "Settings", console: "Console") -> str:
    """Train the base model whose weights become θ0; return its folder."""
    from hf_tickets.cli.watch import watching
    from hf_tickets.studies.cell import train_cell

    folder = settings.output_dir / "base"
    console.rule("base model")
    with watching(console) as watch:
        train_cell(settings.task, settings.arguments(folder), watch=watch)
    return str(folder)


def _find(
    settings: "Settings", pruning: Any, rewind: Any, arguments: argparse.Namespace, console: "Console"
) -> tuple["TicketTrainer", str]:
    from hf_tickets.analysis.accuracy import save_accuracy_figure
    from hf_tickets.cli.display import results_table
    from hf_tickets.cli.settings import leads
    from hf_tickets.cli.watch import watching
    from hf_tickets.pruning.schedules import sparsity_schedule
    from hf_tickets.studies.controls import change_weights_
    from hf_tickets.studies.search import make_search

    console.rule("ticket")
    args = settings.arguments(settings.output_dir)

    def change_(model: "nn.Module") -> dict[str, Any]:
        seed = args.seed if arguments.control_seed is None else arguments.control_seed
        return change_weights_(arguments.control, model, pruning, seed)

    trainer, task = make_search(
        settings.task, args, pruning, rewind, settings.recipe.to_dict(), change_ if arguments.control else None
    )
    sparsities = (0.0,) if pruning.gradual else (0.0, *sparsity_schedule(pruning))

    def current_round() -> tuple[int, float]:
        done = len(trainer.history)
        return done, sparsities[done]

    with watching(console, task.metric, len(sparsities) - 1, current_round) as watch:
        watch(trainer)
        trainer.train()
    console.print(results_table([vars(result) for result in trainer.history], task.metric))
    points = [(result.sparsity, result.metrics[task.metric]) for result in trainer.history]
    if leads() and not pruning.gradual:  # whose tickets were not trained yet
        save_accuracy_figure(settings.output_dir / "accuracy.png", {"IMP": points}, task.metric, points[0][1])
    return trainer, task.metric


def _transfer(settings: "Settings", ticket: "Ticket", found_on: "Settings", console: "Console") -> None:
    from hf_tickets.cli.transfer import transfer

    trained = bool(ticket.config.dense)  # not so after gradual pruning
    same = trained and settings.task == found_on.task and settings.training == found_on.training
    transfer(settings, ticket, console, on_same_task=same)
