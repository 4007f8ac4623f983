"""Shuffling: layers trade places, or the entries of one tensor do. Seeded, and the same on every machine."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_tickets.errors import PruningError
from hf_tickets.pruning.mask import Mask

Role = tuple[str, tuple[int, ...]]

# A part of a name that numbers a layer of a stack: 3 of layer.3, b2 of s1.b2, denselayer4.
_NUMBERED = re.compile(r"(\D*)(\d+)")


def random_layerwise(mask: Mask, seed: int) -> Mask:
    """Draw a mask that keeps exactly as many weights of each layer as another.

    Args:
        mask: The mask whose layer densities are taken.
        seed: Of the drawing.
    """
    return Mask(shuffled_elements(mask, seed))


def shuffled_elements(tensors: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Permute the entries of each tensor; the tensors given are not changed.

    Args:
        tensors: Tensors by name.
        seed: Of the permutations, one for each name.

    Returns:
        Tensors on the CPU.
    """
    result = {}
    for name, tensor in tensors.items():
        order = torch.randperm(tensor.numel(), generator=_generator(seed, name))
        result[name] = tensor.detach().cpu().reshape(-1)[order].reshape(tensor.shape)
    return result


def shuffled(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Let the weights of whole layers trade places within their stack (BERT tickets, θ0″).

    A stack is what differs in one number of its names only: `encoder.layer.*`, or the blocks of a CNN's stage; of
    nested ones those that move the most weights, the outermost first. All roles of a layer, such as query and output
    matrices, move together, as in the paper's code. Where layers differ in shape, as the first block of a stage does,
    those roles move among the layers that have them alike. A weight without a counterpart, such as a pooler's, stays.

    Args:
        weights: Weights by name; they are not changed.
        seed: Of the permutations, none of which is the identity.

    Returns:
        The same tensors under other names.

    Raises:
        PruningError: No two weights have the same role and shape.
    """
    result = dict(weights)
    for stack in _stacks(weights):
        for layers, roles in stack.groups().items():
            order = _rearranged(len(layers), _generator(seed, f"{stack.name} {layers}"))
            for role in roles:
                for layer, other in zip(layers, order, strict=True):
                    result[stack.members[role][layer]] = weights[stack.members[role][layers[other]]]
    if all(result[name] is weights[name] for name in weights):
        raise PruningError(
            "no two layers of this model have weights of one role and shape, so none can trade places; "
            "take the control shuffled_elements"
        )
    return result


@dataclass(frozen=True)
class _Stack:
    """Layers whose names differ in one number: for each role the name of each layer's weight."""

    name: str
    members: dict[Role, dict[int, str]]

    @property
    def names(self) -> list[str]:
        return [name for names in self.members.values() for name in names.values()]

    def groups(self) -> dict[tuple[int, ...], list[Role]]:
        """Return the roles that several layers have, by these layers."""
        found: dict[tuple[int, ...], list[Role]] = {}
        for role, names in self.members.items():
            if len(names) > 1:
                found.setdefault(tuple(sorted(names)), []).append(role)
        return found


def _stacks(weights: Mapping[str, Tensor], depth: int = 0) -> list[_Stack]:
    """Return the stacks in what has the same names up to a depth; each weight is in one at most."""
    here: dict[str, _Stack] = {}
    deeper: dict[str, Tensor] = {}
    for name, weight in weights.items():
        *parts, _ = name.split(".")
        if depth >= len(parts):
            continue
        numbered = _NUMBERED.fullmatch(parts[depth])
        # conv1 and conv2 of a block are two roles, 0 and 2 of a Sequential two layers.
        if numbered is None or (numbered[1] and depth == len(parts) - 1):
            deeper[name] = weight
            continue
        place = ".".join([*parts[:depth], numbered[1]])
        role = (name.split(".", depth + 1)[-1], tuple(weight.shape))
        here.setdefault(place, _Stack(f"{place}*", {})).members.setdefault(role, {})[int(numbered[2])] = name
    found = _stacks(deeper, depth + 1) if deeper else []
    for stack in here.values():
        inner = _stacks({name: weights[name] for name in stack.names}, depth + 1)
        found += inner if _moved(inner) > _moved([stack]) else [stack]
    return [stack for stack in found if stack.groups()]


def _moved(stacks: list[_Stack]) -> int:
    """Count the weights that have a counterpart."""
    return sum(len(layers) * len(roles) for stack in stacks for layers, roles in stack.groups().items())


def _rearranged(count: int, generator: torch.Generator) -> list[int]:
    """Draw a permutation of 0 … count - 1 that is not the identity."""
    while True:
        order: list[int] = torch.randperm(count, generator=generator).tolist()
        if order != sorted(order):
            return order


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
