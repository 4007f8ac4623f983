"""`hf-tickets list`: tickets on the Hub."""

import argparse
import json
import sys
from typing import Any


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand's arguments."""
    description = "List tickets on the Hub, the most downloaded first."
    parser = subparsers.add_parser("list", help="list tickets on the Hub", description=description)
    parser.add_argument("--base-model", metavar="MODEL", help="only tickets of this model")
    parser.add_argument("--author", metavar="NAME", help="only tickets of this user or organisation")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="how many at most (default: 50)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Print the tickets found."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from hf_tickets.ticket.search import find_tickets

    found = find_tickets(arguments.base_model, arguments.author, arguments.limit)
    if arguments.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return 0
    console = Console()
    if not found:
        console.print("no tickets found")
        return 0
    table = Table("ticket", "base model", "sparsities", "task", "downloads")
    for entry in found:
        sparsities = ", ".join(f"{value:.4g}" for value in entry["sparsities"])
        table.add_row(
            escape(entry["id"]),
            escape(entry["base_model"] or "–"),
            sparsities or "–",
            escape(entry["task"] or "–"),
            f"{entry['downloads'] or 0:,}",
        )
    console.print(table)
    return 0
