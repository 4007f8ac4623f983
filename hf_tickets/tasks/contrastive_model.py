"""What SimCLR and MoCo share: an image encoder of timm or transformers, and a projection head on its features."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from hf_tickets.errors import RecipeError


class ContrastiveConfig(PretrainedConfig):
    """Configuration of an encoder with a projection head.

    Args:
        encoder_config: Configuration of the encoder, or its fields with its `model_type`.
        projection: Widths of the projection head's layers after the features; the last is the projection's.
        projection_norm: Whether BatchNorm follows each of its layers but the last.
        loss_temperature: Of the loss; transformers keeps the name `temperature` for generation.
        **kwargs: As in `PretrainedConfig`.

    Raises:
        RecipeError: A value is out of range.
    """

    def __init__(
        self,
        encoder_config: PretrainedConfig | dict[str, Any] | None = None,
        projection: list[int] | tuple[int, ...] = (2048, 128),
        projection_norm: bool = False,
        loss_temperature: float = 0.5,
        **kwargs: Any,
    ) -> None:
        if isinstance(encoder_config, dict):
            fields = dict(encoder_config)
            encoder_config = CONFIG_MAPPING[fields.pop("model_type")].from_dict(fields)
        if not projection or min(projection) < 1:
            raise RecipeError(f"projection: needs one positive width or more, not {list(projection)}")
        if not loss_temperature > 0:
            raise RecipeError(f"temperature: {loss_temperature} is not above 0")
        self.encoder_config = encoder_config
        self.projection = list(projection)
        self.projection_norm = projection_norm
        self.loss_temperature = loss_temperature
        super().__init__(**kwargs)


@dataclass
class ContrastiveOutput(ModelOutput):
    """What SimCLR and MoCo return.

    Args:
        loss: Contrastive loss of this process's images; None for images without a second view.
        features: (images, width) features of the encoder, those of the first view.
    """

    loss: Tensor | None = None
    features: Tensor | None = None


class ContrastiveModel(PreTrainedModel):
    """A pre-training model around an encoder, which is its base model: a ticket covers the encoder's weights."""

    config_class: type[ContrastiveConfig] = ContrastiveConfig
    base_model_prefix = "encoder"
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False  # the loss is a mean over the images of a process
    encoder: Any

    def start_keys(self) -> None:
        """Make what follows the encoder, such as a momentum encoder, start from it."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.BatchNorm1d)):  # those of the head; an encoder initialises its own
            module.reset_parameters()


def make_encoder(config: ContrastiveConfig) -> nn.Module:
    """Return the encoder of a configuration, its weights random."""
    encoder: nn.Module = AutoModel.from_config(config.encoder_config)
    return encoder


def make_projection(config: ContrastiveConfig, encoder: nn.Module) -> nn.Sequential:
    """Return a projection head: linear layers with ReLU between them, and BatchNorm where the configuration says so."""
    layers: list[nn.Module] = []
    width = feature_width(encoder)
    for index, wider in enumerate(config.projection):
        if index:
            layers.append(nn.ReLU())
        normed = config.projection_norm and index + 1 < len(config.projection)
        layers.append(nn.Linear(width, wider, bias=not normed))
        if normed:
            layers.append(nn.BatchNorm1d(wider))
        width = wider
    return nn.Sequential(*layers)


def feature_width(encoder: Any) -> int:
    """Number of features of an image."""
    timm_model = getattr(encoder, "timm_model", None)
    if timm_model is not None:
        return int(getattr(timm_model, "head_hidden_size", None) or timm_model.num_features)
    sizes = getattr(encoder.config, "hidden_sizes", None)
    return int(sizes[-1] if sizes else encoder.config.hidden_size)


def features(encoder: nn.Module, images: Tensor) -> Tensor:
    """(images, width) features: the encoder's own pooling, else its first token, else the mean over places.

    Args:
        encoder: A model of transformers.
        images: (images, channels, height, width).
    """
    outputs = encoder(pixel_values=images)
    pooled = getattr(outputs, "pooler_output", None)
    if pooled is not None:
        return pooled.flatten(1)
    hidden: Tensor = outputs.last_hidden_state
    return hidden[:, 0] if hidden.dim() == 3 else hidden.mean(dim=(2, 3))


def views(pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
    """Two views of each image, or the only one and None.

    Args:
        pixel_values: (images, 2, channels, height, width), or (images, channels, height, width).
    """
    if pixel_values.dim() == 4:
        return pixel_values, None
    return pixel_values[:, 0], pixel_values[:, 1]
