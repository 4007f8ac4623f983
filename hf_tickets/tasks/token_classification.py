"""Token classification: a tag for each word, as in named-entity recognition and part-of-speech tagging."""

import logging
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification

from hf_tickets.errors import DataError, RecipeError
from hf_tickets.tasks.base import PreparedTask
from hf_tickets.tasks.blocks import IGNORED
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.entity_metrics import TagMetrics, are_entity_tags, most_likely
from hf_tickets.tasks.labels import require_column
from hf_tickets.tasks.models import label_names, load_model
from hf_tickets.tasks.sources import load_source, sample
from hf_tickets.tasks.tags import Tags, find_columns, find_tags, stored_names
from hf_tickets.tasks.tokenization import check_vocabulary, fit_tokenizer, load_tokenizer

logger = logging.getLogger(__name__)

_MAX_LENGTH = 128


def prepare(config: TaskConfig) -> PreparedTask:
    """See `hf_tickets.tasks.registry.prepare`."""
    if config.text_columns is not None and len(config.text_columns) != 1:
        raise RecipeError(f"text_columns: one column of words, not {len(config.text_columns)}")
    source = load_source(config)
    train_name, train = source.split(config.train_split, ("train",), "train_split")
    evaluation_name, evaluation = source.split(config.evaluation_split, ("validation", "test"), "evaluation_split")
    wanted = config.text_columns[0] if config.text_columns else None
    words, column = find_columns(train, wanted, config.label_column, source.name, train_name)
    tags = find_tags(train, train_name, source.name, column, config.labels)
    max_length = config.max_length or _MAX_LENGTH
    tokenizer, model = _tokenizer_and_model(config, tags, max_length)
    align = _Align(tokenizer, tags, words, max_length, model.config.get_text_config().vocab_size)

    def encode(split: datasets.Dataset, name: str, maximum: int | None) -> datasets.Dataset:
        for needed in (words, column):
            require_column(split, needed, source.name, name)
        rows = sample(np.arange(len(split)), maximum)
        return _encode(split, rows, align, f"dataset {source.name}, split {name}")

    train_dataset = encode(train, train_name, config.maximum_training_examples)
    evaluation_dataset = encode(evaluation, evaluation_name, config.maximum_evaluation_examples)
    return PreparedTask(
        model=model,
        train_dataset=train_dataset,
        evaluation_dataset=evaluation_dataset,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        compute_metrics=TagMetrics(tags.names),
        metric="f1" if are_entity_tags(tags.names) else "accuracy",
        processing_class=tokenizer,
        preprocess_logits_for_metrics=most_likely,
        provenance={
            "family": config.family,
            "task": None,
            "dataset": source.name,
            "dataset_config": source.config,
            "train_split": train_name,
            "evaluation_split": [evaluation_name],
            "text_columns": [words],
            "label_column": column,
            "labels": list(tags.names),
            "max_length": max_length,
            "training_examples": len(train_dataset),
            "evaluation_examples": [len(evaluation_dataset)],
            "task_seed": config.task_seed,
        },
    )


def _tokenizer_and_model(config: TaskConfig, tags: Tags, max_length: int) -> tuple[Any, Any]:
    tokenizer = load_tokenizer(config)
    if getattr(tokenizer, "add_prefix_space", None) is False:
        # GPT-2's and RoBERTa's kind tells a word from a part of one by the space before it
        tokenizer = load_tokenizer(config, add_prefix_space=True)
    if not tokenizer.is_fast:
        raise DataError(
            f"tokenizer {config.tokenizer or config.model} does not say which word a token is part of; "
            "give a model with a fast tokenizer (tokenizer.json)"
        )
    model: Any = load_model(config, AutoModelForTokenClassification, **label_names(tags.names))
    fit_tokenizer(tokenizer, model, config.model, max_length)
    return tokenizer, model


@dataclass(frozen=True)
class _Align:
    """Words and tags to tokens and labels: a word's tag on its first token, -100 on the others."""

    tokenizer: Any
    tags: Tags
    words: str
    max_length: int
    vocabulary: int

    def __call__(
        self, batch: dict[str, list[Any]], rows: list[int], stored: tuple[str, ...], where: str
    ) -> dict[str, Any]:
        numbers = []
        for row, words, tags in zip(rows, batch[self.words], batch[self.tags.column], strict=True):
            here = f"{where}, row {row}"
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise DataError(f"{here}: column {self.words} holds {words!r}, not a list of words")
            if not isinstance(tags, list) or len(tags) != len(words):
                given = len(tags) if isinstance(tags, list) else "no"
                raise DataError(f"{here}: {len(words)} words in {self.words}, but {given} tags in {self.tags.column}")
            numbers.append(self.tags.encode(tags, stored, here))
        tokens = self.tokenizer(
            batch[self.words], is_split_into_words=True, truncation=True, max_length=self.max_length
        )
        check_vocabulary(tokens["input_ids"], self.vocabulary)
        labels = [first_tokens(tokens.word_ids(i), tags) for i, tags in enumerate(numbers)]
        labelled = [sum(label != IGNORED for label in row) for row in labels]
        return {**tokens, "labels": labels, "words": [len(tags) for tags in numbers], "labelled": labelled}


def first_tokens(words: list[int | None], tags: list[int]) -> list[int]:
    """The label of each token: its word's tag where it is the word's first token, -100 elsewhere.

    Args:
        words: the word that each token is part of; None for special tokens.
        tags: the tag of each word.
    """
    before = [None, *words][: len(words)]
    return [
        IGNORED if word is None or word == previous else tags[word]
        for word, previous in zip(words, before, strict=True)
    ]


def _encode(split: datasets.Dataset, rows: np.ndarray, align: _Align, where: str) -> datasets.Dataset:
    stored = stored_names(split, align.tags.column)
    encoded = split.select(rows).map(
        lambda batch, indices: align(batch, [int(rows[i]) for i in indices], stored, where),
        batched=True,
        with_indices=True,
        remove_columns=split.column_names,
        desc=f"Tokenizing {where}",
    )
    words, labelled = (np.array(encoded[column][:]) for column in ("words", "labelled"))
    if words.sum() > labelled.sum():
        logger.warning(
            "%s: %d words, beyond max_length %d or without a token, are left out",
            where,
            words.sum() - labelled.sum(),
            align.max_length,
        )
    # a row without a word has no loss
    kept = np.flatnonzero(labelled)
    if not len(kept):
        raise DataError(f"{where}: no row has a word in column {align.words}")
    encoded = encoded.remove_columns(["words", "labelled"])
    return encoded if len(kept) == len(encoded) else encoded.select(kept)
