"""Object detection: RT-DETR on any backbone, or any transformers detector, on any COCO-style dataset."""

from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.ops import box_convert
from torchvision.transforms import InterpolationMode, v2
from transformers import AutoModelForObjectDetection, RTDetrForObjectDetection, RTDetrImageProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING

from hf_tickets.tasks import voc
from hf_tickets.tasks.backbones import build_around, load_backbone, model_type, refuse_small_stem
from hf_tickets.tasks.base import PreparedTask
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.detection_metrics import AveragePrecision, BestDetections, pad_targets
from hf_tickets.tasks.image_data import describe_data
from hf_tickets.tasks.image_models import load_image_processor
from hf_tickets.tasks.images import ImageFormat, find_image_column
from hf_tickets.tasks.labels import require_column
from hf_tickets.tasks.models import label_names, load_model
from hf_tickets.tasks.objects import ObjectExamples, ObjectReader
from hf_tickets.tasks.randomness import EpochCallback, SeededDataset
from hf_tickets.tasks.sources import load_source, sample

_SIDE = 640  # RT-DETR's own (Zhao et al., 2024, arXiv 2304.08069)
_STRIDES = (8, 16, 32)


def prepare(config: TaskConfig) -> PreparedTask:
    """See `hf_tickets.tasks.registry.prepare`."""
    source = voc.load_objects(config) or load_source(config)
    train_name, train = source.split(config.train_split, ("train",), "train_split")
    evaluation_name, evaluation = source.split(
        config.evaluation_split, ("validation", "val", "test"), "evaluation_split"
    )
    images = find_image_column(train, config.image_column, source.name, train_name)
    box_format = "xyxy" if source.name == voc.NAME else config.box_format
    reader = ObjectReader(train, train_name, source.name, config.label_column, box_format, config.labels)

    def examples(split: datasets.Dataset, name: str, maximum: int | None) -> ObjectExamples:
        require_column(split, images, source.name, name)
        rows = sample(np.arange(len(split)), maximum)
        decoded = split.cast_column(images, datasets.Image())
        where = f"dataset {source.name}, split {name}"
        return ObjectExamples(decoded, images, reader.read(split, name), rows, box_format, where)

    training = examples(train, train_name, config.maximum_training_examples)
    evaluating = examples(evaluation, evaluation_name, config.maximum_evaluation_examples)
    model, processor, image_format = _model_and_format(config, reader.labels.names)
    resize = evaluation_transform(image_format)
    augment = training_transform(image_format, config.horizontal_flip) if config.augmentation else resize
    train_dataset = SeededDataset(training, augment, config.task_seed)
    evaluation_dataset = SeededDataset(evaluating, resize, config.task_seed, fixed=True)
    return PreparedTask(
        model=model,
        train_dataset=train_dataset,
        evaluation_dataset=evaluation_dataset,
        data_collator=collate,
        compute_metrics=AveragePrecision(),
        metric="map",
        processing_class=processor,
        callbacks=[EpochCallback(train_dataset)],
        preprocess_logits_for_metrics=BestDetections(processor),
        # the metric reads a padded table: lists of boxes cannot be exchanged between processes
        training_arguments={"label_names": ["targets"]},
        provenance={
            **describe_data(
                config,
                source,
                (train_name, evaluation_name),
                (images, reader.column),
                reader.labels.names,
                (train_dataset, evaluation_dataset),
            ),
            "image_size": list(image_format.size),
            "augmentation": config.augmentation,
            "horizontal_flip": config.augmentation and config.horizontal_flip,
            "head_learning_rate": config.head_learning_rate,
        },
    )


