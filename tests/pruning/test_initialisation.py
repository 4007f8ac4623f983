"""A backbone drawn anew is what the model's own code makes of its configuration and a seed."""

import pytest
import timm
import torch
from torch import nn
from trainer.tiny import bert, bert_config, different, resnet, snapshot
from transformers import (
    BertModel,
    TimmBackboneConfig,
    TimmWrapperConfig,
    TimmWrapperModel,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from hf_tickets.errors import PruningError
from hf_tickets.pruning.initialisation import drawn_anew
from hf_tickets.tasks.small_stem import with_small_stem


def timm_of_seed(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=0)


def test_a_model_of_transformers_is_that_of_its_configuration() -> None:
    model = bert(seed=5)
    drawn = drawn_anew(model, 7)
    torch.manual_seed(7)
    assert not different(snapshot(drawn), snapshot(BertModel(bert_config())))
    assert different(snapshot(drawn), snapshot(model.bert))
    matrix = drawn.encoder.layer[1].intermediate.dense.weight.detach()
    assert matrix.std() == pytest.approx(0.02, rel=0.1)
    assert matrix.mean() == pytest.approx(0, abs=0.002)
    assert not drawn.encoder.layer[1].intermediate.dense.bias.any()


def test_a_model_of_timm_is_that_of_its_name_wherever_it_is() -> None:
    expected = snapshot(timm_of_seed("test_resnet", 7))
    assert not different(snapshot(drawn_anew(resnet(), 7)), expected)
    assert not different(snapshot(drawn_anew(timm.create_model("test_resnet", num_classes=3), 7)), expected)
    inside = UperNetForSemanticSegmentation(
        UperNetConfig(
            backbone_config=TimmBackboneConfig(backbone="test_resnet", out_indices=[1, 2, 3, 4]),
            auxiliary_in_channels=256,
            hidden_size=8,
            num_labels=2,
        )
    )
    assert not different(snapshot(drawn_anew(inside, 7)), expected)


def test_small_stems_are_drawn_too() -> None:
    model = TimmWrapperModel(TimmWrapperConfig(architecture=with_small_stem("resnet18")))
    assert drawn_anew(model, 7).conv1.weight.shape == (64, 3, 3, 3)


def test_any_other_module_is_drawn_layer_by_layer() -> None:
    model = nn.Sequential(nn.Linear(50, 40), nn.BatchNorm1d(40), nn.Linear(40, 2))
    model[1].running_mean.fill_(3)
    before = snapshot(model)
    drawn = drawn_anew(model, 1)
    assert not different(snapshot(model), before)
    assert not drawn[1].running_mean.any()
    assert not torch.equal(drawn[0].weight, model[0].weight)
    assert drawn[0].weight.abs().max() <= 50**-0.5  # torch's Linear: uniform within 1/sqrt(inputs)
    assert not different(snapshot(drawn), snapshot(drawn_anew(model, 1)))
    assert different(snapshot(drawn), snapshot(drawn_anew(model, 2)))


def test_the_process_draws_on_as_if_nothing_had_happened() -> None:
    model = bert()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    drawn_anew(model, 9)
    assert torch.equal(torch.rand(4), expected)


def test_a_layer_without_an_initialisation_is_named() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3))

    with pytest.raises(PruningError, match=r"^1 \(Scale\)"):
        drawn_anew(nn.Sequential(nn.Linear(3, 3), Scale()), 0)
