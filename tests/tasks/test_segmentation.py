"""Semantic segmentation: any images with masks, masks that move with their image, and bad masks."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import TINY_SEGMENTER, file_of, halves, mask_of, masks_dataset, picture, segmentation
from PIL import Image as Pillow
from transformers import (
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    Trainer,
    TrainingArguments,
)

from hf_tickets.errors import DataError, RecipeError
from hf_tickets.tasks.masks import IGNORED
from hf_tickets.tasks.registry import prepare


def trainer(task: Any, folder: Path, **arguments: Any) -> Trainer:
    args = TrainingArguments(
        str(folder),
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        **{"max_steps": 2, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, **arguments},
    )
    return Trainer(task.model, task.adapt_(args), **task.trainer_arguments())


def run(task: Any, folder: Path, **arguments: Any) -> dict[str, float]:
    made = trainer(task, folder, **arguments)
    made.train()
    return made.evaluate()


# Data


def test_real_photographs(data: Path, tmp_path: Path) -> None:
    keys = {"ignore_index": 11, "maximum_evaluation_examples": 3, "maximum_training_examples": 4, "image_size": 96}
    task = prepare(segmentation(data / "camvid", **keys))
    assert task.model.config.num_labels == 11
    metrics = run(task, tmp_path)
    assert all(0 <= metrics[f"eval_{name}"] <= 1 for name in ("mean_iou", "mean_accuracy", "overall_accuracy"))
    assert task.metric == "mean_iou"
    assert str(data) not in json.dumps(task.provenance)


def test_images_are_not_enlarged_and_padding_does_not_count(tmp_path: Path) -> None:
    task = prepare(segmentation(masks_dataset(tmp_path, [mask_of(halves())] * 2), augmentation=False))
    example = task.train_dataset[0]
    assert example["pixel_values"].shape == (3, 64, 64)
    expected = np.full((64, 64), IGNORED)
    expected[:36, :48] = halves()
    assert torch.equal(example["labels"], torch.from_numpy(expected))


def test_large_images_are_scaled_down_with_their_masks(tmp_path: Path) -> None:
    folder = masks_dataset(tmp_path, [mask_of(halves(128, 96))], [picture(128, 96)])
    example = prepare(segmentation(folder, augmentation=False)).train_dataset[0]
    assert torch.equal(example["labels"][:48], torch.from_numpy(halves(64, 48).astype(np.int64)))
    assert (example["labels"][48:] == IGNORED).all()


def test_names_of_the_classes(tmp_path: Path) -> None:
    folder = masks_dataset(tmp_path, [mask_of(halves())] * 2)
    assert prepare(segmentation(folder, labels=["sky", "road"])).model.config.id2label == {0: "sky", 1: "road"}
    assert prepare(segmentation(folder)).model.config.id2label == {0: "0", 1: "1"}


def test_values_of_any_kind_become_class_numbers(tmp_path: Path) -> None:
    """Binary masks of 0 and 255, which would be ignored by default."""
    folder = masks_dataset(tmp_path, [mask_of(halves(right=255))] * 2)
    task = prepare(segmentation(folder, ignore_index=None, augmentation=False))
    assert task.train_dataset[0]["labels"][0, [0, 40]].tolist() == [0, 1]
    assert task.model.config.id2label == {0: "0", 1: "255"}
    with pytest.raises(DataError, match="ignore_index 255"):
        prepare(segmentation(folder))


def test_only_the_chosen_values_count(tmp_path: Path) -> None:
    values = halves()
    values[:10] = 7
    task = prepare(segmentation(masks_dataset(tmp_path, [mask_of(values)] * 2), labels=[7, 1], augmentation=False))
    labels = task.train_dataset[0]["labels"]
    assert labels[0, 0] == 0
    assert labels[30, 40] == 1
    assert labels[30, 0] == IGNORED
    assert task.model.config.id2label == {0: "7", 1: "1"}


def test_an_image_folder_with_metadata(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        folder = tmp_path / "roads" / split
        folder.mkdir(parents=True)
        lines = []
        for row in range(2):
            (folder / f"{row}.png").write_bytes(picture(seed=row))
            (folder / f"{row}-mask.png").write_bytes(mask_of(halves()))
            lines.append({"image_file_name": f"{row}.png", "mask_file_name": f"{row}-mask.png"})
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = prepare(segmentation(tmp_path / "roads", augmentation=False))
    assert len(task.train_dataset) == 2
    assert task.provenance["label_column"] == "mask"
    assert task.train_dataset[1]["labels"][0, [0, 40]].tolist() == [0, 1]


@pytest.mark.parametrize("size", [(128, 96), (70, 100)])
def test_the_saved_processor_feeds_what_evaluation_does(size: tuple[int, int], tmp_path: Path) -> None:
    content = picture(*size)
    folder = masks_dataset(tmp_path, [mask_of(halves(*size))] * 2, [content] * 2)
    task = prepare(segmentation(folder, augmentation=False))
    task.processing_class.save_pretrained(tmp_path)
    image = Pillow.open(io.BytesIO(content))
    fed = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"][0]
    example = task.train_dataset[0]
    assert (example["pixel_values"][:, : fed.shape[1], : fed.shape[2]] - fed).abs().max() < 0.02
    assert int((example["labels"] != IGNORED).sum()) == fed.shape[1] * fed.shape[2]


# Augmentation


def test_masks_move_with_their_image(tmp_path: Path) -> None:
    """Bright where the mask says 1, dark where it says 0, at every scale, place and reflection."""
    bright = file_of(Pillow.fromarray(np.repeat(halves(right=255)[..., None], 3, axis=2)))
    dataset = prepare(segmentation(masks_dataset(tmp_path, [mask_of(halves())] * 2, [bright] * 2))).train_dataset
    shares = set()
    for epoch in range(12):
        dataset.set_epoch(epoch)
        example = dataset[0]
        grey, labels = example["pixel_values"].mean(dim=0), example["labels"]
        middle = (grey[labels != IGNORED].max() + grey[labels != IGNORED].min()) / 2
        if (labels == 0).any() and (labels == 1).any():
            agree = ((grey > middle) == (labels == 1))[labels != IGNORED]
            assert float(agree.float().mean()) > 0.97
        shares.add(round(float((labels == IGNORED).float().mean()), 2))
    assert len(shares) > 3


def test_only_the_flip_key_mirrors(tmp_path: Path) -> None:
    folder = masks_dataset(tmp_path, [mask_of(halves())] * 2)
    for flip in (True, False):
        dataset = prepare(segmentation(folder, horizontal_flip=flip)).train_dataset
        mirrored = 0
        for epoch in range(20):
            dataset.set_epoch(epoch)
            ones, zeros = (torch.nonzero(dataset[0]["labels"] == value)[:, 1].float() for value in (1, 0))
            mirrored += bool(len(ones) and len(zeros) and ones.mean() < zeros.mean())
        assert mirrored > 3 if flip else mirrored == 0


# Models and evaluation


def test_padding_and_ignored_pixels_change_no_gradient(tmp_path: Path) -> None:
    folder = masks_dataset(tmp_path, [mask_of(halves())] * 2)
    task = prepare(segmentation(folder, augmentation=False))
    batch = task.data_collator([task.train_dataset[0], task.train_dataset[1]])
    model = task.model.eval()
    logits = model(batch["pixel_values"]).logits
    counted = batch["labels"] != IGNORED
    expected = torch.nn.functional.cross_entropy(logits.permute(0, 2, 3, 1)[counted], batch["labels"][counted])
    auxiliary = model.config.auxiliary_loss_weight
    model.config.auxiliary_loss_weight = 0.0
    assert float(model(**batch).loss) == pytest.approx(float(expected), rel=1e-5)
    assert auxiliary > 0


def test_batch_by_batch_and_whole_evaluation_agree(tmp_path: Path) -> None:
    rows = [np.random.default_rng(row).integers(0, 3, (36, 48)).astype(np.uint8) for row in range(5)]
    task = prepare(segmentation(masks_dataset(tmp_path, [mask_of(values) for values in rows])))
    by_batch = trainer(task, tmp_path / "a").evaluate()
    task.training_arguments = {}
    whole = trainer(task, tmp_path / "b", per_device_eval_batch_size=5).evaluate()
    for name in ("mean_iou", "mean_accuracy", "overall_accuracy"):
        assert by_batch[f"eval_{name}"] == pytest.approx(whole[f"eval_{name}"], abs=1e-12)


def test_a_segmenter_that_answers_at_a_quarter_of_the_size(tmp_path: Path) -> None:
    sizes = {"hidden_sizes": [8, 8, 8, 8], "num_attention_heads": [1, 1, 1, 1], "depths": [1, 1, 1, 1]}
    model = SegformerForSemanticSegmentation(SegformerConfig(decoder_hidden_size=8, **sizes))
    model.save_pretrained(tmp_path / "segformer")
    SegformerImageProcessor().save_pretrained(tmp_path / "segformer")
    folder = masks_dataset(tmp_path, [mask_of(halves())] * 2)
    keys = {"pretrained": True, "model_arguments": None}
    task = prepare(segmentation(folder, str(tmp_path / "segformer"), **keys))
    assert task.model.config.semantic_loss_ignore_index == IGNORED
    assert 0 <= run(task, tmp_path / "run")["eval_mean_iou"] <= 1


def test_a_saved_segmenter_is_loaded_again_with_a_head_of_other_classes(tmp_path: Path) -> None:
    first = prepare(segmentation(masks_dataset(tmp_path, [mask_of(halves())] * 2)))
    trainer(first, tmp_path / "run").save_model()
    keys = {"pretrained": True, "image_size": None, "model_arguments": None, "labels": ["a", "b", "c"]}
    second = prepare(segmentation(tmp_path / "masks", str(tmp_path / "run"), **keys))
    assert isinstance(second.model, AutoModelForSemanticSegmentation._model_mapping[type(second.model.config)])
    assert second.provenance["image_size"] == [64, 64]
    before, after = first.model.state_dict(), second.model.state_dict()
    differ = {name for name in before if before[name].shape != after[name].shape}
    assert all("classifier" in name for name in differ)
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("backbone."))
    with pytest.raises(RecipeError, match=r"small_stem: model .* is a whole model"):
        prepare(segmentation(tmp_path / "masks", str(tmp_path / "run"), **keys, small_stem=True))


def test_a_lone_last_image_is_left_out_of_an_epoch(tmp_path: Path) -> None:
    """UPerNet cannot train on it: BatchNorm of a single value has no variance."""
    task = prepare(segmentation(masks_dataset(tmp_path, [mask_of(halves())] * 3)))
    made = trainer(task, tmp_path / "run", max_steps=-1, num_train_epochs=2)
    assert made.train().global_step == 2
    with pytest.raises(RecipeError, match=r"per_device_train_batch_size: .* batches of 2 or more, not 1"):
        trainer(task, tmp_path / "run", per_device_train_batch_size=1)


# Bad input


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA"])
def test_masks_of_any_mode_with_one_channel_of_values(mode: str, tmp_path: Path) -> None:
    task = prepare(segmentation(masks_dataset(tmp_path, [mask_of(halves(), mode)] * 2), augmentation=False))
    assert task.train_dataset[0]["labels"][0, [0, 40]].tolist() == [0, 1]


def test_a_mask_in_colours_is_named_by_its_row(tmp_path: Path) -> None:
    folder = masks_dataset(tmp_path, [mask_of(halves()), picture()])
    with pytest.raises(DataError, match="masks, split train, row 1: the mask in column annotation is in colours"):
        prepare(segmentation(folder))


def test_a_mask_of_another_size_is_named_by_its_row(tmp_path: Path) -> None:
    task = prepare(segmentation(masks_dataset(tmp_path, [mask_of(halves()), mask_of(halves(40, 30))])))
    with pytest.raises(DataError, match="split train, row 1: the mask is 40×30 pixels, but its image is 48×36"):
        _ = task.train_dataset[1]


def test_an_unknown_value_is_named_by_its_row(tmp_path: Path) -> None:
    folder = masks_dataset(tmp_path, [mask_of(halves())] * 2, evaluation=[mask_of(halves()), mask_of(halves(right=9))])
    for config in (segmentation(folder), segmentation(folder, labels=["sky", "road"])):
        with pytest.raises(DataError, match=r"split test, row 1: the mask has the value 9.*there are 0, 1"):
            _ = prepare(config).evaluation_dataset[1]


@pytest.mark.parametrize(("mode", "kind"), [("L", "PNG"), ("CMYK", "JPEG"), ("RGBA", "PNG")])
def test_every_mode_of_picture(mode: str, kind: str, tmp_path: Path) -> None:
    folder = masks_dataset(tmp_path, [mask_of(halves())] * 2, [picture(mode=mode, kind=kind)] * 2)
    assert prepare(segmentation(folder)).train_dataset[0]["pixel_values"].shape == (3, 64, 64)


@pytest.mark.parametrize(("column", "row"), [("image", 1), ("annotation", 0)])
def test_unreadable_files_are_named_by_row_and_column(column: str, row: int, tmp_path: Path) -> None:
    masks = [b"no image" if column == "annotation" else mask_of(halves()), mask_of(halves())]
    folder = masks_dataset(tmp_path, masks, [picture(), b"no image"], evaluation=[mask_of(halves())])
    with pytest.raises(DataError, match=f"split train, row {row}: unreadable image in column {column}"):
        _ = prepare(segmentation(folder, labels=["sky", "road"])).train_dataset[row]


def test_columns_and_keys_that_are_not_there(tmp_path: Path) -> None:
    folder = masks_dataset(tmp_path, [mask_of(halves())] * 2)
    cases = [
        (segmentation(folder, label_column="mask"), "no column mask"),
        (segmentation(folder, image_column="annotation", label_column="img"), "no column img"),
        (segmentation("sklearn/digits"), "set label_column"),
        (segmentation(folder, labels=["sky"]), "two or more"),
        (segmentation(folder, model_arguments={**TINY_SEGMENTER, "hidden_size": "wide"}), "hidden_size"),
    ]
    for config, part in cases:
        with pytest.raises(DataError) as caught:
            prepare(config)
        assert part in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(RecipeError, match="box_format: only object-detection"):
        prepare(segmentation(folder, box_format="xyxy"))
