"""Weights spread over processes, by rows (FSDP2) or flat (ZeRO-3): what of each lies here, and what is exchanged."""

from collections.abc import Iterable
from typing import Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from hf_tickets.errors import PruningError


class Partitioned(Tensor):
    """What DeepSpeed adds to a parameter that ZeRO-3 holds: empty itself, with its part beside it."""

    ds_tensor: Any
    ds_shape: torch.Size
    ds_numel: int
    ds_process_group: dist.ProcessGroup
    ds_zero_partition_rank: int
    ds_zero_partition_world_size: int


def is_partitioned(tensor: Tensor) -> TypeGuard[Partitioned]:
    """Whether DeepSpeed's ZeRO-3 holds a tensor."""
    return hasattr(tensor, "ds_tensor")


def is_spread(tensor: Tensor) -> bool:
    """Whether this process may hold no more than a part of a tensor."""
    return isinstance(tensor, DTensor) or is_partitioned(tensor)


def whole_shape(tensor: Tensor) -> torch.Size:
    """Return the shape that a tensor has where it is not spread."""
    return tensor.ds_shape if is_partitioned(tensor) else tensor.shape


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds, flat under ZeRO-3; all of it where it is not spread."""
    if is_partitioned(tensor):
        flat = _flat_part(tensor)
        return tensor.ds_tensor.data[: flat.stop - flat.start]  # what follows fills the last process's part
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def rows(tensor: Tensor) -> slice:
    """Return the rows of a tensor that hold what of it is here.

    Args:
        tensor: A tensor that is spread over processes by its rows or flat, or not at all.

    Raises:
        PruningError: It is spread in another way.
    """
    shape = whole_shape(tensor)
    if is_partitioned(tensor):
        flat, width = _flat_part(tensor), shape[1:].numel()
        return slice(flat.start // width, -(-flat.stop // width))
    if not isinstance(tensor, DTensor):
        return slice(0, shape[0] if shape else 1)
    if not all(placement.is_replicate() or placement == Shard(0) for placement in tensor.placements):
        raise PruningError(f"weights spread as {tensor.placements} cannot be pruned; shard them by rows, as FSDP2 does")
    begin, end = 0, shape[0]
    for dimension, placement in enumerate(tensor.placements):
        if placement == Shard(0):
            size = -(-(end - begin) // tensor.device_mesh.size(dimension))
            begin = min(begin + size * tensor.device_mesh.get_local_rank(dimension), end)
            end = min(begin + size, end)
    return slice(begin, end)


def first_entry(tensor: Tensor) -> int:
    """Return the flat index in the whole tensor of the first entry that this process holds."""
    if is_partitioned(tensor):
        return _flat_part(tensor).start
    begin = rows(tensor).start
    return begin * (tensor.numel() // tensor.shape[0]) if begin else 0


def cut(whole: Tensor, like: Tensor) -> Tensor:
    """Return of a whole tensor what this process holds of another of its shape, in the form of `local`.

    Args:
        whole: A tensor that is not spread.
        like: The tensor that may be.
    """
    return cut_rows(whole[rows(like)], like) if is_spread(like) and whole.dim() else whole


def cut_rows(part: Tensor, like: Tensor) -> Tensor:
    """Return of the rows that `rows` names what this process holds of them.

    Args:
        part: These rows of a tensor that is not spread.
        like: The tensor that may be.
    """
    if not is_partitioned(like):
        return part
    flat = _flat_part(like)
    skipped = flat.start - rows(like).start * whole_shape(like)[1:].numel()
    return part.reshape(-1)[skipped : skipped + flat.stop - flat.start]


def assemble(part: Tensor, like: Tensor) -> Tensor:
    """Return the whole of which each process holds a part; every process must call it.

    Args:
        part: This process's part.
        like: A tensor that is spread in the same way.
    """
    if is_partitioned(like):
        padded = part.new_zeros(like.ds_tensor.ds_numel)
        padded[: part.numel()] = part
        everyone = [torch.empty_like(padded) for _ in range(like.ds_zero_partition_world_size)]
        # As bytes, which every backend can send.
        dist.all_gather([one.view(torch.uint8) for one in everyone], padded.view(torch.uint8), like.ds_process_group)
        return torch.cat(everyone)[: like.ds_numel].reshape(like.ds_shape)
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


def _flat_part(tensor: Partitioned) -> slice:
    """Return which entries of a flattened tensor ZeRO-3 holds here."""
    size = tensor.ds_tensor.ds_numel
    begin = min(size * tensor.ds_zero_partition_rank, tensor.ds_numel)
    return slice(begin, min(begin + size, tensor.ds_numel))


def _group(weight: Tensor) -> Any:
    """Return the group of processes over which a weight is spread; None where it is not."""
    if is_partitioned(weight):
        return weight.ds_process_group
    if not isinstance(weight, DTensor):
        return None
    spread = [index for index, placement in enumerate(weight.placements) if not isinstance(placement, Replicate)]
    if len(spread) > 1:
        raise PruningError("weights spread over several dimensions of processes cannot be pruned yet")
    return weight.device_mesh.get_group(spread[0]) if spread else None
