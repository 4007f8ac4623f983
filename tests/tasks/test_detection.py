"""Object detection: any COCO-style dataset, boxes that move with their image, and bad annotations."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from pictures import GOOD, NAMES, TINY_DETECTOR, boxes_dataset, cells, detection, file_of, picture
from PIL import Image as Pillow
from transformers import (
    AutoImageProcessor,
    AutoModelForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    DetrImageProcessor,
    ResNetConfig,
    Trainer,
    TrainingArguments,
)

from hf_tickets.errors import DataError, RecipeError
from hf_tickets.tasks.registry import prepare


def trainer(task: Any, folder: Path, steps: int = 2, **arguments: Any) -> Trainer:
    args = TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        **arguments,
    )
    return Trainer(task.model, task.adapt_(args), **task.trainer_arguments())


def run(task: Any, folder: Path, **arguments: Any) -> dict[str, float]:
    made = trainer(task, folder, **arguments)
    made.train()
    return made.evaluate()


def first_boxes(task: Any) -> list[list[float]]:
    """Boxes of the first training example as left, top, right, bottom in shares of the image."""
    centre, sides = task.train_dataset[0]["labels"]["boxes"].split(2, dim=1)
    return torch.cat([centre - sides / 2, centre + sides / 2], dim=1).tolist()


# Data


def test_real_photographs(data: Path, tmp_path: Path) -> None:
    keys = {"maximum_evaluation_examples": 4, "maximum_training_examples": 6}
    task = prepare(detection(data / "bccd", **keys))
    assert task.model.config.id2label == {0: "RBC", 1: "WBC", 2: "Platelets"}
    metrics = run(task, tmp_path)
    assert all(0 <= metrics[f"eval_{name}"] <= 1 for name in ("map", "map_50", "map_75"))
    assert task.metric == "map"
    assert str(data) not in json.dumps(task.provenance)


def test_boxes_are_cocos_at_any_input_size(tmp_path: Path) -> None:
    folder = boxes_dataset(tmp_path, [{"bbox": [[12.0, 9.0, 24.0, 18.0]], "category": [1]}])
    task = prepare(detection(folder, augmentation=False))
    example = task.train_dataset[0]
    assert example["pixel_values"].shape == (3, 64, 64)
    assert example["labels"]["class_labels"].tolist() == [1]
    assert first_boxes(task) == [pytest.approx([0.25, 0.25, 0.75, 0.75])]


@pytest.mark.parametrize(
    ("box_format", "box"), [("xyxy", [12.0, 9.0, 36.0, 27.0]), ("cxcywh", [24.0, 18.0, 24.0, 18.0])]
)
def test_other_ways_to_write_boxes(box_format: str, box: list[float], tmp_path: Path) -> None:
    folder = boxes_dataset(tmp_path, [{"bbox": [box], "category": [1]}])
    task = prepare(detection(folder, augmentation=False, box_format=box_format))
    assert first_boxes(task) == [pytest.approx([0.25, 0.25, 0.75, 0.75])]


def test_an_image_folder_with_metadata(tmp_path: Path) -> None:
    """Class names as text, and objects as the Hub's documentation of image folders writes them."""
    for split in ("train", "validation"):
        folder = tmp_path / "pets" / split
        folder.mkdir(parents=True)
        lines = []
        for row, name in enumerate(["dog", "cat", "dog"]):
            (folder / f"{row}.png").write_bytes(picture(seed=row))
            lines.append({"file_name": f"{row}.png", "objects": {"bbox": [[4, 6, 10, 12]], "categories": [name]}})
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = prepare(detection(tmp_path / "pets", augmentation=False))
    assert task.model.config.id2label == {0: "cat", 1: "dog"}
    assert [task.train_dataset[row]["labels"]["class_labels"].tolist() for row in range(3)] == [[1], [0], [1]]


