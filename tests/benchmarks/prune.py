"""Time and memory of choosing a mask, beside torch.nn.utils.prune (Linux).

Claims, for BERT-base's 85.5 M weights: `hf_tickets.prune` chooses and builds the mask at least 40 times faster than
`torch.nn.utils.prune.global_unstructured` with `L1Unstructured` does on the same weights; and it needs at most
64 MiB beyond the mask itself, at 85 M weights as at 1 B.

Each run of torch's stands between two of ours; the ratio is that of torch's seconds to the mean of the two, after
two warm-ups of both. Memory is the peak of a fresh process for each method and sparsity, beyond what it held when
the model was there, nothing having run before.

Command: python tests/benchmarks/prune.py
"""

import copy
import time
from argparse import Namespace
from collections.abc import Callable, Mapping

import torch
from measuring import INTERVALS, MEBIBYTE, arguments, console, in_fresh_process, median, peak_memory, start, verdict
from models import bert, billion
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from hf_tickets import prune
from hf_tickets.pruning.scope import prunable_weights

RATIO_GOAL = 40
MEMORY_GOAL = 64
MODELS: dict[str, Callable[[bool], nn.Module]] = {"BERT": bert, "linear layers": billion}


def by_hf_tickets(model: nn.Module, sparsity: float) -> Mapping[str, Tensor]:
    """The mask of hf_tickets."""
    return prune(model, sparsity=sparsity)


def by_torch(model: nn.Module, sparsity: float) -> Mapping[str, Tensor]:
    """The mask of torch, over the same weights; it changes the model."""
    modules = {name: model.get_submodule(name.removesuffix(".weight")) for name in prunable_weights(model)}
    torch_prune.global_unstructured(
        [(module, "weight") for module in modules.values()],
        pruning_method=torch_prune.L1Unstructured,
        amount=sparsity,
    )
    return {name: module.get_buffer("weight_mask") for name, module in modules.items()}


METHODS = {"hf_tickets": by_hf_tickets, "torch": by_torch}


def memory(method: str, model_name: str, sparsity: float, quick: bool, threads: int) -> tuple[int, int, int]:
    """Return how many weights there are, the mask's bytes, and the peak of choosing it, in bytes."""
    torch.set_num_threads(threads)
    model = MODELS[model_name](quick)
    weights = sum(weight.numel() for weight in prunable_weights(model).values())
    peak, mask = peak_memory(lambda: METHODS[method](model, sparsity))
    return weights, sum(kept.nbytes for kept in mask.values()), peak


def seconds(method: str, model: nn.Module, sparsity: float) -> tuple[float, Mapping[str, Tensor]]:
    """Return the seconds that a method takes, and its mask; the model is not changed."""
    # torch's pruning changes the model; copying it is not timed.
    target = copy.deepcopy(model) if method == "torch" else model
    begin = time.perf_counter()
    mask = METHODS[method](target, sparsity)
    return time.perf_counter() - begin, mask


def time_table(options: Namespace) -> Table:
    """Time both methods at every sparsity."""
    table = Table("sparsity", "hf_tickets, s", "torch, s", "torch / hf_tickets", "goal: ≥ 40", "masks differ at")
    model = bert(options.quick)
    for _ in range(options.warm_ups):
        for method in METHODS:
            seconds(method, model, options.sparsities[0])
    for sparsity in track(options.sparsities, "time", console=console, transient=True):
        ours, torchs, ratios = [], [], []
        for _ in range(options.torch_runs):
            before, mask = seconds("hf_tickets", model, sparsity)
            torch_seconds, torch_mask = seconds("torch", model, sparsity)
            after, _ = seconds("hf_tickets", model, sparsity)
            ours += [before, after]
            torchs.append(torch_seconds)
            ratios.append(2 * torch_seconds / (before + after))
        different = sum(int((mask[name] != torch_mask[name].bool()).sum()) for name in mask)
        met = sorted(ratios)[len(ratios) // 2] >= RATIO_GOAL
        table.add_row(
            f"{sparsity:.0%}",
            median(ours),
            median(torchs, "{:.2f}"),
            median(ratios, "{:.1f}"),
            verdict(met),
            f"{different:,} weights (ties)" if different else "none",
        )
    numel = sum(kept.numel() for kept in mask.values())
    table.title = f"Choosing and building the mask of {numel:,} weights"
    table.caption_justify = "left"
    table.caption = INTERVALS
    return table


def memory_table(options: Namespace) -> Table:
    """Measure the peak memory of both methods, torch's at the smaller model alone: at 1 B it wants 50 GB."""
    table = Table("weights", "sparsity", "method", "peak, MiB", "of it the mask", "beyond the mask", "goal: ≤ 64 MiB")
    table.title = "Memory beyond the model's own"
    cells = [
        (method, name, sparsity)
        for name in MODELS
        for sparsity in options.sparsities
        for method in METHODS
        if name == "BERT" or method == "hf_tickets"
    ]
    for method, name, sparsity in track(cells, "memory", console=console, transient=True):
        weights, mask, peak = in_fresh_process(memory, method, name, sparsity, options.quick, torch.get_num_threads())
        beyond = (peak - mask) / MEBIBYTE
        table.add_row(
            f"{weights:,}",
            f"{sparsity:.0%}",
            method,
            f"{peak / MEBIBYTE:,.0f}",
            f"{mask / MEBIBYTE:,.0f}",
            f"{beyond:,.0f}",
            verdict(beyond <= MEMORY_GOAL) if method == "hf_tickets" else "–",
        )
    return table


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.1, 0.5, 0.9])
    parser.add_argument("--torch-runs", type=int, default=3, help="runs of torch a sparsity; ours are twice as many")
    parser.add_argument("--warm-ups", type=int, default=2, help="untimed runs of each method")
    options = parser.parse_args()
    if options.quick:
        options.sparsities = options.sparsities[:1]
    start(options)
    console.print(time_table(options))
    console.print(memory_table(options))


if __name__ == "__main__":
    main()
