"""Loading a model with a head for the task's labels."""

import logging
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from hf_tickets.errors import DataError
from hf_tickets.paths import is_local
from hf_tickets.quiet import quiet_transformers
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.randomness import seeded
from hf_tickets.tasks.sources import one_line

logger = logging.getLogger(__name__)

# layers of detectors and segmenters that depend on the classes, wherever in the model they are
_CLASS_LAYERS = {
    "class_embed",
    "enc_score_head",
    "denoising_class_embed",
    "decode_head",
    "auxiliary_head",
    "classifier",
}

# what transformers, timm and safetensors raise for a model that is not there, damaged, or of another kind
LOAD_ERRORS = (
    OSError,
    ValueError,
    ImportError,
    RuntimeError,
    KeyError,
    TypeError,
    SafetensorError,
    StrictDataclassError,
)


def load_model(config: TaskConfig, auto_class: Any, may_be_new: tuple[str, ...] = (), **head: Any) -> torch.nn.Module:
    """A transformers model for the task, its new weights drawn from `task_seed`.

    A head of another label count is replaced without a word; backbone weights that do not fit are an error,
    and ones that are missing are named in a warning.

    Args:
        config: the task.
        auto_class: transformers' Auto class for this kind of model.
        may_be_new: modules whose weights may be missing or of another shape.
        **head: configuration of the head (num_labels, id2label, label2id, problem_type).

    Raises:
        DataError: the model cannot be found, reached or read, or its weights do not fit it.
    """
    require_model(config.model)
    arguments = {"dtype": "float32", **(config.model_arguments or {}), **head}
    try:
        with quiet_transformers(), seeded(config.task_seed):
            if not config.pretrained:
                made = _random_model(config, auto_class, arguments)
                _name_labels(made, head)
                return made
            model, loading = auto_class.from_pretrained(
                config.model,
                revision=config.model_revision or "main",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **arguments,
            )
    except LOAD_ERRORS as error:
        raise DataError(f"model {config.model} cannot be loaded: {one_line(error)}") from error
    _check_loading(model, loading, config.model, may_be_new)
    _name_labels(model, head)
    return model


def require_model(model: str) -> None:
    """Refuse the path of a folder that is not there, which transformers would take for a Hub id.

    Raises:
        DataError: There is no such folder.
    """
    if is_local(model) and not Path(model).expanduser().exists():
        raise DataError(f"model: there is no folder {model}")


def label_names(names: tuple[str, ...]) -> dict[str, Any]:
    """The configuration of a classification head with these classes."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
    }


def _random_model(config: TaskConfig, auto_class: Any, arguments: dict[str, Any]) -> torch.nn.Module:
    model_config, rest = transformers.AutoConfig.from_pretrained(
        config.model,
        revision=config.model_revision or "main",
        return_unused_kwargs=True,
        **arguments,
    )
    model: torch.nn.Module = auto_class.from_config(model_config, **rest)
    return model


def _name_labels(model: Any, head: dict[str, Any]) -> None:
    """Give timm's wrapper the names of the labels: it would save those of its base model."""
    if hasattr(model.config, "label_names") and "id2label" in head:
        model.config.label_names = list(head["id2label"].values())
        model.config.id2label, model.config.label2id = head["id2label"], head["label2id"]


def _check_loading(model: Any, loading: dict[str, Any], name: str, may_be_new: tuple[str, ...]) -> None:
    def expected_new(key: str) -> bool:
        return _in_head(model, key) or key.removeprefix("timm_model.").startswith(may_be_new or " ")

    mismatched = {entry[0]: entry[1:] for entry in loading["mismatched_keys"]}
    wrong = sorted(key for key in mismatched if not expected_new(key))
    if wrong:
        stored, expected = (tuple(shape) for shape in mismatched[wrong[0]])
        raise DataError(
            f"model {name}: weights {wrong[0]} are {stored}, but the configuration asks for {expected} "
            f"({len(wrong)} such); take back the model_arguments that change the architecture"
        )
    missing = sorted(key for key in loading["missing_keys"] if not expected_new(key))
    if missing:
        shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        logger.warning("model %s has no weights for %s: they start at random values", name, shown)


def _in_head(model: Any, key: str) -> bool:
    timm_model = getattr(model, "timm_model", None)
    if timm_model is None:
        prefix = model.base_model_prefix
        return bool(_CLASS_LAYERS & set(key.split("."))) or bool(prefix and not key.startswith(f"{prefix}."))
    heads = timm_model.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    return any(key.removeprefix("timm_model.").startswith(f"{head}.") for head in heads)
