"""Weights spread over processes (FSDP2): what of each lies here, and what the processes tell each other."""

from collections.abc import Iterable
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from hf_tickets.errors import PruningError


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds; all of it where it is not spread."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def rows(tensor: Tensor) -> slice:
    """Return which rows of a tensor this process holds.

    Args:
        tensor: A tensor that is spread over processes by its rows, or not at all.

    Raises:
        PruningError: It is spread in another way.
    """
    if not isinstance(tensor, DTensor):
        return slice(0, tensor.shape[0] if tensor.dim() else 1)
    if not all(placement.is_replicate() or placement == Shard(0) for placement in tensor.placements):
        raise PruningError(f"weights spread as {tensor.placements} cannot be pruned; shard them by rows, as FSDP2 does")
    begin, end = 0, tensor.shape[0]
    for dimension, placement in enumerate(tensor.placements):
        if placement == Shard(0):
            size = -(-(end - begin) // tensor.device_mesh.size(dimension))
            begin = min(begin + size * tensor.device_mesh.get_local_rank(dimension), end)
            end = min(begin + size, end)
    return slice(begin, end)


def first_entry(tensor: Tensor) -> int:
    """Return the flat index in the whole tensor of the first entry that this process holds."""
    begin = rows(tensor).start
    return begin * (tensor.numel() // tensor.shape[0]) if begin else 0


def cut(whole: Tensor, like: Tensor) -> Tensor:
    """Return the rows of a whole tensor that this process holds of another of its shape.

    Args:
        whole: A tensor that is not spread.
        like: The tensor that may be.
    """
    return whole[rows(like)] if isinstance(like, DTensor) else whole


def assemble(part: Tensor, like: Tensor) -> Tensor:
    """Return the whole of which each process holds a part; every process must call it.

    Args:
        part: This process's part.
        like: A tensor that is spread in the same way.
    """
    if not isinstance(like, DTensor):
        return part
    spread = DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return spread.full_tensor()


class Team:
    """The processes that hold the parts of one set of weights.

    Args:
        weights: The weights, all spread in the same way.

    Raises:
        PruningError: Some are spread and others not, or over other processes.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        groups = {_group(weight) for weight in weights}
        if len(groups) > 1:
            raise PruningError("some weights in scope are spread over processes and others are not: shard them alike")
        self._group = groups.pop() if groups else None

    @property
    def spread(self) -> bool:
        """Whether there is more than this process."""
        return self._group is not None

    @property
    def rank(self) -> int:
        """The place of this process in the order of the parts."""
        return dist.get_rank(self._group) if self._group is not None else 0

    def sum_(self, counts: Tensor) -> Tensor:
        """Add up a tensor of counts over the processes, in place."""
        if self._group is not None:
            dist.all_reduce(counts, group=self._group)
        return counts

    def collect(self, value: Any) -> list[Any]:
        """Return each process's value, in the order of the parts."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(values, value, group=self._group)
        return values


def _group(weight: Tensor) -> Any:
    """Return the group of processes over which a weight's rows are spread; None where they are not."""
    if not isinstance(weight, DTensor):
        return None
    spread = [index for index, placement in enumerate(weight.placements) if not isinstance(placement, Replicate)]
    if len(spread) > 1:
        raise PruningError("weights spread over several dimensions of processes cannot be pruned yet")
    return weight.device_mesh.get_group(spread[0]) if spread else None
