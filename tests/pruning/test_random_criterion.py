"""The random criterion: uniform, of its seed alone, and the same however the work is cut."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2, ks_2samp
from torch import nn

from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.criteria import Block, random
from hf_tickets.pruning.prune import prune


def model(sizes=((300, 200), (150, 300))):
    return nn.Sequential(*(nn.Linear(inputs, outputs) for outputs, inputs in sizes))


def scores(name="layer.weight", seed=0, count=100_000):
    return random(Block(name, torch.zeros(count), 0, 1, seed)).numpy()


def test_scores_are_uniform_in_every_bit_and_in_order():
    values = scores()
    assert values.min() >= 0
    bits = int(values.max()).bit_length()
    share_set = np.array([((values >> bit) & 1).mean() for bit in range(bits)])
    assert np.abs(share_set - 0.5).max() < 5 * 0.5 / len(values) ** 0.5
    cells = np.histogram(values, bins=256, range=(0, 1 << bits))[0]
    expected = len(values) / 256
    assert ((cells - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, 255)
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.02


@pytest.mark.parametrize("other", [{"seed": 1}, {"name": "other.weight"}])
def test_other_seeds_and_names_give_independent_scores(other):
    one, two = scores(), scores(**other)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.02
    assert ks_2samp(one, two).pvalue > 1e-6
    assert len(np.intersect1d(one, two)) < 100


def test_nearby_seeds_are_not_shifts_of_each_other():
    one = scores(seed=0, count=2000)
    for seed in range(1, 20):
        assert len(np.intersect1d(one, scores(seed=seed, count=2000))) < 10


def test_every_layer_and_row_is_pruned_about_equally():
    mask = prune(model(), PruningConfig(criterion="random"), sparsity=0.6)
    for name, sparsity in mask.sparsity_by_layer.items():
        assert abs(sparsity - 0.6) < 5 * (0.24 / mask[name].numel()) ** 0.5
    rows = mask["0.weight"].float().mean(1)
    assert (rows - 0.4).abs().max() < 6 * (0.24 / 200) ** 0.5


def test_masks_are_of_the_seed_alone_not_of_weights_or_process_state():
    config = PruningConfig(criterion="random", pruning_seed=5)
    torch.manual_seed(1)
    one = prune(model(), config, sparsity=0.5)
    torch.manual_seed(2)
    two = prune(model().to(torch.bfloat16), config, sparsity=0.5)
    assert one == two
    other = prune(model(), PruningConfig(criterion="random", pruning_seed=6), sparsity=0.5)
    assert abs(one.overlap(other) - 1 / 3) < 0.02


def test_pruning_leaves_the_process_wide_generator_alone():
    layer = nn.Linear(50, 50)
    state = torch.get_rng_state()
    prune(layer, PruningConfig(criterion="random"), sparsity=0.5)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("block", [1 << 6, 1000, 77])
def test_blocks_change_nothing(monkeypatch, block):
    config = PruningConfig(criterion="random", pruning_seed=3)
    net = model(((40, 50), (30, 40)))
    whole = prune(net, config, sparsity=0.7)
    monkeypatch.setattr("hf_tickets.pruning.prune._BLOCK", block)
    assert prune(net, config, sparsity=0.7) == whole


def test_layout_in_memory_changes_nothing():
    config = PruningConfig(criterion="random")
    net = model()
    whole = prune(net, config, sparsity=0.7)
    net[0].weight = nn.Parameter(net[0].weight.detach().t().contiguous().t())
    assert not net[0].weight.is_contiguous()
    assert prune(net, config, sparsity=0.7) == whole


def test_random_masks_nest_and_hit_the_count_exactly():
    config, mask = PruningConfig(criterion="random", rounds=6, amount=0.3), None
    for sparsity in (0.1, 0.33, 0.5, 0.9, 0.99):
        previous, mask = mask, prune(model(), config, mask, sparsity=sparsity)
        assert mask.numel - mask.kept == round(sparsity * mask.numel)
        assert previous is None or mask <= previous
