"""What a recipe says about its task: model, data and how they meet."""

from dataclasses import dataclass, field
from typing import Any


def _help(text: str, modality: str | None = None) -> dict[str, Any]:
    """Metadata of a recipe key; with `modality`, one that only task families of that modality read."""
    return {"help": text, **({"modality": modality} if modality else {})}


@dataclass
class TaskConfig:
    """Model, dataset and preprocessing of one task. Every field is a recipe key; its help documents it.

    A key that is left out takes the task family's own default. Numbers are examples, tokens or pixels.
    """

    family: str = field(
        metadata=_help(
            "Task family: text-classification, token-classification, question-answering, masked-lm, causal-lm, "
            "image-classification, object-detection, semantic-segmentation, simclr or moco."
        )
    )
    model: str = field(metadata=_help("Model: Hub id, local folder, or (images) the name of a timm architecture."))
    task: str | None = field(
        default=None,
        metadata=_help(
            "GLUE task: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli. "
            "Sets dataset, columns, labels and metrics.",
            modality="text-classification",
        ),
    )
    model_revision: str | None = field(default=None, metadata=_help("Branch, tag or commit of the model on the Hub."))
    pretrained: bool = field(
        default=True,
        metadata=_help("Load the model's weights; false: its architecture with random weights."),
    )
    model_arguments: dict[str, Any] | None = field(
        default=None,
        metadata=_help(
            "Keyword arguments for the model and its configuration, such as {attn_implementation: eager}. "
            "Weights are float32 unless dtype is given here."
        ),
    )
    tokenizer: str | None = field(
        default=None,
        metadata=_help("Tokenizer: Hub id or local folder. Default: the model's.", modality="text"),
    )
    dataset: str | None = field(
        default=None,
        metadata=_help(
            "Dataset: Hub id, local folder, local file (csv, tsv, json, jsonl, parquet, arrow, txt), "
            "or sklearn/digits. Default for a GLUE task: nyu-mll/glue. "
            "A local folder may hold one sub-folder for each GLUE task."
        ),
    )
    dataset_config: str | None = field(
        default=None, metadata=_help("Configuration (subset) of a dataset that has several.")
    )
    dataset_revision: str | None = field(
        default=None, metadata=_help("Branch, tag or commit of the dataset on the Hub.")
    )
    train_split: str | None = field(
        default=None,
        metadata=_help("Split to train on; a slice such as train[:90%] too. Default: train."),
    )
    evaluation_split: str | None = field(
        default=None,
        metadata=_help(
            "Split to evaluate on; a slice such as train[90%:] too. Default: validation, or test without one."
        ),
    )
    text_columns: list[str] | None = field(
        default=None,
        metadata=_help(
            "One or two columns of text; the column of words in token classification, those of question and context "
            "in question answering. Default: text, or the only one; tokens, or the only one; question and context.",
            modality="text",
        ),
    )
    image_column: str | None = field(
        default=None, metadata=_help("Column of images. Default: the only one.", modality="image")
    )
    label_column: str | None = field(
        default=None,
        metadata=_help(
            "Column of labels; of objects in detection, of masks in segmentation, of tags in token classification, of "
            "answers in question answering. Default: label, labels, or the only column of classes; objects; the only "
            "other column of images; ner_tags, tags, labels, or the only column of tags; answers."
        ),
    )
    labels: list[str | int] | None = field(
        default=None,
        metadata=_help(
            "Keep only these classes, numbered in this order. Default: all, in the dataset's order. "
            "In segmentation: the names of mask values 0, 1, ..., or the mask values to keep. "
            "In token classification: all tags in the order wanted, or the names of tags 0, 1, ...."
        ),
    )
    problem_type: str | None = field(
        default=None,
        metadata=_help(
            "single_label_classification or regression. Default: regression where labels are floats.",
            modality="text-classification",
        ),
    )
    max_length: int | None = field(
        default=None,
        metadata=_help(
            "Longest input, in tokens; what is longer is cut, in question answering into windows. "
            "Default: 128; 384 in question answering.",
            modality="labelled-text",
        ),
    )
    stride: int = field(
        default=128,
        metadata=_help(
            "Tokens of a context that two windows of it have in common.",
            modality="question-answering",
        ),
    )
    n_best: int = field(
        default=20,
        metadata=_help(
            "Likeliest starts and ends of an answer in a window that are tried together.",
            modality="question-answering",
        ),
    )
    max_answer_length: int = field(
        default=30, metadata=_help("Longest answer that is given, in tokens.", modality="question-answering")
    )
    unanswerable: bool | None = field(
        default=None,
        metadata=_help(
            "Whether the context may hold no answer (SQuAD v2). Default: whether the data has such questions.",
            modality="question-answering",
        ),
    )
    null_threshold: float = field(
        default=0.0,
        metadata=_help(
            "No answer is given where its score, the sum of two logits, exceeds the best answer's by more than this.",
            modality="question-answering",
        ),
    )
    block_size: int | None = field(
        default=None,
        metadata=_help(
            "Tokens of each block that a corpus is cut into, special tokens included. "
            "Default: the model's longest input, at most 512.",
            modality="language-modelling",
        ),
    )
    masking_probability: float = field(
        default=0.15,
        metadata=_help(
            "Share of tokens to predict; of these 80 % are masked, 10 % are replaced by random ones.",
            modality="masked-lm",
        ),
    )
    image_size: int | None = field(
        default=None,
        metadata=_help("Side of the model's square input, in pixels. Default: the model's.", modality="image"),
    )
    augmentation: bool = field(
        default=True, metadata=_help("Crop and flip training images at random.", modality="image")
    )
    horizontal_flip: bool = field(
        default=True,
        metadata=_help(
            "Let augmentation mirror images; false where left and right matter, as in digits.",
            modality="image",
        ),
    )
    box_format: str = field(
        default="xywh",
        metadata=_help(
            "How boxes are written, in pixels: xywh (left, top, width, height: COCO), xyxy (two corners: "
            "Pascal VOC) or cxcywh (centre, width, height).",
            modality="object-detection",
        )
        | {"choices": ("xywh", "xyxy", "cxcywh")},
    )
    ignore_index: int | None = field(
        default=255,
        metadata=_help("Value of mask pixels that count nowhere; null: none.", modality="semantic-segmentation"),
    )
    head_learning_rate: float | None = field(
        default=None,
        metadata=_help(
            "Learning rate of what is not backbone; learning_rate is the backbone's then. Default: one for both.",
            modality="image",
        ),
    )
    small_stem: bool = field(
        default=False,
        metadata=_help(
            "Give a ResNet of timm a 3×3 first convolution of stride 1, its weights new, and no max-pool.",
            modality="image",
        ),
    )
    validation_examples: int | None = field(
        default=None,
        metadata=_help(
            "Hold out this many training examples, the same for every seed, as eval_validation_…, beside "
            "eval_test_… of the evaluation split, which is test by default then.",
            modality="image",
        ),
    )
    crop_scale: float | None = field(
        default=None,
        metadata=_help(
            "Smallest share of the image that a view shows. Default: 0.08 (simclr), 0.2 (moco).",
            modality="self-supervised",
        ),
    )
    colour_jitter: list[float] | None = field(
        default=None,
        metadata=_help(
            "Brightness, contrast, saturation and hue of views. "
            "Default: 0.8, 0.8, 0.8, 0.2 (simclr), 0.4, 0.4, 0.4, 0.1 (moco).",
            modality="self-supervised",
        ),
    )
    colour_jitter_probability: float = field(
        default=0.8, metadata=_help("Share of views whose colours are jittered.", modality="self-supervised")
    )
    grey_probability: float = field(
        default=0.2, metadata=_help("Share of views without colour.", modality="self-supervised")
    )
    blur_probability: float = field(
        default=0.5, metadata=_help("Share of views that are blurred.", modality="self-supervised")
    )
    temperature: float | None = field(
        default=None,
        metadata=_help("Temperature of the loss. Default: 0.5 (simclr), 0.2 (moco).", modality="self-supervised"),
    )
    projection: list[int] | None = field(
        default=None,
        metadata=_help(
            "Widths of the projection head's layers after the features; one is a linear head. "
            "Default: the features' width, 128.",
            modality="self-supervised",
        ),
    )
    queue_size: int | None = field(
        default=None, metadata=_help("Negatives in the queue. Default: 65536.", modality="moco")
    )
    momentum: float | None = field(
        default=None, metadata=_help("Momentum of the key encoder. Default: 0.999.", modality="moco")
    )
    batch_norm_groups: int | None = field(
        default=None,
        metadata=_help(
            "Groups of a process's batch with BatchNorm statistics of their own; "
            "2 or more shuffle BatchNorm within one process. Default: 1.",
            modality="moco",
        ),
    )
    probe_examples: int = field(
        default=5000,
        metadata=_help(
            "Training examples from which k-NN and linear probe learn at evaluation.", modality="self-supervised"
        ),
    )
    neighbours: int = field(default=20, metadata=_help("Neighbours that vote in k-NN.", modality="self-supervised"))
    linear_probe: bool = field(
        default=True, metadata=_help("Also evaluate a linear probe.", modality="self-supervised")
    )
    timm_optimizer: str | None = field(
        default=None,
        metadata=_help(
            "Optimizer of timm by its name, such as lars, in place of optim; optim_args are its own. "
            "Biases and norms do not decay."
        ),
    )
    learning_rate_milestones: list[float] | None = field(
        default=None,
        metadata=_help("Shares of the training, such as [0.5, 0.75], after which the learning rate falls."),
    )
    learning_rate_decay: float = field(
        default=0.1, metadata=_help("What the learning rate is multiplied by at each milestone.")
    )
    maximum_training_examples: int | None = field(
        default=None,
        metadata=_help("Train on at most this many examples: random ones, the same for every seed."),
    )
    maximum_evaluation_examples: int | None = field(
        default=None,
        metadata=_help("Evaluate on at most this many examples: random ones, the same for every seed."),
    )
    task_seed: int = field(
        default=42,
        metadata=_help("Seed of new weights (heads, random models) and of random augmentation."),
    )
