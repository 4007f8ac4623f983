"""Two views of an image, as contrastive learning trains on them."""

from dataclasses import dataclass
from typing import Any

import torch
from torchvision.transforms import InterpolationMode, v2

from hf_tickets.tasks.images import ImageFormat, to_tensor


@dataclass(frozen=True)
class Views:
    """How strongly a view is distorted.

    Attributes:
        crop_scale: smallest share of the image's area that a crop shows, above 0 to 1.
        horizontal_flip: mirror every other view.
        colour_jitter: brightness, contrast, saturation and hue, as in torchvision's ColorJitter.
        colour_jitter_probability: share of views whose colours are jittered.
        grey_probability: share of views without colour.
        blur_probability: share of views that are blurred by a Gaussian of σ 0.1 to 2 pixels, a tenth of the side wide.
    """

    crop_scale: float
    horizontal_flip: bool
    colour_jitter: tuple[float, float, float, float]
    colour_jitter_probability: float
    grey_probability: float
    blur_probability: float

    def transform(self, target: ImageFormat) -> v2.Transform:
        """The transform that draws one view, a Pillow image to a tensor (3, height, width).

        Args:
            target: what the model expects.
        """
        steps: list[Any] = [
            v2.RandomResizedCrop(
                target.size,
                scale=(self.crop_scale, 1.0),
                interpolation=InterpolationMode(target.interpolation),
                antialias=True,
            )
        ]
        if self.horizontal_flip:
            steps.append(v2.RandomHorizontalFlip())
        if self.colour_jitter_probability:
            steps.append(v2.RandomApply([v2.ColorJitter(*self.colour_jitter)], self.colour_jitter_probability))
        if self.grey_probability:
            steps.append(v2.RandomGrayscale(self.grey_probability))
        if self.blur_probability:
            kernel = max(min(target.size) // 20 * 2 + 1, 3)  # an odd number of pixels
            steps.append(v2.RandomApply([v2.GaussianBlur(kernel, sigma=(0.1, 2.0))], self.blur_probability))
        return v2.Compose([*steps, *to_tensor(target)])


@dataclass(frozen=True)
class PairTransform:
    """{image, labels} to {pixel_values, labels}, pixel_values (2, 3, height, width): a view by each transform."""

    first: v2.Transform
    second: v2.Transform

    def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
        image = example["image"]
        return {"pixel_values": torch.stack([self.first(image), self.second(image)]), "labels": example["labels"]}
