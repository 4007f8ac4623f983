"""What to prune, by which score, and how much each round."""

from dataclasses import asdict, dataclass, field
from itertools import pairwise
from numbers import Real
from typing import Any

import regex

from hf_tickets.errors import PruningError
from hf_tickets.pruning.distributions import DISTRIBUTIONS


@dataclass
class PruningConfig:
    """How a mask is chosen: criterion, distribution, schedule and scope, each independent of the others.

    The default is the protocol of the CV tickets paper (20 % of the remaining weights a round, global
    magnitude); `PruningConfig(amount=0.1, amount_of="original", rounds=9)` is that of the BERT tickets code.

    Args:
        amount: Share of weights pruned each round, between 0 and 1.
        amount_of: "remaining": share of the weights that are left; "original": share of all weights in scope.
        rounds: Number of pruning rounds; each gives one sparsity. Ignored when `sparsities` is given.
        sparsities: Explicit rising list of sparsities, one a round, instead of `amount` and `rounds`.
        criterion: Name of the score; the lowest scores are pruned ("magnitude", "random", or of first order, from the
            gradients of the training before: "snip", "movement").
        distribution: How sparsity is spread over layers ("global", "uniform", "erk").
        scope: "backbone": weights of the pre-trained backbone; "model": heads may be pruned too.
        target_modules: Module names to prune instead of the default set: a list of suffixes, or one regular
            expression that matches whole names.
        exclude_modules: Module names never pruned, in the same two forms.
        pruning_seed: Seed of criteria that draw at random.
        gradual: Choose all masks within one training, at evenly spaced steps, instead of one at the end of each round
            (gradual magnitude pruning, Zhu and Gupta 2017, arXiv 1710.01878): the whole search costs one training.
        gradual_start: Share of the training's steps after which the first mask is chosen, 0 to 1.
        gradual_end: Share of the steps after which the last one is chosen, `gradual_start` to 1.
        early_bird_distance: End a round's training once the masks that could be drawn from it have settled: when
            their distance, the share of weights in which two in a row differ, has stayed below this (default: never;
            Early-Bird Tickets, You et al. 2020, arXiv 1909.11957, and EarlyBERT take 0.1). The last round is trained
            in full.
        early_bird_window: How many distances in a row must be below it.
        early_bird_steps: Optimizer steps from one such mask to the next (default: an epoch).

    Raises:
        PruningError: A value is of another type, out of range, or not a known name.
    """

    amount: float = field(default=0.2, metadata={"help": "share of weights pruned each round"})
    amount_of: str = field(
        default="remaining",
        metadata={"help": "what amount is a share of", "choices": ["remaining", "original"]},
    )
    rounds: int = field(default=10, metadata={"help": "number of pruning rounds"})
    sparsities: list[float] | None = field(
        default=None,
        metadata={"help": "explicit rising sparsities, one a round, instead of amount and rounds"},
    )
    criterion: str = field(
        default="magnitude", metadata={"help": "score of a weight: magnitude, random, snip or movement"}
    )
    distribution: str = field(
        default="global",
        metadata={"help": "how sparsity is spread over layers: global, uniform or erk"},
    )
    scope: str = field(
        default="backbone",
        metadata={
            "help": "what may be pruned: backbone, or model to include heads",
            "choices": ["backbone", "model"],
        },
    )
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "modules to prune: name suffixes, or one regular expression"}
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "modules never pruned: name suffixes, or one regular expression"}
    )
    pruning_seed: int = field(default=0, metadata={"help": "seed of criteria that draw at random"})
    gradual: bool = field(
        default=False, metadata={"help": "choose all masks within one training instead of one a round"}
    )
    gradual_start: float = field(
        default=0.0, metadata={"help": "share of that training's steps after which the first mask is chosen"}
    )
    gradual_end: float = field(
        default=0.75, metadata={"help": "share of that training's steps after which the last mask is chosen"}
    )
    early_bird_distance: float | None = field(
        default=None,
        metadata={"help": "end a round once masks drawn in a row differ in less than this share; the paper's: 0.1"},
    )
    early_bird_window: int = field(
        default=5, metadata={"help": "how many such distances in a row must be below early_bird_distance"}
    )
    early_bird_steps: int | None = field(
        default=None, metadata={"help": "steps from one such mask to the next; an epoch by default"}
    )

    def __post_init__(self) -> None:
        from hf_tickets.pruning.criteria import CRITERIA  # here: this module is read without torch

        self._check_types()
        choices = {
            "criterion": CRITERIA,
            "distribution": DISTRIBUTIONS,
            "amount_of": self.__dataclass_fields__["amount_of"].metadata["choices"],
            "scope": self.__dataclass_fields__["scope"].metadata["choices"],
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise PruningError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.sparsities is not None:
            self.sparsities = [float(sparsity) for sparsity in self.sparsities]
            rising = all(a < b for a, b in pairwise(self.sparsities))
            inside = all(0 < sparsity < 1 for sparsity in self.sparsities)
            if not (self.sparsities and rising and inside):
                raise PruningError(f"sparsities must rise and lie between 0 and 1, not {self.sparsities}")
            self.rounds = len(self.sparsities)
        if self.rounds < 0:
            raise PruningError(f"rounds must be 0 or more, not {self.rounds}")
        if not 0 <= self.gradual_start <= self.gradual_end <= 1:
            raise PruningError(
                f"gradual_start {self.gradual_start} and gradual_end {self.gradual_end} must rise from 0 to 1"
            )
        if self.gradual and self.early_bird_distance is not None:
            raise PruningError("gradual pruning needs the whole training: leave out early_bird_distance")
        if self.early_bird_distance is not None and not 0 < self.early_bird_distance <= 1:
            raise PruningError(f"early_bird_distance must be above 0 and at most 1, not {self.early_bird_distance}")
        for name in ("early_bird_window", "early_bird_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise PruningError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if not 0 < self.amount < 1:
            raise PruningError(f"amount must lie between 0 and 1, not {self.amount}")
        if self.sparsities is None and self.amount_of == "original" and self.amount * self.rounds > 1 - 1e-9:
            raise PruningError(
                f"{self.rounds} rounds of {self.amount} of the original weights leave none; "
                f"use at most {int((1 - 1e-9) / self.amount)} rounds"
            )

    def _check_types(self) -> None:
        # Configs come from recipes and from other people's tickets, so a wrong type is an ordinary mistake.
        for name in ("amount_of", "criterion", "distribution", "scope"):
            self._check(name, isinstance(getattr(self, name), str), "a name")
        for name in ("rounds", "pruning_seed", "early_bird_window"):
            self._check(name, isinstance(getattr(self, name), int), "a whole number")
        self._check("early_bird_steps", isinstance(self.early_bird_steps, (int, type(None))), "a whole number")
        self._check("early_bird_distance", isinstance(self.early_bird_distance, (Real, type(None))), "a number")
        self._check("gradual", isinstance(self.gradual, bool), "true or false")
        for name in ("amount", "gradual_start", "gradual_end"):
            self._check(name, isinstance(getattr(self, name), Real), "a number")
        self._check("sparsities", self.sparsities is None or _all_are(self.sparsities, Real), "a list of numbers")
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            right = value is None or isinstance(value, str) or _all_are(value, str)
            self._check(name, right, "a list of names or one regular expression")
            if isinstance(value, str):
                try:
                    regex.compile(value)
                except (regex.error, RecursionError, OverflowError) as error:
                    raise PruningError(f"{name} {value!r} is no regular expression: {error}") from None

    def _check(self, name: str, right: bool, expected: str) -> None:
        if not right:
            raise PruningError(f"{name} must be {expected}, not {getattr(self, name)!r:.60}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)


def _all_are(value: Any, item_type: type) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, item_type) for item in value)
