"""Numbers as a report writes them."""

import math
from collections.abc import Mapping
from typing import Any

NOTHING = "–"


def number(value: float | None) -> str:
    """Return a result with as many decimals as its size bears; – for none.

    Example:
        >>> number(0.81234), number(81.234), number(None)
        ('0.8123', '81.23', '–')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    return decimal(value, _decimals(value))


def signed(value: float | None) -> str:
    """Return a difference with its sign and as many decimals as its size bears; – for none.

    Example:
        >>> signed(-0.01234), signed(12.345)
        ('−0.0123', '+12.35')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    return ("+" if value >= 0 else "") + decimal(value, _decimals(value))


def decimal(value: float, decimals: int) -> str:
    """Return a number with so many decimals and a true minus sign."""
    return f"{value:,.{decimals}f}".replace("-", "−")


def percent(share: float | None) -> str:
    """Return a share in per cent; – for none."""
    return NOTHING if share is None or not math.isfinite(share) else f"{100 * share:.4g} %"


def probability(value: float) -> str:
    """Return a p-value; – for none."""
    if not math.isfinite(value):
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def spread(row: Mapping[Any, Any]) -> str:
    """Return mean ± standard deviation, the latter where there is one."""
    std = row["std"]
    return number(row["mean"]) if not math.isfinite(std) else f"{number(row['mean'])} ± {number(std)}"


def _decimals(value: float) -> int:
    return 4 if abs(value) < 2 else 2 if abs(value) < 1000 else 0
