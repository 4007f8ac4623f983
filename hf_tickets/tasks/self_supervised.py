"""SimCLR and MoCo v2 as tasks: pre-training on images without their labels.

Labels are used at evaluation alone, where the encoder's features are classified by nearest neighbours and by a linear
probe, both learnt from some of the training images.
"""

from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset
from transformers import default_data_collator

from hf_tickets.errors import RecipeError
from hf_tickets.tasks.base import PreparedTask
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.contrastive_model import ContrastiveConfig, ContrastiveModel, feature_width
from hf_tickets.tasks.image_data import read_images
from hf_tickets.tasks.image_models import CONTRASTIVE_MODELS, image_format, load_contrastive, load_image_model
from hf_tickets.tasks.images import evaluation_transform
from hf_tickets.tasks.probing import ProbeMetrics
from hf_tickets.tasks.randomness import EpochCallback, SeededDataset, seeded
from hf_tickets.tasks.small_stem import has_small_stem
from hf_tickets.tasks.sources import sample
from hf_tickets.tasks.views import PairTransform, Views

# each method's own strengths: SimCLR's of its paper's appendix A, MoCo's "aug+" of v2
_CROP_SCALE = {"simclr": 0.08, "moco": 0.2}
_COLOUR_JITTER = {"simclr": (0.8, 0.8, 0.8, 0.2), "moco": (0.4, 0.4, 0.4, 0.1)}
_PROJECTION_WIDTH = 128


def prepare(config: TaskConfig) -> PreparedTask:
    """See `hf_tickets.tasks.registry.prepare`."""
    images = read_images(config)
    model = make_model(config)
    processor, size = image_format(config, model.encoder)
    views = Views(
        crop_scale=_CROP_SCALE[config.family] if config.crop_scale is None else config.crop_scale,
        horizontal_flip=config.horizontal_flip,
        colour_jitter=_jitter(config),
        colour_jitter_probability=config.colour_jitter_probability,
        grey_probability=config.grey_probability,
        blur_probability=config.blur_probability,
    )
    view, plain = views.transform(size), evaluation_transform(size).transform
    train_dataset = SeededDataset(images.training, PairTransform(view, view), config.task_seed)
    # the plain image is what is classified; the view beside it gives the loss
    evaluate = PairTransform(plain, view)
    bank = images.training.only(sample(np.arange(len(images.training)), config.probe_examples))
    evaluated = [SeededDataset(part, evaluate, config.task_seed, fixed=True) for part in (bank, images.evaluation)]
    return PreparedTask(
        model=model,
        train_dataset=train_dataset,
        evaluation_dataset=ConcatDataset(evaluated),
        data_collator=default_data_collator,
        compute_metrics=ProbeMetrics(len(bank), config.neighbours, config.linear_probe),
        metric="knn_accuracy",
        processing_class=processor,
        callbacks=[EpochCallback(train_dataset)],
        provenance={
            **images.provenance,
            "image_size": list(size.size),
            "small_stem": config.small_stem,
            "views": {name: list(value) if isinstance(value, tuple) else value for name, value in vars(views).items()},
            "probe_examples": len(bank),
            "neighbours": config.neighbours,
        },
    )


def make_model(config: TaskConfig) -> ContrastiveModel:
    """SimCLR or MoCo around the task's model; the same with its heads, where the task's model is one already.

    Args:
        config: the task; `model` may be anything that `load_image_model` takes.

    Raises:
        DataError: the model cannot be found, reached or read.
        RecipeError: a number of the method is out of range, or is not that of a model that is loaded with its heads.
    """
    kind = CONTRASTIVE_MODELS[config.family]
    model = load_contrastive(config)
    if isinstance(model, kind):
        return _with_method(model, config)
    encoder = load_image_model(config)
    method = {"projection": [feature_width(encoder), _PROJECTION_WIDTH], **_method(config)}
    method_config: ContrastiveConfig = kind.config_class(encoder_config=encoder.config, **method)
    with seeded(config.task_seed):
        made = kind(method_config)
    made.encoder.load_state_dict(encoder.state_dict())
    made.start_keys()
    made.config.name_or_path = encoder.config.name_or_path
    return made


def _with_method(model: ContrastiveModel, config: TaskConfig) -> ContrastiveModel:
    """A loaded model with the recipe's numbers in place of its own."""
    for name, value in _method(config).items():
        own = getattr(model.config, name)
        if name in ("projection", "queue_size") and own != value:
            raise RecipeError(f"{name}: model {config.model} has {own}, not {value}; leave the key out")
        setattr(model.config, name, value)
    if config.small_stem and not has_small_stem(getattr(model.encoder.config, "architecture", "")):
        raise RecipeError(f"small_stem: model {config.model} was trained without; leave the key out")
    return model


def _method(config: TaskConfig) -> dict[str, Any]:
    """The fields of the method's configuration that the recipe gives."""
    given: dict[str, Any] = {"loss_temperature": config.temperature, "projection": config.projection}
    if config.family == "moco":
        given |= {
            "queue_size": config.queue_size,
            "momentum": config.momentum,
            "batch_norm_groups": config.batch_norm_groups,
        }
    return {name: value for name, value in given.items() if value is not None}


def _jitter(config: TaskConfig) -> tuple[float, float, float, float]:
    given = _COLOUR_JITTER[config.family] if config.colour_jitter is None else config.colour_jitter
    brightness, contrast, saturation, hue = given
    return brightness, contrast, saturation, hue
