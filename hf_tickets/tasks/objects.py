"""Objects in images: the boxes and classes of a COCO-style column, checked row by row."""

import logging
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.ops import box_convert

from hf_tickets.errors import DataError
from hf_tickets.tasks.images import read_image
from hf_tickets.tasks.labels import Labels, column_values, find_labels, require_column
from hf_tickets.tasks.nearest import nearest

logger = logging.getLogger(__name__)

# names in use on the Hub, COCO's first
_BOXES = ("bbox", "bboxes", "boxes", "box")
_CLASSES = ("category", "category_id", "categories", "class", "classes", "label", "labels")
# objects that are neither learnt nor counted as missed: crowds in COCO, difficult ones in Pascal VOC
_SKIPPED = ("iscrowd", "is_crowd", "difficult")
_ROUNDING = 2.0  # pixels by which boxes of rounded or one-based coordinates may leave their image


@dataclass(frozen=True)
class Objects:
    """The objects of one image.

    Attributes:
        boxes: (objects, 4) as the dataset writes them.
        classes: (objects,) class numbers.
        skipped: (objects,) whether it is neither to be learnt nor counted.
    """

    boxes: np.ndarray
    classes: np.ndarray
    skipped: np.ndarray


class ObjectReader:
    """Reads the objects of a dataset, whose classes are those of its training split.

    Args:
        train: the training split.
        split_name: its name, for messages.
        dataset: the dataset's name, for messages.
        column: column of objects; None: `objects`.
        box_format: xywh, xyxy or cxcywh.
        keep: classes to keep, by name or value, numbered in this order; objects of others are left out.

    Raises:
        DataError: the column holds no objects with boxes and classes, or an unknown class is to be kept.
    """

    def __init__(
        self,
        train: datasets.Dataset,
        split_name: str,
        dataset: str,
        column: str | None,
        box_format: str,
        keep: list[str | int] | None,
    ) -> None:
        self.dataset = dataset
        self.column = column or "objects"
        self.box_format = box_format
        require_column(train, self.column, dataset, split_name)
        fields = _fields(train.features[self.column])
        self.boxes, self.classes = (self._field(fields, known) for known in (_BOXES, _CLASSES))
        self.skipped = next((name for name in _SKIPPED if name in fields), None)
        self.feature = fields[self.classes]
        self.labels = self._labels(train, split_name, keep)

    def read(self, split: datasets.Dataset, split_name: str) -> list[Objects]:
        """The objects of every row of a split; a row without any is allowed.

        Raises:
            DataError: a box is not four finite numbers, a class is unknown, or no row has an object; the message
                names the row.
        """
        where = f"dataset {self.dataset}, split {split_name}"
        read = [self._row(cell, where, row) for row, cell in enumerate(self._cells(split, split_name))]
        flat = sum(int((_sides(objects.boxes, self.box_format) <= 0).any(axis=1).sum()) for objects in read)
        if flat:
            logger.warning("%s: %d boxes without width or height are left out", where, flat)
        if not any(len(objects.classes) for objects in read):
            raise DataError(f"{where}: no row has an object of the classes {', '.join(self.labels.names)}")
        return read

    def _field(self, fields: dict[str, Any], known: tuple[str, ...]) -> str:
        found = next((name for name in known if name in fields), None)
        if found is None:
            raise DataError(
                f"dataset {self.dataset}, column {self.column}: objects have no {known[0]}; "
                f"{nearest(known[0], fields)}; label_column names another column"
            )
        return found

    def _cells(self, split: datasets.Dataset, split_name: str) -> list[dict[str, list[Any]]]:
        values = column_values(split, self.column, self.dataset, split_name)
        cells = [_by_field(cell, (self.boxes, self.classes, self.skipped)) for cell in values]
        feature = _fields(split.features[self.column]).get(self.classes)
        own, stored = (tuple(getattr(known, "names", None) or ()) for known in (feature, self.feature))
        if own and stored and own != stored:  # numbered in another order, or other classes
            for cell in cells:
                cell[self.classes] = [own[value] if value is not None else None for value in cell[self.classes]]
        return cells

    def _labels(self, train: datasets.Dataset, split_name: str, keep: list[str | int] | None) -> Labels:
        values = [value for cell in self._cells(train, split_name) for value in cell[self.classes]]
        if not values:
            raise DataError(f"dataset {self.dataset}, split {split_name}: no row has an object in {self.column}")
        if isinstance(self.feature, datasets.ClassLabel):
            names: tuple[str, ...] | None = tuple(self.feature.names)
        else:
            names = None if len(set(values)) > 1 else (str(values[0]),)  # one class is enough to detect
        flat = datasets.Dataset.from_dict({self.classes: values})
        return find_labels(flat, split_name, self.dataset, self.classes, False, names, keep)

    def _row(self, cell: dict[str, list[Any]], where: str, row: int) -> Objects:
        boxes, classes = cell[self.boxes], cell[self.classes]
        skipped = cell.get(self.skipped) or [False] * len(boxes) if self.skipped else [False] * len(boxes)
        place = f"{where}, row {row}"
        if not len(boxes) == len(classes) == len(skipped):
            raise DataError(f"{place}: {len(boxes)} boxes, but {len(classes)} classes in column {self.column}")
        kept: list[tuple[list[float], int, bool]] = []
        for box, value, skip in zip(boxes, classes, skipped, strict=True):
            if value not in self.labels.ids and value not in self.labels.dropped:
                raise DataError(
                    f"{place}: column {self.column} holds an object of class {value!r}, which is not a class of the "
                    f"training split; {nearest(value, self.labels.names)}"
                )
            numbers = np.asarray(box if box is not None else [], dtype=object)
            if numbers.shape != (4,) or not all(_finite(number) for number in box):
                raise DataError(f"{place}: the box {box} in column {self.column} is not four finite numbers")
            if value in self.labels.ids:
                kept.append(([float(number) for number in box], self.labels.ids[value], bool(skip)))
        return Objects(
            np.asarray([box for box, _, _ in kept], dtype=np.float64).reshape(-1, 4),
            np.asarray([number for _, number, _ in kept], dtype=np.int64),
            np.asarray([skip for _, _, skip in kept], dtype=bool),
        )


