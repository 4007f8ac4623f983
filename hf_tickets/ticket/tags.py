"""Names of the Hub's tags under which a ticket's rungs lie."""

import re
from collections.abc import Sequence


def rung_tags(sparsities: Sequence[float]) -> list[str]:
    """Name each rung's tag by its sparsity, to two decimals, or to four where two rungs would share one.

    Args:
        sparsities: Sparsity of each rung.
    """
    short = [f"sparsity-{value:.2f}" for value in sparsities]
    return [
        name if short.count(name) == 1 else f"sparsity-{value:.4f}"
        for name, value in zip(short, sparsities, strict=True)
    ]


def is_rung_tag(name: str) -> bool:
    """Whether a tag is one that `rung_tags` makes."""
    return re.fullmatch(r"sparsity-\d\.\d{2}(\d{2})?", name) is not None
