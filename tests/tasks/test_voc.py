"""Pascal VOC in the folders that its own archives unpack to."""

from pathlib import Path

import numpy as np
import pytest
from pictures import detection, halves, mask_of, picture, segmentation

from hf_tickets.errors import DataError
from hf_tickets.tasks.registry import prepare

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"""


def write(folder: Path, year: str, split: str, image: str, *objects: tuple[str, int, tuple[int, ...]]) -> None:
    """One image of 48×36 pixels, its annotation and mask, and its line in the lists of a split."""
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (folder / year / name).mkdir(parents=True, exist_ok=True)
    (folder / year / "JPEGImages" / f"{image}.jpg").write_bytes(picture(kind="JPEG"))
    things = "".join(OBJECT.format(name=name, difficult=difficult, box=box) for name, difficult, box in objects)
    (folder / year / "Annotations" / f"{image}.xml").write_text(f"<annotation>{things}</annotation>")
    values = halves(right=15)
    values[0] = 255
    (folder / year / "SegmentationClass" / f"{image}.png").write_bytes(mask_of(values, "P"))
    for kind in ("Main", "Segmentation"):
        with (folder / year / "ImageSets" / kind / f"{split}.txt").open("a") as file:
            file.write(f"{image}\n")


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    folder = tmp_path / "VOCdevkit"
    write(folder, "VOC2007", "trainval", "000001", ("dog", 0, (13, 10, 36, 27)), ("person", 1, (1, 1, 48, 36)))
    write(folder, "VOC2007", "test", "000002", ("cat", 0, (1, 1, 24, 18)))
    write(folder, "VOC2012", "trainval", "2008_000001", ("cat", 0, (1, 1, 24, 18)))
    with (folder / "VOC2012" / "ImageSets" / "Main" / "test.txt").open("a") as file:
        file.write("2008_000009\n")  # its annotation is not public
    return folder


def test_two_years_are_trained_on_and_the_first_is_tested(devkit: Path) -> None:
    task = prepare(detection(devkit, train_split="trainval", evaluation_split="test", augmentation=False))
    assert len(task.train_dataset) == 2
    assert len(task.evaluation_dataset) == 1
    assert task.model.config.num_labels == 20
    assert task.model.config.id2label[11] == "dog"
    assert task.provenance["dataset"] == "VOCdevkit"


def test_boxes_count_pixels_from_one_and_difficult_objects_are_not_learnt(devkit: Path) -> None:
    task = prepare(detection(devkit, train_split="trainval", evaluation_split="test", augmentation=False))
    example = task.train_dataset[0]
    assert example["labels"]["class_labels"].tolist() == [11]
    assert example["labels"]["boxes"][0].tolist() == pytest.approx([24 / 48, 18 / 36, 24 / 48, 18 / 36])
    assert example["targets"][:, 1].tolist() == [0, 1]
    assert example["targets"][1, 2:].tolist() == [0, 0, 1, 1]


def test_the_masks_of_a_year(devkit: Path) -> None:
    names = ["background", *(str(number) for number in range(1, 21))]
    keys = {"dataset_config": "VOC2007", "train_split": "trainval", "evaluation_split": "test", "labels": names}
    task = prepare(segmentation(devkit, augmentation=False, **keys))
    assert len(task.train_dataset) == 1
    labels = task.train_dataset[0]["labels"].numpy()
    assert np.unique(labels).tolist() == [-100, 0, 15]
    assert (labels[0] == -100).all()


def test_what_is_missing_or_broken_is_named(devkit: Path) -> None:
    keys = {"train_split": "trainval", "evaluation_split": "test"}
    with pytest.raises(DataError, match="no year VOC2010; there are VOC2007, VOC2012"):
        prepare(detection(devkit, dataset_config="VOC2010", **keys))
    write(devkit, "VOC2007", "trainval", "000003", ("unicorn", 0, (1, 1, 24, 18)))
    with pytest.raises(DataError, match=r"VOC2007/Annotations/000003.xml: no class 'unicorn'"):
        prepare(detection(devkit, **keys))
    (devkit / "VOC2007" / "Annotations" / "000003.xml").write_text("<annotation><object>")
    with pytest.raises(DataError, match=r"VOC2007/Annotations/000003.xml cannot be read"):
        prepare(detection(devkit, **keys))
