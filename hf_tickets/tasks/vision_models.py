"""Names of vision models, timm's and the Hub's, and their image processors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from transformers import AutoImageProcessor

from hf_tickets.errors import DataError
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.models import LOAD_ERRORS, quiet_transformers
from hf_tickets.tasks.sources import one_line


def is_timm_name(model: str) -> bool:
    """Whether a model is named as timm names architectures, not by a folder or a Hub id."""
    return bool(timm.is_model(model)) and not Path(model).expanduser().is_dir()


def with_hub_id(config: TaskConfig) -> TaskConfig:
    """The same task with the Hub id of timm's own pre-trained weights in place of timm's name.

    Raises:
        DataError: timm has none.
    """
    pretrained = timm.get_pretrained_cfg(config.model)
    if pretrained is None or not pretrained.hf_hub_id:
        raise DataError(f"model {config.model}: timm has no pre-trained weights for it; set pretrained: false")
    return replace(config, model=pretrained.hf_hub_id)


def load_image_processor(config: TaskConfig) -> Any:
    """The image processor of a transformers model.

    Raises:
        DataError: it cannot be found, reached or read.
    """
    try:
        with quiet_transformers():
            return AutoImageProcessor.from_pretrained(config.model, revision=config.model_revision or "main")
    except LOAD_ERRORS as error:
        raise DataError(f"image processor of {config.model} cannot be loaded: {one_line(error)}") from error
