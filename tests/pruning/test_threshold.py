"""Order keys rise as the scores do, and the threshold cuts where a sort would."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_tickets.pruning.threshold import LIMIT, PRUNED, all_finite, order_keys, threshold

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(finite, min_size=1, max_size=50), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_keys_are_ordered_and_equal_as_the_scores_are(values, dtype):
    scores = torch.tensor(values, dtype=torch.float32).to(dtype)
    scores = scores[scores.isfinite()]
    if not len(scores):
        return
    keys = order_keys(scores)
    assert keys.dtype == torch.int32
    assert all_finite(keys)
    numbers, order = scores.double().numpy(), keys.numpy().astype(np.int64)
    np.testing.assert_array_equal(np.less.outer(numbers, numbers), np.less.outer(order, order))
    assert (order > PRUNED).all()
    assert (abs(order) < LIMIT + 1).all()


@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_scores_that_are_not_finite_are_seen_in_their_keys(bad, dtype):
    scores = torch.tensor([1.0, -2.0, bad, 3.0], dtype=dtype)
    assert not all_finite(order_keys(scores))


def test_keys_of_positive_scores_leave_the_scores_alone():
    scores = torch.rand(100)
    before = scores.clone()
    keys = order_keys(scores)
    keys = torch.where(scores > 0.5, keys, PRUNED)
    assert torch.equal(scores, before)


@given(
    st.lists(st.integers(-LIMIT + 1, LIMIT - 1), min_size=1, max_size=60),
    st.lists(st.integers(0, 59), max_size=10),
    st.integers(0, 20),
    st.data(),
)
def test_exactly_count_entries_fall_below(values, pruned, block, data):
    keys = torch.tensor(values, dtype=torch.int32)
    for place in pruned:
        keys[place % len(keys)] = PRUNED
    count = data.draw(st.integers(1, len(keys)))
    places = data.draw(st.lists(st.integers(0, len(keys) - 1), min_size=1, max_size=10))
    reads = [partial(torch.clone, part) for part in keys.split(block + 1)]
    first_kept, ties = threshold(reads, keys[places], count, len(keys))
    assert int((keys < first_kept).sum()) + ties == count
    assert 0 <= ties <= int((keys == first_kept).sum())
    smallest = sorted(keys.tolist())[:count]
    assert max(smallest) == (first_kept if ties else max(key for key in keys.tolist() if key < first_kept))
