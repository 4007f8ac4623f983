"""Image models of timm and transformers, with a head or without, and the input each expects."""

import difflib
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TimmWrapperModel,
)

from hf_tickets.errors import DataError, RecipeError
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.contrastive_model import ContrastiveConfig, ContrastiveModel
from hf_tickets.tasks.images import ImageFormat
from hf_tickets.tasks.moco_model import MocoModel
from hf_tickets.tasks.models import LOAD_ERRORS, label_names, load_model, quiet_transformers, require_model
from hf_tickets.tasks.nearest import nearest
from hf_tickets.tasks.randomness import seeded
from hf_tickets.tasks.simclr_model import SimclrModel
from hf_tickets.tasks.small_stem import draw_stem_, has_small_stem, stem_weights, with_small_stem
from hf_tickets.tasks.sources import one_line

CONTRASTIVE_MODELS: dict[str, type[ContrastiveModel]] = {"simclr": SimclrModel, "moco": MocoModel}


def load_image_model(config: TaskConfig, names: tuple[str, ...] | None = None) -> Any:
    """An image model, its new weights drawn from `task_seed`.

    Args:
        config: the task; its model may be the name of a timm architecture, or a model that SimCLR or MoCo trained,
            whose encoder is taken.
        names: the classes of its head; None for the model without a head.

    Raises:
        DataError: the model cannot be found, reached or read, or its weights do not fit it.
    """
    config = _named_on_hub(config)
    if is_architecture(config.model):
        return _random_timm_model(config, names)
    stored = stored_config(config)
    if isinstance(stored, ContrastiveConfig):
        return _encoder_of(config, stored, names)
    auto_class = AutoModel if names is None else AutoModelForImageClassification
    _require_images(config, stored, auto_class)
    new_stem = config.small_stem and not has_small_stem(getattr(stored, "architecture", ""))
    whole = config
    if config.small_stem:
        config = _on_small_stem(config, stored)
    head = {} if names is None else label_names(names)
    model: Any = load_model(config, auto_class, may_be_new=("conv1",) if new_stem else (), **head)
    if hasattr(model, "timm_model"):
        if not config.pretrained:
            _draw_as_timm_does(model, config.task_seed)
        elif new_stem:
            with seeded(config.task_seed):
                draw_stem_(model.timm_model)
            replaced: Any = load_model(whole, AutoModel)
            model.timm_model.loaded_weights = stem_weights(replaced.timm_model)  # a ticket knows its base by them
    return model


def load_contrastive(config: TaskConfig) -> ContrastiveModel | None:
    """A model that SimCLR or MoCo trained, heads included; None where the task's model is of another kind.

    Raises:
        DataError: the model cannot be found, reached or read.
    """
    if is_architecture(config.model):
        return None
    stored = stored_config(config)
    if not isinstance(stored, ContrastiveConfig) or not config.pretrained:
        return None
    return _load_contrastive(config, stored)


def image_format(config: TaskConfig, model: Any) -> tuple[Any, ImageFormat]:
    """An image model's processor (None for timm, whose configuration says it all) and its input.

    Args:
        config: the task; its `image_size` is written into the configuration or processor.
        model: what `load_image_model` gave for it.
    """
    if hasattr(model, "timm_model"):
        return None, _timm_format(model, config.image_size)
    processor = load_image_processor(config)
    return processor, _processor_format(processor, model, config.image_size)


def stored_config(config: TaskConfig) -> Any:
    """The configuration of the task's model, a folder or Hub id.

    Raises:
        DataError: it cannot be found, reached or read, or looks like a mistyped architecture of timm.
    """
    require_model(config.model)
    _require_slash(config.model)
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(config.model, revision=config.model_revision or "main")
    except LOAD_ERRORS as error:
        raise DataError(f"model {config.model} cannot be loaded: {one_line(error)}") from error


def _require_slash(model: str) -> None:
    """Refuse what is neither a folder nor a Hub id, and nearly the name of an architecture, before the Hub is asked."""
    if "/" in model or Path(model).expanduser().exists():
        return
    close = difflib.get_close_matches(model.partition(".")[0], timm.list_models(), n=3)
    if close:
        raise DataError(
            f"model {model} is no folder, no Hub id, and no architecture of timm; nearest: {', '.join(close)}"
        )


def _load_contrastive(config: TaskConfig, stored: ContrastiveConfig) -> ContrastiveModel:
    try:
        with quiet_transformers():
            model: ContrastiveModel = CONTRASTIVE_MODELS[stored.model_type].from_pretrained(
                config.model, revision=config.model_revision or "main"
            )
            return model
    except LOAD_ERRORS as error:
        raise DataError(f"model {config.model} cannot be loaded: {one_line(error)}") from error


def _encoder_of(config: TaskConfig, stored: ContrastiveConfig, names: tuple[str, ...] | None) -> Any:
    """The encoder of a model that SimCLR or MoCo trained, under a new head."""
    trained = _load_contrastive(config, stored)
    with TemporaryDirectory() as folder:
        trained.encoder.save_pretrained(folder)
        model = load_image_model(replace(config, model=folder, model_revision=None), names)
    model.config.name_or_path = config.model
    return model


def _require_images(config: TaskConfig, stored: Any, auto_class: Any) -> None:
    """Refuse a model of texts, and one that the auto class does not know, before it is loaded."""
    known = auto_class._model_mapping
    if type(stored) not in known or known[type(stored)].main_input_name != "pixel_values":
        raise DataError(
            f"model {config.model} is a {stored.model_type} model, and {config.family} needs one of images that "
            f"{auto_class.__name__} loads; neither do tickets of texts fit"
        )


