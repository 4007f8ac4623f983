"""The ladder: what each rung says over the survivors of the one before composes back to every mask."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_tickets.errors import TicketFileError
from hf_tickets.ticket.nesting import TILE, expand, survivors


def nested_masks(count, shares, seed=0):
    """Full masks, one a share: an entry is kept while its own uniform number is below the share."""
    numbers = np.random.default_rng(seed).random(count)
    return [numbers < share for share in shares]


def ladder(masks):
    return [survivors(previous, mask) for previous, mask in zip([None, *masks], masks, strict=False)]


@given(
    st.integers(0, 300),
    st.lists(st.floats(0, 1), min_size=1, max_size=6).map(lambda shares: sorted(shares, reverse=True)),
    st.integers(0, 2**32),
)
def test_every_prefix_of_a_ladder_gives_its_last_mask(count, shares, seed):
    masks = nested_masks(count, shares, seed)
    rungs = ladder(masks)
    for last, mask in enumerate(masks):
        expanded = expand(rungs[: last + 1])
        assert expanded.dtype == np.bool_
        np.testing.assert_array_equal(expanded, mask)


@pytest.mark.parametrize("count", [TILE - 1, TILE, TILE + 1, 3 * TILE + 12345])
def test_large_layers_compose_exactly(count):
    masks = nested_masks(count, [1 - 0.1 * rung for rung in range(1, 10)])
    rungs = ladder(masks)
    for last, mask in enumerate(masks):
        np.testing.assert_array_equal(expand(rungs[: last + 1]), mask)


def test_survivors_follow_the_order_of_the_entries():
    previous = np.array([True, False, True, True, False])
    bits = np.array([False, False, True, False, False])
    assert survivors(previous, bits).tolist() == [False, True, False]
    assert survivors(None, bits).tolist() == bits.tolist()


def test_expanding_leaves_the_rungs_as_they_are():
    rungs = ladder(nested_masks(1000, [0.7, 0.3]))
    copies = [rung.copy() for rung in rungs]
    expand(rungs[:1])[:] = False
    expand(rungs)[:] = False
    for rung, copy in zip(rungs, copies, strict=True):
        np.testing.assert_array_equal(rung, copy)


@pytest.mark.parametrize("length", [0, 2, 4, 5])
def test_a_rung_of_another_length_than_the_survivors_is_refused(length):
    first = np.array([True, False, True, True, False])
    with pytest.raises(TicketFileError, match="keeps 3"):
        expand([first, np.ones(length, dtype=bool)])


def test_every_rung_is_checked():
    rungs = ladder(nested_masks(100, [0.9, 0.5, 0.2]))
    with pytest.raises(TicketFileError, match="rung 2"):
        expand([*rungs[:2], np.append(rungs[2], True)])


def test_a_ladder_without_rungs_is_refused():
    with pytest.raises(TicketFileError, match="without rungs"):
        expand([])


def test_masks_that_are_not_nested_are_refused():
    with pytest.raises(TicketFileError, match="1 weights are kept"):
        survivors(np.array([True, False]), np.array([True, True]))


def test_masks_of_different_length_are_refused():
    with pytest.raises(TicketFileError, match="3 entries"):
        survivors(np.ones(2, dtype=bool), np.ones(3, dtype=bool))
