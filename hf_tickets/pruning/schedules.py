"""Schedules: the sparsity of each round."""

from collections.abc import Callable

from hf_tickets.pruning.config import PruningConfig


def share_of_remaining(amount: float, round_index: int) -> float:
    """Sparsity 1 - (1 - amount)^k after k rounds (CV tickets, section 3; BERT tickets, algorithm 1)."""
    return 1 - (1 - amount) ** round_index


def share_of_original(amount: float, round_index: int) -> float:
    """Sparsity amount * k after k rounds (the BERT tickets code)."""
    return amount * round_index


SCHEDULES: dict[str, Callable[[float, int], float]] = {
    "remaining": share_of_remaining,
    "original": share_of_original,
}


def sparsity_schedule(config: PruningConfig) -> tuple[float, ...]:
    """Return the sparsity of every round, rising.

    Args:
        config: The pruning configuration.

    Returns:
        One sparsity for each round, the first for round 1 (round 0 is dense).
    """
    if config.sparsities is not None:
        return tuple(config.sparsities)
    schedule = SCHEDULES[config.amount_of]
    # Rounded where floats are not exact, so that three rounds of 0.1 give 0.3 and not 0.30000000000000004.
    return tuple(round(schedule(config.amount, index), 12) for index in range(1, config.rounds + 1))
