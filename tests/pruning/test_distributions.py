"""Distributions against their formulas: uniform, and ERK as the RigL paper states it."""

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hf_tickets.errors import PruningError
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.distributions import allocate
from hf_tickets.pruning.prune import prune
from hf_tickets.pruning.schedules import sparsity_schedule

SHAPES = {"a": (64, 64, 3, 3), "b": (10, 64), "c": (256, 64, 1, 1), "d": (300, 300), "e": (32, 1, 3, 3)}

shape = st.one_of(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 5)),
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 3), st.integers(1, 3)),
)
models = st.lists(shape, min_size=1, max_size=8).map(lambda shapes: {f"w{i}": s for i, s in enumerate(shapes)})
none_pruned = dict.fromkeys(SHAPES, 0)


def erk_densities(shapes, sparsity):
    """Density min(1, ε · sum(shape) / prod(shape)), ε by bisection so that the kept weights add up."""
    total = (1 - sparsity) * sum(map(prod, shapes.values()))

    def densities(epsilon):
        return {name: min(1.0, epsilon * sum(s) / prod(s)) for name, s in shapes.items()}

    low, high = 0.0, max(prod(s) / sum(s) for s in shapes.values())
    for _ in range(200):
        middle = (low + high) / 2
        kept = sum(density * prod(shapes[name]) for name, density in densities(middle).items())
        low, high = (middle, high) if kept < total else (low, middle)
    return densities(high)


def pruned_counts(name, shapes, sparsity, pruned=None):
    groups = allocate(name, shapes, sparsity, pruned or dict.fromkeys(shapes, 0))
    return {group.names[0]: group.pruned for group in groups}


@given(models, st.floats(0, 0.999))
def test_uniform_prunes_the_same_share_of_every_layer(shapes, sparsity):
    counts = pruned_counts("uniform", shapes, sparsity)
    assert sum(counts.values()) == round(sparsity * sum(map(prod, shapes.values())))
    for name, count in counts.items():
        assert abs(count - sparsity * prod(shapes[name])) < 1 + 1e-6


@given(models, st.floats(0, 0.999))
def test_erk_follows_the_formula_of_the_rigl_paper(shapes, sparsity):
    counts = pruned_counts("erk", shapes, sparsity)
    assert sum(counts.values()) == round(sparsity * sum(map(prod, shapes.values())))
    for name, density in erk_densities(shapes, sparsity).items():
        assert abs(counts[name] - (1 - density) * prod(shapes[name])) < 1.01
        assert 0 <= counts[name] <= prod(shapes[name])


def test_erk_by_hand():
    """Two layers, no cap: densities 20/100 and 200/10,000 times ε, and ε · (20 + 200) weights are kept."""
    shapes = {"small": (10, 10), "large": (100, 100)}
    kept = 0.02 * 10_100
    counts = pruned_counts("erk", shapes, 0.98)
    assert counts["small"] == pytest.approx(100 - kept * 20 / 220, abs=1)
    assert counts["large"] == pytest.approx(10_000 - kept * 200 / 220, abs=1)


def test_erk_caps_small_layers_at_dense():
    counts = pruned_counts("erk", {"small": (2, 2), "large": (1000, 1000)}, 0.5)
    assert counts == {"small": 0, "large": 500_002}


@given(models, st.sampled_from(["uniform", "erk"]), st.lists(st.floats(0, 0.99), min_size=2, max_size=5).map(sorted))
def test_what_is_pruned_stays_pruned_whatever_came_before(shapes, name, sparsities):
    pruned = dict.fromkeys(shapes, 0)
    for sparsity in sparsities:
        counts = pruned_counts(name, shapes, sparsity, pruned)
        assert all(pruned[layer] <= counts[layer] <= prod(shapes[layer]) for layer in shapes)
        assert sum(counts.values()) == round(sparsity * sum(map(prod, shapes.values())))
        pruned = counts


@given(models, st.sampled_from(["uniform", "erk"]), st.data())
def test_any_prior_mask_is_respected(shapes, name, data):
    pruned = {layer: data.draw(st.integers(0, prod(s))) for layer, s in shapes.items()}
    total = sum(map(prod, shapes.values()))
    least = sum(pruned.values())
    if least == total:
        return
    sparsity = data.draw(st.integers(least, total - 1)) / total
    counts = pruned_counts(name, shapes, sparsity, pruned)
    assert sum(counts.values()) == round(sparsity * total)
    assert all(pruned[layer] <= counts[layer] <= prod(shapes[layer]) for layer in shapes)


def layers():
    generator = torch.Generator().manual_seed(0)
    model = nn.ModuleDict()
    for name, (outputs, inputs, *kernel) in {"z": (4, 3, 3, 3), **SHAPES}.items():
        model[name] = nn.Conv2d(inputs, outputs, kernel) if kernel else nn.Linear(inputs, outputs)
        nn.init.normal_(model[name].weight, std=0.1 + 0.1 * len(model), generator=generator)
    return model


@pytest.mark.parametrize("distribution", ["uniform", "erk"])
def test_each_layer_loses_its_own_smallest_weights_and_masks_nest_over_a_schedule(distribution):
    model = layers()
    config = PruningConfig(distribution=distribution, amount=0.35, rounds=8)
    shapes = {f"{name}.weight": s for name, s in SHAPES.items()}
    mask = None
    for sparsity in sparsity_schedule(config):
        previous, mask = mask, prune(model, config, mask)
        assert previous is None or mask <= previous
        expected = {name: round(sparsity * prod(s)) for name, s in shapes.items()}
        if distribution == "erk":
            densities = erk_densities(shapes, sparsity)
            expected = {name: round((1 - densities[name]) * prod(s)) for name, s in shapes.items()}
        for name, kept in mask.items():
            pruned = int((~kept).sum())
            assert abs(pruned - expected[name]) <= 1
            magnitudes = model.get_parameter(name).detach().abs()
            if 0 < pruned < kept.numel():
                assert magnitudes[~kept].max() < magnitudes[kept].min()
        assert mask.numel - mask.kept == round(sparsity * sum(map(prod, shapes.values())))


def test_a_sparsity_below_the_masks_is_refused():
    with pytest.raises(PruningError, match="sparser already"):
        allocate("uniform", SHAPES, 0.1, {**none_pruned, "d": 60_000})
