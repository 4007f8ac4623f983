"""`prune`: exactly the k smallest, against a plain stable sort, torch.kthvalue and torch.nn.utils.prune."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as torch_prune

from hf_tickets.errors import PruningError
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.mask import Mask
from hf_tickets.pruning.prune import prune

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def network(*weights):
    """A model whose only weights in scope are these matrices, in this order."""
    model = nn.Sequential()
    for weight in weights:
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight = nn.Parameter(weight.clone())
        model.append(layer)
    return model


def random_network(seed=0, sizes=((30, 20), (7, 30), (50, 7)), dtype=torch.float32, ties=False):
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(size, generator=generator) for size in sizes]
    if ties:
        weights = [(weight * 2).round() / 2 for weight in weights]
    return network(*(weight.to(dtype) for weight in weights))


def flat(model):
    return np.concatenate([layer.weight.detach().double().numpy().ravel() for layer in model])


def flat_kept(mask):
    return np.concatenate([kept.numpy().ravel() for kept in mask.values()])


def reference(model, sparsity, mask=None):
    """Sort everything: pruned entries first, then by magnitude, then by place (the sort is stable)."""
    magnitudes = np.abs(flat(model))
    if mask is not None:
        magnitudes = np.where(flat_kept(mask), magnitudes, -1.0)
    kept = np.ones(len(magnitudes), dtype=bool)
    kept[np.argsort(magnitudes, kind="stable")[: round(sparsity * len(magnitudes))]] = False
    return kept


def content(model):
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def assert_equal(mask, expected):
    np.testing.assert_array_equal(flat_kept(mask), expected)


# Exactly k, and which.


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_exactly_the_rounded_share_is_pruned(sizes, sparsity, seed):
    model = random_network(seed, sizes)
    mask = prune(model, sparsity=sparsity)
    total = sum(rows * columns for rows, columns in sizes)
    assert mask.numel == total
    assert total - mask.kept == round(sparsity * total)
    assert_equal(mask, reference(model, sparsity))


@pytest.mark.parametrize("sparsity", [0.001, 0.1, 0.2, 0.36, 0.5, 0.7, 0.9, 0.99, 0.9999])
def test_the_threshold_is_the_kth_value(sparsity):
    model = random_network(1, ((300, 200), (77, 300)))
    magnitudes = torch.cat([layer.weight.detach().abs().flatten() for layer in model])
    value = torch.kthvalue(magnitudes, round(sparsity * len(magnitudes))).values
    assert_equal(prune(model, sparsity=sparsity), (magnitudes > value).numpy())


@pytest.mark.parametrize("sparsity", [0.1, 0.45, 0.8, 0.97])
def test_without_ties_the_mask_is_that_of_torch(sparsity):
    model = random_network(2, ((120, 100), (50, 120), (10, 50)))
    other = copy.deepcopy(model)
    pairs = [(layer, "weight") for layer in other]
    torch_prune.global_unstructured(pairs, torch_prune.L1Unstructured, amount=sparsity)
    mask = prune(model, sparsity=sparsity)
    for name, layer in zip(mask, other, strict=True):
        assert torch.equal(mask[name], layer.weight_mask.bool())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sparsity", [0.05, 0.3, 0.5, 0.77, 0.95])
def test_ties_go_by_parameter_order_and_flat_index(dtype, sparsity):
    model = random_network(3, dtype=dtype, ties=True)
    assert len(np.unique(np.abs(flat(model)))) < 15
    assert_equal(prune(model, sparsity=sparsity), reference(model, sparsity))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -3.5, 2.0**-24])
def test_constant_weights_are_pruned_from_the_first_on(dtype, value):
    model = network(torch.full((10, 10), value, dtype=dtype), torch.full((5, 10), value, dtype=dtype))
    for sparsity in (0.0, 0.2, 0.5, 0.9):
        pruned = round(sparsity * 150)
        assert_equal(prune(model, sparsity=sparsity), np.arange(150) >= pruned)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_and_minus_zero_and_signs_are_equal(dtype):
    model = network(torch.tensor([[-0.0, 0.0, -1.0, 1.0, 0.0, -0.0, 1.0, -1.0]], dtype=dtype))
    assert_equal(prune(model, sparsity=3 / 8), [False, False, True, True, False, True, True, True])
    assert_equal(prune(model, sparsity=5 / 8), [False, False, False, True, False, False, True, True])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_smallest_and_largest_numbers_are_told_apart(dtype):
    info = torch.finfo(dtype)
    values = [info.max, -info.max, info.tiny, info.smallest_normal / 2, 0.0, info.max / 2, info.eps, 1.0]
    model = network(torch.tensor([values], dtype=dtype))
    for pruned in range(8):
        assert_equal(prune(model, sparsity=pruned / 8), reference(model, pruned / 8))


def test_layers_of_different_types_compete_by_value():
    model = random_network(4, ((40, 30), (30, 40), (20, 30)))
    model[0].to(torch.bfloat16)
    model[2].to(torch.float16)
    for sparsity in (0.2, 0.6, 0.93):
        assert_equal(prune(model, sparsity=sparsity), reference(model, sparsity))


def test_layout_in_memory_changes_nothing():
    model = random_network(5, ((40, 30), (40, 40)), ties=True)
    expected = prune(model, sparsity=0.4)
    model[0].weight = nn.Parameter(model[0].weight.detach().t().contiguous().t())
    model[1].weight = nn.Parameter(torch.cat([model[1].weight.detach()] * 2, dim=1)[:, :40])
    assert not model[0].weight.is_contiguous()
    assert not model[1].weight.is_contiguous()
    assert prune(model, sparsity=0.4) == expected
    assert_equal(expected, reference(model, 0.4))


def test_channels_last_convolutions_are_read_in_logical_order():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3)), nn.Linear(4, 4))
    for parameter in model.parameters():
        parameter.data.mul_(20).round_()
    config = PruningConfig(target_modules=["1.0", "1.1"])
    expected = prune(model, config, sparsity=0.5)
    assert prune(model.to(memory_format=torch.channels_last), config, sparsity=0.5) == expected


# The mask so far.


def test_a_kept_weight_that_is_zero_is_not_taken_for_pruned():
    model = network(torch.tensor([[0.0, 5.0, 4.0, 3.0, 2.0, 1.0, 6.0, 7.0, 8.0, 9.0]]))
    mask = Mask({"0.weight": torch.tensor([[True, False] + 8 * [True]])})
    assert_equal(prune(model, mask=mask, sparsity=0.1), [True, False] + 8 * [True])
    assert_equal(prune(model, mask=mask, sparsity=0.2), [False, False] + 8 * [True])


def test_a_pruned_weight_that_has_come_back_stays_pruned():
    model = network(torch.tensor([[100.0, 1.0, 2.0, 3.0]]))
    mask = Mask({"0.weight": torch.tensor([[False, True, True, True]])})
    assert_equal(prune(model, mask=mask, sparsity=0.25), [False, True, True, True])
    assert_equal(prune(model, mask=mask, sparsity=0.5), [False, False, True, True])


@given(
    st.lists(st.floats(0, 0.99), min_size=2, max_size=5).map(sorted),
    st.integers(0, 1000),
    st.booleans(),
    st.sampled_from(["global", "uniform", "erk"]),
)
@settings(max_examples=40)
def test_masks_nest_while_the_weights_change(sparsities, seed, ties, distribution):
    mask = None
    for index, sparsity in enumerate(sparsities):
        model = random_network(seed + index, ties=ties)
        previous = mask
        mask = prune(model, PruningConfig(distribution=distribution), mask, sparsity)
        assert mask.numel - mask.kept == round(sparsity * mask.numel)
        if previous is not None:
            assert all(not bool((mask[name] & ~previous[name]).any()) for name in mask)
        if distribution == "global":
            assert_equal(mask, reference(model, sparsity, previous))


def test_a_mask_of_zeros_in_the_weights_changes_nothing_about_the_choice():
    model = random_network(6)
    first = prune(model, sparsity=0.5)
    zeroed = copy.deepcopy(model)
    first.apply_(zeroed)
    assert prune(zeroed, mask=first, sparsity=0.8) == prune(model, mask=first, sparsity=0.8)
    assert prune(model, mask=first, sparsity=0.8) == prune(model, sparsity=0.8)


@pytest.mark.parametrize("distribution", ["global", "uniform", "erk"])
def test_a_sparsity_below_that_of_the_mask_is_refused(distribution):
    model = random_network(7)
    mask = prune(model, sparsity=0.5)
    with pytest.raises(PruningError, match=r"sparser already \(50\.00%\).*40\.00%"):
        prune(model, PruningConfig(distribution=distribution), mask, sparsity=0.4)


def test_a_mask_over_other_weights_is_refused():
    mask = prune(random_network(0, ((30, 20), (7, 30))), sparsity=0.5)
    with pytest.raises(PruningError, match=r"other weights.*2\.weight"):
        prune(random_network(0), mask=mask, sparsity=0.6)
    with pytest.raises(PruningError, match=r"other weights.*shapes"):
        prune(random_network(0, ((30, 20), (30, 7))), mask=mask, sparsity=0.6)


# What it must not do.


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
@pytest.mark.parametrize("distribution", ["global", "uniform", "erk"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pruning_changes_neither_model_nor_mask(criterion, distribution, dtype):
    model = random_network(8, dtype=dtype)
    for layer in model:
        layer.weight.grad = torch.ones_like(layer.weight)
    config = PruningConfig(criterion=criterion, distribution=distribution)
    mask = prune(model, config, sparsity=0.3)
    before, digest = content_in_bits(model), Mask({k: v.clone() for k, v in mask.items()}).digest
    result = prune(model, config, mask, sparsity=0.6)
    assert content_in_bits(model) == before
    assert Mask(dict(mask)).digest == digest
    assert not any(value.requires_grad for value in result.values())


def content_in_bits(model):
    return {
        name: value.view(torch.int16 if value.element_size() == 2 else torch.int32).numpy().tobytes()
        for name, value in model.state_dict().items()
    }


def test_frozen_weights_can_be_pruned():
    model = random_network(9).requires_grad_(False)
    assert_equal(prune(model, sparsity=0.5), reference(model, 0.5))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", ["one", "layer", "all"])
def test_weights_that_are_not_finite_are_an_error_that_names_the_parameter(bad, dtype, share):
    model = random_network(10, dtype=dtype)
    with torch.no_grad():
        if share == "one":
            model[1].weight[3, 4] = bad
        elif share == "layer":
            model[1].weight.fill_(bad)
        else:
            for layer in model:
                layer.weight.fill_(bad)
    before = content_in_bits(model)
    name = r"0\.weight" if share == "all" else r"1\.weight"
    for distribution in ("global", "uniform", "erk"):
        for criterion in ("magnitude", "random"):
            for sparsity in (0.01, 0.5, 0.99):
                config = PruningConfig(criterion=criterion, distribution=distribution)
                with pytest.raises(PruningError, match=name):
                    prune(model, config, sparsity=sparsity)
    assert content_in_bits(model) == before


@pytest.mark.parametrize("bits", [0x7FFFFFFF, -1, 0x7F800001])
def test_every_bit_pattern_of_nan_is_found(bits):
    model = random_network(11)
    model[2].weight.data.view(torch.int32).fill_(bits)
    for sparsity in (0.1, 0.5, 0.99):
        with pytest.raises(PruningError, match=r"2\.weight"):
            prune(model, sparsity=sparsity)


def test_double_precision_weights_are_ranked_exactly_or_refused():
    weight = 1 + torch.arange(100, dtype=torch.float64).flip(0).reshape(10, 10) * 1e-12
    model = network(weight)
    try:
        mask = prune(model, sparsity=0.5)
    except PruningError:
        return
    assert_equal(mask, reference(model, 0.5))


# However the work is cut, and whatever a sample of the weights looks like.


def distributions_of_weights():
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(60, 50, generator=generator)
    zeros = normal.clone()
    zeros[torch.rand(60, 50, generator=generator) < 0.5] = 0
    return {
        "sorted": [normal.flatten().sort().values.reshape(60, 50), torch.linspace(1, 0, 1200).reshape(40, 30)],
        "one huge outlier layer": [1e-6 * normal, 1e30 * torch.rand(20, 20, generator=generator), 1e-6 * normal],
        "all equal": [torch.full((60, 50), 0.25), torch.full((10, 10), -0.25)],
        "half zeros": [zeros, -zeros],
        "two values": [torch.where(normal > 0.3, 1.0, 2.0), torch.where(normal > -1, 1.0, 2.0)],
        "one in a thousand differs": [torch.ones(10_000).index_fill_(0, torch.tensor(773), 0.5).reshape(100, 100)],
        "periodic": [torch.arange(4096.0).remainder(64).reshape(64, 64), torch.arange(4096.0).reshape(64, 64)],
        "neighbouring floats": [torch.arange(0x3F800000, 0x3F800000 + 5000).int().view(torch.float32).reshape(50, 100)],
        "every exponent": [torch.logspace(-44, 38, 3000, dtype=torch.float64).float().reshape(50, 60)],
    }


@pytest.mark.parametrize("block", [64, 999, 1 << 18])
@pytest.mark.parametrize("sample", [1, 16, 1 << 17])
@pytest.mark.parametrize("name", list(distributions_of_weights()))
def test_blocks_and_sample_change_nothing(monkeypatch, block, sample, name):
    monkeypatch.setattr("hf_tickets.pruning.prune._BLOCK", block)
    monkeypatch.setattr("hf_tickets.pruning.prune.SAMPLE", sample)
    model = network(*distributions_of_weights()[name])
    mask = None
    for sparsity in (0.0003, 0.2, 0.5, 0.9, 0.9997):
        previous, mask = mask, prune(model, mask=mask, sparsity=sparsity)
        assert_equal(mask, reference(model, sparsity, previous))


@pytest.mark.parametrize("margin", [-3.0, 0.0])
@pytest.mark.parametrize("bins", [2, 5, 11])
def test_a_sample_that_misleads_and_few_bins_cost_passes_and_change_nothing(monkeypatch, margin, bins):
    monkeypatch.setattr("hf_tickets.pruning.threshold._SAMPLE_MARGIN", margin)
    monkeypatch.setattr("hf_tickets.pruning.threshold._BINS_BITS", bins)
    monkeypatch.setattr("hf_tickets.pruning.prune.SAMPLE", 50)
    for ties in (False, True):
        model = random_network(12, ties=ties)
        for sparsity in (0.001, 0.1, 0.5, 0.9, 0.999):
            assert_equal(prune(model, sparsity=sparsity), reference(model, sparsity))


def test_more_weights_than_the_default_sample_and_block():
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(700, 600, generator=generator), torch.randn(300, 700, generator=generator).round()]
    model = network(*weights)
    for sparsity in (0.1, 0.5, 0.98):
        assert_equal(prune(model, sparsity=sparsity), reference(model, sparsity))
