"""`--control NAME`: what `find` and `train` change so that a ticket can be compared with it."""

import argparse
from collections.abc import Mapping

from hf_tickets.errors import RecipeError
from hf_tickets.pruning.controls import MASK_CONTROLS, WEIGHT_CONTROLS


def add_control_arguments(parser: argparse.ArgumentParser, names: Mapping[str, str], description: str) -> None:
    """Add `--control` and `--control_seed`.

    Args:
        parser: A subcommand's parser.
        names: The controls that it shows, and what each is.
        description: What the subcommand does with one.
    """
    listed = "; ".join(f"{name}: {meaning}" for name, meaning in names.items())
    group = parser.add_argument_group("controls", f"{description}. {listed}.")
    known = [*MASK_CONTROLS, *WEIGHT_CONTROLS]
    group.add_argument("--control", metavar="NAME", choices=known, help="the control (default: none)")
    group.add_argument(
        "--control_seed",
        "--control-seed",
        type=int,
        metavar="SEED",
        help="seed of what it draws (default: the training's seed)",
    )


def check_control_arguments(arguments: argparse.Namespace) -> None:
    """Refuse a seed without a control.

    Raises:
        RecipeError: There is nothing to seed.
    """
    if arguments.control_seed is not None and arguments.control is None:
        raise RecipeError("--control_seed is the seed of a control; give --control too")
