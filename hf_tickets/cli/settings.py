"""What `find` and `train` make of a recipe before anything runs."""

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import transformers
from transformers import TrainingArguments

from hf_tickets.cli.recipe import Recipe
from hf_tickets.errors import RecipeError
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.registry import FAMILIES, check, unread_keys
from hf_tickets.trainer.arguments import training_arguments


@dataclass(frozen=True)
class Settings:
    """The task and the training that a recipe, or a section of it, describes.

    Args:
        task: Model and data.
        training: Keyword arguments of TrainingArguments.
        recipe: The recipe they come from.
    """

    task: TaskConfig
    training: dict[str, Any]
    recipe: Recipe

    @classmethod
    def read(cls, recipe: Recipe) -> "Settings":
        """Build and check the settings of a recipe.

        Raises:
            RecipeError: A value is missing or wrong.
        """
        task = recipe.build(TaskConfig)
        check(task)
        training = recipe.training_arguments()
        if "output_dir" not in training:
            raise RecipeError(f"{recipe.path}: output_dir is missing; add it, or give --output_dir")
        settings = cls(task, training, recipe)
        settings.arguments(Path(training["output_dir"]))
        return settings

    @classmethod
    def of_section(cls, recipe: Recipe, name: str) -> "Settings":
        """Build and check the settings of a section of a recipe.

        A section of another task family does not inherit what that family does not read, such as a temperature.

        Raises:
            RecipeError: A value is missing or wrong.
        """
        section = recipe.section(name)
        own = recipe.sections[name]
        if own.get("family") in FAMILIES:
            values = {
                key: value
                for key, value in section.values.items()
                if key in own or key not in unread_keys(own["family"])
            }
            section = replace(section, values=values)
        return cls.read(section)

    @property
    def output_dir(self) -> Path:
        """The run's folder."""
        return Path(self.training["output_dir"])

    def on(self, model: Path | str, revision: str | None = None) -> "Settings":
        """Return the same settings for another base model, at a revision where it is on the Hub."""
        return replace(self, task=replace(self.task, model=str(model), model_revision=revision, pretrained=True))

    def arguments(self, output_dir: Path) -> TrainingArguments:
        """Return the training arguments, writing into a folder.

        Raises:
            RecipeError: TrainingArguments refuses a value.
        """
        try:
            return training_arguments(self.training, output_dir)
        except RecipeError as error:
            raise RecipeError(f"{self.recipe.path}: {error}") from error


def leads() -> bool:
    """Whether this is the first, or only, process of a launch: it alone speaks and draws."""
    return os.environ.get("RANK", "0") == "0"


def quieten() -> None:
    """Leave the terminal to the display: errors and warnings of the libraries only."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
