"""Overlap of masks: scikit-learn's Jaccard index, and the overlap that chance gives."""

import numpy
import pytest
import torch
from sklearn.metrics import jaccard_score

from hf_tickets.analysis.overlap import (
    chance_overlap,
    layer_overlap,
    layer_overlap_figure,
    mask_overlap,
    overlap_figure,
)
from hf_tickets.errors import PruningError
from hf_tickets.pruning.mask import Mask

SHAPES = {"layer1.0.conv1.weight": (16, 8, 3, 3), "layer2.0.conv1.weight": (32, 16), "fc.weight": (10, 32)}


def drawn(density: dict[str, float] | float, seed: int, shapes: dict[str, tuple[int, ...]] = SHAPES) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    chance = density if isinstance(density, dict) else dict.fromkeys(shapes, density)
    return Mask({name: torch.rand(shape, generator=generator) < chance[name] for name, shape in shapes.items()})


def flat(mask: Mask) -> numpy.ndarray:
    return torch.cat([value.flatten() for value in mask.values()]).numpy()


def test_jaccard_is_scikit_learns_for_the_whole_and_for_each_layer() -> None:
    masks = {"a": drawn(0.3, 1), "b": drawn(0.6, 2), "c": drawn(0.1, 3)}
    table = mask_overlap(masks)
    assert list(zip(table["first"], table["second"], strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]
    for row in table.itertuples():
        assert row.jaccard == pytest.approx(jaccard_score(flat(masks[row.first]), flat(masks[row.second])))
        assert row.first_sparsity == pytest.approx(1 - flat(masks[row.first]).mean())
    layers = layer_overlap(masks["a"], masks["b"])
    assert list(layers.index) == list(SHAPES)
    for name, row in layers.iterrows():
        first, second = masks["a"][name].flatten().numpy(), masks["b"][name].flatten().numpy()
        assert row["jaccard"] == pytest.approx(jaccard_score(first, second))
        assert row["second_sparsity"] == pytest.approx(1 - second.mean())


@pytest.mark.parametrize(("p", "q"), [(0.5, 0.5), (0.2, 0.2), (0.1, 0.7)])
def test_chance_is_what_random_masks_overlap_on_average(p: float, q: float) -> None:
    shape = {"weight": (400, 500)}
    drawings = [drawn(p, seed, shape).overlap(drawn(q, 100 + seed, shape)) for seed in range(10)]
    assert chance_overlap(p, q) == pytest.approx(p * q / (p + q - p * q))
    assert chance_overlap(p, q) == pytest.approx(numpy.mean(drawings), rel=0.01)
    row = mask_overlap({"a": drawn(p, 1, shape), "b": drawn(q, 2, shape)}).iloc[0]
    assert row["relative"] == pytest.approx(1, abs=0.03)
    assert row["relative"] == pytest.approx(row["jaccard"] / row["chance"])


def test_layer_chance_knows_that_layers_have_sparsities_of_their_own() -> None:
    shapes = {"a.weight": (300, 300), "b.weight": (300, 300)}
    density = {"a.weight": 0.9, "b.weight": 0.1}
    row = mask_overlap({"x": drawn(density, 1, shapes), "y": drawn(density, 2, shapes)}).iloc[0]
    assert row["chance"] == pytest.approx(0.25 / 0.75, abs=0.01)  # half of the weights are kept
    assert row["layer_chance"] == pytest.approx((0.81 + 0.01) / (2 - 0.82), abs=0.01)
    assert row["layer_chance"] == pytest.approx(row["jaccard"], rel=0.02)


def test_a_mask_overlaps_itself_wholly_and_its_reverse_not_at_all() -> None:
    mask = drawn(0.4, 1)
    table = mask_overlap({"mask": mask, "same": mask, "reverse": ~mask})
    assert list(table["jaccard"]) == [1, 0, 0]


def test_layers_without_any_weight_kept_have_no_chance_level() -> None:
    empty = Mask({"weight": torch.zeros(4, 4, dtype=torch.bool)})
    assert numpy.isnan(layer_overlap(empty, empty)["relative"].iloc[0])


def test_masks_over_other_weights_are_refused_with_the_layers_that_differ() -> None:
    other = Mask({"layer1.0.conv1.weight": torch.ones(16, 8, 1, 1).bool(), "new.weight": torch.ones(2).bool()})
    with pytest.raises(PruningError) as caught:
        mask_overlap({"mine": drawn(0.5, 1), "theirs": other})
    message = str(caught.value)
    assert "mine and theirs" in message
    assert "layer1.0.conv1.weight is 16×8×3×3 and 16×8×1×1" in message
    assert "layer2.0.conv1.weight is 32×16 and missing" in message
    assert "1 more" in message
    with pytest.raises(PruningError, match="two masks"):
        mask_overlap({"mine": drawn(0.5, 1)})


def test_grid_shows_every_pair_from_both_sides() -> None:
    table = mask_overlap({"a": drawn(0.5, 1), "b$^$": drawn(0.5, 2), "c": drawn(0.5, 3)})
    figure = overlap_figure(table, "three")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    grid = axes.images[0].get_array()
    assert grid.data == pytest.approx(grid.data.T)
    assert grid[0, 1] == pytest.approx(table["jaccard"][0])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["a", r"b\$^\$", "c"]


def test_curves_by_layer_stand_beside_chance() -> None:
    table = layer_overlap(drawn(0.5, 1), drawn(0.5, 2))
    axes = layer_overlap_figure({"a, b": table}).axes[0]
    curve, chance = axes.get_lines()[:2]
    assert list(curve.get_xdata()) == [1, 2, 3]
    assert list(curve.get_ydata()) == list(table["jaccard"])
    assert list(chance.get_ydata()) == list(table["chance"])
