"""One search under every backend: the mask chosen from the same saved weights, and what 20 steps of training change.

Claims: one process, DDP, FSDP2, ZeRO-2 and ZeRO-3 choose the mask with the same digest, on every rank, and it is the
one that `hf_tickets.prune` chooses on the saved weights. After 20 steps with that mask held, on the same batches, the
next masks differ where rounding does.

A small BERT without dropout is saved once. Each backend starts its processes by `accelerate launch` with its file in
`recipes/accelerate`, and runs a search of `TicketTrainer` (see backend_process.py). The status is 1 where digests
differ.

Command: python tests/benchmarks/backends.py [--device cuda]
"""

import sys
import time
from argparse import Namespace
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from launching import launch
from measuring import arguments, console, start, verdict
from rich.progress import track
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification
from transformers.utils import logging

from hf_tickets import Mask, Ticket, prune

RECIPES = Path(__file__).parents[2] / "recipes" / "accelerate"
ONE = "one process"
BACKENDS = {ONE: "", "DDP": "ddp", "FSDP2": "fsdp2", "ZeRO-2": "zero2", "ZeRO-3": "zero3"}


@dataclass(frozen=True)
class Outcome:
    """What a backend found.

    Args:
        ranks: Each process's record.
        masks: Of round 1, chosen on the saved weights, and of round 2, chosen on the trained ones.
        trained: The weights that round 1 has trained.
        seconds: Of the whole command, start included.
    """

    ranks: list[dict[str, Any]]
    masks: list[Mask]
    trained: dict[str, Tensor]
    seconds: float

    @property
    def agreed(self) -> bool:
        """Whether all processes found the same masks as are in the ticket."""
        return all(rank["digests"] == [mask.digest for mask in self.masks] for rank in self.ranks)


def save_model(folder: Path) -> BertForSequenceClassification:
    """Save a BERT of 0.8 M weights in scope, without dropout, for ten classes of 16 words."""
    config = BertConfig(
        vocab_size=65,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=10,
    )
    model = BertForSequenceClassification(config)
    model.save_pretrained(folder)
    return model


def search(backend: str, options: Namespace, model: Path, folder: Path) -> Outcome:
    """Search under a backend, in processes of its own."""
    launcher: list[str] = []
    if backend != ONE:
        launcher = ["accelerate.commands.launch", "--config_file", str(RECIPES / f"{BACKENDS[backend]}.yaml")]
        launcher += ["--num_processes", str(options.processes), "--main_process_port", "0"]
    processes = 1 if backend == ONE else options.processes
    values = {"device": options.device, "steps": options.steps, "processes": processes, "model": str(model)}
    begin = time.perf_counter()
    ranks = launch(launcher, "backend_process", folder, values)
    seconds = time.perf_counter() - begin
    if [rank["processes"] for rank in ranks] != [processes] * processes:
        raise SystemExit(f"{backend} ran in other processes than {processes}: {ranks}")
    trained = load_file(folder / "trained.safetensors")
    return Outcome(ranks, list(Ticket.from_pretrained(folder / "run").masks), trained, seconds)


def different(mask: Mask, other: Mask) -> int:
    """Return at how many entries two masks differ."""
    return sum(int((mask[name] != other[name]).sum()) for name in mask)


def distance(weights: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    """Return by how much two sets of weights differ at most."""
    return max(float((weights[name] - others[name]).abs().max()) for name in weights)


def comparison(options: Namespace, folder: Path) -> tuple[Table, bool]:
    """Search under every backend; return the table, and whether all chose the same first mask."""
    model = save_model(folder / "model")
    first = prune(model, sparsity=0.5)
    untrained = prune(model, mask=first, sparsity=0.75)
    table = Table("", "processes", "digest", "equal", f"entries that differ after {options.steps} steps")
    table.add_column("weights differ by")
    table.add_column("s")
    equal = True
    alone: Outcome | None = None
    for backend in track(BACKENDS, "search", console=console, transient=True):
        if backend.startswith("ZeRO") and find_spec("deepspeed") is None:
            table.add_row(backend, "–", "left out: deepspeed is not installed", "–", "–", "–", "–")
            continue
        found = search(backend, options, folder / "model", folder / backend)
        same = found.agreed and found.masks[0] == first
        equal = equal and same
        alone = alone or found
        table.add_row(
            backend,
            str(len(found.ranks)),
            found.masks[0].digest[:16],
            "[green]yes[/green]" if same else "[red]no[/red]",
            "–" if found is alone else f"{different(alone.masks[1], found.masks[1]):,} of {first.numel:,}",
            "–" if found is alone else f"{distance(alone.trained, found.trained):.1e}",
            f"{found.seconds:.0f}",
        )
    table.title = f"The mask of {first.numel:,} weights at 50 %, from the same saved weights, and the next at 75 %"
    table.caption_justify = "left"
    table.caption = (
        "Equal: on every rank, and to `prune` on the saved weights. Training in one process changed the next mask at "
        f"{different(untrained, alone.masks[1]) if alone else 0:,} entries. Seconds of the whole command."
    )
    return table, equal


def main() -> None:
    """Run the comparison."""
    parser = arguments(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of training")
    parser.add_argument("--processes", type=int, help="of each backend (default: 2, or one a GPU)")
    options = parser.parse_args()
    if options.quick:
        options.steps = 4
    if options.processes is None:
        options.processes = torch.cuda.device_count() if options.device == "cuda" else 2
    start(options)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with TemporaryDirectory() as folder:
        table, equal = comparison(options, Path(folder))
    console.print(table)
    console.print(f"All digests are equal: {verdict(equal)}")
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
