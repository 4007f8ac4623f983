"""Class masks: which class each pixel of an image is of, read from a second image and checked row by row."""

import datasets
import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from hf_tickets.errors import DataError
from hf_tickets.tasks.images import read_image
from hf_tickets.tasks.nearest import nearest

IGNORED = -100  # pixels that count nowhere, to the loss, the metric and Trainer


class MaskReader:
    """Turns the values of mask pixels into class numbers.

    Args:
        values: value of each class, in the order of the class numbers.
        names: names of the classes.
        ignored: values that count nowhere.
        closed: refuse any other value; else other values count nowhere too.
    """

    def __init__(self, values: list[int], names: tuple[str, ...], ignored: set[int], closed: bool) -> None:
        self.values = values
        self.names = names
        self.ignored = ignored
        self.closed = closed

    def encode(self, mask: np.ndarray, place: str) -> np.ndarray:
        """(height, width) class numbers, int64, IGNORED where none counts.

        Args:
            mask: (height, width) values.
            place: dataset, split and row, for messages.

        Raises:
            DataError: a value is of no class.
        """
        found, inverse = np.unique(mask, return_inverse=True)
        numbers = np.full(len(found), IGNORED, dtype=np.int64)
        for position, value in enumerate(found.tolist()):
            if value in self.ignored:
                continue
            if value in self.values:
                numbers[position] = self.values.index(value)
            elif self.closed:
                raise DataError(
                    f"{place}: the mask has the value {value}, which is no class of the training split; "
                    f"{nearest(value, self.values)}; set ignore_index if it is to be left out"
                )
        return numbers[inverse.reshape(mask.shape)]


def find_classes(
    train: datasets.Dataset, column: str, where: str, labels: list[str | int] | None, ignore_index: int | None
) -> MaskReader:
    """The classes of a segmentation dataset.

    Args:
        train: the training split.
        column: the column of masks.
        where: dataset and split, for messages.
        labels: names of the values 0, 1, ..., or values to keep; None: every value in the training masks, read once.
        ignore_index: value that counts nowhere.

    Raises:
        DataError: fewer than two classes, or a mask that cannot be read.
    """
    ignored = set() if ignore_index is None else {ignore_index}
    if labels is not None and all(isinstance(label, int) for label in labels):
        values, names, closed = [int(label) for label in labels], tuple(map(str, labels)), False
    elif labels is not None:
        values, names, closed = list(range(len(labels))), tuple(map(str, labels)), True
    else:
        found: set[int] = set()
        for row in range(len(train)):
            found.update(np.unique(read_mask(train, column, row, where)).tolist())
        values, closed = sorted(found - ignored), True
        names = tuple(map(str, values))
    if len(set(values) - ignored) < 2 or len(set(names)) < len(names):
        left_out = f"ignore_index {ignore_index} counts nowhere" if ignored else "no value is ignored"
        raise DataError(
            f"{where}: masks of column {column} have the classes {list(names)}, where {left_out}; two or "
            "more different ones are needed"
        )
    return MaskReader(values, names, ignored, closed)


def read_mask(split: datasets.Dataset, column: str, row: int, where: str) -> np.ndarray:
    """(height, width) values of the mask in a row: grey levels, palette indices, or 0 and 1.

    Raises:
        DataError: it cannot be read, or is a picture in colours.
    """
    mask: np.ndarray | None = read_image(split, column, row, where, _values)
    if mask is None:
        raise DataError(
            f"{where}, row {row}: the mask in column {column} is in colours; a mask has one channel, of class numbers"
        )
    return mask


class MaskedExamples:
    """Images of a split with their masks, decoded one by one as they are asked for.

    Args:
        split: dataset with columns of images and masks.
        image_column: the column of images.
        mask_column: the column of masks.
        rows: (examples,) rows that are used.
        reader: knows the classes.
        where: dataset and split, for messages.
    """

    def __init__(
        self,
        split: datasets.Dataset,
        image_column: str,
        mask_column: str,
        rows: np.ndarray,
        reader: MaskReader,
        where: str,
    ) -> None:
        self.images = split.select_columns([image_column])
        self.masks = split.select_columns([mask_column])
        self.image_column = image_column
        self.mask_column = mask_column
        self.rows = rows
        self.reader = reader
        self.where = where

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """{image: (3, height, width) bytes, mask: (height, width) class numbers}."""
        row = int(self.rows[index])
        image: Image.Image = read_image(self.images, self.image_column, row, self.where)
        mask = read_mask(self.masks, self.mask_column, row, self.where)
        if mask.shape != (image.height, image.width):
            raise DataError(
                f"{self.where}, row {row}: the mask is {mask.shape[1]}×{mask.shape[0]} pixels, but its image is "
                f"{image.width}×{image.height}"
            )
        numbers = self.reader.encode(mask, f"{self.where}, row {row}")
        return {"image": tv_tensors.Image(image), "mask": tv_tensors.Mask(torch.from_numpy(numbers))}


def _values(image: Image.Image) -> np.ndarray | None:
    """The pixels' values; None for colours."""
    values = np.asarray(image)
    if values.ndim == 3 and image.mode in ("RGB", "RGBA", "LA"):
        # grey levels that were saved with three channels, or with transparency
        channels = values[..., :1] if image.mode == "LA" else values[..., :3]
        values = channels[..., 0] if (channels == channels[..., :1]).all() else values
    return values.astype(np.int64) if values.ndim == 2 else None
