"""Nested masks as a ladder: each rung is a mask over the survivors of the rung before."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hf_tickets.errors import TicketFileError

# Entries worked on at a time: their places, 8 bytes each, stay in the processor's cache.
TILE = 1 << 17


def survivors(previous: npt.NDArray[np.bool_] | None, bits: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Take the entries of a mask that the rung before kept: what this rung has to say.

    Args:
        previous: bool array of shape (n,), the mask of the rung before; None at the first rung.
        bits: bool array of shape (n,), this rung's mask, True = kept; within ``previous``.

    Returns:
        Bool array with one entry for each True of ``previous`` (``bits`` itself at the first rung).

    Raises:
        TicketFileError: the masks differ in length, or this rung keeps what the one before pruned.
    """
    if previous is None:
        return bits
    if len(previous) != len(bits):
        raise TicketFileError(f"a rung of {len(bits)} entries cannot follow one of {len(previous)}")
    rung = bits[np.flatnonzero(previous)]
    regrown = np.count_nonzero(bits) - np.count_nonzero(rung)
    if regrown:
        raise TicketFileError(
            f"{regrown} weights are kept that the rung before pruned; save masks that are not nested "
            "as separate tickets"
        )
    return rung


def expand(rungs: Sequence[npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_]:
    """Compose a ladder: the last rung's mask over all entries.

    Args:
        rungs: bool arrays, True = kept; the first of shape (n,), each later one with one entry for each True
            of the one before.

    Returns:
        Bool array of shape (n,).

    Raises:
        TicketFileError: no rung, or a rung's length is not the number of entries that the one before keeps.
    """
    _check_nested(rungs)
    if len(rungs) == 1:
        return rungs[0].copy()
    mask = np.zeros(len(rungs[0]), dtype=np.bool_)
    reached = [0] * len(rungs)
    for start in range(0, len(mask), TILE):
        tile = mask[start : start + TILE]
        kept = []
        entries = len(tile)
        for index, rung in enumerate(rungs):
            kept.append(np.flatnonzero(rung[reached[index] : reached[index] + entries]))
            reached[index] += entries
            entries = len(kept[-1])
        # From the last rung, the sparsest, down: only its places are translated.
        places = kept.pop()
        while kept:
            places = kept.pop()[places]
        tile[places] = True
    return mask


def _check_nested(rungs: Sequence[npt.NDArray[np.bool_]]) -> None:
    if not rungs:
        raise TicketFileError("a ladder without rungs has no mask; save the ticket again")
    entries = len(rungs[0])
    for index, rung in enumerate(rungs):
        if len(rung) != entries:
            raise TicketFileError(
                f"rung {index} of a ladder has {len(rung)} entries where the one before keeps {entries}; "
                "download or save the ticket again"
            )
        entries = int(np.count_nonzero(rung))
