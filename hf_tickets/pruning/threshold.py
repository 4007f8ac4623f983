"""The exact threshold: the key below which exactly k entries fall, found without sorting or copying them.

Scores become int32 *keys* of the same order, so that a histogram over key ranges can be narrowed until one key
is left. A small sample says where to look first; counts, which are exact, decide. All that is kept is one
histogram, whatever the number of entries.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from hf_tickets.pruning.parallel import share_out

PRUNED = torch.iinfo(torch.int32).min  # the key of an entry that is pruned already: below every score
LIMIT = 0x7F800000  # keys of finite scores lie strictly between -LIMIT and LIMIT (the bits of infinity)
SAMPLE = 1 << 17  # how many entries a sample should hold
_BINS_BITS = 19
_SAMPLE_MARGIN = 4.0  # standard deviations of a sampled rank; a miss costs a pass, never the result

Read = Callable[[], Tensor]


def order_keys(scores: Tensor) -> Tensor:
    """Return int32 keys in the order of the scores.

    Args:
        scores: Any shape; floats of 32 bits or fewer (compared exactly), or integers within ±2,139,095,039.

    Returns:
        Tensor of the same shape, on the same device; infinities and NaN give keys outside ±`LIMIT`.
    """
    if not scores.is_floating_point():
        return scores.to(torch.int32)
    bits = scores.float().view(torch.int32)
    if int(bits.amin()) < 0:
        # Floats are sign and magnitude: negative ones are mirrored to make them rise. Adding zero first turns
        # -0.0 into 0.0, since equal scores need equal keys.
        bits = (scores.float() + 0.0).view(torch.int32)
        bits ^= (bits >> 31) & 0x7FFFFFFF
    return bits


def all_finite(keys: Tensor) -> bool:
    """Whether no score behind these keys was NaN or infinite."""
    low, high = keys.aminmax()
    return int(low) >= -LIMIT and int(high) < LIMIT


def threshold(
    keys: Sequence[Read],
    sample: Tensor,
    count: int,
    total: int,
    add_up: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> tuple[int, int]:
    """Find where to cut so that exactly `count` entries fall below.

    Args:
        keys: Each reads an int32 block; together they hold every entry. All are read once a pass.
        sample: Keys of some of the entries, at least one, evenly spread.
        count: How many entries are to be pruned, 1 to `total`.
        total: How many entries there are.
        add_up: Adds up counts over the processes that hold the entries between them (default: this one holds all).

    Returns:
        A key t, and how many of the entries equal to t are to be pruned with all those below t, so that
        exactly `count` are.
    """
    low, high = _bracket(sample, count / total)
    below, counts, shift = _histogram(keys, low, high, add_up)
    if not below < count <= below + int(counts.sum()):
        low, high = PRUNED, LIMIT
        below, counts, shift = _histogram(keys, low, high, add_up)
    while True:
        reached = below + counts.cumsum(0)
        index = int((reached < count).sum())
        below = int(reached[index - 1]) if index else below
        low += index << shift
        if shift == 0:
            ties = count - below
            return (low + 1, 0) if ties == int(counts[index]) else (low, ties)
        high = min(high, low + (1 << shift))
        below, counts, shift = _histogram(keys, low, high, add_up)


def _bracket(sample: Tensor, share: float) -> tuple[int, int]:
    """Guess a key range [low, high) that holds the entry below which this share of them lies."""
    ordered = sample.sort().values
    size = ordered.numel()
    margin = _SAMPLE_MARGIN * (size * share * (1 - share)) ** 0.5 + 2
    first, last = int(share * size - margin), int(share * size + margin)
    low = int(ordered[first]) if first >= 0 else PRUNED
    high = int(ordered[last]) + 1 if last < size else LIMIT
    return low, max(high, low + 1)


def _histogram(
    keys: Sequence[Read], low: int, high: int, add_up: Callable[[Tensor], Tensor]
) -> tuple[int, Tensor, int]:
    """Count the keys below `low`, and those in [low, high) by bins of 2^shift keys."""
    shift = max(0, (high - low - 1).bit_length() - _BINS_BITS)
    bins = ((high - low - 1) >> shift) + 1

    def count(reads: Iterator[Read]) -> Tensor:
        """Return the counts of the bins, and last the number below."""
        counts = torch.zeros(bins + 1, dtype=torch.int64)
        for read in reads:
            block = read()
            counts = counts.to(block.device)
            under = block < low
            counts[-1] += torch.count_nonzero(under)
            inside = block[(block < high).logical_xor_(under)]
            where = (inside.long() - low) >> shift
            counts.scatter_add_(0, where, torch.ones_like(where))
        return counts

    first, *others = share_out(count, keys) if keys else [torch.zeros(bins + 1, dtype=torch.int64)]
    for counts in others:
        first += counts
    total = add_up(first).cpu()
    return int(total[-1]), total[:-1], shift