def test_parquet_with_a_list_of_records(tmp_path: Path) -> None:
    features = Features(image=Image(), objects=List({"bbox": List(Value("float32")), "category_id": Value("int64")}))
    records = [[{"bbox": [4, 6, 10, 12], "category_id": 7}], [{"bbox": [0, 0, 9, 9], "category_id": 3}], []]
    rows = {"image": cells([picture(seed=row) for row in range(3)]), "objects": records}
    (tmp_path / "pets").mkdir()
    Dataset.from_dict(rows, features).to_parquet(tmp_path / "pets" / "train.parquet")
    task = prepare(detection(tmp_path / "pets", evaluation_split="train", augmentation=False))
    assert task.model.config.id2label == {0: "3", 1: "7"}
    assert task.train_dataset[0]["labels"]["class_labels"].tolist() == [1]


def test_only_the_chosen_classes_are_learnt_and_counted(tmp_path: Path) -> None:
    both = {"bbox": [[4, 6, 10, 12], [20, 10, 8, 8]], "category": [0, 1]}
    task = prepare(detection(boxes_dataset(tmp_path, [both], evaluation=[both]), labels=["dog"], augmentation=False))
    assert task.model.config.id2label == {0: "dog"}
    for dataset in (task.train_dataset, task.evaluation_dataset):
        assert dataset[0]["labels"]["class_labels"].tolist() == [0]
        assert dataset[0]["targets"].shape == (1, 6)


def test_crowds_are_not_learnt_and_not_missed(tmp_path: Path) -> None:
    crowded = {"bbox": [[4, 6, 10, 12], [20, 10, 20, 20]], "category": [0, 0], "iscrowd": [False, True]}
    task = prepare(detection(boxes_dataset(tmp_path, [crowded], evaluation=[crowded]), augmentation=False))
    example = task.evaluation_dataset[0]
    assert len(example["labels"]["boxes"]) == 1
    assert example["targets"][:, 1].tolist() == [0, 1]


def test_the_saved_processor_feeds_what_evaluation_does(tmp_path: Path) -> None:
    content = picture(100, 70)
    task = prepare(detection(boxes_dataset(tmp_path, [GOOD], [content]), augmentation=False))
    task.processing_class.save_pretrained(tmp_path)
    image = Pillow.open(io.BytesIO(content))
    fed = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"][0]
    assert (task.train_dataset[0]["pixel_values"] - fed).abs().max() < 0.02


# Augmentation


