"""Contrastive losses, and the tensors of all processes that they compare."""

from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.nn import functional


def world_size() -> int:
    """Number of processes; 1 where none was launched."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process."""
    return distributed.get_rank() if world_size() > 1 else 0


class _Gather(torch.autograd.Function):
    """All processes' rows, with gradients back to the process they come from."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(world_size())[rank()]


def gather(rows: Tensor) -> Tensor:
    """Rows of all processes, in their order; gradients flow back to every process.

    Each process must have as many rows. DDP averages gradients over processes, so a loss that each process averages
    over its own rows is, in sum, averaged over all.

    Args:
        rows: (rows, ...) of this process.
    """
    gathered: Tensor = _Gather.apply(rows) if world_size() > 1 else rows
    return gathered


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy (SimCLR, Chen et al. 2020, equation 1), of this process's rows.

    Args:
        first: (images, width) projections of the first views.
        second: (images, width) projections of the second views; row i is of the same image.
        temperature: above 0.

    Returns:
        The mean over this process's views of -log(exp(s_p / t) / Σ exp(s_k / t)): s_p is the cosine similarity with the
        other view of the same image, k runs over all other views of all processes.
    """
    count, start = len(first), rank() * len(first)
    with torch.autocast(first.device.type, enabled=False):  # similarities are of little use in half precision
        first, second = (functional.normalize(views.float(), dim=1) for views in (first, second))
        every = torch.cat([gather(first), gather(second)])
        similarities = torch.cat([first, second]) @ every.T / temperature
    in_first = start + torch.arange(count, device=first.device)
    in_second = in_first + len(every) // 2
    itself, positives = torch.cat([in_first, in_second]), torch.cat([in_second, in_first])
    similarities = similarities.scatter(1, itself[:, None], float("-inf"))
    return functional.cross_entropy(similarities, positives)


def info_nce(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """InfoNCE against a queue (MoCo, He et al. 2020, equation 1).

    Args:
        queries: (images, width), of length 1.
        keys: (images, width), of length 1; row i is the positive of query i.
        queue: (width, negatives), columns of length 1.
        temperature: above 0.
    """
    with torch.autocast(queries.device.type, enabled=False):
        positive = (queries * keys).sum(dim=1, keepdim=True)
        similarities = torch.cat([positive, queries @ queue], dim=1) / temperature
    return functional.cross_entropy(similarities, torch.zeros(len(queries), dtype=torch.long, device=queries.device))
