"""SimCLR: an encoder that learns to tell which two views are of the same image."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from hf_tickets.tasks.contrastive import nt_xent
from hf_tickets.tasks.contrastive_model import (
    ContrastiveConfig,
    ContrastiveModel,
    ContrastiveOutput,
    features,
    make_encoder,
    make_projection,
    views,
)


class SimclrConfig(ContrastiveConfig):
    """Configuration of SimCLR; see `ContrastiveConfig`."""

    model_type = "simclr"

    def __init__(self, projection_norm: bool = True, loss_temperature: float = 0.5, **kwargs: Any) -> None:
        super().__init__(projection_norm=projection_norm, loss_temperature=loss_temperature, **kwargs)


class SimclrModel(ContrastiveModel):
    """SimCLR (Chen et al. 2020) around any image encoder of timm or transformers.

    Both views go through the encoder as one batch. Negatives are the views of all other images of all processes, with
    gradients.

    Rewound between the rounds of a search, by `RewindConfig`'s default: encoder, projection head and BatchNorm
    statistics, that is everything.

    Args:
        config: Its `encoder_config` says which encoder; the weights are random until they are loaded.

    Example:
        >>> encoder = AutoModel.from_pretrained("timm/resnet50.a1_in1k")
        >>> model = SimclrModel(SimclrConfig(encoder_config=encoder.config))
        >>> model.encoder.load_state_dict(encoder.state_dict())
    """

    config_class: type[ContrastiveConfig] = SimclrConfig

    def __init__(self, config: SimclrConfig) -> None:
        super().__init__(config)
        self.encoder = make_encoder(config)
        self.projection = make_projection(config, self.encoder)
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> ContrastiveOutput:
        """Features of images and, of two views each, the NT-Xent loss.

        Args:
            pixel_values: (images, 2, channels, height, width), or (images, channels, height, width) for features alone.
            labels: Not used.
            **kwargs: Not used.
        """
        first, second = views(pixel_values)
        if second is None:
            return ContrastiveOutput(features=features(self.encoder, first))
        both = features(self.encoder, torch.cat([first, second]))
        projected = self.projection(both)
        own, other = projected.chunk(2)
        loss = nt_xent(own, other, self.config.loss_temperature)
        return ContrastiveOutput(loss=loss, features=both[: len(first)])


AutoConfig.register("simclr", SimclrConfig)
AutoModel.register(SimclrConfig, SimclrModel)
