"""Size of a saved ticket over the entropy of its masks.

Claims, for BERT-base at every sparsity from 10 to 98 %: a ticket of one mask takes at most 1.05 times the entropy
bound, the sum over layers of n · H(density) / 8 bytes, and 64 KiB; a ladder at most 1.05 times the sum over rungs of
the bound on the survivors of the rung before, and 64 KiB a rung. Counted are all files of the saved folder.

The masks are magnitude masks of random weights, the hardest to code: all layers are equally dense and all entries
independent. With --model, those of a real model too.

Command: python tests/benchmarks/ticket_size.py [--model FOLDER_OR_HUB_ID]
"""

from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from measuring import MEBIBYTE, arguments, console, start, verdict
from models import bert
from rich.table import Table
from scipy.stats import entropy
from torch import nn
from transformers import AutoModel

from hf_tickets import Mask, PruningConfig, Ticket, prune
from hf_tickets.pruning.schedules import sparsity_schedule

GOAL = 1.05
ALLOWANCE = 64 * 1024
SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
LADDERS = {
    "9 rungs of 10 % of original": PruningConfig(amount=0.1, amount_of="original", rounds=9),
    "18 rungs of 20 % of remaining": PruningConfig(amount=0.2, amount_of="remaining", rounds=18),
}


def bound(masks: Iterable[Mask]) -> float:
    """Entropy in bytes of nested masks, each given the layers' counts and the mask before."""
    bits, before = 0.0, None
    for mask in masks:
        for name, kept in mask.kept_by_layer.items():
            left = before.kept_by_layer[name] if before is not None else mask[name].numel()
            bits += left * float(entropy([kept, left - kept], base=2)) if left else 0.0
        before = mask
    return bits / 8


def nested(model: nn.Module, config: PruningConfig) -> Iterator[Mask]:
    """The masks of every round of a schedule, on weights that do not change."""
    mask = None
    for sparsity in sparsity_schedule(config):
        mask = prune(model, config, mask, sparsity)
        yield mask


def saved_size(masks: list[Mask]) -> int:
    """Bytes of all files of the ticket that holds these masks."""
    with TemporaryDirectory() as folder:
        Ticket(masks).save_pretrained(folder)
        return sum(path.stat().st_size for path in Path(folder).iterdir())


def size_table(title: str, model: nn.Module, options: Namespace) -> Table:
    """Measure one model's tickets of one mask, and its ladders."""
    table = Table("ticket", "sparsity", "size, MiB", "bound, MiB", "size / bound", "less allowance", "goal: ≤ 1.05")
    sparsities = SPARSITIES[::5] if options.quick else SPARSITIES
    cases = {f"one mask, {sparsity:.0%}": [prune(model, sparsity=sparsity)] for sparsity in sparsities}
    cases |= {name: list(nested(model, config)) for name, config in LADDERS.items()}
    for name, masks in cases.items():
        size, least = saved_size(masks), bound(masks)
        coded = (size - ALLOWANCE * len(masks)) / least
        table.add_row(
            name,
            f"{masks[-1].sparsity:.4f}",
            f"{size / MEBIBYTE:.3f}",
            f"{least / MEBIBYTE:.3f}",
            f"{size / least:.4f}",
            f"{max(coded, 0.0):.4f}",
            verdict(coded <= GOAL),
        )
    table.title = (
        f"Tickets of {title}, {masks[0].numel:,} weights ({4 * masks[0].numel / MEBIBYTE:,.0f} MiB as float32)"
    )
    table.caption_justify = "left"
    table.caption = "less allowance: (size − 64 KiB a mask) / bound"
    return table


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--model", help="a pre-trained model to measure too: a folder or Hub id")
    options = parser.parse_args()
    start(options)
    console.print(size_table("BERT with random weights", bert(options.quick), options))
    if options.model:
        name = Path(options.model).name
        console.print(size_table(name, AutoModel.from_pretrained(options.model), options))


if __name__ == "__main__":
    main()
