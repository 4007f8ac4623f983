"""Text classification and regression: the GLUE tasks by name, any other dataset by its columns."""

from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from hf_tickets.errors import RecipeError
from hf_tickets.tasks.base import PreparedTask
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.glue import GLUE, HUB_ID, GlueTask
from hf_tickets.tasks.labels import Labels, find_labels, label_column, require_column
from hf_tickets.tasks.metrics import ComputeMetrics
from hf_tickets.tasks.models import label_names, load_model
from hf_tickets.tasks.nearest import nearest
from hf_tickets.tasks.sources import Source, load_source, sample
from hf_tickets.tasks.texts import guess_text_columns
from hf_tickets.tasks.tokenization import check_texts, check_vocabulary, fit_tokenizer, load_tokenizer

_MAX_LENGTH = 128
_PROBLEM_TYPES = ("single_label_classification", "regression")


def prepare(config: TaskConfig) -> PreparedTask:
    """See `hf_tickets.tasks.registry.prepare`."""
    glue = _glue_task(config)
    if glue is not None and config.dataset is None:
        config = replace(config, dataset=HUB_ID)
    source = load_source(config, config.task)
    train_name, train = source.split(config.train_split, ("train",), "train_split")
    evaluations = _evaluation_splits(config, source, glue)
    column = label_column(train, config.label_column, source.name, train_name)
    labels = find_labels(
        train,
        train_name,
        source.name,
        column,
        _is_regression(config, glue),
        _glue_names(glue, train.features[column]),
        config.labels,
    )
    columns = config.text_columns or (list(glue.columns) if glue else guess_text_columns(train, column, source.name))
    max_length = config.max_length or _MAX_LENGTH
    tokenizer, model = _tokenizer_and_model(config, labels, max_length)
    tokenize = _Tokenize(tokenizer, columns, max_length, model.config.get_text_config().vocab_size)

    def encode(split: datasets.Dataset, name: str, maximum: int | None) -> datasets.Dataset:
        return _encode(split, name, labels, tokenize, maximum)

    train_dataset = encode(train, train_name, config.maximum_training_examples)
    evaluation_datasets = {
        name: encode(split, split_name, config.maximum_evaluation_examples)
        for name, (split_name, split) in evaluations.items()
    }
    metrics = glue.metrics if glue else (("pearson", "spearmanr") if labels.regression else ("accuracy",))
    first = next(iter(evaluations))
    return PreparedTask(
        model=model,
        train_dataset=train_dataset,
        evaluation_dataset=evaluation_datasets if first else evaluation_datasets[first],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=ComputeMetrics(metrics, labels.regression),
        metric=f"{first}_{metrics[0]}" if first else metrics[0],
        processing_class=tokenizer,
        provenance={
            "family": config.family,
            "task": config.task,
            "dataset": source.name,
            "dataset_config": source.config,
            "train_split": train_name,
            "evaluation_split": [name for name, _ in evaluations.values()],
            "text_columns": columns,
            "label_column": column,
            "labels": list(labels.names) or None,
            "max_length": max_length,
            "training_examples": len(train_dataset),
            "evaluation_examples": [len(dataset) for dataset in evaluation_datasets.values()],
            "task_seed": config.task_seed,
        },
    )


def _glue_task(config: TaskConfig) -> GlueTask | None:
    if config.problem_type not in (None, *_PROBLEM_TYPES):
        raise RecipeError(
            f"problem_type: no type {config.problem_type!r}; {nearest(config.problem_type, _PROBLEM_TYPES)}"
        )
    if config.text_columns is not None and len(config.text_columns) not in (1, 2):
        raise RecipeError(f"text_columns: one or two columns, not {len(config.text_columns)}")
    if config.task is None:
        return None
    if config.task not in GLUE:
        raise RecipeError(f"task: no GLUE task {config.task!r}; {nearest(config.task, GLUE)}")
    return GLUE[config.task]


def _is_regression(config: TaskConfig, glue: GlueTask | None) -> bool | None:
    if config.problem_type is not None:
        return config.problem_type == "regression"
    return None if glue is None else not glue.labels


def _glue_names(glue: GlueTask | None, feature: Any) -> tuple[str, ...] | None:
    if glue is None or not glue.labels:
        return None
    # a copy of the task may number the classes otherwise, and say so
    stated = tuple(getattr(feature, "names", None) or ())
    return stated if set(stated) == set(glue.labels) else glue.labels


def _evaluation_splits(
    config: TaskConfig, source: Source, glue: GlueTask | None
) -> dict[str, tuple[str, datasets.Dataset]]:
    """Evaluation set (an empty name if it is the only one) → name and rows of its split."""
    key = "evaluation_split"
    if config.evaluation_split is None and glue is not None and len(glue.evaluations) > 1:
        return {name: source.split(None, (split,), key) for name, split in glue.evaluations}
    return {"": source.split(config.evaluation_split, ("validation", "test"), key)}


def _tokenizer_and_model(config: TaskConfig, labels: Labels, max_length: int) -> tuple[Any, Any]:
    tokenizer = load_tokenizer(config)
    if labels.regression:
        head: dict[str, Any] = {"num_labels": 1, "problem_type": "regression"}
    else:
        head = {**label_names(labels.names), "problem_type": "single_label_classification"}
    model: Any = load_model(config, AutoModelForSequenceClassification, **head)
    fit_tokenizer(tokenizer, model, config.model, max_length)
    return tokenizer, model


@dataclass(frozen=True)
class _Tokenize:
    tokenizer: Any
    columns: list[str]
    max_length: int
    vocabulary: int

    def __call__(self, batch: dict[str, list[Any]], rows: list[int], where: str) -> dict[str, Any]:
        for column in self.columns:
            check_texts(batch[column], rows, column, where)
        texts = [batch[column] for column in self.columns]
        tokens = self.tokenizer(*texts, truncation=True, max_length=self.max_length)
        check_vocabulary(tokens["input_ids"], self.vocabulary)
        return dict(tokens)


def _encode(
    split: datasets.Dataset, split_name: str, labels: Labels, tokenize: _Tokenize, maximum: int | None
) -> datasets.Dataset:
    for column in tokenize.columns:
        require_column(split, column, labels.dataset, split_name)
    rows, targets = labels.encode(split, split_name)
    kept = sample(np.arange(len(rows)), maximum)
    rows, targets = rows[kept], targets[kept]
    where = f"dataset {labels.dataset}, split {split_name}"
    encoded = split.select(rows).map(
        lambda batch, indices: tokenize(batch, [int(rows[i]) for i in indices], where),
        batched=True,
        with_indices=True,
        remove_columns=split.column_names,
        desc=f"Tokenizing {split_name}",
    )
    return encoded.add_column("labels", targets)
