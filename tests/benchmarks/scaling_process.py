"""One process of `scaling.py`: decoders in rows over all processes (FSDP2), pruned once by the library's own path."""

import os
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from launching import given, record
from measuring import MEBIBYTE, peak_memory, timed
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaModel

from hf_tickets import PruningConfig
from hf_tickets.pruning.prune import prune_parts
from hf_tickets.pruning.scope import prunable_weights
from hf_tickets.pruning.shards import assemble, local, whole_shape
from hf_tickets.ticket.ladder import Ladder

SPARSITY = 0.5
RUNS = 3
READ = 256 * MEBIBYTE
COLLECTIVES = ("c10d", "_c10d_functional")
FOLLOW_UPS = ("wait_tensor", "_wrap_tensor_autograd", "barrier")  # after a collective, or with nothing to bring


class Traffic(TorchDispatchMode):
    """Counts what collectives bring to this process: the tensors that they fill."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.histograms = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operator, and count the bytes of its result where it is a collective's."""
        result = function(*args, **(kwargs or {}))
        if function.namespace in COLLECTIVES and not function.name().endswith(FOLLOW_UPS):
            filled = args[0] if function.namespace == "c10d" else result
            self.bytes += sum(leaf.nbytes for leaf in tree_leaves(filled) if isinstance(leaf, Tensor))
            self.histograms += "allreduce" in function.name()
        return result


def decoder(width: int, device: str, dtype: torch.dtype, mesh: DeviceMesh) -> LlamaModel:
    """A decoder of the shape of Llama's 1 B, 232 · width² weights in scope; each process makes its own rows.

    Args:
        width: Size of the hidden states, a multiple of 256.
        device: Where.
        dtype: Of the weights.
        mesh: The processes.
    """
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=16,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 256,
        vocab_size=1024,
    )
    with torch.device("meta"):
        model = LlamaModel(config).to(dtype)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device=device)
    torch.manual_seed(dist.get_rank())
    with torch.no_grad():
        for parameter in model.parameters():
            local(parameter).normal_(std=0.02)
    return model


def peak(function: Callable[[], Any], device: str) -> tuple[int, float]:
    """Return by how many bytes this process grows at most during a call, and the seconds it takes."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds = timed(function)
        return torch.cuda.max_memory_allocated() - before, seconds
    return peak_memory(lambda: timed(function))


def bandwidth(device: str) -> float:
    """Return the bytes a second at which this process reads memory, while the others do too."""
    buffer = torch.ones(READ // 4, device=device)
    seconds = []
    for _ in range(6):
        dist.barrier()
        seconds.append(timed(lambda: buffer.sum().item()))
    return READ / sorted(seconds)[len(seconds) // 2]


def measure(model: nn.Module, device: str, small: bool) -> dict[str, Any]:
    """Prune a decoder once and code its mask for the ticket, as a search does between two rounds.

    Args:
        model: The decoder.
        device: Where it is.
        small: Whether it is done several times, and once more to count what is exchanged.
    """
    weights: dict[str, Tensor] = dict(prunable_weights(model))
    shapes = {name: tuple(whole_shape(weight)) for name, weight in weights.items()}
    parts: dict[str, Tensor] = {}
    ladder = Ladder()

    def choose() -> None:
        parts.update(prune_parts(weights, PruningConfig(), SPARSITY))

    def code() -> None:
        ladder.rungs.clear()
        ladder.append_layers(shapes, lambda name: assemble(parts[name], weights[name]))

    measured: dict[str, Any] = {
        "weights": sum(whole_shape(weight).numel() for weight in weights.values()),
        "layers": len(weights),
        "here": sum(local(weight).nbytes for weight in weights.values()),
    }
    for name, function in (("choose", choose), ("code", code)):
        runs = []
        for _ in range(RUNS if small else 1):
            dist.barrier()
            runs.append(peak(function, device))
        # Another program may slow down any run; the memory is that of the first, before any can be used again.
        measured |= {f"{name}_peak": runs[0][0], f"{name}_seconds": min(seconds for _, seconds in runs)}
        if small:
            with Traffic() as traffic:
                function()
            measured |= {f"{name}_traffic": traffic.bytes, f"{name}_histograms": traffic.histograms}
    measured["mask"] = sum(part.nbytes for part in parts.values())
    measured["coded"] = sum(len(payload) for payload in ladder.rungs[0].payloads.values())
    measured["digest"] = ladder.digests[0]
    return measured


def main() -> None:
    """Measure every size."""
    folder, options = given()
    device = options["device"]
    torch.set_num_threads(options["threads"])
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("gloo" if device == "cpu" else "nccl")
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    measured = []
    for index, width in enumerate(options["widths"]):
        begin = time.perf_counter()
        model = decoder(width, device, getattr(torch, options["dtype"]), mesh)
        made = time.perf_counter() - begin
        measured.append({"width": width, "made": made, **measure(model, device, index < 2)})
        del model
    record(folder, bandwidth=bandwidth(device), measured=measured)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
