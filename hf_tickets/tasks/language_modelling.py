"""Language modelling on any text: masked tokens (BERT and its kind) or next tokens (decoders)."""

from functools import partial
from typing import Any

import datasets
import numpy as np
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

from hf_tickets.errors import DataError, RecipeError
from hf_tickets.tasks.base import PreparedTask
from hf_tickets.tasks.blocks import Blocks, collate, special_tokens, tokenise
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.language_metrics import TokenMetrics, TokenScores
from hf_tickets.tasks.masking import Masking
from hf_tickets.tasks.models import load_model
from hf_tickets.tasks.randomness import EpochCallback, SeededDataset
from hf_tickets.tasks.sources import load_source, sample
from hf_tickets.tasks.texts import guess_text_columns
from hf_tickets.tasks.tokenization import load_tokenizer, longest_input

_BLOCK_SIZE = 512
# what is masked at evaluation belongs to the data: it is the same for every seed
_EVALUATION_SEED = 0


def prepare(config: TaskConfig) -> PreparedTask:
    """See `hf_tickets.tasks.registry.prepare`."""
    if config.text_columns is not None and len(config.text_columns) != 1:
        raise RecipeError(f"text_columns: {config.family} reads one column, not {len(config.text_columns)}")
    masked = config.family == "masked-lm"
    source = load_source(config)
    train_name, train = source.split(config.train_split, ("train",), "train_split")
    evaluation_name, evaluation = source.split(config.evaluation_split, ("validation", "test"), "evaluation_split")
    (column,) = config.text_columns or guess_text_columns(train, None, source.name)
    tokenizer = load_tokenizer(config)
    if masked and tokenizer.mask_token is None:
        raise DataError(
            f"tokenizer {config.tokenizer or config.model} has no mask token, which masked-lm needs; "
            "decoders are trained by family causal-lm"
        )
    model = _load(config, tokenizer, masked)
    vocabulary = model.config.get_text_config().vocab_size
    before, after = special_tokens(tokenizer)
    size = _block_size(config, longest_input(tokenizer, model), len(before) + len(after))

    def blocks(split: datasets.Dataset, name: str, maximum: int | None) -> Blocks:
        tokens = tokenise(split, column, tokenizer, vocabulary, source.name, name)
        # a decoder predicts nothing from a single token
        cut = Blocks(tokens, size, before, after, shortest=1 if masked else 2)
        if not len(cut):
            raise DataError(f"dataset {source.name}, split {name}: a single token is too little for {config.family}")
        return cut.only(sample(np.arange(len(cut)), maximum))

    train_dataset: Any = blocks(train, train_name, config.maximum_training_examples)
    evaluation_dataset: Any = blocks(evaluation, evaluation_name, config.maximum_evaluation_examples)
    callbacks = []
    if masked:
        masking = Masking(tokenizer, config.masking_probability)
        train_dataset = SeededDataset(train_dataset, masking, config.task_seed)
        evaluation_dataset = SeededDataset(evaluation_dataset, masking, _EVALUATION_SEED, fixed=True)
        callbacks.append(EpochCallback(train_dataset))
    return PreparedTask(
        model=model,
        train_dataset=train_dataset,
        evaluation_dataset=evaluation_dataset,
        data_collator=partial(collate, padding=tokenizer.pad_token_id or 0),
        compute_metrics=TokenMetrics(),
        metric="accuracy" if masked else "perplexity",
        greater_is_better=masked,
        processing_class=tokenizer,
        callbacks=list(callbacks),
        preprocess_logits_for_metrics=TokenScores(shifted=not masked),
        # the labels of a whole corpus do not fit into memory
        training_arguments={"batch_eval_metrics": True},
        provenance={
            "family": config.family,
            "task": None,
            "dataset": source.name,
            "dataset_config": source.config,
            "train_split": train_name,
            "evaluation_split": [evaluation_name],
            "text_columns": [column],
            "block_size": size,
            "masking_probability": config.masking_probability if masked else None,
            "training_examples": len(train_dataset),
            "evaluation_examples": [len(evaluation_dataset)],
            "task_seed": config.task_seed,
        },
    )


def _load(config: TaskConfig, tokenizer: Any, masked: bool) -> Any:
    """The model with its language modelling head."""
    model: Any = load_model(config, AutoModelForMaskedLM if masked else AutoModelForCausalLM)
    settings = model.config.get_text_config()
    if not masked and type(settings) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(settings, "is_decoder", False):
        raise RecipeError(
            f"model: {config.model} sees the tokens that causal-lm predicts; "
            "set family to masked-lm, or model_arguments to {is_decoder: true}"
        )
    if masked and len(tokenizer) > settings.vocab_size:
        raise DataError(
            f"the tokenizer has {len(tokenizer)} tokens, but the model knows {settings.vocab_size}: "
            "set tokenizer to the one the model was trained with"
        )
    return model


def _block_size(config: TaskConfig, longest: int, special: int) -> int:
    size = min(_BLOCK_SIZE, longest) if config.block_size is None else config.block_size
    if size > longest:
        raise DataError(f"block_size: {size} is more than the {longest} tokens of {config.model}; give {longest}")
    if size < special + 2:
        raise RecipeError(f"block_size: {size} leaves no room for a text beside {special} special tokens")
    return size