@dataclass(frozen=True)
class DetectionTransform:
    """{image, boxes, classes} to what detectors of transformers read, by a torchvision transform of all three.

    The result has pixel_values; labels: class_labels (objects,) and boxes (objects, 4) as centre, width and height;
    and targets (objects, 6): class, whether it is skipped, and corners. Boxes are shares of the image's sides.
    """

    transform: v2.Transform

    def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
        example = self.transform(example)
        image, boxes, classes = (example[name].as_subclass(torch.Tensor) for name in ("image", "boxes", "classes"))
        height, width = image.shape[-2:]
        corners = boxes / torch.tensor([width, height, width, height])
        learnt = classes[:, 1] == 0
        return {
            "pixel_values": image,
            "labels": {
                "class_labels": classes[learnt, 0],
                "boxes": box_convert(corners[learnt], "xyxy", "cxcywh"),
            },
            "targets": torch.cat([classes.float(), corners], dim=1),
        }


def training_transform(target: ImageFormat, horizontal_flip: bool = True) -> DetectionTransform:
    """Distort colours, crop around objects, and flip, as SSD and RT-DETR do; boxes follow their image."""
    steps: list[Any] = [v2.RandomPhotometricDistort(p=0.5), v2.RandomApply([v2.RandomIoUCrop()], p=0.5)]
    if horizontal_flip:
        steps.append(v2.RandomHorizontalFlip())
    return DetectionTransform(v2.Compose([*steps, *_to_input(target)]))


def evaluation_transform(target: ImageFormat) -> DetectionTransform:
    """Resize to the input's size, whatever the proportions."""
    return DetectionTransform(v2.Compose(_to_input(target)))


def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch as detectors of transformers read it, and its targets as `AveragePrecision` reads them."""
    return {
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
        "labels": [example["labels"] for example in examples],
        "targets": pad_targets([example["targets"] for example in examples]),
    }


def _to_input(target: ImageFormat) -> list[Any]:
    return [
        v2.Resize(list(target.size), InterpolationMode(target.interpolation), antialias=True),
        v2.SanitizeBoundingBoxes(labels_getter=lambda example: example["classes"]),
        v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
        v2.Normalize(list(target.mean), list(target.std)),
    ]


def _model_and_format(config: TaskConfig, names: tuple[str, ...]) -> tuple[Any, Any, ImageFormat]:
    """The detector, its image processor and its input: a detector as it is, or RT-DETR around a backbone."""
    if model_type(config) in {known.model_type for known in MODEL_FOR_OBJECT_DETECTION_MAPPING}:
        refuse_small_stem(config)
        model = load_model(config, AutoModelForObjectDetection, **label_names(names))
        processor = load_image_processor(config)
        return model, processor, _fixed_size(processor, config.image_size or _stored_side(processor))
    backbone = load_backbone(config, _STRIDES)
    arguments = {
        "encoder_in_channels": list(backbone.channels),
        # frozen statistics would be those of the dense weights, not of a ticket's
        "freeze_backbone_batch_norms": False,
        **(config.model_arguments or {}),
        **label_names(names),
    }
    width = arguments.setdefault("encoder_hidden_dim", arguments.get("d_model", 256))
    arguments.setdefault("decoder_in_channels", [width] * len(_STRIDES))
    model = build_around(backbone, config, RTDetrForObjectDetection, **arguments)
    processor = RTDetrImageProcessor(
        do_normalize=True,
        image_mean=list(backbone.format.mean),
        image_std=list(backbone.format.std),
        resample=Image.Resampling[backbone.format.interpolation.upper()],
    )
    return model, processor, _fixed_size(processor, config.image_size or _SIDE)


def _fixed_size(processor: Any, side: int) -> ImageFormat:
    """Input of a detector; its size is written into its image processor."""
    processor.size = {"height": side, "width": side}
    normalised = bool(processor.do_normalize)
    return ImageFormat(
        height=side,
        width=side,
        mean=tuple(processor.image_mean) if normalised else (0.0,) * 3,
        std=tuple(processor.image_std) if normalised else (1.0,) * 3,
        interpolation=Image.Resampling(int(processor.resample)).name.lower(),
    )


def _stored_side(processor: Any) -> int:
    size = dict(processor.size)
    return int(size.get("height") or size.get("shortest_edge") or _SIDE)
