"""Pruning and masked training on one device, in float32 and bfloat16, beside torch.nn.utils.prune.

Claims, on a GPU: holding a mask costs less than 1 % of a training step of BERT-base; `hf_tickets.prune` chooses and
builds the mask of BERT-base, 1 B and 7 B weights at least 50 times faster than torch.nn.utils.prune, and in at most
three times what one read of the weights takes at the card's measured bandwidth; and that mask is the one that the CPU
chooses, by its digest. On the CPU (`--device cpu`) the masks are held against a stable sort of all weights.

What does not fit into memory is left out, and the table says so. Times are from CUDA's events on a GPU. The steps are
those of step_cost.py. The status is 1 where digests differ.

Command: python tests/benchmarks/gpu.py [--device cpu --quick]
"""

import gc
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import psutil
import torch
from measuring import INTERVALS, MEBIBYTE, arguments, console, median, start, verdict
from models import bert, linear_layers
from prune import by_torch
from rich.progress import track
from rich.table import Table
from step_cost import VARIANTS, measure_seconds
from torch import Tensor, nn

from hf_tickets import Mask, prune
from hf_tickets.pruning.scope import prunable_weights

STEP_GOAL = 1.0  # percent
RATIO_GOAL = 50
READS_GOAL = 3
SPARSITY = 0.5
DTYPES = (torch.float32, torch.bfloat16)
# Model: linear layers of 4096 by 4096 in place of a real one, but for BERT.
LAYERS = {"BERT-base": 0, "1 B": 60, "7 B": 400}
TORCH_BYTES = 50  # a weight, that torch's pruning takes at its peak in float32
MOST_SORTED = 100_000_000


def make(name: str, device: str, dtype: torch.dtype, quick: bool) -> nn.Module:
    """Make a model on a device."""
    if not LAYERS[name]:
        return bert(quick).to(device, dtype)
    return linear_layers(LAYERS[name], 64 if quick else 4096, device, dtype)


def fits(name: str, dtype: torch.dtype, options: Namespace) -> bool:
    """Whether a model and two of its masks fit into the memory that is free."""
    weights = LAYERS[name] * (64 if options.quick else 4096) ** 2 or 110_000_000
    return 1.05 * weights * (dtype.itemsize + 2) < free_memory(options.device)


def free_memory(device: str) -> int:
    """Return the bytes of memory that are free."""
    return torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available


def seconds(function: Callable[[], Any], device: str) -> float:
    """Return the seconds that a call takes, all its work on the device included."""
    if device == "cpu":
        begin = time.perf_counter()
        function()
        return time.perf_counter() - begin
    torch.cuda.synchronize()
    begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begun.record()
    function()
    ended.record()
    torch.cuda.synchronize()
    return float(begun.elapsed_time(ended)) / 1000


