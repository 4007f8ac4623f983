"""`RewindConfig`: what goes back to which point between rounds."""

from dataclasses import asdict, dataclass, field
from typing import Any

from hf_tickets.errors import PruningError

MODES = ("weights", "learning_rate", "none")


@dataclass
class RewindConfig:
    """What is rewound before each round. The default is the papers': everything, to the initialisation.

    Optimizer, learning-rate schedule and seeds always start anew, except that the schedule of "none" does not.

    Args:
        rewind: "weights": survivors go back to θ0, or to a later step of round 0 (BERT tickets, algorithm 1);
            "learning_rate": weights go on from the round before, the schedule restarts (Renda et al. 2020);
            "none": weights go on and one schedule spans all rounds (standard pruning).
        rewind_step: Step of round 0 whose weights are θ_i; 0 is the initialisation.
        rewind_share: The same as a share of round 0's steps, 0 to 1, instead of `rewind_step`.
        rewind_head: Rewind what is not backbone too; false keeps the trained head (the BERT tickets code).
        rewind_statistics: Rewind buffers, such as BatchNorm statistics, too.

    Raises:
        PruningError: A value is out of range, or the fields contradict each other.
    """

    rewind: str = field(default="weights", metadata={"help": "what is rewound between rounds", "choices": list(MODES)})
    rewind_step: int = field(default=0, metadata={"help": "step of round 0 to rewind to; 0: the initialisation"})
    rewind_share: float | None = field(
        default=None, metadata={"help": "the same as a share of round 0's steps, instead of rewind_step"}
    )
    rewind_head: bool = field(default=True, metadata={"help": "rewind the head too; false keeps it trained"})
    rewind_statistics: bool = field(
        default=True, metadata={"help": "rewind buffers, such as BatchNorm statistics, too"}
    )

    def __post_init__(self) -> None:
        if self.rewind not in MODES:
            raise PruningError(f"rewind must be one of {', '.join(MODES)}, not {self.rewind!r}")
        if self.rewind_step < 0:
            raise PruningError(f"rewind_step must be 0 or more, not {self.rewind_step}")
        if self.rewind_share is not None and not 0 <= self.rewind_share < 1:
            raise PruningError(f"rewind_share must be at least 0 and below 1, not {self.rewind_share}")
        if self.rewind_step and self.rewind_share:
            raise PruningError("give rewind_step or rewind_share, not both")
        if self.rewind != "weights" and (self.rewind_step or self.rewind_share):
            raise PruningError(f"rewind_step and rewind_share need rewind=weights, not {self.rewind}")

    def step(self, steps: int) -> int:
        """Return the step of round 0 to rewind to.

        Args:
            steps: Optimizer steps of a round.
        """
        if self.rewind_share is not None:
            return round(self.rewind_share * steps)
        return self.rewind_step

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)
