"""Shuffling moves weights and changes none: whole layers within their stack, or entries within a tensor."""

import pytest
import timm
import torch
from torch import Tensor
from trainer.tiny import bert
from transformers import T5Config, T5ForConditionalGeneration

from hf_tickets.errors import PruningError
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.prune import prune
from hf_tickets.pruning.scope import prunable_weights
from hf_tickets.pruning.shuffling import random_layerwise, shuffled, shuffled_elements

ROLES = ("attention.query.weight", "attention.key.weight", "output.dense.weight")


def encoder(layers: int) -> dict[str, Tensor]:
    """Matrices whose value says which layer and role they come from."""
    weights = {
        f"encoder.layer.{layer}.{role}": torch.full((3, 3), float(10 * layer + number))
        for layer in range(layers)
        for number, role in enumerate(ROLES)
    }
    return {**weights, "pooler.dense.weight": torch.full((3, 3), -1.0)}


def sources(weights: dict[str, Tensor], layers: int) -> list[list[int]]:
    """For each role, the layer that each layer's matrix comes from."""
    return [[int(weights[f"encoder.layer.{layer}.{role}"][0, 0]) // 10 for layer in range(layers)] for role in ROLES]


@pytest.mark.parametrize("layers", [2, 12])
@pytest.mark.parametrize("seed", range(4))
def test_all_matrices_of_a_layer_move_together_and_some_layer_moves(layers: int, seed: int) -> None:
    before = encoder(layers)
    after = shuffled(before, seed)
    orders = sources(after, layers)
    assert all(order == orders[0] for order in orders)
    assert sorted(orders[0]) == list(range(layers))
    assert orders[0] != sorted(orders[0])
    for number, role in enumerate(ROLES):  # no role takes another's place
        assert {int(after[f"encoder.layer.{layer}.{role}"][0, 0]) % 10 for layer in range(layers)} == {number}
    assert after["pooler.dense.weight"] is before["pooler.dense.weight"]


def test_the_order_depends_on_the_seed_alone() -> None:
    orders = [sources(shuffled(encoder(12), seed), 12)[0] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_blocks_of_a_stage_trade_what_they_have_alike() -> None:
    """The first block of a ResNet's stage takes fewer channels, so its first convolution stays."""
    weights = dict(prunable_weights(timm.create_model("resnet26")))
    deep = {name: weight for name, weight in weights.items() if name.startswith("layer2.")}
    after = shuffled(weights, 1)
    for name, weight in deep.items():
        other = next(place for place, value in weights.items() if value is after[name])
        assert after[name].shape == weight.shape
        role = name.split(".", 2)[2]
        alike = role in ("conv2.weight", "conv3.weight")
        assert (other != name) == alike
        assert other.startswith("layer2.")
        assert other.endswith(role)


def test_encoder_and_decoder_are_two_stacks() -> None:
    sizes = {"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 4, "num_heads": 2}
    weights = dict(prunable_weights(T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))))
    after = shuffled(weights, 3)
    for name, weight in after.items():
        other = next(place for place, value in weights.items() if value is weight)
        assert other.split(".")[0] == name.split(".")[0]
        assert other.split(".")[3:] == name.split(".")[3:]


def test_a_model_whose_layers_all_differ_is_refused() -> None:
    with pytest.raises(PruningError, match="shuffled_elements"):
        shuffled(dict(prunable_weights(timm.create_model("resnet10t"))), 0)


def test_elements_keep_their_values_and_leave_their_places() -> None:
    weights = {name: weight.detach() for name, weight in prunable_weights(bert()).items()}
    first, again, other = (shuffled_elements(weights, seed) for seed in (1, 1, 2))
    for name, weight in weights.items():
        assert torch.equal(first[name].flatten().sort().values, weight.flatten().sort().values)
        assert (first[name] != weight).float().mean() > 0.9
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


def test_a_layerwise_random_mask_keeps_as_many_of_each_layer() -> None:
    mask = prune(bert(), PruningConfig(distribution="erk"), sparsity=0.6)
    drawn = random_layerwise(mask, 1)
    assert drawn.kept_by_layer == mask.kept_by_layer
    assert drawn.shapes == mask.shapes
    assert drawn == random_layerwise(mask, 1)
    assert drawn != random_layerwise(mask, 2)
    # Independent of the mask: of a layer of density d, the share d of what it keeps is kept.
    by_chance = sum(kept**2 / mask[name].numel() for name, kept in mask.kept_by_layer.items())
    assert (drawn & mask).kept == pytest.approx(by_chance, rel=0.05)
