"""Semantic segmentation: UPerNet on any backbone, or any transformers segmenter, on any images with masks."""

from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from transformers import (
    AutoModelForSemanticSegmentation,
    SegformerImageProcessor,
    UperNetForSemanticSegmentation,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING

from hf_tickets.errors import DataError
from hf_tickets.tasks import voc
from hf_tickets.tasks.backbones import build_around, load_backbone, model_type, refuse_small_stem
from hf_tickets.tasks.base import PreparedTask
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.image_data import describe_data
from hf_tickets.tasks.image_models import load_image_processor
from hf_tickets.tasks.images import ImageFormat, find_image_column, image_columns
from hf_tickets.tasks.labels import require_column
from hf_tickets.tasks.masks import IGNORED, MaskedExamples, find_classes
from hf_tickets.tasks.models import label_names, load_model
from hf_tickets.tasks.nearest import nearest
from hf_tickets.tasks.randomness import EpochCallback, SeededDataset
from hf_tickets.tasks.segmentation_metrics import IntersectionOverUnion, most_likely
from hf_tickets.tasks.sources import load_source, sample

_SIDE = 512
_STRIDES = (4, 8, 16, 32)
_SCALES = (0.5, 2.0)  # of DeepLab and UPerNet
_MASKS = ("annotation", "mask", "label", "segmentation_mask", "labels")


def prepare(config: TaskConfig) -> PreparedTask:
    """See `hf_tickets.tasks.registry.prepare`."""
    source = voc.load_masks(config) or load_source(config)
    train_name, train = source.split(config.train_split, ("train",), "train_split")
    evaluation_name, evaluation = source.split(
        config.evaluation_split, ("validation", "val", "test"), "evaluation_split"
    )
    images, masks = _columns(config, train, source.name, train_name)

    def decoded(split: datasets.Dataset, name: str) -> datasets.Dataset:
        for column in (images, masks):
            require_column(split, column, source.name, name)
            split = split.cast_column(column, datasets.Image())
        return split.select_columns([images, masks])

    def examples(split: datasets.Dataset, name: str, maximum: int | None) -> MaskedExamples:
        rows = sample(np.arange(len(split)), maximum)
        return MaskedExamples(decoded(split, name), images, masks, rows, reader, f"dataset {source.name}, split {name}")

    where = f"dataset {source.name}, split {train_name}"
    reader = find_classes(
        decoded(train, train_name).select_columns([masks]), masks, where, config.labels, config.ignore_index
    )
    training = examples(train, train_name, config.maximum_training_examples)
    evaluating = examples(evaluation, evaluation_name, config.maximum_evaluation_examples)
    model, processor, image_format = _model_and_format(config, reader.names)
    fit = evaluation_transform(image_format)
    augment = training_transform(image_format, config.horizontal_flip) if config.augmentation else fit
    train_dataset = SeededDataset(training, augment, config.task_seed)
    evaluation_dataset = SeededDataset(evaluating, fit, config.task_seed, fixed=True)
    return PreparedTask(
        model=model,
        train_dataset=train_dataset,
        evaluation_dataset=evaluation_dataset,
        data_collator=collate,
        compute_metrics=IntersectionOverUnion(len(reader.names)),
        metric="mean_iou",
        processing_class=processor,
        callbacks=[EpochCallback(train_dataset)],
        preprocess_logits_for_metrics=most_likely,
        # whole masks of an evaluation set do not fit into memory
        training_arguments={"batch_eval_metrics": True},
        # UPerNet pools its last map to a single position, where BatchNorm of one image has no variance
        smallest_batch=2 if isinstance(model, UperNetForSemanticSegmentation) else 1,
        provenance={
            **describe_data(
                config,
                source,
                (train_name, evaluation_name),
                (images, masks),
                reader.names,
                (train_dataset, evaluation_dataset),
            ),
            "ignore_index": config.ignore_index,
            "image_size": list(image_format.size),
            "augmentation": config.augmentation,
            "horizontal_flip": config.augmentation and config.horizontal_flip,
            "head_learning_rate": config.head_learning_rate,
        },
    )


@dataclass(frozen=True)
class MaskTransform:
    """{image, mask} to {pixel_values, labels}, by a torchvision transform of both."""

    transform: v2.Transform

    def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
        example = self.transform(example)
        return {
            "pixel_values": example["image"].as_subclass(torch.Tensor),
            "labels": example["mask"].as_subclass(torch.Tensor),
        }


def training_transform(target: ImageFormat, horizontal_flip: bool = True) -> MaskTransform:
    """Scale by 0.5 to 2 what fits into the input's size, crop, flip, and distort colours, as DeepLab and UPerNet do."""
    steps: list[Any] = [
        v2.ScaleJitter(target.size, _SCALES, InterpolationMode(target.interpolation), antialias=True),
        v2.RandomCrop(target.size, pad_if_needed=True, fill=_filling(target)),
    ]
    if horizontal_flip:
        steps.append(v2.RandomHorizontalFlip())
    steps.append(v2.RandomPhotometricDistort(p=0.5))
    return MaskTransform(v2.Compose([*steps, *_to_input(target)]))


def evaluation_transform(target: ImageFormat) -> MaskTransform:
    """Scale down what is larger than the input, keep what is not, and pad; padding counts nowhere."""
    return MaskTransform(v2.Compose([_Fit(target), *_to_input(target)]))


def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of images and masks."""
    return {name: torch.stack([example[name] for example in examples]) for name in ("pixel_values", "labels")}


class _Fit:
    """Scale an image and its mask down until they fit the input, then pad them at the right and below."""

    def __init__(self, target: ImageFormat) -> None:
        self.target = target

    def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
        height, width = example["image"].shape[-2:]
        share = min(1.0, self.target.height / height, self.target.width / width)
        inside = max(1, int(height * share)), max(1, int(width * share))  # cut as transformers' processors do
        if inside != (height, width):
            example = v2.Resize(list(inside), InterpolationMode(self.target.interpolation), antialias=True)(example)
        rest = [0, 0, self.target.width - inside[1], self.target.height - inside[0]]
        padded: dict[str, Any] = v2.Pad(rest, fill=_filling(self.target))(example)
        return padded


def _filling(target: ImageFormat) -> dict[Any, Any]:
    # the mean colour becomes 0, what convolutions pad with
    return {tv_tensors.Image: [round(255 * mean) for mean in target.mean], tv_tensors.Mask: IGNORED}


def _to_input(target: ImageFormat) -> list[Any]:
    return [
        v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
        v2.Normalize(list(target.mean), list(target.std)),
    ]


def _columns(config: TaskConfig, train: datasets.Dataset, dataset: str, split: str) -> tuple[str, str]:
    """The columns of images and of masks."""
    found = image_columns(train)
    image = config.image_column or ("image" if "image" in found else None)
    mask = config.label_column
    others = [name for name in found if name != image]
    if image is not None and mask is None:
        mask = next((name for name in _MASKS if name in others), others[0] if len(others) == 1 else None)
    if image is None:
        rest = [name for name in found if name != mask]
        image = rest[0] if mask is not None and len(rest) == 1 else None
    if image is None or mask is None:
        missing, key = ("images", "image_column") if image is None else ("masks", "label_column")
        raise DataError(
            f"dataset {dataset}: which column holds the {missing}? set {key}; "
            f"{nearest(missing, others or train.column_names)}"
        )
    return tuple(find_image_column(train, name, dataset, split) for name in (image, mask))  # type: ignore[return-value]


def _model_and_format(config: TaskConfig, names: tuple[str, ...]) -> tuple[Any, Any, ImageFormat]:
    """The segmenter, its image processor and its input: a segmenter as it is, or UPerNet around a backbone."""
    if model_type(config) in {known.model_type for known in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING}:
        refuse_small_stem(config)
        model: Any = load_model(config, AutoModelForSemanticSegmentation, **label_names(names))
        processor = load_image_processor(config)
    else:
        backbone = load_backbone(config, _STRIDES)
        arguments = {**(config.model_arguments or {}), **label_names(names)}
        arguments.setdefault("auxiliary_in_channels", backbone.channels[2])
        model = build_around(backbone, config, UperNetForSemanticSegmentation, **arguments)
        processor = SegformerImageProcessor(
            size={"max_height": _SIDE, "max_width": _SIDE},
            image_mean=list(backbone.format.mean),
            image_std=list(backbone.format.std),
            resample=Image.Resampling[backbone.format.interpolation.upper()],
        )
    for key in ("loss_ignore_index", "semantic_loss_ignore_index"):
        if hasattr(model.config, key):
            setattr(model.config, key, IGNORED)
    return model, processor, _fixed_size(processor, config.image_size)


def _fixed_size(processor: Any, side: int | None) -> ImageFormat:
    """Input of a segmenter; a chosen size is written into its image processor."""
    stored = {name: value for name, value in dict(processor.size).items() if value is not None}
    if side is None:
        side = int(next(iter(stored.values()), _SIDE))
    processor.size = dict.fromkeys(stored if "max_height" in stored else ("height", "width"), side)
    return ImageFormat(
        height=side,
        width=side,
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
        interpolation=Image.Resampling(int(processor.resample)).name.lower(),
    )
