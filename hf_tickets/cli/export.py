"""`hf-tickets export`: one rung as a ticket of its own, or as an ordinary checkpoint with the zeros in it."""

import argparse
from typing import Any


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand's arguments."""
    parser = subparsers.add_parser(
        "export",
        help="write one rung, or a merged checkpoint, into a folder",
        description=(
            "Write one rung of a ticket as a ticket of its own. With --merged, write the base model with the "
            "ticket's zeros in it as an ordinary checkpoint, which loads without hf_tickets."
        ),
    )
    parser.add_argument("ticket", metavar="TICKET", help="folder or Hub id of the ticket")
    parser.add_argument("output", metavar="OUTPUT", help="folder to write; it must be empty or missing")
    parser.add_argument("--merged", action="store_true", help="write a checkpoint of the model")
    parser.add_argument("--model", metavar="MODEL", help="with --merged: a fine-tuned model, in place of the base")
    parser.add_argument("--sparsity", type=float, metavar="S", help="rung; the recorded default by default")
    parser.add_argument("--revision", metavar="R", help="revision of the ticket on the Hub")


def run(arguments: argparse.Namespace) -> int:
    """Write the folder, and say what it holds."""
    from pathlib import Path

    from rich.console import Console

    from hf_tickets.errors import RecipeError
    from hf_tickets.ticket.merge import save_merged
    from hf_tickets.ticket.ticket import Ticket

    output = Path(arguments.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RecipeError(f"{output} is not an empty folder; give another")
    if arguments.model and not arguments.merged:
        raise RecipeError("--model is what --merged writes; give --merged too")
    ticket = Ticket.from_pretrained(arguments.ticket, arguments.sparsity, revision=arguments.revision)
    if arguments.merged:
        save_merged(ticket, output, arguments.model)
    else:
        ticket.rung(theta=True).save_pretrained(output)
    kind = "checkpoint" if arguments.merged else "ticket"
    Console().print(f"{kind} of sparsity {ticket.sparsity:.4f}: {output}", soft_wrap=True, highlight=False)
    return 0
