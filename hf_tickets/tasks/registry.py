"""The task families by name. A new family is one module with `prepare(config)` and one line here."""

import importlib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from hf_tickets.errors import RecipeError
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.nearest import nearest

if TYPE_CHECKING:
    from hf_tickets.tasks.base import PreparedTask


@dataclass(frozen=True)
class Family:
    """A task family: the module that prepares it, imported on use, and the modalities whose keys it reads."""

    module: str
    modality: str
    more: tuple[str, ...] = ()


FAMILIES = {
    "causal-lm": Family("hf_tickets.tasks.language_modelling", "text", ("language-modelling",)),
    "image-classification": Family("hf_tickets.tasks.image_classification", "image"),
    "object-detection": Family("hf_tickets.tasks.detection", "image", ("object-detection",)),
    "semantic-segmentation": Family("hf_tickets.tasks.segmentation", "image", ("semantic-segmentation",)),
    "masked-lm": Family("hf_tickets.tasks.language_modelling", "text", ("language-modelling", "masked-lm")),
    "moco": Family("hf_tickets.tasks.self_supervised", "image", ("self-supervised", "moco")),
    "simclr": Family("hf_tickets.tasks.self_supervised", "image", ("self-supervised",)),
    "question-answering": Family(
        "hf_tickets.tasks.question_answering", "text", ("labelled-text", "question-answering")
    ),
    "text-classification": Family(
        "hf_tickets.tasks.text_classification", "text", ("labelled-text", "text-classification")
    ),
    "token-classification": Family("hf_tickets.tasks.token_classification", "text", ("labelled-text",)),
}


_POSITIVE = (
    "max_length",
    "block_size",
    "n_best",
    "max_answer_length",
    "image_size",
    "maximum_training_examples",
    "maximum_evaluation_examples",
    "validation_examples",
    "probe_examples",
    "neighbours",
)
_PROBABILITIES = ("colour_jitter_probability", "grey_probability", "blur_probability")


def prepare(config: TaskConfig) -> "PreparedTask":
    """Load model and data of a task and make them ready for Trainer.

    Args:
        config: the task; its `family` chooses how it is prepared.

    Raises:
        RecipeError: the configuration is wrong: unknown family, a key of another modality, a bad number.
        DataError: the model or dataset cannot be read, or has not the columns, labels or splits asked for.
    """
    check(config)
    module = importlib.import_module(FAMILIES[config.family].module)
    prepared: PreparedTask = module.prepare(config)
    prepared.optimizer = config.timm_optimizer
    prepared.head_learning_rate = config.head_learning_rate
    if config.learning_rate_milestones:
        from hf_tickets.tasks.optimization import StepDecay

        prepared.callbacks.append(StepDecay(config.learning_rate_milestones, config.learning_rate_decay))
        prepared.provenance |= {
            "learning_rate_milestones": list(config.learning_rate_milestones),
            "learning_rate_decay": config.learning_rate_decay,
        }
    return prepared


def unread_keys(family: str) -> dict[str, str]:
    """Keys that a task family does not read, and the modality of those that do.

    Args:
        family: a name in FAMILIES.
    """
    read = (FAMILIES[family].modality, *FAMILIES[family].more)
    wanted = {key.name: key.metadata.get("modality", read[0]) for key in fields(TaskConfig)}
    return {name: modality for name, modality in wanted.items() if modality not in read}


def check(config: TaskConfig) -> None:
    """Refuse, before anything is loaded, a configuration that cannot be right.

    Raises:
        RecipeError: see `prepare`.
    """
    if config.family not in FAMILIES:
        raise RecipeError(f"family: unknown task family {config.family!r}; {nearest(config.family, FAMILIES)}")
    for name, wanted in unread_keys(config.family).items():
        if getattr(config, name) != getattr(TaskConfig, name):
            raise RecipeError(f"{name}: only {wanted} tasks read this key, and {config.family} is not one")
    for name in _POSITIVE:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise RecipeError(f"{name}: {value} is not a positive number")
    if config.task_seed < 0:
        raise RecipeError(f"task_seed: {config.task_seed} is negative; a seed is 0 or more")
    if config.head_learning_rate is not None and not config.head_learning_rate >= 0:
        raise RecipeError(f"head_learning_rate: {config.head_learning_rate} is negative")
    for name in _PROBABILITIES:
        if not 0 <= getattr(config, name) <= 1:
            raise RecipeError(f"{name}: {getattr(config, name)} is not between 0 and 1")
    if not 0 < config.masking_probability <= 1:
        raise RecipeError(f"masking_probability: {config.masking_probability} is not above 0 and at most 1")
    if config.crop_scale is not None and not 0 < config.crop_scale <= 1:
        raise RecipeError(f"crop_scale: {config.crop_scale} is not above 0 and at most 1")
    if config.colour_jitter is not None and (len(config.colour_jitter) != 4 or min(config.colour_jitter) < 0):
        raise RecipeError("colour_jitter: give four numbers of 0 or more: brightness, contrast, saturation, hue")
    if not all(0 < share < 1 for share in config.learning_rate_milestones or ()):
        raise RecipeError(f"learning_rate_milestones: {config.learning_rate_milestones} are not shares between 0 and 1")
