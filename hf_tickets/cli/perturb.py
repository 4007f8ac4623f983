"""`hf-tickets perturb`: how a fine-tuned ticket's result falls as its mask is flipped or its weights get noise."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hf_tickets.cli.find import SECTIONS
from hf_tickets.cli.options import recipe_options

if TYPE_CHECKING:
    import pandas
    from rich.console import Console
    from rich.table import Table
    from transformers import Trainer

    from hf_tickets.cli.settings import Settings
    from hf_tickets.ticket.ticket import Ticket

_SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
_MULTIPLES = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand's arguments."""
    parser = subparsers.add_parser(
        "perturb",
        help="measure how sensitive a fine-tuned ticket is",
        description=(
            "Fine-tune a ticket as `train` does, then measure it with a growing share of its mask's entries flipped, "
            "half of them restored with the base model's weights, and with growing noise on the weights it keeps. "
            "Tables and figures go into output_dir."
        ),
        options=recipe_options,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file; what it says of pruning is not used")
    parser.add_argument("--ticket", metavar="TICKET", required=True, help="folder or Hub id of the ticket")
    parser.add_argument(
        "--sparsity", type=float, metavar="S", help="rung of the ticket; its recorded default by default"
    )
    parser.add_argument(
        "--shares",
        type=_numbers,
        metavar="A,B",
        help="shares of the mask's entries to flip (default: 0,0.01,0.02,0.05,0.1,0.2, those that can be)",
    )
    parser.add_argument(
        "--multiples",
        type=_numbers,
        metavar="A,B",
        default=_MULTIPLES,
        help="noise, as multiples of each layer's standard deviation (default: 0,0.05,0.1,0.2,0.5,1)",
    )
    parser.add_argument("--drawings", type=int, default=3, metavar="N", help="drawings of each (default: 3)")


def run(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Fine-tune the ticket, perturb it, show the results, and say where they are.

    Raises:
        RecipeError: A value of the recipe or command line is wrong.
        PruningError: A share or a multiple is out of reach.
    """
    from rich.console import Console

    from hf_tickets.cli.recipe import load_recipe
    from hf_tickets.cli.settings import Settings, quieten
    from hf_tickets.cli.train import on_base
    from hf_tickets.errors import RecipeError
    from hf_tickets.studies.perturbation import check_multiples, check_shares
    from hf_tickets.ticket.ticket import Ticket

    if arguments.drawings < 1:
        raise RecipeError(f"--drawings {arguments.drawings}: give 1 or more")
    quieten()
    settings = Settings.read(load_recipe(arguments.recipe, overrides, recipe_options(), SECTIONS))
    ticket = Ticket.from_pretrained(arguments.ticket, arguments.sparsity)
    mask = ticket.mask
    most = 2 * min(mask.kept, mask.numel - mask.kept) / mask.numel
    shares = arguments.shares or [share for share in _SHARES if share <= most]
    check_shares(mask, shares)
    check_multiples(arguments.multiples)
    if "model" not in overrides:
        settings = on_base(settings, ticket)
    _perturb(settings, ticket, shares, arguments.multiples, range(arguments.drawings), Console())
    return 0


def _perturb(
    settings: "Settings",
    ticket: "Ticket",
    shares: Sequence[float],
    multiples: Sequence[float],
    seeds: Sequence[int],
    console: "Console",
) -> None:
    from hf_tickets.cli.plots import write
    from hf_tickets.cli.watch import watching
    from hf_tickets.studies.cell import train_cell
    from hf_tickets.studies.perturbation import sensitivity_figure
    from hf_tickets.studies.sensitivity import measure_sensitivity
    from hf_tickets.tasks.registry import prepare

    folder, mask = settings.output_dir, ticket.mask
    tuned = folder / "ticket"
    with watching(console, current_round=lambda: (0, ticket.sparsity)) as watch:
        train_cell(settings.task, settings.arguments(tuned), lambda task: ticket, {"mask": mask.digest}, watch=watch)
    base = prepare(settings.task).model
    if ticket.theta is not None:
        ticket.apply(base, verify="off")
    drawings = [value for value in (*shares, *multiples) if value] * len(seeds)
    console.print(f"measuring {len(drawings) + 2} perturbations", highlight=False)
    loaded = settings.on(tuned)
    loaded = replace(loaded, task=replace(loaded.task, small_stem=False))  # it has one by now
    args = settings.arguments(tuned)
    measured = measure_sensitivity(prepare(loaded.task), base, mask, args, shares, multiples, seeds, _silence)
    title = f"sparsity {ticket.sparsity:.2%}"
    for name, table in (("flips", measured.flips), ("noise", measured.noise)):
        write(folder, name, table, sensitivity_figure({"ticket": table}, measured.metric, title))
        console.print(_table(table, measured.metric))
    console.print(f"results: {folder} (flips.csv, flips.png, noise.csv, noise.png)", soft_wrap=True)


def _silence(trainer: "Trainer") -> None:
    from transformers import PrinterCallback, ProgressCallback

    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)


def _table(results: "pandas.DataFrame", metric: str) -> "Table":
    """A row a strength: mean and standard deviation over the drawings."""
    from rich.table import Table

    strength = results.columns[0]
    titles = {"share": "entries of the mask flipped", "multiple": "noise on the weights, as a multiple of their σ"}
    table = Table(title=titles[strength])
    for header in (strength, metric, "± σ", "drawings"):
        table.add_column(header, justify="right")
    for value, group in results.groupby(strength)["result"]:
        spread = f"{group.std():.4f}" if len(group) > 1 else "–"
        table.add_row(f"{value:g}", f"{group.mean():.4f}", spread, str(len(group)))
    return table


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",") if part.strip()]
