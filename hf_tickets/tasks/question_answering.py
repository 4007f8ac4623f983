"""Extractive question answering: SQuAD v1.1, SQuAD v2, and any dataset of their form."""

from typing import Any

import numpy as np
from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding

from hf_tickets.errors import DataError, RecipeError
from hf_tickets.tasks.answer_metrics import AnswerMetrics
from hf_tickets.tasks.answers import AnswerSearch
from hf_tickets.tasks.base import PreparedTask
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.models import load_model
from hf_tickets.tasks.questions import Columns, Questions, read_questions
from hf_tickets.tasks.sources import load_source, sample
from hf_tickets.tasks.tokenization import fit_tokenizer, load_tokenizer
from hf_tickets.tasks.windows import Windows

_MAX_LENGTH = 384  # of the BERT paper
_FOR_METRICS = ("first", "last", "null", "example")


def prepare(config: TaskConfig) -> PreparedTask:
    """See `hf_tickets.tasks.registry.prepare`."""
    columns, max_length = _columns(config), config.max_length or _MAX_LENGTH
    if not 0 <= config.stride < max_length:
        raise RecipeError(f"stride: {config.stride} is not between 0 and max_length {max_length}")
    source = load_source(config)
    train_name, train = source.split(config.train_split, ("train",), "train_split")
    evaluation_name, evaluation = source.split(config.evaluation_split, ("validation", "test"), "evaluation_split")
    training = read_questions(train, train_name, source.name, columns)
    evaluating = read_questions(evaluation, evaluation_name, source.name, columns)
    unanswerable = _unanswerable(config, training, evaluating)
    training = _sample(training.without_misplaced(), config.maximum_training_examples)
    evaluating = _sample(evaluating, config.maximum_evaluation_examples)
    tokenizer, model = _tokenizer_and_model(config, max_length)
    windows = Windows(tokenizer, max_length, config.stride, model.config.get_text_config().vocab_size)
    train_windows = windows.of(training, f"Tokenizing {train_name}")
    evaluation_windows = windows.of(evaluating, f"Tokenizing {evaluation_name}")
    threshold = config.null_threshold if unanswerable else None
    return PreparedTask(
        model=model,
        train_dataset=train_windows.remove_columns(_FOR_METRICS),
        evaluation_dataset=evaluation_windows.remove_columns(_FOR_METRICS),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=AnswerMetrics(
            evaluation_windows,
            evaluating.contexts,
            [gold.texts for gold in evaluating.gold],
            AnswerSearch(config.n_best, config.max_answer_length, threshold),
            tokenizer.pad_token_id,
        ),
        metric="f1",
        processing_class=tokenizer,
        preprocess_logits_for_metrics=start_and_end,
        training_arguments={
            "label_names": ["start_positions", "end_positions"],
            "include_for_metrics": ["inputs"],
        },
        provenance={
            "family": config.family,
            "task": None,
            "dataset": source.name,
            "dataset_config": source.config,
            "train_split": train_name,
            "evaluation_split": [evaluation_name],
            "text_columns": list(columns[:2]),
            "label_column": columns.answers,
            "max_length": max_length,
            "stride": config.stride,
            "n_best": config.n_best,
            "max_answer_length": config.max_answer_length,
            "unanswerable": unanswerable,
            "null_threshold": threshold,
            "training_examples": len(training),
            "evaluation_examples": [len(evaluating)],
            "training_windows": len(train_windows),
            "task_seed": config.task_seed,
        },
    )


def start_and_end(outputs: Any, labels: Any) -> Any:
    """Trainer's `preprocess_logits_for_metrics`: the logits of starts and ends, without what else a model returns."""
    return outputs[:2]


def _columns(config: TaskConfig) -> Columns:
    if config.labels is not None:
        raise RecipeError("labels: question-answering has no classes; leave it out")
    texts = config.text_columns or list(Columns()[:2])
    if len(texts) != 2:
        raise RecipeError(f"text_columns: two columns, those of question and context, not {len(texts)}")
    return Columns(texts[0], texts[1], config.label_column or Columns().answers)


def _unanswerable(config: TaskConfig, training: Questions, evaluating: Questions) -> bool:
    if config.unanswerable is False:
        training.require_answers()
        evaluating.require_answers()
    found = any(not gold.texts for questions in (training, evaluating) for gold in questions.gold)
    return found if config.unanswerable is None else config.unanswerable


def _sample(questions: Questions, maximum: int | None) -> Questions:
    return questions.only(sample(np.arange(len(questions)), maximum))


def _tokenizer_and_model(config: TaskConfig, max_length: int) -> tuple[Any, Any]:
    tokenizer = load_tokenizer(config)
    if not tokenizer.is_fast:
        raise DataError(
            f"tokenizer {config.tokenizer or config.model} does not say where its tokens lie in a text; "
            "answers need a fast tokenizer (tokenizer.json)"
        )
    model: Any = load_model(config, AutoModelForQuestionAnswering, num_labels=2)
    fit_tokenizer(tokenizer, model, config.model, max_length)
    return tokenizer, model
