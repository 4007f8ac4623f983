"""Perturbation of models whose accuracy is known by construction."""

import pytest
import torch
from scipy.stats import norm
from torch import nn

from hf_tickets.errors import PruningError
from hf_tickets.pruning.mask import Mask
from hf_tickets.studies.perturbation import flip_sensitivity, flipped, noise_sensitivity, sensitivity_figure

CLASSES = 40


@pytest.fixture
def model() -> nn.Linear:
    """Class i is right where weight (i, i) is there; no other weight matters."""
    layer = nn.Linear(CLASSES, CLASSES, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(CLASSES))
    return layer


@pytest.fixture
def mask() -> Mask:
    return Mask({"weight": torch.eye(CLASSES).bool()})


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    return (model(torch.eye(CLASSES)).diagonal() > 0.5).float().mean().item()


def layers() -> Mask:
    generator = torch.Generator().manual_seed(0)
    return Mask({name: torch.rand(30, 50, generator=generator) < density for name, density in (("a", 0.7), ("b", 0.1))})


def test_accuracy_falls_by_the_share_of_kept_entries_that_flips(model: nn.Linear, mask: Mask) -> None:
    # Half of 1 % of 1600 entries prunes: 8 of the 40 that are kept.
    table = flip_sensitivity(model, mask, accuracy, shares=(0, 0.01, 0.05), seeds=(0, 1))
    assert table["share"].tolist() == [0, 0.01, 0.01, 0.05, 0.05]
    assert table["result"].tolist() == pytest.approx([1, 0.8, 0.8, 0, 0])
    assert table["sparsity"].tolist() == pytest.approx([mask.sparsity] * 5)


def test_without_the_sparsity_kept_any_entry_may_flip(model: nn.Linear, mask: Mask) -> None:
    table = flip_sensitivity(model, mask, accuracy, shares=(0.3, 1), seeds=range(5), keep_sparsity=False)
    results = table.groupby("share")["result"].mean()
    assert results[0.3] == pytest.approx(0.7, abs=0.1)
    assert results[1] == 0
    assert table["sparsity"].iloc[-1] == pytest.approx(1 - mask.sparsity)


@pytest.mark.parametrize("keep_sparsity", [True, False])
def test_exactly_the_share_flips_in_every_layer_alike(keep_sparsity: bool) -> None:
    mask = layers()
    changed = flipped(mask, 0.2, 3, keep_sparsity)
    different = {name: (mask[name] != changed[name]).float().mean().item() for name in mask}
    assert sum(different.values()) / 2 == pytest.approx(0.2)
    assert changed == flipped(mask, 0.2, 3, keep_sparsity)
    assert changed != flipped(mask, 0.2, 4, keep_sparsity)
    if keep_sparsity:
        assert changed.kept == mask.kept
        pruned = {name: (mask[name] & ~changed[name]).sum() / mask[name].sum() for name in mask}
        assert pruned["a"] == pytest.approx(300 / mask.kept, abs=0.05)
        assert pruned["b"] == pytest.approx(300 / mask.kept, abs=0.1)
    else:
        assert different["a"] == pytest.approx(0.2, abs=0.04)


def test_a_share_of_one_gives_the_reverse_mask() -> None:
    mask = layers()
    assert flipped(mask, 1, keep_sparsity=False) == ~mask
    assert flipped(mask, 0) == mask


def test_more_flips_than_entries_are_refused_before_anything_is_measured(model: nn.Linear, mask: Mask) -> None:
    def never(_: nn.Module) -> float:
        raise AssertionError

    with pytest.raises(PruningError, match=r"at most 0\.0500.*keep_sparsity=False"):
        flip_sensitivity(model, mask, never, shares=(0.01, 0.06))
    with pytest.raises(PruningError, match="from 0 to 1"):
        flipped(mask, 1.5)
    with pytest.raises(PruningError, match="at least 0"):
        noise_sensitivity(model, mask, never, multiples=(0.1, -1))
    with pytest.raises(PruningError, match="another model"):
        flip_sensitivity(nn.Linear(2, 2), mask, never, shares=(0.01,))


def test_noise_turns_as_many_signs_as_the_normal_distribution_says() -> None:
    count = 20_000
    model = nn.Linear(1, 2 * count, bias=False)
    signs = torch.ones(2 * count, 1)
    signs[::2] = -1  # σ of the kept weights is 1
    with torch.no_grad():
        model.weight.copy_(signs)
    kept = torch.zeros(2 * count, 1, dtype=torch.bool)
    kept[:count] = True

    @torch.no_grad()
    def signs_right(model: nn.Module) -> float:
        outputs = model(torch.ones(1, 1)).T
        assert (outputs[~kept] == 0).all()
        return (outputs[kept].sign() == signs[kept]).float().mean().item()

    table = noise_sensitivity(model, Mask({"weight": kept}), signs_right, multiples=(0, 0.5, 1, 2), seeds=(0, 1))
    expected = [1, *(norm.cdf(1 / multiple) for multiple in (0.5, 0.5, 1, 1, 2, 2))]
    assert table["result"].tolist() == pytest.approx(expected, abs=0.015)
    assert table["result"][1] != table["result"][2]


def test_the_model_is_the_same_afterwards_whatever_the_evaluation_does() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    mask = Mask({"0.weight": torch.rand(4, 4) < 0.5})
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def train(model: nn.Module) -> float:
        model(torch.rand(8, 4))
        nn.init.zeros_(model[0].bias)
        model.eval()
        return 0.0

    flip_sensitivity(model, mask, train, shares=(0.1,), seeds=(0,))
    with pytest.raises(ZeroDivisionError):
        noise_sensitivity(model, mask, lambda model: train(model) / 0)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_figure_shows_the_mean_over_seeds(model: nn.Linear, mask: Mask) -> None:
    table = flip_sensitivity(model, mask, accuracy, shares=(0, 0.1), seeds=range(4), keep_sparsity=False)
    axes = sensitivity_figure({"ticket": table}).axes[0]
    (line,) = axes.get_lines()
    assert list(line.get_xdata()) == [0, 10]
    assert list(line.get_ydata()) == pytest.approx([1, table["result"][1:].mean()])
    noisy = noise_sensitivity(model, mask, accuracy, multiples=(0, 1), seeds=(0,))
    assert "σ" in sensitivity_figure({"ticket": noisy}).axes[0].get_xlabel()
