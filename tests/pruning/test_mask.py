"""`Mask`: an immutable set of kept weights, with plain set algebra, a plain digest and exact zeros."""

import copy
import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hf_tickets.errors import PruningError
from hf_tickets.pruning.mask import Mask, bit_pattern, zero_pruned_

shapes = st.dictionaries(
    st.text(st.characters(codec="ascii", exclude_characters=" \n\x00"), min_size=1, max_size=8),
    st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    min_size=1,
    max_size=4,
)


@st.composite
def masks(draw, count=1):
    sizes = draw(shapes)
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]))
    made = [
        Mask({name: torch.from_numpy(generator.random(shape) < density) for name, shape in sizes.items()})
        for _ in range(count)
    ]
    return made[0] if count == 1 else made


def as_set(mask):
    return {(name, place) for name, kept in mask.items() for place in np.flatnonzero(kept.numpy()).tolist()}


def everything(mask):
    return {(name, place) for name, kept in mask.items() for place in range(kept.numel())}


# A mapping that does not change.


def test_a_mask_is_a_mapping_that_cannot_be_written():
    kept = {"a": torch.tensor([True, False]), "b": torch.tensor([True])}
    mask = Mask(kept)
    assert dict(mask) == kept
    assert list(mask) == ["a", "b"]
    assert len(mask) == 2
    with pytest.raises(TypeError):
        mask["a"] = torch.tensor([True, True])
    with pytest.raises(TypeError):
        del mask["a"]
    with pytest.raises(AttributeError):
        mask.sparsity = 0.5
    kept["c"] = torch.tensor([True])
    kept["a"] = torch.tensor([False, False])
    assert set(mask) == {"a", "b"}
    assert mask.kept == 2


def test_counts_handed_out_are_copies():
    mask = Mask({"a": torch.tensor([True, False])})
    mask.kept_by_layer["a"] = 7
    mask.shapes["a"] = (9,)
    assert mask.kept == 1
    assert mask.shapes == {"a": (2,)}


@pytest.mark.parametrize("value", [torch.ones(2), torch.ones(2, dtype=torch.uint8), [True], np.ones(2, bool), None])
def test_only_bool_tensors_make_a_mask(value):
    with pytest.raises(PruningError, match="weight"):
        Mask({"weight": value})


# Algebra.


@given(masks(count=2))
def test_algebra_is_that_of_sets(pair):
    one, two = pair
    assert as_set(one & two) == as_set(one) & as_set(two)
    assert as_set(one | two) == as_set(one) | as_set(two)
    assert as_set(~one) == everything(one) - as_set(one)
    assert (one <= two) == (as_set(one) <= as_set(two))
    assert (one & two) <= one
    assert (one == two) == (as_set(one) == as_set(two))


@given(masks(count=2))
def test_overlap_is_the_jaccard_index(pair):
    one, two = map(as_set, pair)
    expected = len(one & two) / len(one | two) if one | two else 1.0
    assert pair[0].overlap(pair[1]) == pytest.approx(expected, abs=1e-12)
    assert pair[0].overlap(pair[0]) == 1.0


@given(masks())
def test_counts_and_sparsity(mask):
    assert mask.kept == len(as_set(mask))
    assert mask.numel == len(everything(mask))
    assert mask.sparsity == pytest.approx(1 - mask.kept / mask.numel)
    for name, kept in mask.items():
        assert mask.kept_by_layer[name] == int(kept.sum())
        assert mask.sparsity_by_layer[name] == pytest.approx(float((~kept).double().mean()))
    assert 0 <= mask.sparsity <= 1


def test_masks_over_other_weights_do_not_combine():
    one = Mask({"a": torch.tensor([True]), "b": torch.tensor([True, False])})
    for other in (Mask({"a": torch.tensor([True])}), Mask({"a": torch.tensor([True]), "b": torch.ones(3).bool()})):
        for combine in (one.__and__, one.__or__, one.overlap, one.__le__):
            with pytest.raises(PruningError, match="b differs"):
                combine(other)


# Digest.


def digest_by_hand(mask):
    """SHA-256 of, for each name in order: name as JSON, space, shape by x, newline, bits packed first to highest."""
    text = b""
    for name in sorted(mask):
        bits = mask[name].flatten().tolist()
        bits += [False] * (-len(bits) % 8)
        packed = [sum(bit << (7 - i) for i, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8)]
        text += f"{json.dumps(name)} {'x'.join(map(str, mask[name].shape))}\n".encode() + bytes(packed)
    return hashlib.sha256(text).hexdigest()