def bandwidth(device: str, size: int) -> float:
    """Return the bytes a second at which a device reads its memory."""
    buffer = torch.ones(size // 4, device=device)
    times = [seconds(buffer.sum, device) for _ in range(12)]
    return size / float(np.median(times[2:]))


def torch_seconds(model: nn.Module, device: str, runs: int) -> tuple[list[float], str, Mapping[str, Tensor]]:
    """Return the seconds of torch's pruning, or why there are none, and its mask; the model is as before."""
    weights = sum(weight.numel() for weight in prunable_weights(model).values())
    # A GPU says that its memory is full; a CPU's process is killed.
    if device == "cpu" and TORCH_BYTES * weights > free_memory(device):
        return [], "does not fit", {}
    times: list[float] = []
    masks: dict[str, Tensor] = {}
    try:
        for _ in range(runs + 1):  # the first warms up
            masks.clear()
            times.append(seconds(lambda: masks.update(by_torch(model, SPARSITY)), device))
            undo_(model)
    except RuntimeError as error:
        undo_(model)
        full = isinstance(error, torch.OutOfMemoryError)
        return [], "does not fit" if full else f"fails: {str(error).splitlines()[0]:.60}", {}
    return times[1:], "", masks


def undo_(model: nn.Module) -> None:
    """Take torch's pruning off a model; its weights are what they were."""
    for module in model.modules():
        if "weight_orig" in module._parameters:
            weight = module._parameters.pop("weight_orig")
            del module._buffers["weight_mask"], module.weight
            module._forward_pre_hooks.clear()
            module.register_parameter("weight", weight)


def expected(model: nn.Module, device: str) -> str | None:
    """Return the digest that a mask should have; the model is on the CPU afterwards."""
    weights = prunable_weights(model)
    count = sum(weight.numel() for weight in weights.values())
    if device == "cuda":
        if sum(weight.nbytes for weight in weights.values()) + count > free_memory("cpu"):
            return None
        return prune(model.to("cpu"), sparsity=SPARSITY).digest
    if count > MOST_SORTED or 20 * count > free_memory("cpu"):
        return None
    order = torch.cat([weight.detach().abs().float().reshape(-1) for weight in weights.values()]).argsort(stable=True)
    kept = torch.ones(count, dtype=torch.bool)
    kept[order[: round(SPARSITY * count)]] = False
    parts = kept.split([weight.numel() for weight in weights.values()])
    return Mask(
        {name: part.reshape(weight.shape) for (name, weight), part in zip(weights.items(), parts, strict=True)}
    ).digest


def prune_row(name: str, dtype: torch.dtype, options: Namespace, speed: float) -> tuple[list[str], bool]:
    """Prune a model by both methods; return a row of the table, and whether the mask is as expected."""
    form, on_gpu = str(dtype).removeprefix("torch."), options.device == "cuda"
    if not fits(name, dtype, options):
        return [name, form, "does not fit"], True
    model = make(name, options.device, dtype, options.quick)
    weights = prunable_weights(model).values()
    count, read = sum(weight.numel() for weight in weights), sum(weight.nbytes for weight in weights) / speed
    mask = prune(model, sparsity=SPARSITY)
    ours = [seconds(lambda: prune(model, sparsity=SPARSITY), options.device) for _ in range(options.runs)]
    theirs, why, other = torch_seconds(model, options.device, options.torch_runs)
    different = sum(int((mask[layer] != other[layer].bool()).sum()) for layer in other)
    reads = float(np.median(ours)) / read
    ratio = float(np.median(theirs) / np.median(ours)) if theirs else None
    digest = expected(model, options.device)
    row = [
        f"{name}: {count:,}",
        form,
        f"{read:.4f}",
        median(ours, "{:.4f}"),
        f"{reads:.1f}",
        verdict(reads <= READS_GOAL) if on_gpu else "–",
        median(theirs, "{:.3f}") if theirs else why,
        f"{ratio:.1f}" if ratio is not None else "–",
        verdict(ratio >= RATIO_GOAL) if on_gpu and ratio is not None else "–",
        "not checked" if digest is None else "equal" if digest == mask.digest else "[red]another[/red]",
        f"{different:,} (ties)" if other else "–",
    ]
    return row, digest in (None, mask.digest)


def prune_table(options: Namespace) -> tuple[Table, bool]:
    """Time pruning at every size and type; return whether every mask is as expected."""
    speed = bandwidth(options.device, (32 if options.quick else 1024) * MEBIBYTE)
    table = Table("weights", "type", "one read, s", "hf_tickets, s", "reads", "≤ 3", "torch, s", "torch / ours", "≥ 50")
    table.add_column("digest")
    table.add_column("masks differ at")
    table.title = f"Choosing and building the mask at {SPARSITY:.0%}"
    correct = True
    cells = [(name, dtype) for name in options.models for dtype in DTYPES]
    for name, dtype in track(cells, "prune", console=console, transient=True):
        row, equal = prune_row(name, dtype, options, speed)
        table.add_row(*row)
        correct = correct and equal
        release(options.device)
    reference = "that on the CPU" if options.device == "cuda" else "that of a stable sort of all weights"
    table.caption_justify = "left"
    table.caption = (
        f"{INTERVALS} One read: at the {speed / 1e9:,.1f} GB/s that were measured. Digest: beside {reference}. "
        "The last column: ours and torch's, which takes any of equal weights."
    )
    return table, correct


def step_table(options: Namespace) -> Table:
    """Compare the seconds of a training step with those of a dense one, in both types."""
    table = Table("type", "", "s a step", "over dense, %", "goal: < 1 %")
    for dtype, bf16 in (("float32", False), ("bfloat16", True)):
        settings = Namespace(
            **{**vars(options), "bf16": bf16, "sparsity": 0.7, "settle": 1, "optim": "adamw_torch_fused"}
        )
        times = measure_seconds(settings)
        for name in VARIANTS:
            over = list(_over(times[name], times["dense"]))
            table.add_row(
                dtype if name == "dense" else "",
                name,
                median(times[name], "{:.5f}"),
                median(over, "{:+.2f}") if name != "dense" else "–",
                verdict(float(np.median(over)) < STEP_GOAL)
                if name == "hf_tickets" and options.device == "cuda"
                else "–",
            )
        release(options.device)
    table.title = f"A training step of BERT, {options.batch} × {options.tokens} tokens, {options.pairs} rounds"
    table.caption_justify = "left"
    table.caption = f"{INTERVALS} bfloat16: Trainer's bf16=True, with weights in float32."
    return table


def _over(values: list[float], dense: list[float]) -> Iterator[float]:
    for value, base in zip(values, dense, strict=True):
        yield 100 * (value / base - 1)


def release(device: str) -> None:
    """Give back the memory of what is no longer used."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="+", choices=list(LAYERS), default=list(LAYERS))
    parser.add_argument("--runs", type=int, default=9, help="timed runs of ours")
    parser.add_argument("--torch-runs", type=int, default=3, help="timed runs of torch")
    parser.add_argument("--pairs", type=int, default=100, help="timed steps of each variant")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    if options.quick:
        options.runs, options.torch_runs, options.pairs, options.batch, options.tokens = 2, 1, 2, 2, 16
    start(options)
    table, correct = prune_table(options)
    console.print(table)
    console.print(step_table(options))
    sys.exit(0 if correct else 1)


if __name__ == "__main__":
    main()
