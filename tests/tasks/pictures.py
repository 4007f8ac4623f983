"""Small datasets of pictures with boxes and masks, for tests without real data."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as Pillow

from hf_tickets.tasks.config import TaskConfig

NAMES = ["cat", "dog"]
TINY_DETECTOR = {
    "d_model": 16,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "decoder_layers": 2,
    "num_queries": 20,
    "num_denoising": 10,
}
TINY_SEGMENTER = {"hidden_size": 16, "auxiliary_channels": 8}
GOOD = {"bbox": [[4.0, 6.0, 10.0, 12.0]], "category": [0]}


def detection(dataset: Any, model: str = "test_resnet", **keys: Any) -> TaskConfig:
    defaults = {"pretrained": False, "image_size": 64, "model_arguments": TINY_DETECTOR}
    return TaskConfig("object-detection", model, **{"dataset": str(dataset), **defaults, **keys})


def segmentation(dataset: Any, model: str = "test_resnet", **keys: Any) -> TaskConfig:
    defaults = {"pretrained": False, "image_size": 64, "model_arguments": TINY_SEGMENTER}
    return TaskConfig("semantic-segmentation", model, **{"dataset": str(dataset), **defaults, **keys})


def picture(width: int = 48, height: int = 36, mode: str = "RGB", kind: str = "PNG", seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return file_of(Pillow.fromarray(noise).convert(mode), kind)


def file_of(image: Pillow.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def mask_of(values: Any, mode: str = "L") -> bytes:
    image = Pillow.fromarray(np.asarray(values, dtype=np.uint8))
    if mode == "P":
        image.putpalette([number % 256 for number in range(768)])
    return file_of(image if mode in ("L", "P") else image.convert(mode))


def cells(files: list[bytes]) -> list[dict[str, Any]]:
    return [{"bytes": content, "path": None} for content in files]


def boxes_dataset(
    folder: Path,
    objects: list[dict[str, Any]],
    files: list[bytes] | None = None,
    evaluation: list[dict[str, Any]] | None = None,
    names: tuple[list[str], list[str]] = (NAMES, NAMES),
) -> Path:
    """A dataset with these objects in its training rows; each of its test rows has one good cat."""

    def split(rows: list[dict[str, Any]], pictures: list[bytes], classes: list[str]) -> Dataset:
        extra = {key: List(Value("bool")) for key in rows[0] if key not in GOOD}
        inner = {"bbox": List(List(Value("float64"))), "category": List(ClassLabel(names=classes)), **extra}
        features = Features(image=Image(), objects=inner)
        return Dataset.from_dict({"image": cells(pictures), "objects": rows}, features)

    test = evaluation or [GOOD] * 2
    pictures = files or [picture(seed=row) for row in range(len(objects))]
    tested = [picture(seed=100 + row) for row in range(len(test))]
    whole = DatasetDict(train=split(objects, pictures, names[0]), test=split(test, tested, names[1]))
    whole.save_to_disk(folder / "boxes")
    return folder / "boxes"


def masks_dataset(
    folder: Path, masks: list[bytes], files: list[bytes] | None = None, evaluation: list[bytes] | None = None
) -> Path:
    """A dataset with these masks in its training rows, and in its test rows unless others are given."""

    def split(pictures: list[bytes], answers: list[bytes]) -> Dataset:
        features = Features(image=Image(), annotation=Image())
        return Dataset.from_dict({"image": cells(pictures), "annotation": cells(answers)}, features)

    test = evaluation or masks
    train = split(files or [picture(seed=row) for row in range(len(masks))], masks)
    DatasetDict(train=train, test=split([picture(seed=row) for row in range(len(test))], test)).save_to_disk(
        folder / "masks"
    )
    return folder / "masks"


def halves(width: int = 48, height: int = 36, left: int = 0, right: int = 1) -> np.ndarray:
    values = np.full((height, width), left, np.uint8)
    values[:, width // 2 :] = right
    return values
