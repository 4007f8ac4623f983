"""A ticket on the Hub: bytes on the wire and seconds to push and to pull, and the time to a masked model.

Claims, for BERT-base on two cores, with everything in the cache: from `AutoTicketModel.from_pretrained` to a masked
model takes at most 0.5 s more than `AutoModel.from_pretrained` alone for a ticket of one mask, and at most 2 s more
for the last rung of nine. Beside the bytes of a ticket stand those of the whole checkpoint with the zeros in it.

The Hub is the tests' stand-in on the loopback interface: its bytes are those of the real one, its seconds are not.

Command: python tests/benchmarks/ticket_hub.py
"""

from argparse import Namespace
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import torch
from local_hub import HUB
from measuring import INTERVALS, MEBIBYTE, arguments, console, median, start, timed, verdict
from models import bert
from rich.progress import track
from rich.table import Table
from ticket_size import LADDERS, nested
from transformers import AutoModel
from transformers.utils import logging

from hf_tickets import AutoTicketModel, PruningConfig, Ticket
from hf_tickets.ticket.base import describe_base

NINE_RUNGS = "9 rungs of 10 % of original"
GOALS = {"ticket of one mask": 0.5, "ticket of nine masks, the last": 2.0}


def on_the_wire(function: Callable[..., Any], *values: Any) -> tuple[float, int, int]:
    """Return the seconds that a call takes, and the bytes that go to the Hub and come from it."""
    first = len(HUB.requests)
    seconds = timed(function, *values)
    done = HUB.requests[first:]
    return seconds, sum(request.bytes_received for request in done), sum(request.bytes_sent for request in done)


def publish(options: Namespace) -> tuple[dict[str, Ticket], Any]:
    """Put the base model on the Hub; return tickets of it, and the model with the zeros of the last."""
    bert(options.quick).push_to_hub("me/base")
    model = AutoModel.from_pretrained("me/base")
    config = describe_base(model, PruningConfig())
    masks = list(nested(model, LADDERS[NINE_RUNGS]))
    tickets = {"ticket of one mask": Ticket(masks[6], config), "ticket of nine masks, the last": Ticket(masks, config)}
    return tickets, Ticket(masks[-1]).merge(model)


def wire_table(options: Namespace, tickets: dict[str, Ticket], sparse: Any) -> Table:
    """Push each ticket and the checkpoint, and pull each into an empty cache."""
    table = Table("", "push, MiB", "push, s", "pull, MiB", "pull, s", title="On the wire, through the stand-in")
    cases: list[tuple[str, Callable[..., Any], Callable[..., Any]]] = [
        (name, ticket.push_to_hub, lambda repo, cache: Ticket.from_pretrained(repo, cache_dir=cache))
        for name, ticket in tickets.items()
    ]
    cases.append(
        (
            "checkpoint with zeros",
            sparse.push_to_hub,
            lambda repo, cache: AutoModel.from_pretrained(repo, cache_dir=cache),
        )
    )
    for index, (name, push, pull) in enumerate(track(cases, "push and pull", console=console, transient=True)):
        with TemporaryDirectory() as cache:
            pushed, sent, _ = on_the_wire(push, f"me/case-{index}")
            pulled, _, received = on_the_wire(pull, f"me/case-{index}", cache)
        table.add_row(name, f"{sent / MEBIBYTE:.1f}", f"{pushed:.2f}", f"{received / MEBIBYTE:.1f}", f"{pulled:.2f}")
    table.caption = "A ladder's push carries every rung once more, alone under its tag; a pull brings the ladder."
    table.caption_justify = "left"
    return table


def load_table(options: Namespace, tickets: dict[str, Ticket]) -> Table:
    """Time loading with a ticket and without, in turn, from the cache."""
    methods: dict[str, Callable[[], Any]] = {
        "AutoModel alone": lambda: AutoModel.from_pretrained("me/base", local_files_only=True),
        **{
            name: (lambda repo=f"me/case-{index}": AutoTicketModel.from_pretrained(repo, local_files_only=True))
            for index, name in enumerate(tickets)
        },
    }
    for index in range(len(tickets)):  # into the cache
        AutoTicketModel.from_pretrained(f"me/case-{index}")
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in track(range(options.runs), "load", console=console, transient=True):
        for name, method in methods.items():
            seconds[name].append(timed(method))
    table = Table("", "seconds", "more than AutoModel alone", "goal", title="From the cache to a masked model")
    for name, own in seconds.items():
        more = [mine - alone for mine, alone in zip(own, seconds["AutoModel alone"], strict=True)]
        goal = GOALS.get(name)
        met = goal is not None and sorted(more)[len(more) // 2] <= goal
        shown = f"≤ {goal} s: {verdict(met)}" if goal is not None else "–"
        table.add_row(name, median(own), median(more) if goal is not None else "–", shown)
    table.caption_justify = "left"
    table.caption = INTERVALS
    return table


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int, default=9, help="timed runs of each method")
    options = parser.parse_args()
    if options.quick:
        options.runs = 2
    start(options)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with torch.no_grad():
        tickets, sparse = publish(options)
        console.print(wire_table(options, tickets, sparse))
        console.print(load_table(options, tickets))


if __name__ == "__main__":
    main()
