"""A detector or segmenter has the very weights of the image model that it is built around, and its input."""

from pathlib import Path

import pytest
import torch
from pictures import GOOD, boxes_dataset, detection, halves, mask_of, masks_dataset, segmentation
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertModel,
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
)

from hf_tickets.errors import DataError
from hf_tickets.pruning.scope import backbone
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.registry import prepare


def digits(family: str, model: str = "test_resnet", **keys: object) -> TaskConfig:
    small = {"maximum_training_examples": 20, "maximum_evaluation_examples": 20, "image_size": 32}
    return TaskConfig(family, model, **{"pretrained": False, "dataset": "sklearn/digits", **small, **keys})


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return boxes_dataset(tmp_path_factory.mktemp("boxes"), [GOOD] * 2)


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return masks_dataset(tmp_path_factory.mktemp("masks"), [mask_of(halves())] * 2)


def assert_inside(weights: dict[str, torch.Tensor], model: torch.nn.Module, layers: int) -> None:
    """Every weight and statistic of the backbone inside a model is among these."""
    state = backbone(model).state_dict()
    assert len([name for name in state if state[name].dim() == 4]) == layers
    for name, value in state.items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize("family", ["image-classification", "simclr", "moco"])
def test_weights_of_any_pre_training(family: str, boxes: Path, masks: Path, tmp_path: Path) -> None:
    extra = {} if family == "image-classification" else {"projection": [16, 8], "probe_examples": 10}
    model = prepare(digits(family, **extra, **({"queue_size": 40} if family == "moco" else {}))).model
    for parameter in model.buffers():
        if parameter.is_floating_point():
            parameter.data.uniform_(0.5, 1.5)  # statistics too are carried over
    model.save_pretrained(tmp_path / "base")
    inner = getattr(model, "encoder", model)
    for build, dataset in ((detection, boxes), (segmentation, masks)):
        assert_inside(
            inner.timm_model.state_dict(),
            prepare(build(dataset, str(tmp_path / "base"), pretrained=True)).model,
            layers=15,
        )


def test_a_transformers_resnet(boxes: Path, masks: Path, tmp_path: Path) -> None:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    base = ResNetForImageClassification(ResNetConfig(**sizes))
    base.save_pretrained(tmp_path / "base")
    ConvNextImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path / "base")
    for build, dataset in ((detection, boxes), (segmentation, masks)):
        prepared = prepare(build(dataset, str(tmp_path / "base"), pretrained=True))
        assert_inside(base.resnet.state_dict(), prepared.model, layers=12)
        assert prepared.processing_class.image_mean == pytest.approx((0.1, 0.2, 0.3))
        assert prepared.processing_class.image_std == pytest.approx((0.4, 0.5, 0.6))


def test_names_that_the_feature_extractor_flattens(masks: Path, tmp_path: Path) -> None:
    base = prepare(digits("image-classification", "test_convnext")).model
    base.save_pretrained(tmp_path / "base")
    weights = base.timm_model.state_dict()
    model = prepare(segmentation(masks, str(tmp_path / "base"), pretrained=True)).model
    inside = backbone(model).state_dict()
    assert any(name.startswith("stages_0.") for name in inside)
    for name, value in inside.items():
        plain = name.replace("stages_", "stages.").replace("stem_", "stem.")
        assert torch.equal(value, weights[plain]), name


def test_random_weights_are_timms_and_follow_the_seed(boxes: Path) -> None:
    one, again, other = (backbone(prepare(detection(boxes, task_seed=seed)).model).state_dict() for seed in (1, 1, 2))
    classifier = prepare(digits("image-classification", task_seed=1)).model.timm_model.state_dict()
    name = "layer3.0.conv2.weight"
    assert torch.equal(one[name], again[name])
    assert not torch.equal(one[name], other[name])
    assert float(one[name].std()) == pytest.approx(float(classifier[name].std()), rel=0.1)


def test_normalisation_learns_also_under_a_ticket(boxes: Path) -> None:
    """Frozen statistics would be those of the dense weights."""
    model = prepare(detection(boxes)).model
    norms = [module for module in backbone(model).modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) > 10
    assert all(norm.weight.requires_grad and norm.training for norm in norms)


def test_a_saved_detector_names_its_backbones_weights_in_the_file(boxes: Path, tmp_path: Path) -> None:
    model = prepare(detection(boxes)).model
    model.save_pretrained(tmp_path)
    kept = load_file(tmp_path / "model.safetensors")
    assert any(name.endswith("layer4.0.conv1.weight") for name in kept)


def test_what_is_no_backbone_is_refused(boxes: Path, tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(**sizes)).save_pretrained(tmp_path / "bert")
    cases = [
        (str(tmp_path / "bert"), "is a bert model, and object-detection needs"),
        (str(tmp_path / "nowhere"), "there is no folder"),
    ]
    for model, message in cases:
        with pytest.raises(DataError, match=message):
            prepare(detection(boxes, model, pretrained=True))
