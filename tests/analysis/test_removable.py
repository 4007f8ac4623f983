"""What can really be removed: the smaller model gives the same outputs, and costs what the table says it does."""

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel
from transformers.pytorch_utils import Conv1D

from hf_tickets import prune
from hf_tickets.analysis.removable import connected_weights, removable_figure, removable_table
from hf_tickets.errors import PruningError
from hf_tickets.pruning.mask import Mask

IMAGES = torch.rand(2, 3, 8, 8)


def conv_net(first: int = 6, second: int = 5) -> nn.Sequential:
    """A net without biases: a unit without inputs gives zero, also at padded edges."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, first, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(second, 4, bias=False),
    )


def whole(model: nn.Module) -> dict[str, torch.Tensor]:
    named = model.named_parameters()
    return {name: torch.ones_like(value, dtype=torch.bool) for name, value in named if value.dim() > 1}


@pytest.fixture
def mask() -> Mask:
    """First layer: unit 1 has no inputs, units 2 and 3 no readers. Second: unit 4 reads only what is dead."""
    kept = whole(conv_net())
    kept["0.weight"][1] = False
    kept["2.weight"][:, 2:4] = False
    kept["2.weight"][4, [0, 4, 5]] = False
    kept["2.weight"][0, 0, 1, 1] = False
    return Mask(kept)


def flops(model: nn.Module, images: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops()


def test_the_smaller_model_has_the_same_outputs_and_costs_what_is_said(mask: Mask) -> None:
    model = conv_net().eval()
    mask.apply_(model)
    table = removable_table(model, mask, IMAGES)
    assert table["dead_outputs"].tolist() == [3, 1, 0]
    assert table["dead_inputs"].tolist() == [0, 3, 1]

    live, live_second = [0, 4, 5], [0, 1, 2, 3]
    small = conv_net(3, 4).eval()
    with torch.no_grad():
        small[0].weight.copy_(model[0].weight[live])
        small[2].weight.copy_(model[2].weight[live_second][:, live])
        small[6].weight.copy_(model[6].weight[:, live_second])
        torch.testing.assert_close(small(IMAGES), model(IMAGES))
    sizes = [sum(parameter.numel() for parameter in net.parameters()) for net in (model, small)]
    assert table["weights"].sum() == sizes[0]
    assert table["removable"].sum() == sizes[0] - sizes[1]
    assert table["flops"].sum() == flops(model, IMAGES)
    assert table["removable_flops"].sum() == flops(model, IMAGES) - flops(small, IMAGES)


def test_flops_are_two_for_each_weight_and_place_where_it_is_used(mask: Mask) -> None:
    table = removable_table(conv_net(), mask, IMAGES)
    places = [2 * 64, 2 * 64, 2]
    kept = mask.kept_by_layer
    assert table["flops"].tolist() == [2 * mask[name].numel() * n for name, n in zip(mask, places, strict=True)]
    assert table["kept_flops"].tolist() == [2 * kept[name] * n for name, n in zip(mask, places, strict=True)]


def test_removing_what_is_not_connected_changes_no_output_of_a_residual_network() -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=7).eval()
    with torch.no_grad():  # uneven rows, so that some are pruned wholly
        for parameter in model.parameters():
            if parameter.dim() == 4:
                parameter.mul_(torch.rand(len(parameter), 1, 1, 1) ** 2)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.zero_()  # a unit without inputs stays at zero
    mask = prune(model, sparsity=0.9)
    images = torch.rand(2, 3, 32, 32)
    connected = connected_weights(model, mask, images)
    assert connected <= mask
    assert connected.kept < mask.kept
    mask.apply_(model)
    with torch.no_grad():
        expected = model(images)
        connected.apply_(model)
        torch.testing.assert_close(model(images), expected)


@torch.no_grad()
def test_every_connected_weight_moves_the_output_and_no_other_does(mask: Mask) -> None:
    model = conv_net().double().eval()
    for parameter in model.parameters():
        parameter.abs_()  # no rectifier is shut
    mask.apply_(model)
    images, connected = IMAGES.double(), connected_weights(model, mask, IMAGES)
    expected = model(images)
    for name, parameter in model.named_parameters():
        flat = parameter.view(-1)
        for index in mask[name].flatten().nonzero():
            before = flat[index].clone()
            flat[index] += 0.5
            moved = not torch.equal(model(images), expected)
            flat[index] = before
            assert moved == connected[name].flatten()[index], (name, index)


def test_neurons_between_two_linear_layers_of_a_transformer_are_found_and_the_model_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = BertModel(BertConfig(**sizes, vocab_size=20)).train()
    mask = prune(model, sparsity=0.01)
    kept = {name: value.clone() for name, value in mask.items()}
    kept["encoder.layer.0.intermediate.dense.weight"][:3] = False
    kept["encoder.layer.1.output.dense.weight"][:, 5:7] = False
    before = {name: value.clone() for name, value in model.state_dict().items()}
    table = removable_table(model, Mask(kept), {"input_ids": torch.arange(8)[None]})
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    dead = table[table["removable"] > 0]
    assert dead["removable"].to_dict() == {
        "encoder.layer.0.intermediate.dense.weight": 3 * 16,
        "encoder.layer.0.output.dense.weight": 3 * 16,
        "encoder.layer.1.intermediate.dense.weight": 2 * 16,
        "encoder.layer.1.output.dense.weight": 2 * 16,
    }
    assert (table["flops"] == 2 * 8 * table["weights"]).drop("pooler.dense.weight").all()


def test_grouped_and_turned_layers_count_their_own_rows() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 1, groups=2, bias=False), nn.Flatten(), Conv1D(3, 6))
    kept = whole(model)
    kept["0.weight"][:, 0] = False  # inputs 0 and 2, the first of each group
    kept["2.weight"][1] = False  # input 1 of Conv1D, which has inputs as rows
    table = removable_table(model, Mask(kept), torch.rand(1, 4, 1, 1))
    assert table[["outputs", "dead_outputs", "inputs", "dead_inputs"]].to_numpy().tolist() == [
        [6, 1, 4, 2],
        [3, 0, 6, 1],
    ]
    assert table["removable"].tolist() == [12 - 2 - 3, 3]


def test_a_mask_of_another_model_is_refused(mask: Mask) -> None:
    with pytest.raises(PruningError, match="another model"):
        connected_weights(conv_net(first=7), mask, IMAGES)
    with pytest.raises(PruningError, match="another model"):
        removable_table(nn.Linear(2, 2), mask, IMAGES)


def test_figure_says_how_much_of_all_is_saved(mask: Mask) -> None:
    table = removable_table(conv_net(), mask, IMAGES)
    zeros, removed = removable_figure(table).axes[0].get_lines()[:2]
    assert list(removed.get_ydata()) == pytest.approx(list(100 * table["removable_flops"] / table["flops"]))
    assert f"{table['removable_flops'].sum() / table['flops'].sum():.1%}" in str(removed.get_label())
    assert list(zeros.get_ydata()) == pytest.approx([100 * value for value in mask.sparsity_by_layer.values()], abs=0.1)
