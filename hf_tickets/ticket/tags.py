"""Names of the Hub's tags under which a ticket's rungs lie."""

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
