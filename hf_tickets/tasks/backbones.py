"""Backbones: a pre-trained image model without its head, and detectors and segmenters around it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, TimmBackboneConfig
from transformers.backbone_utils import BackboneMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

from hf_tickets.errors import DataError
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.images import ImageFormat
from hf_tickets.tasks.models import LOAD_ERRORS, load_model, quiet_transformers, require_model
from hf_tickets.tasks.randomness import seeded
from hf_tickets.tasks.sources import one_line
from hf_tickets.tasks.vision_models import is_timm_name, load_image_processor, with_hub_id

# timm's feature extractors flatten their first level (stages.0 becomes stages_0) or wrap the whole model
_FLATTENED = re.compile(r"^(\w+)_(\d+)\.")


@dataclass(frozen=True)
class Backbone:
    """What a dense model is built around.

    Attributes:
        config: transformers' configuration of the backbone.
        channels: number of channels of each feature map, large maps first.
        weights: its weights by name, in timm's or transformers' own plain names.
        format: mean, standard deviation and interpolation of its input; its size is not the dense model's.
    """

    config: PreTrainedConfig
    channels: tuple[int, ...]
    weights: dict[str, torch.Tensor]
    format: ImageFormat


def model_type(config: TaskConfig) -> str:
    """The `model_type` of a task's model.

    Raises:
        DataError: the model cannot be found, reached or read.
    """
    if is_timm_name(config.model):
        return "timm_wrapper"
    require_model(config.model)
    try:
        with quiet_transformers():
            found = AutoConfig.from_pretrained(config.model, revision=config.model_revision or "main")
    except LOAD_ERRORS as error:
        raise DataError(f"model {config.model} cannot be loaded: {one_line(error)}") from error
    return str(found.model_type)


def load_backbone(config: TaskConfig, strides: Sequence[int]) -> Backbone:
    """The model of a task as a backbone: any timm model, or a transformers model that has a Backbone class.

    Args:
        config: the task.
        strides: pixels between two positions of each feature map, such as (8, 16, 32).

    Raises:
        DataError: the model cannot be read, is no backbone, or has no such feature maps.
    """
    kind = model_type(config)
    config = replace(config, model_arguments=None)  # these are the dense model's
    if kind == "timm_wrapper":
        return _timm_backbone(config, strides)
    if kind not in {known.model_type for known in MODEL_FOR_BACKBONE_MAPPING}:
        raise DataError(
            f"model {config.model}: a {kind} model is no backbone for {config.family}; "
            "give a timm model, a transformers backbone such as resnet, or a whole model of this task"
        )
    return _transformers_backbone(config, strides)


def build_around(backbone: Backbone, config: TaskConfig, model_class: Any, **arguments: Any) -> Any:
    """A dense model with the weights of a backbone, everything else drawn from `task_seed`.

    Args:
        backbone: the backbone.
        config: the task.
        model_class: transformers' class.
        **arguments: of its configuration.

    Raises:
        DataError: the configuration cannot be made into a model, or the weights do not fit it.
    """
    try:
        with quiet_transformers(), seeded(config.task_seed):
            model = model_class(model_class.config_class(backbone_config=backbone.config, **arguments))
    except LOAD_ERRORS as error:
        raise DataError(f"model {config.model} cannot be made: {one_line(error)}") from error
    inside = next(module for module in model.modules() if isinstance(module, BackboneMixin))
    _load_(getattr(inside, "_backbone", inside), backbone.weights, config.model)
    return model


def _timm_backbone(config: TaskConfig, strides: Sequence[int]) -> Backbone:
    if is_timm_name(config.model):
        architecture = config.model
        known = timm.get_pretrained_cfg(architecture)
        pretrained_cfg = known.to_dict() if known else {}
        config = with_hub_id(config) if config.pretrained else config
        whole: Any = load_model(config, AutoModel) if config.pretrained else None
    else:
        whole = load_model(config, AutoModel)
        architecture = whole.config.architecture
        pretrained_cfg = whole.config.pretrained_cfg
    resolved = timm.data.resolve_data_config(pretrained_cfg=pretrained_cfg)
    image_format = ImageFormat(0, 0, tuple(resolved["mean"]), tuple(resolved["std"]), resolved["interpolation"])
    try:
        with seeded(config.task_seed):
            extractor = timm.create_model(architecture, features_only=True)
    except LOAD_ERRORS as error:
        raise DataError(f"model {config.model} has no feature maps: {one_line(error)}") from error
    found = extractor.feature_info.reduction()
    if not set(strides) <= set(found):
        raise DataError(f"model {config.model} has feature maps of strides {found}; {config.family} needs {strides}")
    # the last map of each stride: the deepest
    indices = [len(found) - 1 - found[::-1].index(stride) for stride in strides]
    channels = tuple(extractor.feature_info.channels()[index] for index in indices)
    # transformers would draw its own random weights; timm's training recipes count on timm's
    weights = whole.timm_model.state_dict() if config.pretrained else extractor.state_dict()
    return Backbone(TimmBackboneConfig(backbone=architecture, out_indices=indices), channels, weights, image_format)


def _transformers_backbone(config: TaskConfig, strides: Sequence[int]) -> Backbone:
    found = AutoConfig.from_pretrained(config.model, revision=config.model_revision or "main")
    # the last four stages of transformers' backbones have these strides
    stages = [found.stage_names[-4 + (4, 8, 16, 32).index(stride)] for stride in strides]
    backbone_class = MODEL_FOR_BACKBONE_MAPPING[type(found)]
    if config.pretrained:
        model: Any = load_model(config, backbone_class, out_features=stages)
    else:
        found.out_features = stages
        with seeded(config.task_seed):
            model = backbone_class(found)
    processor = load_image_processor(config)
    image_format = ImageFormat(0, 0, tuple(processor.image_mean), tuple(processor.image_std))
    return Backbone(model.config, tuple(model.channels), model.state_dict(), image_format)


def _load_(target: torch.nn.Module, weights: dict[str, torch.Tensor], model: str) -> None:
    """Load a backbone's weights, whatever names its feature extractor gives them."""
    renamed = {}
    for name, value in target.state_dict().items():
        plain = name.removeprefix("model.")
        source = next((key for key in (name, plain, _FLATTENED.sub(r"\1.\2.", plain)) if key in weights), None)
        if source is None:
            raise DataError(f"model {model} has no weights {name}, which its feature extractor needs")
        if weights[source].shape != value.shape:
            raise DataError(
                f"model {model}: weights {source} are {tuple(weights[source].shape)}, but the feature extractor of "
                f"this architecture has {tuple(value.shape)}"
            )
        renamed[name] = weights[source]
    target.load_state_dict(renamed)
