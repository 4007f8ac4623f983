"""Pascal VOC as its own archives unpack: a folder of VOC2007, VOC2012, ... (Everingham et al., 2010).

The training and test sets of several years become one, as the usual "07+12" protocol has it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import datasets

from hf_tickets.errors import DataError
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.nearest import nearest
from hf_tickets.tasks.sources import Source

NAME = "VOCdevkit"
_NAMES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant "
    "sheep sofa train tvmonitor"
)
CLASSES = tuple(_NAMES.split())
_SPLITS = {"train": "train", "val": "validation", "trainval": "trainval", "test": "test"}


def load_objects(config: TaskConfig) -> Source | None:
    """The boxes of every year, or of that which `dataset_config` names; None if the dataset is no VOC folder.

    Boxes are corners; `difficult` objects are marked.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    features = datasets.Features(
        image=datasets.Image(),
        objects={
            "bbox": datasets.List(datasets.List(datasets.Value("float32"), length=4)),
            "category": datasets.List(datasets.ClassLabel(names=list(CLASSES))),
            "difficult": datasets.List(datasets.Value("bool")),
        },
    )
    return _load(config, "Main", _annotation, features)


def load_masks(config: TaskConfig) -> Source | None:
    """The class masks of every year, or of that which `dataset_config` names; None if the dataset is no VOC folder.

    Value 0 is the background, 1 to 20 are the classes, 255 is the border between objects.
    """
    features = datasets.Features(image=datasets.Image(), annotation=datasets.Image())
    return _load(config, "Segmentation", _mask, features)


def _load(
    config: TaskConfig,
    kind: str,
    read: Callable[[Path, str], dict[str, Any] | None],
    features: datasets.Features,
) -> Source | None:
    folder = Path(config.dataset or "").expanduser()
    years = sorted(path.name for path in folder.glob("VOC2*") if (path / "ImageSets" / kind).is_dir())
    if not config.dataset or not years:
        return None
    if config.dataset_config is not None and config.dataset_config not in years:
        raise DataError(f"dataset {NAME}: no year {config.dataset_config}; {nearest(config.dataset_config, years)}")
    chosen = years if config.dataset_config is None else [config.dataset_config]
    splits = {}
    for stem, name in _SPLITS.items():
        lists = [folder / year / "ImageSets" / kind / f"{stem}.txt" for year in chosen]
        entries = [(path.parents[2], line) for path in lists if path.is_file() for line in path.read_text().split()]
        found = (read(year, image) for year, image in entries)
        rows = [row for row in found if row is not None]  # the annotations of VOC2012's test set are not public
        if rows:
            columns = {column: [row[column] for row in rows] for column in rows[0]}
            splits[name] = datasets.Dataset.from_dict(columns, features=features)
    return Source(NAME, config.dataset_config, datasets.DatasetDict(splits))


def _annotation(year: Path, image: str) -> dict[str, Any] | None:
    path = year / "Annotations" / f"{image}.xml"
    if not path.is_file():
        return None
    try:
        found = list(ElementTree.parse(path).getroot().iter("object"))
        boxes = [_corners(thing) for thing in found]
        names = [_text(thing, "name") for thing in found]
        difficult = [thing.findtext("difficult", "0").strip() == "1" for thing in found]
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"dataset {NAME}: {year.name}/Annotations/{image}.xml cannot be read: {error}") from error
    unknown = next((name for name in names if name not in CLASSES), None)
    if unknown is not None:
        raise DataError(f"dataset {NAME}: {year.name}/Annotations/{image}.xml: no class {unknown!r} in Pascal VOC")
    objects = {"bbox": boxes, "category": names, "difficult": difficult}
    return {"image": str(year / "JPEGImages" / f"{image}.jpg"), "objects": objects}


def _mask(year: Path, image: str) -> dict[str, Any] | None:
    path = year / "SegmentationClass" / f"{image}.png"
    return {"image": str(year / "JPEGImages" / f"{image}.jpg"), "annotation": str(path)} if path.is_file() else None


def _corners(thing: ElementTree.Element) -> list[float]:
    box = thing.find("bndbox")
    if box is None:
        raise ValueError("an object has no bndbox")
    # pixels are counted from 1, and the last one is inside
    left, top, right, bottom = (float(_text(box, name)) for name in ("xmin", "ymin", "xmax", "ymax"))
    return [left - 1, top - 1, right, bottom]


def _text(element: ElementTree.Element, name: str) -> str:
    text = element.findtext(name)
    if text is None:
        raise ValueError(f"an object has no {name}")
    return text.strip()
