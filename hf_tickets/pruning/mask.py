"""`Mask`: which weights stay."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor, nn

from hf_tickets.errors import PruningError
from hf_tickets.pruning.scope import named_weights
from hf_tickets.pruning.shards import cut, local, whole_shape

if TYPE_CHECKING:
    from typing import Self


class Mask(Mapping[str, Tensor]):
    """Immutable mapping of parameter name to bool tensor, `True` where the weight is kept.

    Names are relative to the model's backbone, so that a mask fits the same backbone under any head.

    Args:
        kept: Bool tensors by name. They are held, not copied: do not write to them afterwards.

    Raises:
        PruningError: A value is not a bool tensor.

    Example:
        >>> mask = Mask({"weight": torch.tensor([[True, False], [True, True]])})
        >>> mask.sparsity
        0.25
    """

    def __init__(self, kept: Mapping[str, Tensor]) -> None:
        for name, value in kept.items():
            if not isinstance(value, Tensor) or value.dtype != torch.bool:
                raise PruningError(f"a mask holds bool tensors; {name} is not one")
        self._kept = dict(kept)
        self._digest: str | None = None
        self._counts: dict[str, int] | None = None

    def __getitem__(self, name: str) -> Tensor:
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        return f"Mask({len(self)} layers, {self.kept:,} of {self.numel:,} weights kept, sparsity {self.sparsity:.4f})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mask) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each layer's weight."""
        return {name: tuple(value.shape) for name, value in self.items()}

    @property
    def kept_by_layer(self) -> dict[str, int]:
        """Number of weights kept in each layer."""
        if self._counts is None:
            self._counts = {name: int(torch.count_nonzero(value)) for name, value in self.items()}
        return dict(self._counts)

    @property
    def kept(self) -> int:
        """Number of weights kept."""
        return sum(self.kept_by_layer.values())

    @property
    def numel(self) -> int:
        """Number of weights that may be pruned."""
        return sum(value.numel() for value in self.values())

    @property
    def sparsity(self) -> float:
        """Share of the weights that are pruned, 0 to 1."""
        return 1 - self.kept / self.numel if self.numel else 0.0

    @property
    def sparsity_by_layer(self) -> dict[str, float]:
        """Share of pruned weights in each layer."""
        return {name: 1 - kept / max(1, self[name].numel()) for name, kept in self.kept_by_layer.items()}

    @property
    def digest(self) -> str:
        """SHA-256 over names, shapes and bits in the order of names: the same on every machine and device."""
        if self._digest is None:
            hasher = hashlib.sha256()
            for name in sorted(self):
                hash_layer(hasher, name, self[name])
            self._digest = hasher.hexdigest()
        return self._digest

    def __and__(self, other: "Mask") -> "Mask":
        return self._combine(other, torch.logical_and)

    def __or__(self, other: "Mask") -> "Mask":
        return self._combine(other, torch.logical_or)

    def __invert__(self) -> "Mask":
        return Mask({name: ~value for name, value in self.items()})

    def __le__(self, other: "Mask") -> bool:
        """Whether every weight kept here is kept in the other mask too (nested masks)."""
        return (self & other).kept == self.kept

    def overlap(self, other: "Mask") -> float:
        """Share of the weights kept in either mask that are kept in both (Jaccard index), 0 to 1.

        Args:
            other: A mask over the same weights.

        Raises:
            PruningError: The masks are over other weights.
        """
        union = (self | other).kept
        return (self & other).kept / union if union else 1.0

    def distance(self, other: "Mask") -> float:
        """Share of the weights that one mask keeps and the other prunes (normalised Hamming distance), 0 to 1.

        Args:
            other: A mask over the same weights.

        Raises:
            PruningError: The masks are over other weights.
        """
        return self._combine(other, torch.logical_xor).kept / max(1, self.numel)

    def to(self, device: torch.device | str) -> "Self":
        """Return the mask on a device."""
        if all(value.device == torch.device(device) for value in self.values()):
            return self
        return type(self)({name: value.to(device) for name, value in self.items()})

    @torch.no_grad()
    def apply_(self, model: nn.Module) -> None:
        """Set the pruned weights of a model to zero, in place.

        Args:
            model: The model the mask was chosen on, or another with the same backbone at the same place.

        Raises:
            PruningError: A weight is missing or has another shape; nothing is changed then.
        """
        weights = named_weights(model, list(self))
        for name, weight in weights.items():
            if whole_shape(weight) != self[name].shape:
                raise PruningError(
                    f"{name} has shape {tuple(whole_shape(weight))}, its mask {tuple(self[name].shape)}: another model"
                )
        for name, weight in weights.items():
            zero_pruned_(weight, bit_pattern(cut(self[name], weight).to(local(weight).device)))

    def _combine(self, other: "Mask", operation: Callable[[Tensor, Tensor], Tensor]) -> "Mask":
        if self.shapes != other.shapes:
            different = sorted(set(self.shapes.items()) ^ set(other.shapes.items()))[0][0]
            raise PruningError(f"the masks are over other weights: {different} differs in name or shape")
        return Mask({name: operation(value, other[name].to(value.device)) for name, value in self.items()})


def hash_layer(hasher: "hashlib._Hash", name: str, kept: Tensor) -> None:
    """Add a layer to the digest of a mask, whose layers follow in the order of names.

    Args:
        hasher: A SHA-256.
        name: Name of the layer.
        kept: Bool tensor.
    """
    shape = "x".join(map(str, kept.shape))
    hasher.update(f"{json.dumps(name)} {shape}\n".encode())
    hasher.update(numpy.packbits(kept.cpu().numpy().reshape(-1)).data)


_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def bit_pattern(kept: Tensor) -> Tensor:
    """Return the int8 form of a mask that `zero_pruned_` takes: all ones where kept, all zeros where pruned.

    Args:
        kept: Bool tensor.
    """
    return kept.view(torch.int8).neg()


def pack(kept: Tensor) -> Tensor:
    """Return a mask as uint8, eight entries a byte, the first in the highest bit.

    Args:
        kept: Bool tensor.
    """
    flat = nn.functional.pad(kept.reshape(-1).view(torch.uint8), (0, -kept.numel() % 8))
    return (flat.reshape(-1, 8) << _shifts(kept.device)).sum(1, dtype=torch.uint8)


def unpack_pattern(packed: Tensor, shape: torch.Size) -> Tensor:
    """Return the int8 form of a mask that `zero_pruned_` takes.

    Args:
        packed: What `pack` gave.
        shape: Shape of the mask.
    """
    bits = (packed.unsqueeze(1) >> _shifts(packed.device)) & 1
    return bit_pattern(bits.reshape(-1)[: shape.numel()].reshape(shape).view(torch.bool))


def _shifts(device: torch.device) -> Tensor:
    return torch.arange(7, -1, -1, dtype=torch.uint8, device=device)


def zero_pruned_(values: Tensor, pattern: Tensor) -> None:
    """Set the entries of a tensor that are not kept to +0, in place, NaN and infinity too.

    A bitwise and with the mask: four times as fast as a masked fill, and unlike a product it leaves neither
    -0.0 nor NaN.

    Args:
        values: Float tensor of 16, 32 or 64 bits; of one that is spread over processes, the part here is changed.
        pattern: What `bit_pattern` gave for a mask of the same shape (`shards.cut` to the part), on the same device.
    """
    local(values).detach().view(_INTEGERS[values.element_size()]).bitwise_and_(pattern)
