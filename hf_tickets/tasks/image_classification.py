"""Image classification: any image dataset, any timm or transformers model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import timm
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    default_data_collator,
)

from hf_tickets.errors import DataError
from hf_tickets.tasks.base import PreparedTask
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.images import (
    ImageExamples,
    ImageFormat,
    evaluation_transform,
    training_transform,
)
from hf_tickets.tasks.labels import find_labels, label_column, require_column
from hf_tickets.tasks.metrics import ComputeMetrics
from hf_tickets.tasks.models import LOAD_ERRORS, label_names, load_model, quiet_transformers
from hf_tickets.tasks.nearest import nearest
from hf_tickets.tasks.randomness import EpochCallback, SeededDataset, seeded
from hf_tickets.tasks.sources import load_source, one_line, sample


def prepare(config: TaskConfig) -> PreparedTask:
    """See `hf_tickets.tasks.registry.prepare`."""
    source = load_source(config)
    train_name, train = source.split(config.train_split, ("train",), "train_split")
    evaluation_name, evaluation = source.split(config.evaluation_split, ("validation", "test"), "evaluation_split")
    images = _image_column(train, config.image_column, source.name, train_name)
    column = label_column(train, config.label_column, source.name, train_name)
    labels = find_labels(train, train_name, source.name, column, regression=False, keep=config.labels)

    def examples(split: datasets.Dataset, name: str, maximum: int | None) -> ImageExamples:
        require_column(split, images, source.name, name)
        rows, targets = labels.encode(split, name)
        kept = sample(np.arange(len(rows)), maximum)
        decoded = split.cast_column(images, datasets.Image())
        return ImageExamples(decoded, images, rows[kept], targets[kept], f"dataset {source.name}, split {name}")

    training = examples(train, train_name, config.maximum_training_examples)
    evaluating = examples(evaluation, evaluation_name, config.maximum_evaluation_examples)
    model, processor, image_format = _model_and_format(config, labels.names)
    evaluate = evaluation_transform(image_format)
    augment = training_transform(image_format, config.horizontal_flip) if config.augmentation else evaluate
    train_dataset = SeededDataset(training, augment, config.task_seed)
    evaluation_dataset = SeededDataset(evaluating, evaluate, config.task_seed, fixed=True)
    return PreparedTask(
        model=model,
        train_dataset=train_dataset,
        evaluation_dataset=evaluation_dataset,
        data_collator=default_data_collator,
        compute_metrics=ComputeMetrics(["accuracy"]),
        metric="accuracy",
        processing_class=processor,
        callbacks=[EpochCallback(train_dataset)],
        provenance={
            "family": config.family,
            "task": None,
            "dataset": source.name,
            "dataset_config": source.config,
            "train_split": train_name,
            "evaluation_split": [evaluation_name],
            "image_column": images,
            "label_column": column,
            "labels": list(labels.names),
            "image_size": list(image_format.size),
            "augmentation": config.augmentation,
            "horizontal_flip": config.augmentation and config.horizontal_flip,
            "training_examples": len(train_dataset),
            "evaluation_examples": [len(evaluation_dataset)],
            "task_seed": config.task_seed,
        },
    )


def _image_column(train: datasets.Dataset, wanted: str | None, dataset: str, split_name: str) -> str:
    found = [name for name, feature in train.features.items() if _holds_images(feature)]
    if wanted is None:
        if len(found) != 1:
            raise DataError(
                f"dataset {dataset}: which column holds the images? set image_column; "
                f"{nearest('image', found or train.column_names)}"
            )
        return found[0]
    require_column(train, wanted, dataset, split_name)
    kind = getattr(train.features[wanted], "dtype", None)
    # a column that is named may also hold paths or the bytes of image files
    if wanted not in found and kind not in ("string", "large_string", "binary", "large_binary"):
        raise DataError(f"dataset {dataset}, column {wanted}: no images; {nearest('image', found)}")
    return wanted


def _holds_images(feature: Any) -> bool:
    # parquet files that datasets did not write hold images as plain {bytes, path} records
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def _model_and_format(config: TaskConfig, names: tuple[str, ...]) -> tuple[Any, Any, ImageFormat]:
    """The model, its image processor (None for timm, whose configuration says it all) and its input."""
    bare = timm.is_model(config.model) and not Path(config.model).expanduser().is_dir()
    if bare and not config.pretrained:
        model = _random_timm_model(config, names)
    else:
        if bare:
            # timm's own pre-trained weights are on the Hub under another name
            config = _with_hub_id(config)
        model = load_model(config, AutoModelForImageClassification, **label_names(names))
    if isinstance(model, TimmWrapperForImageClassification):
        if not config.pretrained:
            _draw_as_timm_does(model, config.task_seed)
        return model, None, _timm_format(model, config.image_size)
    processor = _image_processor(config)
    return model, processor, _processor_format(processor, model, config.image_size)


def _with_hub_id(config: TaskConfig) -> TaskConfig:
    pretrained = timm.get_pretrained_cfg(config.model)
    if pretrained is None or not pretrained.hf_hub_id:
        raise DataError(f"model {config.model}: timm has no pre-trained weights for it; set pretrained: false")
    return replace(config, model=pretrained.hf_hub_id)


def _random_timm_model(config: TaskConfig, names: tuple[str, ...]) -> Any:
    arguments = dict(config.model_arguments or {})
    pretrained_cfg = timm.get_pretrained_cfg(config.model)
    try:
        with quiet_transformers(), seeded(config.task_seed):
            model_config = TimmWrapperConfig(
                architecture=config.model,
                pretrained_cfg=pretrained_cfg.to_dict() if pretrained_cfg else {},
                **arguments,
                **label_names(names),
            )
            return TimmWrapperForImageClassification(model_config)
    except LOAD_ERRORS as error:
        raise DataError(f"model {config.model} cannot be made: {one_line(error)}") from error


def _draw_as_timm_does(model: Any, seed: int) -> None:
    """Give a timm model timm's own random weights: its training recipes count on them.

    transformers draws every new weight from one normal distribution.
    """
    with seeded(seed):
        own = timm.create_model(
            model.config.architecture,
            num_classes=model.config.num_labels,
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
    resolved = timm.data.resolve_data_config(pretrained_cfg=stored)
    _, height, width = resolved["input_size"]
    return ImageFormat(
        height=height,
        width=width,
        mean=tuple(resolved["mean"]),
        std=tuple(resolved["std"]),
        interpolation=resolved["interpolation"],
        crop_share=resolved["crop_pct"],
    )


def _image_processor(config: TaskConfig) -> Any:
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
