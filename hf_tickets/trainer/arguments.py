"""`TrainingArguments` from plain values, as a recipe or the content of a study's cell has them."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from hf_tickets.errors import RecipeError
from hf_tickets.trainer.cpu import on_cpu


def training_arguments(values: Mapping[str, Any], output_dir: str | Path) -> TrainingArguments:
    """Return training arguments that write into a folder and leave the terminal alone.

    Args:
        values: Keyword arguments of TrainingArguments; its `output_dir` is not used.
        output_dir: The folder.

    Raises:
        RecipeError: TrainingArguments refuses a value.
    """
    defaults = {"dataloader_pin_memory": torch.cuda.is_available(), "logging_steps": 50}
    given = {**defaults, **values, "output_dir": str(output_dir), "disable_tqdm": True}
    known = {field.name for field in fields(TrainingArguments) if field.init}
    given = {name: value for name, value in given.items() if name in known}
    try:
        return on_cpu(given) if given.get("use_cpu") else TrainingArguments(**given)
    except (TypeError, ValueError, ImportError) as error:
        raise RecipeError(error) from error
