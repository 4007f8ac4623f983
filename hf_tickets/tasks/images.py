"""Images as a model reads them: decoding, and the standard transforms for training and evaluation."""

import copy
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from hf_tickets.errors import DataError
from hf_tickets.tasks.labels import require_column
from hf_tickets.tasks.nearest import nearest

# up to this side, cropping at random scales loses too much: pad by a few pixels and crop instead
SMALL_SIDE = 64
_PADDING = 4
# what Pillow raises for a file that is not an image, is cut short or is damaged
_IMAGE_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


class ImageExamples:
    """Labelled images of a split, decoded one by one as they are asked for.

    Args:
        split: dataset with an image column.
        column: the image column.
        rows: (examples,) rows that are used.
        labels: (examples,) class numbers.
        where: dataset and split, for messages.
    """

    def __init__(self, split: datasets.Dataset, column: str, rows: np.ndarray, labels: np.ndarray, where: str) -> None:
        self.images = split.select_columns([column])
        self.column = column
        self.rows = rows
        self.labels = labels
        self.where = where

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, chosen: np.ndarray) -> "ImageExamples":
        """Some of these images.

        Args:
            chosen: their numbers, 0 to len - 1.
        """
        part = copy.copy(self)
        part.rows, part.labels = self.rows[chosen], self.labels[chosen]
        return part

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = read_image(self.images, self.column, int(self.rows[index]), self.where)
        return {"image": image, "labels": int(self.labels[index])}


def read_image(
    images: datasets.Dataset,
    column: str,
    row: int,
    where: str,
    convert: Callable[[Image.Image], Any] | None = None,
) -> Any:
    """The image in a row, as RGB unless `convert` makes something else of it.

    Args:
        images: dataset with an image column.
        column: that column.
        row: row of the dataset.
        where: dataset and split, for messages.
        convert: decoded image → what is wanted.

    Raises:
        DataError: the cell is empty, or no image that can be read; the message names the row.
    """
    try:
        image = images[row][column]
        if image is None:
            raise ValueError("the cell is empty")
        return (convert or as_rgb)(image)
    except _IMAGE_ERRORS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{where}, row {row}: unreadable image in column {column}: {reason}") from error


def image_columns(split: datasets.Dataset) -> list[str]:
    """The columns of a dataset that hold images."""
    return [name for name, feature in split.features.items() if _holds_images(feature)]


def find_image_column(train: datasets.Dataset, wanted: str | None, dataset: str, split_name: str) -> str:
    """The image column: the one asked for, or the only one.

    Raises:
        DataError: there is no such column, or no telling which it is.
    """
    found = image_columns(train)
    if wanted is None:
        if len(found) != 1:
            raise DataError(
                f"dataset {dataset}: which column holds the images? set image_column; "
                f"{nearest('image', found or train.column_names)}"
            )
        return found[0]
    require_column(train, wanted, dataset, split_name)
    kind = getattr(train.features[wanted], "dtype", None)
    # a column that is named may also hold paths or the bytes of image files
    if wanted not in found and kind not in ("string", "large_string", "binary", "large_binary"):
        raise DataError(f"dataset {dataset}, column {wanted}: no images; {nearest(wanted, found)}")
    return wanted


def _holds_images(feature: Any) -> bool:
    # parquet files that datasets did not write hold images as plain {bytes, path} records
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def as_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as RGB: grey levels of 16 bits are scaled, transparency is dropped."""
    if image.mode.startswith("I;16"):
        # Pillow would cut these at 255 instead
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


@dataclass(frozen=True)
class ImageFormat:
    """What a model expects of its input.

    Attributes:
        height, width: input size in pixels.
        mean, std: per channel, of values between 0 and 1.
        interpolation: Pillow's name, such as bicubic.
        crop_share: side of the central crop as a share of the resized image.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop_share: float = 1.0

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def small(self) -> bool:
        return max(self.size) <= SMALL_SIDE


@dataclass(frozen=True)
class ImageTransform:
    """{image, labels} to {pixel_values, labels}, by a torchvision transform."""

    transform: v2.Transform

    def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
        return {"pixel_values": self.transform(example["image"]), "labels": example["labels"]}


def training_transform(target: ImageFormat, horizontal_flip: bool = True) -> ImageTransform:
    """Random crop and flip: of random scale for large images, padded by 4 pixels for small ones."""
    interpolation = InterpolationMode(target.interpolation)
    steps: list[Any] = []
    if target.small:
        steps += [
            v2.Resize(target.size, interpolation, antialias=True),
            v2.RandomCrop(target.size, padding=_PADDING),
        ]
    else:
        steps.append(v2.RandomResizedCrop(target.size, interpolation=interpolation, antialias=True))
    if horizontal_flip:
        steps.append(v2.RandomHorizontalFlip())
    return ImageTransform(v2.Compose([*steps, *to_tensor(target)]))


def evaluation_transform(target: ImageFormat) -> ImageTransform:
    """Resize and central crop."""
    share = 1.0 if target.small else target.crop_share
    resized: Any = [round(side / share) for side in target.size]
    if resized[0] == resized[1]:
        resized = resized[0]  # the shorter side: the image keeps its proportions
    resize = v2.Resize(resized, InterpolationMode(target.interpolation), antialias=True)
    return ImageTransform(v2.Compose([resize, v2.CenterCrop(target.size), *to_tensor(target)]))


def to_tensor(target: ImageFormat) -> list[Any]:
    """The last steps of a transform: to a normalised tensor."""
    # last, so that Pillow resizes, as it does in timm's and most models' own preprocessing
    return [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(list(target.mean), list(target.std)),
    ]