class ObjectExamples:
    """Images of a split with their objects, decoded one by one as they are asked for.

    Boxes are cut at the border of their image, and left out where nothing remains, as COCO's tools do.

    Args:
        images: dataset with an image column.
        column: the image column.
        objects: those of every row.
        rows: (examples,) rows that are used.
        box_format: xywh, xyxy or cxcywh.
        where: dataset and split, for messages.
    """

    def __init__(
        self,
        images: datasets.Dataset,
        column: str,
        objects: list[Objects],
        rows: np.ndarray,
        box_format: str,
        where: str,
    ) -> None:
        self.images = images.select_columns([column])
        self.column = column
        self.objects = objects
        self.rows = rows
        self.box_format = box_format
        self.where = where
        self._warned = False

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """{image, boxes: corners in pixels, classes: (objects, 2) of class number and whether it is skipped}."""
        row = int(self.rows[index])
        image: Image.Image = read_image(self.images, self.column, row, self.where)
        objects = self.objects[row]
        corners = box_convert(torch.from_numpy(objects.boxes), self.box_format, "xyxy").float()
        edges = torch.tensor([image.width, image.height] * 2, dtype=torch.float32)
        self._look(corners, edges, row)
        corners = corners.clamp(min=torch.zeros(4), max=edges)
        solid = (corners[:, 2:] > corners[:, :2]).all(dim=1)
        classes = torch.from_numpy(np.stack([objects.classes, objects.skipped.astype(np.int64)], axis=1))
        return {
            "image": tv_tensors.Image(image),
            "boxes": tv_tensors.BoundingBoxes(
                corners[solid],
                format="XYXY",
                canvas_size=(image.height, image.width),
            ),
            "classes": classes[solid],
        }

    def _look(self, corners: torch.Tensor, edges: torch.Tensor, row: int) -> None:
        outside = ((corners < -_ROUNDING) | (corners > edges + _ROUNDING)).any(dim=1)
        if bool(outside.any()) and not self._warned:
            self._warned = True
            box = [round(number, 1) for number in self.objects[row].boxes[int(outside.int().argmax())].tolist()]
            logger.warning(
                "%s, row %d: the box %s reaches out of its image of %d×%d; such boxes are cut (box_format is %s)",
                self.where,
                row,
                box,
                int(edges[0]),
                int(edges[1]),
                self.box_format,
            )


def _fields(feature: Any) -> dict[str, Any]:
    """The fields of objects that are stored as a record of lists or as a list of records."""
    if isinstance(feature, dict):
        return {name: getattr(inner, "feature", inner) for name, inner in feature.items()}
    inner = getattr(feature, "feature", None)
    return dict(inner) if isinstance(inner, dict) else {}


def _by_field(cell: Any, names: tuple[str | None, ...]) -> dict[str, list[Any]]:
    wanted = [name for name in names if name is not None]
    if isinstance(cell, dict):
        return {name: cell.get(name) or [] for name in wanted}
    return {name: [record.get(name) for record in cell or []] for name in wanted}


def _sides(boxes: np.ndarray, box_format: str) -> np.ndarray:
    return boxes[:, 2:] - boxes[:, :2] if box_format == "xyxy" else boxes[:, 2:]


def _finite(number: Any) -> bool:
    return isinstance(number, (int, float)) and bool(np.isfinite(number))
