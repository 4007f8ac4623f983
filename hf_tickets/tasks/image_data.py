"""Labelled images of a dataset: its splits, its columns, its classes."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from hf_tickets.errors import DataError
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.images import ImageExamples, find_image_column
from hf_tickets.tasks.labels import find_labels, label_column, require_column
from hf_tickets.tasks.sources import Source, load_source, sample


@dataclass(frozen=True)
class LabelledImages:
    """The images of a task.

    Attributes:
        training: images to train on.
        evaluation: images of the evaluation split.
        validation: images held out of the training split; None where none are.
        names: names of the classes.
        provenance: plain JSON values that say which data this is.
    """

    training: ImageExamples
    evaluation: ImageExamples
    validation: ImageExamples | None
    names: tuple[str, ...]
    provenance: dict[str, Any]


def read_images(config: TaskConfig) -> LabelledImages:
    """Find the images of a task; each is decoded when it is asked for.

    Raises:
        DataError: the dataset cannot be read, or has not the columns, labels or splits asked for.
    """
    source = load_source(config)
    defaults = ("validation", "test") if config.validation_examples is None else ("test", "validation")
    train_name, train = source.split(config.train_split, ("train",), "train_split")
    evaluation_name, evaluation = source.split(config.evaluation_split, defaults, "evaluation_split")
    images = find_image_column(train, config.image_column, source.name, train_name)
    column = label_column(train, config.label_column, source.name, train_name)
    labels = find_labels(train, train_name, source.name, column, regression=False, keep=config.labels)

    def examples(split: datasets.Dataset, name: str, maximum: int | None) -> ImageExamples:
        require_column(split, images, source.name, name)
        rows, targets = labels.encode(split, name)
        kept = sample(np.arange(len(rows)), maximum)
        decoded = split.cast_column(images, datasets.Image())
        return ImageExamples(decoded, images, rows[kept], targets[kept], f"dataset {source.name}, split {name}")

    training = examples(train, train_name, config.maximum_training_examples)
    validation = None
    if config.validation_examples is not None:
        training, validation = _hold_out(training, config.validation_examples, source.name)
    evaluated = examples(evaluation, evaluation_name, config.maximum_evaluation_examples)
    return LabelledImages(
        training=training,
        evaluation=evaluated,
        validation=validation,
        names=labels.names,
        provenance={
            **describe_data(
                config, source, (train_name, evaluation_name), (images, column), labels.names, (training, evaluated)
            ),
            "validation_examples": len(validation) if validation is not None else None,
        },
    )


def describe_data(
    config: TaskConfig,
    source: Source,
    splits: tuple[str, str],
    columns: tuple[str, str],
    labels: Sequence[str],
    examples: tuple[Sized, Sized],
) -> dict[str, Any]:
    """Say which images a task trains on and is evaluated on, as plain JSON values.

    Args:
        config: the task.
        source: the dataset.
        splits: names of the training and evaluation splits.
        columns: names of the columns of images and of what is to be told from them.
        labels: names of the classes.
        examples: the examples of both splits.
    """
    return {
        "family": config.family,
        "task": None,
        "dataset": source.name,
        "dataset_config": source.config,
        "train_split": splits[0],
        "evaluation_split": [splits[1]],
        "image_column": columns[0],
        "label_column": columns[1],
        "labels": list(labels),
        "training_examples": len(examples[0]),
        "evaluation_examples": [len(examples[1])],
        "task_seed": config.task_seed,
    }


def _hold_out(examples: ImageExamples, count: int, dataset: str) -> tuple[ImageExamples, ImageExamples]:
    if count >= len(examples):
        raise DataError(f"dataset {dataset}: validation_examples {count} leaves none of {len(examples)} to train on")
    held = sample(np.arange(len(examples)), count)
    return examples.only(np.setdiff1d(np.arange(len(examples)), held)), examples.only(held)
