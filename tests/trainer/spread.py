"""A model spread over processes by FSDP2, pruned, saved and loaded: what each sends, and how much it grows.

`torchrun --nproc_per_node 2 spread.py FOLDER LAYERS`: LAYERS linear layers of 2,048 by 2,048.
"""

import ctypes
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from hf_tickets import PruningConfig, Ticket
from hf_tickets.pruning.mask import bit_pattern
from hf_tickets.pruning.prune import prune_parts
from hf_tickets.pruning.scope import prunable_weights
from hf_tickets.pruning.shards import assemble, cut
from hf_tickets.ticket.ladder import Ladder
from hf_tickets.trainer.weights import load_weights_, save_weights

WIDTH = 2048
sent: list[int] = []


def grown(work: Callable[[], Any]) -> tuple[int, Any]:
    """By how many bytes this process grew at most, by the kernel's own mark, and what the work returned.

    The lower of two runs counts: pages of libraries that the kernel had put out come back during the first.
    """
    growths = []
    for _ in range(2):
        result = None
        ctypes.CDLL(None).malloc_trim(0)  # what was freed is not there to be used again unseen
        Path("/proc/self/clear_refs").write_text("5")
        before = _most_resident()
        result = work()
        growths.append(_most_resident() - before)
    return min(growths), result


def _most_resident() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def counting(function: Callable[..., Any], size: Callable[..., int]) -> Callable[..., Any]:
    """The same function, that notes how many bytes a process gives to it."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        sent.append(size(*arguments))
        return function(*arguments, **keywords)

    return call


def main() -> None:
    folder, layers = Path(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)))
    for layer in model:
        fully_shard(layer, mesh=dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),)))
    model.to_empty(device="cpu")
    torch.manual_seed(rank)
    for weight in model.parameters():
        nn.init.normal_(weight.to_local())
    weights = dict(prunable_weights(model))

    own = dist.all_reduce, dist.all_gather_object
    dist.all_reduce = counting(dist.all_reduce, lambda tensor, *_: tensor.nbytes)
    dist.all_gather_object = counting(dist.all_gather_object, lambda _, value, *__: len(pickle.dumps(value)))
    prune_growth, parts = grown(lambda: prune_parts(weights, PruningConfig(), 0.5))
    dist.all_reduce, dist.all_gather_object = own

    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}

    def code() -> Ladder:
        ladder = Ladder()
        ladder.append_layers(shapes, lambda name: assemble(parts[name], weights[name]))
        return ladder

    code_growth, ladder = grown(code)
    parts.clear()
    ticket = Ticket(ladder)

    def hold() -> list[torch.Tensor]:
        report = ticket.match(model)
        return [bit_pattern(cut(kept, weight).clone()) for weight, kept in ticket.matched_masks(model, report)]

    hold_growth, _ = grown(hold)
    save_growth, _ = grown(lambda: save_weights(model, folder / "weights.safetensors", leads=rank == 0))
    dist.barrier()
    load_growth, _ = grown(lambda: load_weights_(model, folder / "weights.safetensors"))
    result = {
        "numel": layers * WIDTH**2,
        "sent": sum(sent) // 2,  # of two runs
        "prune": prune_growth,
        "code": code_growth,
        "hold": hold_growth,
        "save": save_growth,
        "load": load_growth,
    }
    (folder / f"rank-{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
