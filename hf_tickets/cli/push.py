"""`hf-tickets push`: publish a ticket on the Hub."""

import argparse
from typing import Any


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand's arguments."""
    parser = subparsers.add_parser(
        "push",
        help="publish a ticket on the Hub",
        description=(
            "Publish a ticket with a card. Each rung also lies alone under a tag, such as sparsity-0.70. Where the "
            "base model is not on the Hub, its surviving weights travel with the ticket."
        ),
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder of the ticket")
    parser.add_argument("repo_id", metavar="REPO", help='where to: "owner/name"')
    parser.add_argument("--private", action="store_true", default=None, help="make the repository private")
    parser.add_argument("--revision", metavar="R", help="branch to push to; main by default")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request")
    parser.add_argument("--message", metavar="TEXT", help="commit message")
    parser.add_argument("--tag", metavar="TAG", action="append", default=[], help="one more tag for the card")
    parser.add_argument("--push-base", action="store_true", help="upload a base model of this machine to REPO-base")


def run(arguments: argparse.Namespace) -> int:
    """Push the ticket, and say where it is."""
    from huggingface_hub.utils import disable_progress_bars
    from rich.console import Console

    import hf_tickets.tasks.image_models  # noqa: F401 (the base model may be one of SimCLR or MoCo)
    from hf_tickets.ticket.publishing import ticket_in

    disable_progress_bars()
    commit = ticket_in(arguments.folder).push_to_hub(
        arguments.repo_id,
        private=arguments.private,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        commit_message=arguments.message,
        tags=arguments.tag,
        push_base=arguments.push_base,
    )
    Console().print(f"ticket: {commit.pr_url or commit.repo_url.url}", soft_wrap=True, highlight=False)
    return 0