def test_boxes_move_with_their_image(tmp_path: Path) -> None:
    """The only bright pixels of the image stay inside the box, whatever is cropped and mirrored."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[12:30, 8:24] = 255
    folder = boxes_dataset(
        tmp_path, [{"bbox": [[8, 12, 16, 18]], "category": [0]}], [file_of(Pillow.fromarray(pixels))]
    )
    dataset = prepare(detection(folder, image_size=96)).train_dataset
    seen = set()
    for epoch in range(25):
        dataset.set_epoch(epoch)
        example = dataset[0]
        # contrast and brightness may change: bright is above the middle of this image
        grey = example["pixel_values"].mean(dim=0)
        rows, columns = torch.nonzero(grey > (grey.max() + grey.min()) / 2, as_tuple=True)
        bright = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        centre, sides = example["labels"]["boxes"][0].split(2)
        box = torch.cat([centre - sides / 2, centre + sides / 2]) * 96
        assert torch.allclose(torch.tensor([float(edge) for edge in bright]), box, atol=3.0)
        seen.add(tuple(round(number) for number in box.tolist()))
    assert len(seen) > 5


def test_augmentation_changes_by_epoch_and_evaluation_never(tmp_path: Path) -> None:
    task = prepare(detection(boxes_dataset(tmp_path, [GOOD] * 2)))
    before = task.train_dataset[0]["pixel_values"], task.evaluation_dataset[0]["pixel_values"]
    assert torch.equal(before[0], task.train_dataset[0]["pixel_values"])
    changed = []
    for epoch in range(1, 5):
        task.train_dataset.set_epoch(epoch)
        changed.append(not torch.equal(before[0], task.train_dataset[0]["pixel_values"]))
    task.evaluation_dataset.set_epoch(1)
    assert any(changed)
    assert torch.equal(before[1], task.evaluation_dataset[0]["pixel_values"])


# Models


def test_a_saved_detector_is_loaded_again_with_a_head_of_other_classes(tmp_path: Path) -> None:
    first = prepare(detection(boxes_dataset(tmp_path, [GOOD] * 2)))
    trainer(first, tmp_path / "run").save_model()
    other = boxes_dataset(tmp_path / "other", [GOOD], names=(["a", "b", "c"],) * 2)
    second = prepare(detection(other, str(tmp_path / "run"), pretrained=True, image_size=None, model_arguments=None))
    assert second.model.config.num_labels == 3
    assert second.provenance["image_size"] == [64, 64]
    before, after = first.model.state_dict(), second.model.state_dict()
    same = [name for name in before if before[name].shape == after[name].shape]
    assert sum("class_embed" in name or "score_head" in name for name in set(before) - set(same)) > 2
    assert all("class_embed" in name or "score_head" in name for name in set(before) - set(same))
    assert all(torch.equal(before[name], after[name]) for name in same if "class_embed" not in name)
    assert AutoImageProcessor.from_pretrained(tmp_path / "run").size["height"] == 64


def test_a_saved_detector_finds_what_the_one_in_memory_does(tmp_path: Path) -> None:
    task = prepare(detection(boxes_dataset(tmp_path, [GOOD] * 4)))
    run(task, tmp_path / "run")
    Trainer(task.model, TrainingArguments(str(tmp_path / "run")), **task.trainer_arguments()).save_model()
    loaded = AutoModelForObjectDetection.from_pretrained(tmp_path / "run").eval()
    pixels = task.evaluation_dataset[0]["pixel_values"][None]
    with torch.no_grad():
        assert torch.equal(loaded(pixels).pred_boxes, task.model.eval()(pixels).pred_boxes)


def test_a_detector_with_other_scores_is_evaluated_by_its_own_processor(tmp_path: Path) -> None:
    """DETR has a class for nothing; RT-DETR has none."""
    sizes = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_layers": 1, "decoder_layers": 1}
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1] * 4, layer_type="basic", out_features=["stage4"]
    )
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 5}
    config = DetrConfig(use_timm_backbone=False, backbone_config=backbone, **sizes, **heads)
    DetrForObjectDetection(config).save_pretrained(tmp_path / "detr")
    DetrImageProcessor().save_pretrained(tmp_path / "detr")
    keys = {"pretrained": True, "model_arguments": None}
    task = prepare(detection(boxes_dataset(tmp_path, [GOOD] * 2), str(tmp_path / "detr"), **keys))
    metrics = run(task, tmp_path / "run")
    assert 0 <= metrics["eval_map"] <= 1


def test_a_backbone_that_makes_no_such_maps_is_refused(tmp_path: Path) -> None:
    folder = boxes_dataset(tmp_path, [GOOD])
    with pytest.raises(DataError, match="strides"):
        prepare(detection(folder, "vit_tiny_patch16_224"))


# Bad input


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({"bbox": [[4.0, 6.0, 10.0]], "category": [0]}, "row 1: the box .* is not four finite numbers"),
        ({"bbox": [[4.0, float("nan"), 10.0, 9.0]], "category": [0]}, "row 1: the box .* is not four finite numbers"),
        ({"bbox": [[4.0, 6.0, 10.0, 9.0]], "category": [0, 1]}, "row 1: 1 boxes, but 2 classes"),
        ({"bbox": [[4.0, 6.0, 10.0, 9.0]], "category": [None]}, "row 1: .* class None"),
    ],
)
def test_bad_annotations_are_named_by_their_row_before_training(objects: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"boxes, split train, {message}"):
        prepare(detection(boxes_dataset(tmp_path, [GOOD, objects])))


def test_boxes_outside_their_image_are_cut_as_coco_tools_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    boxes = [[-10.0, -10.0, 22.0, 19.0], [100.0, 100.0, 5.0, 5.0], [5.0, 5.0, 0.0, 7.0], [30.0, 30.0, 100.0, 100.0]]
    folder = boxes_dataset(tmp_path, [{"bbox": boxes, "category": [0, 0, 0, 1]}, {"bbox": [], "category": []}])
    task = prepare(detection(folder, augmentation=False))
    assert "1 boxes without width or height" in caplog.text
    edges = [0, 0, 12 / 48, 9 / 36], [30 / 48, 30 / 36, 1, 1]
    assert first_boxes(task) == [pytest.approx(edge, abs=1e-6) for edge in edges]
    assert "row 0: the box [-10.0, -10.0, 22.0, 19.0] reaches out of its image of 48×36" in caplog.text
    assert task.train_dataset[1]["labels"]["boxes"].shape == (0, 4)
    assert np.isfinite(run(task, tmp_path / "run")["eval_loss"])


def test_a_batch_of_images_without_boxes_trains(tmp_path: Path) -> None:
    empty = {"bbox": [], "category": []}
    folder = boxes_dataset(tmp_path, [empty, empty, GOOD])
    task = prepare(detection(folder))
    batch = task.data_collator([task.train_dataset[row] for row in (0, 1)])
    loss = task.model.train()(**batch).loss
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize(("mode", "kind"), [("L", "PNG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG")])
def test_every_mode_of_picture(mode: str, kind: str, tmp_path: Path) -> None:
    folder = boxes_dataset(tmp_path, [GOOD], [picture(mode=mode, kind=kind)])
    assert prepare(detection(folder)).train_dataset[0]["pixel_values"].shape == (3, 64, 64)


def test_an_unreadable_image_is_named_by_its_row(tmp_path: Path) -> None:
    task = prepare(detection(boxes_dataset(tmp_path, [GOOD] * 3, [picture(), picture(), b"no image"])))
    with pytest.raises(DataError, match="boxes, split train, row 2: unreadable image in column image"):
        _ = task.train_dataset[2]


def test_classes_that_another_split_numbers_otherwise_are_told_apart_by_name(tmp_path: Path) -> None:
    folder = boxes_dataset(tmp_path, [GOOD], evaluation=[{**GOOD, "category": [1]}], names=(NAMES, ["dog", "cat"]))
    task = prepare(detection(folder))
    assert task.train_dataset[0]["targets"][0, 0] == task.evaluation_dataset[0]["targets"][0, 0] == 0
    folder = boxes_dataset(tmp_path / "more", [GOOD], names=(NAMES, ["horse", *NAMES]))
    with pytest.raises(DataError, match=r"split test, row 0: .* class 'horse'"):
        prepare(detection(folder))


def test_a_class_that_only_the_evaluation_has_is_named_by_its_row(tmp_path: Path) -> None:
    inner = {"bbox": List(List(Value("float32"))), "category": List(Value("string"))}
    features = Features(image=Image(), objects=inner)

    def split(names: list[str]) -> Dataset:
        objects = [{"bbox": [[1, 1, 5, 5]], "category": [name]} for name in names]
        return Dataset.from_dict({"image": cells([picture()] * len(names)), "objects": objects}, features)

    DatasetDict(train=split(["cat", "dog"]), test=split(["cat", "horse"])).save_to_disk(tmp_path / "pets")
    with pytest.raises(DataError, match=r"split test, row 1: .* class 'horse'.*there are cat, dog"):
        prepare(detection(tmp_path / "pets"))


def test_columns_and_keys_that_are_not_there(tmp_path: Path) -> None:
    folder = boxes_dataset(tmp_path, [GOOD])
    features = Features(image=Image(), objects={"area": List(Value("float32"))}, label=ClassLabel(names=NAMES))
    rows = {"image": cells([picture()]), "objects": [{"area": [1.0]}], "label": [0]}
    split = Dataset.from_dict(rows, features)
    DatasetDict(train=split, test=split).save_to_disk(tmp_path / "areas")
    cases = [
        (detection(folder, label_column="object"), "nearest: objects"),
        (detection(tmp_path / "areas"), "objects have no bbox"),
        (detection(tmp_path / "areas", label_column="label"), "objects have no bbox"),
        (detection(folder, model_arguments={**TINY_DETECTOR, "decoder_layers": "two"}), "decoder_layers"),
        (detection(folder, labels=["cat", "dgo"]), "nearest: dog"),
    ]
    for config, part in cases:
        with pytest.raises(DataError) as caught:
            prepare(config)
        assert part in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(RecipeError, match="ignore_index: only semantic-segmentation"):
        prepare(detection(folder, ignore_index=3))
