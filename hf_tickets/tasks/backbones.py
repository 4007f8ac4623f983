"""Backbones: a pre-trained image model without its head, and detectors and segmenters around it."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import timm
import torch
from transformers import PreTrainedConfig, TimmBackboneConfig
from transformers.backbone_utils import BackboneMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

from hf_tickets.errors import DataError, RecipeError
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.image_models import image_format, is_architecture, load_image_model, stored_config
from hf_tickets.tasks.images import ImageFormat
from hf_tickets.tasks.models import LOAD_ERRORS, quiet_transformers
from hf_tickets.tasks.randomness import seeded
from hf_tickets.tasks.sources import one_line

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
        loaded_weights: those that a small stem has replaced, as they were loaded.
    """

    config: PreTrainedConfig
    channels: tuple[int, ...]
    weights: dict[str, torch.Tensor]
    format: ImageFormat
    loaded_weights: dict[str, torch.Tensor] = field(default_factory=dict)


def model_type(config: TaskConfig) -> str:
    """The `model_type` of a task's model.

    Raises:
        DataError: the model cannot be found, reached or read.
    """
    return "timm_wrapper" if is_architecture(config.model) else str(stored_config(config).model_type)


def refuse_small_stem(config: TaskConfig) -> None:
    """Refuse `small_stem` for a whole model of a task, whose stem is trained already.

    Raises:
        RecipeError: it is asked for.
    """
    if config.small_stem:
        raise RecipeError(
            f"small_stem: model {config.model} is a whole model, whose backbone is taken as it is; give a ResNet of "
            "timm, or leave the key out"
        )


def load_backbone(config: TaskConfig, strides: Sequence[int]) -> Backbone:
    """The model of a task as a backbone: any timm model, or a transformers model that has a Backbone class.

    Args:
        config: the task; the encoder of a model that SimCLR or MoCo trained is taken.
        strides: pixels between two positions of each feature map, such as (8, 16, 32).

    Raises:
        DataError: the model cannot be read, is no backbone, or has no such feature maps.
    """
    config = replace(config, model_arguments=None, image_size=None)  # these are the dense model's
    model = load_image_model(config)
    make = _timm_backbone if hasattr(model, "timm_model") else _transformers_backbone
    return make(model, config, strides)


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
    target = getattr(inside, "_backbone", inside)
    _load_(target, backbone.weights, config.model)
    target.loaded_weights = backbone.loaded_weights
    return model


def _timm_backbone(model: Any, config: TaskConfig, strides: Sequence[int]) -> Backbone:
    architecture = model.config.architecture
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
    made = TimmBackboneConfig(backbone=architecture, out_indices=indices)
    stem = getattr(model.timm_model, "loaded_weights", {})
    return Backbone(made, channels, model.timm_model.state_dict(), image_format(config, model)[1], stem)


def _transformers_backbone(model: Any, config: TaskConfig, strides: Sequence[int]) -> Backbone:
    backbone_class = MODEL_FOR_BACKBONE_MAPPING.get(type(model.config), None)
    if backbone_class is None:
        raise DataError(
            f"model {config.model}: a {model.config.model_type} model is no backbone for {config.family}; "
            "give a timm model, a transformers backbone such as resnet, or a whole model of this task"
        )
    made = copy.deepcopy(model.config)
    # the last four stages of transformers' backbones have these strides
    made.out_features = [made.stage_names[-4 + (4, 8, 16, 32).index(stride)] for stride in strides]
    with quiet_transformers(), seeded(config.task_seed):
        backbone = backbone_class(made)
    # norms of feature maps, which only the backbone class has, are new
    new = {name: value for name, value in backbone.state_dict().items() if name.startswith("hidden_states_norms.")}
    return Backbone(made, tuple(backbone.channels), {**model.state_dict(), **new}, image_format(config, model)[1])


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