def is_architecture(model: str) -> bool:
    """Whether a model is named as timm names architectures, not by a folder or a Hub id."""
    return bool(timm.is_model(model)) and not Path(model).expanduser().is_dir()


def _named_on_hub(config: TaskConfig) -> TaskConfig:
    """The task with the Hub id of timm's own pre-trained weights, where it names an architecture and wants them."""
    if not is_architecture(config.model) or not config.pretrained:
        return config
    pretrained = _pretrained_cfg(config.model)
    if pretrained is None or not pretrained.hf_hub_id:
        raise DataError(f"model {config.model}: timm has no pre-trained weights for it; set pretrained: false")
    return replace(config, model=pretrained.hf_hub_id)


def _pretrained_cfg(architecture: str) -> Any:
    """What timm knows of an architecture's weights, by its tag where it has one."""
    try:
        return timm.get_pretrained_cfg(architecture)
    except RuntimeError as error:  # no such tag
        name = architecture.partition(".")[0]
        raise DataError(f"model {architecture}: {nearest(architecture, timm.list_pretrained(f'{name}.*'))}") from error


def _on_small_stem(config: TaskConfig, stored: Any) -> TaskConfig:
    return replace(
        config,
        model_arguments={
            **(config.model_arguments or {}),
            "architecture": _small_architecture(getattr(stored, "architecture", stored.model_type)),
        },
    )


def _small_architecture(architecture: str) -> str:
    small = with_small_stem(architecture)
    if small is None:
        raise RecipeError(f"small_stem: {architecture} has no such variant; only the ResNets of timm have")
    return small


def _random_timm_model(config: TaskConfig, names: tuple[str, ...] | None) -> Any:
    arguments = dict(config.model_arguments or {})
    pretrained_cfg = _pretrained_cfg(config.model)
    architecture = _small_architecture(config.model) if config.small_stem else config.model
    head = {} if names is None else label_names(names)
    try:
        with quiet_transformers(), seeded(config.task_seed):
            model_config = TimmWrapperConfig(
                architecture=architecture,
                pretrained_cfg=pretrained_cfg.to_dict() if pretrained_cfg else {},
                **arguments,
                **head,
            )
            model = (TimmWrapperModel if names is None else TimmWrapperForImageClassification)(model_config)
    except LOAD_ERRORS as error:
        raise DataError(f"model {config.model} cannot be made: {one_line(error)}") from error
    _draw_as_timm_does(model, config.task_seed)
    return model


def _draw_as_timm_does(model: Any, seed: int) -> None:
    """Give a timm model timm's own random weights: its training recipes count on them.

    transformers draws every new weight from one normal distribution.
    """
    with seeded(seed):
        own = timm.create_model(
            model.config.architecture,
            num_classes=model.config.num_labels if isinstance(model, TimmWrapperForImageClassification) else 0,
            **(model.config.model_args or {}),
        )
    model.timm_model.load_state_dict(own.state_dict())


def _timm_format(model: Any, image_size: int | None) -> ImageFormat:
    """Input of a timm model; a chosen size is written into its configuration, where processors look."""
    stored = dict(getattr(model.config, "pretrained_cfg", None) or {})
    if image_size is not None:
        stored["input_size"] = [3, image_size, image_size]
        stored.pop("test_input_size", None)
        model.config.pretrained_cfg = stored
    resolved = timm.data.resolve_data_config(pretrained_cfg=stored or model.timm_model.pretrained_cfg)
    _, height, width = resolved["input_size"]
    return ImageFormat(
        height=height,
        width=width,
        mean=tuple(resolved["mean"]),
        std=tuple(resolved["std"]),
        interpolation=resolved["interpolation"],
        crop_share=resolved["crop_pct"],
    )


def load_image_processor(config: TaskConfig) -> Any:
    """The image processor of a transformers model.

    Raises:
        DataError: it cannot be found, reached or read.
    """
    try:
        with quiet_transformers():
            return AutoImageProcessor.from_pretrained(config.model, revision=config.model_revision or "main")
    except LOAD_ERRORS as error:
        raise DataError(f"image processor of {config.model} cannot be loaded: {one_line(error)}") from error


def _processor_format(processor: Any, model: Any, image_size: int | None) -> ImageFormat:
    """Input of a transformers model; a chosen size is written into its image processor."""
    resized = processor.size
    edge = resized.get("shortest_edge")
    crop = getattr(processor, "crop_size", None) or {}
    height = crop.get("height") or resized.get("height") or edge or getattr(model.config, "image_size", 224)
    width = crop.get("width") or resized.get("width") or edge or height
    resample = Image.Resampling.BILINEAR if processor.resample is None else processor.resample
    share = min(height / edge, 1.0) if edge else 1.0
    if image_size is not None:
        height = width = image_size
        processor.size = {"shortest_edge": round(image_size / share)} if edge else {"height": height, "width": width}
        processor.crop_size = {"height": height, "width": width}
    return ImageFormat(
        height=height,
        width=width,
        mean=tuple(processor.image_mean or IMAGENET_DEFAULT_MEAN),
        std=tuple(processor.image_std or IMAGENET_DEFAULT_STD),
        interpolation=Image.Resampling(int(resample)).name.lower(),
        crop_share=share,
    )
