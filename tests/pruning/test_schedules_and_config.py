"""Schedules against their formulas, and what a PruningConfig refuses."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hf_tickets.errors import PruningError
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.prune import prune
from hf_tickets.pruning.schedules import sparsity_schedule


@given(st.floats(0.01, 0.9), st.integers(1, 20))
def test_share_of_the_remaining_weights(amount, rounds):
    schedule = sparsity_schedule(PruningConfig(amount=amount, rounds=rounds))
    remaining = 1.0
    expected = []
    for _ in range(rounds):
        remaining -= amount * remaining
        expected.append(1 - remaining)
    assert schedule == pytest.approx(expected, abs=1e-9)


@given(st.integers(1, 99), st.integers(1, 99))
def test_share_of_the_original_weights(percent, rounds):
    if percent * rounds >= 100:
        with pytest.raises(PruningError, match=f"use at most {99 // percent} rounds"):
            PruningConfig(amount=percent / 100, amount_of="original", rounds=rounds)
        return
    schedule = sparsity_schedule(PruningConfig(amount=percent / 100, amount_of="original", rounds=rounds))
    assert list(schedule) == [percent * k / 100 for k in range(1, rounds + 1)]


def test_the_papers_schedules():
    bert = PruningConfig(amount=0.1, amount_of="original", rounds=9)
    assert sparsity_schedule(bert) == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    vision = sparsity_schedule(PruningConfig())
    assert len(vision) == 10
    assert vision[:4] == (0.2, 0.36, 0.488, 0.5904)


def test_an_explicit_list_is_taken_as_it_is():
    config = PruningConfig(sparsities=[0.1, 0.5, 0.93], amount=0.4, rounds=7)
    assert sparsity_schedule(config) == (0.1, 0.5, 0.93)
    assert config.rounds == 3


@given(st.floats(0.01, 0.6), st.integers(1, 12), st.sampled_from(["remaining", "original"]))
def test_schedules_rise(amount, rounds, amount_of):
    if amount_of == "original":
        rounds = min(rounds, int(0.999 / amount))
    schedule = sparsity_schedule(PruningConfig(amount=amount, amount_of=amount_of, rounds=rounds))
    assert all(0 < before < after < 1 for before, after in pairwise((1e-12, *schedule)))


def test_without_a_sparsity_pruning_follows_the_schedule_round_by_round():
    model, config, mask = nn.Linear(40, 25), PruningConfig(amount=0.3, rounds=4), None
    for sparsity in sparsity_schedule(config):
        mask = prune(model, config, mask)
        assert mask.numel - mask.kept == round(sparsity * 1000)
    with pytest.raises(PruningError, match="give a sparsity"):
        prune(model, config, mask)


@pytest.mark.parametrize(
    "values",
    [
        {"amount": 0.0},
        {"amount": 1.0},
        {"amount": -0.1},
        {"amount": 20},
        {"amount": float("nan")},
        {"rounds": -1},
        {"amount_of": "rest"},
        {"scope": "head"},
        {"sparsities": []},
        {"sparsities": [0.5, 0.5]},
        {"sparsities": [0.5, 0.4]},
        {"sparsities": [0.0, 0.4]},
        {"sparsities": [0.4, 1.0]},
        {"sparsities": [0.4, float("nan")]},
        {"sparsities": [50, 70]},
    ],
)
def test_values_out_of_range_are_refused_by_name(values):
    with pytest.raises(PruningError, match=next(iter(values))):
        PruningConfig(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"amount": "a fifth"},
        {"amount": None},
        {"rounds": "ten"},
        {"rounds": 2.5},
        {"sparsities": 0.5},
        {"sparsities": ["half"]},
        {"sparsities": [[0.5]]},
        {"target_modules": 5},
        {"target_modules": [1, 2]},
        {"exclude_modules": {"query": 1}},
        {"pruning_seed": "one"},
        {"amount_of": ["remaining"]},
        {"criterion": 3},
        {"distribution": None},
    ],
)
def test_values_of_another_type_are_refused_by_name(values):
    """Configs arrive from recipes and from other people's tickets."""
    with pytest.raises(PruningError, match=next(iter(values))):
        PruningConfig(**values)


@pytest.mark.parametrize("field", ["criterion", "distribution"])
def test_an_unknown_criterion_or_distribution_is_refused_with_the_known_ones(field):
    with pytest.raises(PruningError, match=rf"{field} must be one of .*, not 'best'"):
        prune(nn.Linear(4, 4), PruningConfig(**{field: "best"}), sparsity=0.5)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
@pytest.mark.parametrize("distribution", ["global", "uniform", "erk"])
def test_a_sparsity_out_of_range_is_refused(sparsity, distribution):
    with pytest.raises(PruningError, match="sparsity"):
        prune(nn.Linear(4, 4), PruningConfig(distribution=distribution), sparsity=sparsity)


def test_a_config_goes_through_json_unchanged():
    config = PruningConfig(sparsities=[0.2, 0.4], target_modules=["query"], exclude_modules=".*0.*", pruning_seed=3)
    assert PruningConfig(**json.loads(json.dumps(config.to_dict()))) == config
