"""Criteria: the score of each weight. The lowest scores are pruned.

A criterion is one function from a `Block` of consecutive weights to as many scores; register it in `CRITERIA`.
Working block by block keeps memory flat, and makes scores independent of how a model is cut over processes.

A criterion of first order ranks by what a training added up from weights and gradients, step by step; what a step adds
is one more function, in `FIRST_ORDER`.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_tickets.errors import PruningError


@dataclass(frozen=True)
class Block:
    """Evenly spaced weights of one parameter, flattened.

    Args:
        name: The parameter's name, relative to the backbone.
        weights: The live weights, shape (n,).
        start: Flat index of the first of them in the parameter.
        step: Flat distance from one to the next.
        seed: Seed for criteria that draw at random.
        accumulated: What a criterion of first order added up for each weight, shape (n,); None without a training.
    """

    name: str
    weights: Tensor
    start: int
    step: int
    seed: int
    accumulated: Tensor | None = None

    @property
    def indices(self) -> Tensor:
        """Flat index of each weight in the parameter, int64, shape (n,)."""
        steps = torch.arange(self.weights.numel(), device=self.weights.device)
        return self.start + self.step * steps


def magnitude(block: Block) -> Tensor:
    """Absolute value of the weight."""
    return block.weights.abs()


def random(block: Block) -> Tensor:
    """Uniform score that depends on seed, name and index alone, so it is the same on every device."""
    text = f"{block.seed}/{block.name}".encode()
    # The top bit is dropped to stay within int64.
    origin = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
    return _scramble(block.indices + origin) >> 34


def accumulated(block: Block) -> Tensor:
    """What the steps of a training added up.

    Raises:
        PruningError: There was no training that added anything up.
    """
    if block.accumulated is None:
        raise PruningError(
            "a criterion of first order ranks by what a training adds up: prune with TicketTrainer or "
            "PruningCallback, or give prune what an Accumulation holds"
        )
    return block.accumulated


CRITERIA: dict[str, Callable[[Block], Tensor]] = {
    "magnitude": magnitude,
    "random": random,
    "snip": accumulated,
    "movement": accumulated,
}


def sensitivity(weights: Tensor, gradients: Tensor) -> Tensor:
    """|w · g|: how much the loss would change without the weight (SNIP, Lee et al. 2019, arXiv 1810.02340)."""
    return (weights * gradients).abs()


def movement(weights: Tensor, gradients: Tensor) -> Tensor:
    """−w · g: positive where the weight moves away from zero (Sanh et al. 2020, arXiv 2005.07683)."""
    return -(weights * gradients)


FIRST_ORDER: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"snip": sensitivity, "movement": movement}


def _scramble(values: Tensor) -> Tensor:
    """Hash int64 values to 63 uniform bits (the finaliser of the SplitMix64 generator)."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        values = (values ^ ((values >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return (values ^ ((values >> 31) & ((1 << 33) - 1))) & 0x7FFFFFFFFFFFFFFF
