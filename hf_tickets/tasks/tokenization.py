"""Tokenizers of text tasks: loading one, fitting it to a model, and refusing what it cannot read."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from transformers import AutoTokenizer

from hf_tickets.errors import DataError
from hf_tickets.quiet import quiet_transformers
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.models import LOAD_ERRORS, require_model
from hf_tickets.tasks.sources import one_line


def load_tokenizer(config: TaskConfig, **arguments: Any) -> Any:
    """The tokenizer of a task: the one it names, or its model's.

    Args:
        config: the task.
        **arguments: what else `AutoTokenizer.from_pretrained` is told.

    Raises:
        DataError: the tokenizer, or the folder of the model, cannot be found or read.
    """
    name = config.tokenizer or config.model
    require_model(config.model)
    try:
        with quiet_transformers():
            revision = config.model_revision if config.tokenizer is None else None
            return AutoTokenizer.from_pretrained(name, revision=revision or "main", **arguments)
    except LOAD_ERRORS as error:
        raise DataError(f"tokenizer {name} cannot be loaded: {one_line(error)}") from error


def longest_input(tokenizer: Any, model: Any) -> int:
    """The most tokens, special ones included, that both tokenizer and model take."""
    limits = [tokenizer.model_max_length, getattr(model.config.get_text_config(), "max_position_embeddings", None)]
    for name, module in model.named_modules():
        # RoBERTa's kind counts positions from behind its padding token's
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    return int(min(limit for limit in limits if limit is not None))


def fit_tokenizer(tokenizer: Any, model: Any, name: str, max_length: int) -> None:
    """Give a tokenizer and its model a padding token where they have none, in place.

    Args:
        tokenizer: the tokenizer.
        model: the model, of transformers.
        name: what messages call the model.
        max_length: longest input, in tokens.

    Raises:
        DataError: inputs would be longer than the model reads, or there is no token to pad with.
    """
    longest = longest_input(tokenizer, model)
    if max_length > longest:
        raise DataError(f"max_length: {max_length} is more than the {longest} tokens of {name}; give {longest}")
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise DataError(f"the tokenizer of {name} has neither a padding nor an end token; give it a pad_token")
    if tokenizer.pad_token is None:
        # decoders such as GPT-2 have no padding of their own; attention masks hide what is chosen here
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.get_text_config().pad_token_id is None:
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def check_texts(values: Sequence[Any], rows: Sequence[int], column: str, where: str) -> None:
    """Refuse cells that hold no text.

    Args:
        values: cells of the column.
        rows: their rows in the dataset.
        column: name of the column.
        where: names dataset and split.

    Raises:
        DataError: names the first such row.
    """
    for row, value in zip(rows, values, strict=True):
        if not isinstance(value, str):
            raise DataError(f"{where}, row {row}: column {column} holds {value!r}, not a text")


def check_vocabulary(input_ids: Iterable[Sequence[int]], vocabulary: int) -> None:
    """Refuse tokens that a model does not know.

    Args:
        input_ids: token numbers of each input.
        vocabulary: number of tokens that the model knows.

    Raises:
        DataError: the tokenizer is not the model's.
    """
    highest = max((max(ids, default=0) for ids in input_ids), default=0)
    if highest >= vocabulary:
        raise DataError(
            f"the tokenizer yields token {highest}, but the model knows {vocabulary}: "
            "set tokenizer to the one the model was trained with"
        )
