"""The recipes of the three pre-trainings as they are, on a folder of images and on a dataset of the Hub."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_tickets import Ticket
from hf_tickets.cli.main import main
from hub.server import Hub

RECIPES = Path(__file__).parents[2] / "recipes" / "vision"
# Sizes and lengths; all else is the recipe's own.
SMALLER = {
    "model": "test_resnet",
    "pretrained": "false",
    "image_size": "32",
    "rounds": "1",
    "max_steps": "2",
    "per_device_train_batch_size": "8",
    "dataloader_num_workers": "0",
    "save_strategy": "no",
    "use_cpu": "true",
    "output_dir": "found",
}
SELF_SUPERVISED = {"projection": "16,8", "probe_examples": "16"}
OWN = {
    "supervised": {},
    "simclr": SELF_SUPERVISED,
    "moco": {**SELF_SUPERVISED, "queue_size": "32", "batch_norm_groups": "2"},
}


def pictures() -> dict[str, bytes]:
    """The files of a dataset as a folder of splits, each a folder of classes."""
    random = np.random.default_rng(0)
    files = {}
    for split, count in (("train", 10), ("validation", 4)):
        for name in ("cat", "dog"):
            for number in range(count):
                file = io.BytesIO()
                Image.fromarray(random.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(file, "png")
                files[f"{split}/{name}/{number}.png"] = file.getvalue()
    return files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def find(recipe: str, dataset: str) -> Ticket:
    keys = {**SMALLER, **OWN[recipe], "dataset": dataset}
    words = [word for key, value in keys.items() for word in (f"--{key}", value)]
    assert main(["find", str(RECIPES / f"{recipe}.yaml"), *words]) == 0
    return Ticket.from_pretrained("found")


def check(ticket: Ticket, dataset: str) -> None:
    assert ticket.sparsities == pytest.approx((0.2,), abs=1e-3)
    (rung,) = ticket.config.rungs
    assert rung["steps"] == 2
    assert math.isfinite(rung["metrics"]["loss"])
    assert ticket.config.task["dataset"] == dataset
    assert ticket.config.task["labels"] == ["cat", "dog"]
    assert (ticket.config.task["training_examples"], ticket.config.task["evaluation_examples"]) == (20, [8])


@pytest.mark.parametrize("recipe", OWN)
def test_a_recipe_runs_on_a_folder_of_images(hub: Hub, folder: Path, recipe: str) -> None:
    for name, content in pictures().items():
        path = folder / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    check(find(recipe, "./pictures"), "pictures")
    assert hub.requests == []


def test_a_recipe_runs_on_a_dataset_of_the_hub(hub: Hub, folder: Path) -> None:
    hub.add_repository("org/pictures", pictures(), kind="dataset", owner="org")
    check(find("moco", "org/pictures"), "org/pictures")
    assert hub.asked("GET", "org/pictures")