@given(masks(), st.randoms())
def test_the_digest_is_its_formula_whatever_the_order_of_insertion(mask, random):
    assert mask.digest == digest_by_hand(mask)
    items = list(mask.items())
    random.shuffle(items)
    shuffled = Mask(dict(items))
    assert shuffled.digest == mask.digest
    assert shuffled == mask
    assert hash(shuffled) == hash(mask)


def test_a_name_cannot_pass_for_the_end_of_a_layer():
    """Bits that read as text, and a name with a newline, that once gave two masks one digest."""
    first = {"a": torch.tensor([bool(0x62 >> (7 - bit) & 1) for bit in range(8)])}  # the bits of the letter b
    second = torch.zeros(8, dtype=torch.bool)
    two = Mask({**first, " 8\n": second})
    one = Mask({"a 8\nb ": second})
    assert two.digest != one.digest


def test_the_digest_is_of_the_logical_order_not_of_memory():
    kept = torch.rand(6, 7) < 0.5
    assert Mask({"a": kept}).digest == Mask({"a": kept.t().contiguous().t()}).digest


def test_the_digest_tells_names_shapes_and_bits_apart():
    kept = torch.tensor([[True, False], [True, True]])
    variants = [{"a": kept}, {"b": kept}, {"a": kept.reshape(4)}, {"a": kept.reshape(1, 4)}, {"a": ~kept}]
    assert len({Mask(variant).digest for variant in variants}) == len(variants)


def test_a_mask_equals_only_masks():
    kept = {"a": torch.tensor([True])}
    assert Mask(kept) != kept
    assert Mask(kept) == Mask({"a": torch.tensor([True])})


# apply_.


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).to(dtype)


def mask_for(model, density=0.5):
    return Mask({f"{i}.weight": torch.rand(model[i].weight.shape) < density for i in (0, 2)})


def bits(tensor):
    return tensor.detach().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_pruned_weights_become_plus_zero_and_no_other_bit_changes(dtype):
    model = network(dtype)
    with torch.no_grad():
        for index in (0, 2):
            specials = [float("nan"), float("inf"), -float("inf"), -0.0, -1.0]
            model[index].weight.view(-1)[:5] = torch.tensor(specials, dtype=dtype)
    mask = mask_for(model)
    for kept in mask.values():
        kept.view(-1)[:4] = False
        kept.view(-1)[4] = True
    before = copy.deepcopy(model)
    mask.apply_(model)
    for index in (0, 2):
        kept = mask[f"{index}.weight"]
        assert (bits(model[index].weight)[~kept] == 0).all()
        assert torch.equal(bits(model[index].weight)[kept], bits(before[index].weight)[kept])
        assert torch.equal(bits(model[index].bias), bits(before[index].bias))
        assert model[index].weight.requires_grad


def test_weights_are_changed_in_place_whatever_their_layout():
    model = network()
    mask = mask_for(model)
    model[0].weight = nn.Parameter(model[0].weight.detach().t().contiguous().t())
    parameters = dict(model.named_parameters())
    addresses = {name: value.data_ptr() for name, value in parameters.items()}
    mask.apply_(model)
    assert {name: value.data_ptr() for name, value in model.named_parameters()} == addresses
    assert torch.equal(model[0].weight == 0, ~mask["0.weight"])


def test_a_mask_that_does_not_fit_changes_nothing():
    model = network()
    before = copy.deepcopy(model.state_dict())
    good = {"0.weight": torch.zeros(5, 6, dtype=torch.bool)}
    for bad in ({"2.weight": torch.zeros(5, 4, dtype=torch.bool)}, {"7.weight": torch.zeros(4, 5, dtype=torch.bool)}):
        with pytest.raises(PruningError, match=next(iter(bad))):
            Mask(good | bad).apply_(model)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_zeroing_takes_the_bit_pattern_of_the_mask():
    values = torch.tensor([float("nan"), 1.0, -2.0, -0.0])
    zero_pruned_(values, bit_pattern(torch.tensor([False, True, True, False])))
    assert values.tolist() == [0.0, 1.0, -2.0, 0.0]
    assert not torch.signbit(values[3])


def test_moving_to_the_same_device_is_the_same_mask():
    mask = Mask({"a": torch.tensor([True, False])})
    assert mask.to("cpu") == mask
    assert mask.to("meta")["a"].device.type == "meta"
