"""MoCo v2: an encoder that learns to tell an image's other view from a queue of earlier images."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel

from hf_tickets.errors import RecipeError
from hf_tickets.tasks.contrastive import gather, info_nce, rank, world_size
from hf_tickets.tasks.contrastive_model import (
    ContrastiveConfig,
    ContrastiveModel,
    ContrastiveOutput,
    features,
    make_encoder,
    make_projection,
    views,
)


class MocoConfig(ContrastiveConfig):
    """Configuration of MoCo.

    Args:
        projection: As in `ContrastiveConfig`; [128] is MoCo v1's linear head, [2048, 128] MoCo v2's.
        loss_temperature: As in `ContrastiveConfig`; 0.07 in MoCo v1.
        queue_size: Number of keys of earlier images to compare with.
        momentum: Share of itself that the key encoder keeps at each training forward, 0 to 1.
        batch_norm_groups: Groups with BatchNorm statistics of their own that a process's batch is cut into; 2 or more
            give one process what shuffled BatchNorm gives several.
        **kwargs: As in `ContrastiveConfig`.

    Raises:
        RecipeError: A value is out of range.
    """

    model_type = "moco"

    def __init__(
        self,
        projection: list[int] | tuple[int, ...] = (2048, 128),
        loss_temperature: float = 0.2,
        queue_size: int = 65536,
        momentum: float = 0.999,
        batch_norm_groups: int = 1,
        **kwargs: Any,
    ) -> None:
        if queue_size < 1:
            raise RecipeError(f"queue_size: {queue_size} is not a positive number")
        if not 0 <= momentum <= 1:
            raise RecipeError(f"momentum: {momentum} is not between 0 and 1")
        if batch_norm_groups < 1:
            raise RecipeError(f"batch_norm_groups: {batch_norm_groups} is not a positive number")
        self.queue_size = queue_size
        self.momentum = momentum
        self.batch_norm_groups = batch_norm_groups
        super().__init__(projection=projection, loss_temperature=loss_temperature, **kwargs)


class MocoModel(ContrastiveModel):
    """MoCo v2 (Chen et al. 2020, arXiv 2003.04297) around any image encoder of timm or transformers.

    Each training forward first moves the key encoder towards the encoder, then computes keys from shuffled images: no
    key shares its BatchNorm statistics with its query (He et al. 2020, section 3.3). Keys of all processes go into the
    queue of each. With gradient accumulation this happens once a micro-batch.

    Rewound between the rounds of a search, by `RewindConfig`'s default: encoder, projection head, key encoder, queue
    and BatchNorm statistics, that is everything. A mask is held on the encoder and on the key encoder, whose weights
    are a mean of masked weights: their zeros stay exactly zero.

    Args:
        config: Its `encoder_config` says which encoder; the weights are random until they are loaded.
    """

    config_class: type[ContrastiveConfig] = MocoConfig
    # where else in the model the encoder is: what a mask prunes there, it prunes here
    momentum_copies = {"encoder": "key_encoder"}  # noqa: RUF012 (read only)
    queue: Tensor
    steps: Tensor

    def __init__(self, config: MocoConfig) -> None:
        super().__init__(config)
        self.encoder = make_encoder(config)
        self.projection = make_projection(config, self.encoder)
        self.key_encoder = make_encoder(config)
        self.key_projection = make_projection(config, self.key_encoder)
        queue = torch.randn(config.projection[-1], config.queue_size)
        self.register_buffer("queue", functional.normalize(queue, dim=0))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.post_init()
        self.start_keys()

    @torch.no_grad()
    def start_keys(self) -> None:
        """Make the key encoder a copy of the encoder, its BatchNorm statistics included."""
        for own, its in self._pairs():
            its.load_state_dict(copy.deepcopy(own.state_dict()))
            its.requires_grad_(False)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model as any other of transformers; arguments as in `PreTrainedModel`."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for _, keys in model._pairs():
            keys.requires_grad_(False)  # which transformers does not keep
        return loaded

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> ContrastiveOutput:
        """Features of images and, of two views each, the InfoNCE loss.

        In training it also moves the key encoder and fills the queue.

        Args:
            pixel_values: (images, 2, channels, height, width), or (images, channels, height, width) for features alone.
            labels: Not used.
            **kwargs: Not used.
        """
        first, second = views(pixel_values)
        if second is None:
            return ContrastiveOutput(features=features(self.encoder, first))
        own = self._features(self.encoder, first)
        queries = functional.normalize(self.projection(own).float(), dim=1)
        with torch.no_grad():
            if self.training:
                self._move_keys()
            keys = self._keys(second)
        loss = info_nce(queries, keys, self.queue.clone(), self.config.loss_temperature)
        if self.training:
            self._enqueue(gather(keys))
        return ContrastiveOutput(loss=loss, features=own)

    def _pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.encoder, self.key_encoder), (self.projection, self.key_projection)]

    def _move_keys(self) -> None:
        for own, its in self._pairs():
            for parameter, key_parameter in zip(own.parameters(), its.parameters(), strict=True):
                # equal weights, such as pruned ones, stay exactly what they are
                key_parameter.lerp_(parameter.detach(), 1 - self.config.momentum)

    def _features(self, encoder: nn.Module, images: Tensor) -> Tensor:
        # at least two images a group: BatchNorm needs them
        groups = max(min(self.config.batch_norm_groups, len(images) // 2), 1) if self.training else 1
        return torch.cat([features(encoder, part) for part in images.chunk(groups)])

    def _keys(self, images: Tensor) -> Tensor:
        """Projections of the second views, of length 1, computed in batches of another make-up than the queries'."""
        parts = world_size() * self.config.batch_norm_groups
        if not self.training or parts == 1:
            return functional.normalize(self.key_projection(self._features(self.key_encoder, images)).float(), dim=1)
        count = len(images)
        # the same on all processes and after a resume
        generator = torch.Generator().manual_seed(int(self.steps))
        order = torch.randperm(count * world_size(), generator=generator).to(images.device)
        shuffled = gather(images)[order].chunk(world_size())[rank()]
        projected = self.key_projection(self._features(self.key_encoder, shuffled))
        keys = gather(functional.normalize(projected.float(), dim=1))[order.argsort()]
        return keys[rank() * count :][:count]

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        """Put keys in place of the oldest ones."""
        size = self.config.queue_size
        places = (self.steps + torch.arange(len(keys), device=keys.device)) % size
        kept = slice(max(len(keys) - size, 0), None)  # of more keys than the queue holds, the last
        self.queue[:, places[kept]] = keys[kept].T.to(self.queue.dtype)
        self.steps += len(keys)


AutoConfig.register("moco", MocoConfig)
AutoModel.register(MocoConfig, MocoModel)
