"""Image tasks: any dataset, timm and transformers models, standard transforms, and bad pictures."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from sklearn.datasets import load_digits
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_tickets.errors import DataError
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.images import as_rgb
from hf_tickets.tasks.registry import prepare

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def images(model: str = "resnet10t", **keys: Any) -> TaskConfig:
    defaults = {"pretrained": False, "dataset": "sklearn/digits", "image_size": 32, "horizontal_flip": False}
    return TaskConfig("image-classification", model, **{**defaults, **keys})


def colour(value: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.new("RGB", size, (value, 255 - value, value // 2))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def dataset_of(folder: Path, contents: list[bytes], name: str = "pictures") -> str:
    """A dataset whose training images are these files; evaluation has one good image of each class."""
    features = Features(image=ImageFeature(), label=ClassLabel(names=["cat", "dog"]))

    def split(files: list[bytes]) -> Dataset:
        cells = [{"bytes": content, "path": None} for content in files]
        return Dataset.from_dict({"image": cells, "label": [i % 2 for i in range(len(files))]}, features)

    good = [encoded(colour(10)), encoded(colour(200))]
    DatasetDict(train=split(contents), test=split(good)).save_to_disk(folder / name)
    return str(folder / name)


def run(task: Any, folder: Path, **arguments: Any) -> dict[str, float]:
    args = TrainingArguments(
        str(folder),
        max_steps=3,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=64,
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        **arguments,
    )
    trainer = Trainer(task.model, args, **task.trainer_arguments())
    trainer.train()
    return trainer.evaluate()


# Datasets


def test_digits_train_without_any_file(tmp_path: Path) -> None:
    task = prepare(images(maximum_evaluation_examples=64))
    metrics = run(task, tmp_path, dataloader_num_workers=2)
    assert 0 <= metrics[f"eval_{task.metric}"] <= 1
    assert task.provenance["dataset"] == "sklearn/digits"


def test_digits_are_scikit_learns_split_once_and_for_all() -> None:
    tasks = [prepare(images(task_seed=seed, augmentation=False, image_size=8)) for seed in (1, 2)]
    digits = load_digits()
    pixels = []
    for split in (tasks[0].train_dataset, tasks[0].evaluation_dataset):
        for i in range(len(split)):
            values = (split[i]["pixel_values"] * STD + MEAN) * 255
            pixels.append((split[i]["labels"], *values[0].round().int().flatten().tolist()))
    expected = [
        (label, *np.round(image * (255 / 16)).astype(int).flatten().tolist())
        for image, label in zip(digits.images, digits.target, strict=True)
    ]
    assert sorted(pixels) == sorted(expected)
    again = [example["labels"] for example in tasks[1].evaluation_dataset]
    assert again == [example["labels"] for example in tasks[0].evaluation_dataset]
    assert min(np.bincount(again)) >= 43  # a quarter of each digit


def test_chosen_digits_are_renumbered() -> None:
    task = prepare(images(labels=[9, 5, 6]))
    digits = load_digits()
    counts = np.bincount([task.train_dataset.examples.labels[i] for i in range(len(task.train_dataset))])
    evaluation = np.bincount(task.evaluation_dataset.examples.labels)
    assert (counts + evaluation).tolist() == [(digits.target == digit).sum() for digit in (9, 5, 6)]
    assert task.model.config.id2label == {0: "9", 1: "5", 2: "6"}


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("tiny_imagenet40", 40)])
def test_real_photographs(data: Path, name: str, classes: int, tmp_path: Path) -> None:
    task = prepare(images(dataset=str(data / name), horizontal_flip=True, image_size=None if classes == 40 else 32))
    assert task.model.config.num_labels == classes
    assert task.train_dataset[3]["pixel_values"].shape == ((3, 176, 176) if classes == 40 else (3, 32, 32))
    assert str(data) not in json.dumps(task.provenance)
    if classes == 10:
        task = prepare(images(dataset=str(data / name), maximum_evaluation_examples=50))
        assert "eval_accuracy" in run(task, tmp_path)


def test_a_folder_of_image_files(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("validation", 1)):
        for name, value in (("cat", 20), ("dog", 220)):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                colour(value + i).save(folder / f"{i}.png")
    task = prepare(images(dataset=str(tmp_path / "pets")))
    assert task.model.config.id2label == {0: "cat", 1: "dog"}
    assert len(task.train_dataset) == 6
    assert "eval_accuracy" in run(task, tmp_path / "run")


def test_parquet_that_datasets_did_not_write(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    records = [{"bytes": encoded(colour(v)), "path": None} for v in (10, 200)]
    table = pyarrow.table({"picture": records, "kind": ["cat", "dog"]})
    pyarrow.parquet.write_table(table, tmp_path / "pets.parquet")
    keys = {
        "label_column": "kind",
        "train_split": "train",
        "evaluation_split": "train",
        "augmentation": False,
    }
    task = prepare(images(dataset=str(tmp_path / "pets.parquet"), **keys))
    assert [task.train_dataset[i]["labels"] for i in range(2)] == [0, 1]
    assert task.provenance["image_column"] == "picture"


def test_images_are_decoded_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = dataset_of(tmp_path, [encoded(colour(v)) for v in (0, 80, 160, 240)])
    opened = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda *a, **k: opened.append(1) or original(*a, **k))
    task = prepare(images(dataset=folder))
    assert opened == []
    _ = task.train_dataset[2]
    assert len(opened) == 1


# Models


def test_random_timm_weights_are_timms_own_draw(tmp_path: Path) -> None:
    import timm

    one, two, other = (prepare(images(task_seed=seed)).model.timm_model for seed in (1, 1, 2))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.fc.weight, other.fc.weight)
    torch.manual_seed(0)
    reference = dict(timm.create_model("resnet10t", num_classes=10).named_parameters())
    prepare(images()).model.save_pretrained(tmp_path / "base")
    from_folder = prepare(images(str(tmp_path / "base"))).model.timm_model
    for model in (one, from_folder):
        for name, parameter in model.named_parameters():
            if parameter.numel() > 1000:
                spread, wanted = parameter.detach().std(), reference[name].detach().std()
                assert float(spread) == pytest.approx(float(wanted), rel=0.1), name


def test_a_saved_timm_model_is_loaded_again_with_its_input_size_and_a_new_head(tmp_path: Path) -> None:
    first = prepare(images(labels=[0, 1, 2, 3, 4]))
    first.model.save_pretrained(tmp_path / "base")
    second = prepare(images(str(tmp_path / "base"), pretrained=True, image_size=None, labels=[5, 6, 7]))
    assert second.provenance["image_size"] == [32, 32]
    assert second.model.timm_model.fc.weight.shape == (3, 512)
    before, after = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if ".fc." not in name)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "base")
    assert processor.data_config["input_size"] == (3, 32, 32)


def test_weights_that_do_not_fit_the_backbone_are_refused_not_drawn_anew(tmp_path: Path) -> None:
    prepare(images("vit_tiny_patch16_224", model_arguments={"model_args": {"img_size": 32}})).model.save_pretrained(
        tmp_path / "base"
    )
    arguments = {"model_args": {"img_size": 64}}
    config = images(str(tmp_path / "base"), pretrained=True, image_size=64, model_arguments=arguments)
    with pytest.raises(DataError, match="pos_embed"):
        prepare(config)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("vit")
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=48,
        patch_size=16,
        num_labels=7,
    )
    ViTForImageClassification(config).save_pretrained(folder)
    processor = ViTImageProcessor(
        size={"height": 48, "width": 48}, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7]
    )
    processor.save_pretrained(folder)
    return str(folder)


def test_a_transformers_model_trains_and_saves_its_processor(vit: str, tmp_path: Path) -> None:
    task = prepare(images(vit, pretrained=True, image_size=None, maximum_evaluation_examples=32))
    assert "eval_accuracy" in run(task, tmp_path)
    Trainer(task.model, TrainingArguments(str(tmp_path)), **task.trainer_arguments()).save_model()
    assert AutoImageProcessor.from_pretrained(tmp_path).image_mean == pytest.approx([0.1, 0.2, 0.3])
    assert AutoModelForImageClassification.from_pretrained(tmp_path).config.num_labels == 10


def test_evaluation_feeds_a_model_what_its_own_processor_would(vit: str, tmp_path: Path) -> None:
    square = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8))
    folder = dataset_of(tmp_path, [encoded(square), encoded(square)])
    task = prepare(images(vit, pretrained=True, image_size=None, dataset=folder, augmentation=False))
    expected = AutoImageProcessor.from_pretrained(vit)(square, return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(task.train_dataset[0]["pixel_values"], expected, atol=1e-5)


def test_evaluation_feeds_a_timm_model_what_timm_would(tmp_path: Path) -> None:
    import timm

    noise = np.random.default_rng(0).integers(0, 256, (25, 20, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((250, 200), Image.Resampling.BICUBIC)
    folder = dataset_of(tmp_path, [encoded(photo), encoded(photo)])
    task = prepare(images(dataset=folder, image_size=None, augmentation=False))
    settings = timm.data.resolve_data_config(timm.get_pretrained_cfg("resnet10t").to_dict())
    expected = timm.data.create_transform(**settings, is_training=False)(photo)
    assert (task.train_dataset[0]["pixel_values"] - expected).abs().max() < 1e-4


def test_a_chosen_size_is_saved_with_the_processor(vit: str, tmp_path: Path) -> None:
    task = prepare(images(vit, image_size=32, model_arguments={"image_size": 32}))
    assert task.train_dataset[0]["pixel_values"].shape == (3, 32, 32)
    assert "eval_accuracy" in run(task, tmp_path / "run")
    task.processing_class.save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert processor(colour(9), return_tensors="pt")["pixel_values"].shape == (1, 3, 32, 32)


# Augmentation


def test_augmentation_changes_by_epoch_and_evaluation_never() -> None:
    task = prepare(images())
    first = [task.train_dataset[i]["pixel_values"] for i in range(5)]
    again = [task.train_dataset[i]["pixel_values"] for i in range(5)]
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    evaluation = task.evaluation_dataset[0]["pixel_values"]
    for dataset in (task.train_dataset, task.evaluation_dataset):
        dataset.set_epoch(1)
    later = [task.train_dataset[i]["pixel_values"] for i in range(5)]
    assert sum(torch.equal(x, y) for x, y in zip(first, later, strict=True)) <= 1
    assert torch.equal(evaluation, task.evaluation_dataset[0]["pixel_values"])


@pytest.mark.parametrize("flip", [True, False])
def test_only_the_flip_key_mirrors(flip: bool, tmp_path: Path) -> None:
    """Left half black, right half white: a mirrored image is bright on the left."""
    halves = np.zeros((32, 32, 3), np.uint8)
    halves[:, 16:] = 255
    folder = dataset_of(tmp_path, [encoded(Image.fromarray(halves))] * 2)
    task = prepare(images(dataset=folder, horizontal_flip=flip))
    mirrored = 0
    for epoch in range(30):
        task.train_dataset.set_epoch(epoch)
        pixels = task.train_dataset[0]["pixel_values"][0]
        mirrored += bool(pixels[8:24, 6:14].mean() > pixels[8:24, 18:26].mean())
    assert (5 < mirrored < 25) if flip else mirrored == 0


def test_small_images_are_padded_and_large_ones_cropped_at_random_scales(tmp_path: Path) -> None:
    folder = dataset_of(tmp_path, [encoded(Image.new("RGB", (64, 64), (255, 255, 255)))] * 2)
    small = prepare(images(dataset=folder)).train_dataset
    large = prepare(images(dataset=folder, image_size=80)).train_dataset
    borders = []
    for epoch in range(8):
        small.set_epoch(epoch)
        white = small[0]["pixel_values"] > 2
        borders.append(32 * 32 - int(white[0].sum()))
        large.set_epoch(epoch)
        assert bool((large[0]["pixel_values"] > 2).all())
    assert max(borders) > 0
    assert max(borders) <= 32 * 32 - 28 * 28


# Pictures that do not fit


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.full((30, 40), 100 * 257, np.uint16))
    else:
        picture = colour(100).convert(mode)
    kind = {"CMYK": "JPEG"}.get(mode, "PNG")
    folder = dataset_of(tmp_path, [encoded(picture, kind), encoded(colour(100))])
    pixels = prepare(images(dataset=folder, augmentation=False)).train_dataset[0]["pixel_values"]
    assert pixels.shape == (3, 32, 32)
    middle = ((pixels * STD + MEAN) * 255)[:, 16, 16].round()
    expected = {"CMYK": (100, 155, 50), "P": (100, 155, 50), "RGBA": (100, 155, 50)}
    grey = 127 if mode in ("L", "LA") else 100
    if mode != "1":
        wanted = torch.tensor(expected.get(mode, (grey,) * 3), dtype=torch.float32)
        assert (middle - wanted).abs().max() <= (30 if mode == "P" else 4), middle


def test_transparent_palettes_are_converted_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    picture = colour(100).convert("P")
    picture.info["transparency"] = bytes(range(256))
    assert as_rgb(picture).mode == "RGB"
    assert not [warning for warning in recwarn if "ransparency" in str(warning.message)]


@pytest.mark.parametrize(
    "broken",
    [b"this is no image", encoded(colour(9), "PNG")[:60], encoded(colour(9, (400, 300)), "JPEG")[:700], b""],
    ids=["text", "short png", "short jpeg", "empty"],
)
def test_an_unreadable_image_is_named_by_its_row(broken: bytes, tmp_path: Path) -> None:
    good = encoded(colour(9))
    task = prepare(images(dataset=dataset_of(tmp_path, [good, good, good, broken])))
    _ = task.train_dataset[2]
    with pytest.raises(DataError, match=r"pictures, split train, row 3: unreadable image in column image"):
        _ = task.train_dataset[3]


def test_the_row_is_that_of_the_file_also_under_chosen_labels(tmp_path: Path) -> None:
    good = encoded(colour(9))
    folder = dataset_of(tmp_path, [good, good, good, b"junk", good, good])
    features = Features(image=ImageFeature(), label=Value("string"))
    rows = (
        Dataset.load_from_disk(f"{folder}/train")
        .select_columns(["image"])
        .cast_column("image", ImageFeature(decode=False))
    )
    three = Dataset.from_dict({"image": rows["image"][:], "label": list("aabbab")}, features)
    DatasetDict(train=three, test=three).save_to_disk(tmp_path / "three")
    task = prepare(images(dataset=str(tmp_path / "three"), labels=["b", "a"]))
    with pytest.raises(DataError, match="row 3"):
        _ = [task.train_dataset[i] for i in range(6)]
    task = prepare(images(dataset=str(tmp_path / "three"), labels=["b"]))
    with pytest.raises(DataError, match="row 3"):
        _ = [task.train_dataset[i] for i in range(3)]


def test_a_class_list_that_differs_between_splits(tmp_path: Path) -> None:
    """Other numbers for the same classes are told apart by name; a class that training lacks is named with its row."""

    def split(names: list[str], labels: list[str]) -> Dataset:
        features = Features(image=ImageFeature(), label=ClassLabel(names=names))
        cells = [{"bytes": encoded(colour(9)), "path": None}] * len(labels)
        return Dataset.from_dict({"image": cells, "label": [names.index(label) for label in labels]}, features)

    train = split(["cat", "dog"], ["cat", "dog", "dog"])
    for name, other in {
        "reordered": split(["dog", "cat"], ["cat", "dog", "cat"]),
        "more": split(["bird", "cat", "dog"], ["cat", "dog", "bird"]),
    }.items():
        DatasetDict(train=train).save_to_disk(tmp_path / name)
        other.save_to_disk(tmp_path / name / "test")
        (tmp_path / name / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    task = prepare(images(dataset=str(tmp_path / "reordered")))
    assert [task.evaluation_dataset[i]["labels"] for i in range(3)] == [0, 1, 0]
    with pytest.raises(DataError, match="more, split test, row 2: column label holds 'bird'"):
        prepare(images(dataset=str(tmp_path / "more")))


def test_columns_labels_and_models_that_are_not_there(data: Path, tmp_path: Path) -> None:
    good = encoded(colour(9))
    folder = dataset_of(tmp_path, [good, good])
    cases = [
        (images(dataset=folder, image_column="img"), "nearest: image"),
        (images(dataset=folder, image_column="label"), "column label: no images"),
        (images(dataset=folder, labels=["cat", "dgo"]), "nearest: dog"),
        (images(dataset=folder, evaluation_split="valid"), "there are train, test"),
        (images(dataset=str(data / "glue" / "rte")), "set image_column"),
        (images(str(tmp_path / "nowhere"), dataset=folder), "there is no folder"),
        (images("resnet10t", dataset=folder, model_arguments={"model_args": {"depht": 3}}), "depht"),
    ]
    for config, part in cases:
        with pytest.raises(DataError) as caught:
            prepare(config)
        assert part in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_saved_timm_model_names_the_labels_it_was_trained_on(tmp_path: Path) -> None:
    """And not those of the base model that it started from."""
    first = prepare(images(dataset="sklearn/digits", pretrained=False, labels=[0, 1, 2], image_size=32))
    first.model.save_pretrained(tmp_path / "base")
    second = prepare(images(str(tmp_path / "base"), dataset="sklearn/digits", labels=[7, 8, 9], image_size=32))
    second.model.save_pretrained(tmp_path / "tuned")
    assert AutoConfig.from_pretrained(tmp_path / "tuned").id2label == {0: "7", 1: "8", 2: "9"}


def test_a_model_that_is_none_of_images_is_named_for_what_it_is(small_bert: str) -> None:
    for model, message in (
        ("resnt18", "and no architecture of timm; nearest: resnet18"),
        ("resnet18.a1_in1kk", "nearest: resnet18.a1_in1k"),
        (small_bert, "is a bert model, and image-classification needs one of images"),
    ):
        with pytest.raises(DataError, match=message):
            prepare(images(model, pretrained=True))


def test_a_folder_that_names_an_architecture_and_no_more_is_read(tmp_path: Path) -> None:
    TimmWrapperForImageClassification(TimmWrapperConfig(architecture="test_resnet")).save_pretrained(tmp_path / "own")
    task = prepare(images(str(tmp_path / "own"), pretrained=True, image_size=None))
    assert task.train_dataset[0]["pixel_values"].shape == (3, 160, 160)


def test_without_the_hub_the_remedy_is_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"me/pets .* HF_HUB_OFFLINE .*: unset it, or set dataset to a local folder"):
        prepare(images(dataset="me/pets"))
