"""What a recipe says about its task: model, data and how they meet."""

from dataclasses import dataclass, field
from typing import Any


def _key(help: str, default: Any = None, modality: str | None = None) -> Any:
    """A recipe key; with `modality`, one that only task families of that modality read."""
    metadata = {"help": help, **({"modality": modality} if modality else {})}
    return field(default=default, metadata=metadata)


@dataclass
class TaskConfig:
    """Model, dataset and preprocessing of one task. Every field is a recipe key; its help is its documentation.

    A key that is left out takes the task family's own default. Numbers are examples, tokens or pixels.
    """

    family: str = field(metadata={"help": "Task family: text-classification or image-classification."})
    model: str = field(
        metadata={"help": "Model: Hub id, local folder, or (images) the name of a timm architecture."}
    )
    task: str | None = _key(
        "GLUE task: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli. "
        "Sets dataset, columns, labels and metrics.",
        modality="text",
    )
    model_revision: str | None = _key("Branch, tag or commit of the model on the Hub.")
    pretrained: bool = _key("Load the model's weights; false: its architecture with random weights.", True)
    model_arguments: dict[str, Any] | None = _key(
        "Keyword arguments for the model and its configuration, such as {attn_implementation: eager}. "
        "Weights are float32 unless dtype is given here.",
    )
    tokenizer: str | None = _key("Tokenizer: Hub id or local folder. Default: the model's.", modality="text")
    dataset: str | None = _key(
        "Dataset: Hub id, local folder, local file (csv, tsv, json, jsonl, parquet, arrow), or sklearn/digits. "
        "Default for a GLUE task: nyu-mll/glue. A local folder may hold one sub-folder for each GLUE task.",
    )
    dataset_config: str | None = _key("Configuration (subset) of a dataset that has several.")
    dataset_revision: str | None = _key("Branch, tag or commit of the dataset on the Hub.")
    train_split: str | None = _key("Split to train on; a slice such as train[:90%] too. Default: train.")
    evaluation_split: str | None = _key(
        "Split to evaluate on; a slice such as train[90%:] too. Default: validation, or test without one."
    )
    text_columns: list[str] | None = _key("One or two columns of text.", modality="text")
    image_column: str | None = _key("Column of images. Default: the only one.", modality="image")
    label_column: str | None = _key(
        "Column of labels. Default: label, labels, or the only column of classes."
    )
    labels: list[str | int] | None = _key(
        "Keep only these classes, numbered in this order. Default: all, in the dataset's order."
    )
    problem_type: str | None = _key(
        "single_label_classification or regression. Default: regression where labels are floats.",
        modality="text",
    )
    max_length: int = _key("Longest input, in tokens; what is longer is cut.", 128, modality="text")
    image_size: int | None = _key(
        "Side of the model's square input, in pixels. Default: the model's.", modality="image"
    )
    augmentation: bool = _key("Crop and flip training images at random.", True, modality="image")
    horizontal_flip: bool = _key(
        "Let augmentation mirror images; false where left and right matter, as in digits.",
        True,
        modality="image",
    )
    maximum_training_examples: int | None = _key(
        "Train on at most this many examples, drawn at random, the same ones for every seed."
    )
    maximum_evaluation_examples: int | None = _key(
        "Evaluate on at most this many examples, drawn at random, the same ones for every seed."
    )
    task_seed: int = _key("Seed of new weights (heads, random models) and of random augmentation.", 42)
