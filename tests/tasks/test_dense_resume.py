"""Detectors and segmenters under a mask go on to the bit after an interruption, and serve users when saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import GOOD, boxes_dataset, detection, halves, mask_of, masks_dataset, picture, segmentation
from PIL import Image
from transformers import TrainingArguments, pipeline

from hf_tickets import PruningConfig, TicketTrainer, prune
from hf_tickets.tasks.registry import prepare


@pytest.fixture(scope="module", params=["detection", "segmentation"])
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("data")
    if request.param == "detection":
        return detection(boxes_dataset(folder, [GOOD] * 6))
    return segmentation(masks_dataset(folder, [mask_of(halves())] * 6), head_learning_rate=1e-2)


def train(config: Any, folder: Path, resume: str | None = None) -> TicketTrainer:
    task = prepare(config)
    args = TrainingArguments(
        str(folder),
        max_steps=4,
        save_steps=2,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        use_cpu=True,
        disable_tqdm=True,
    )
    mask = prune(task.model, PruningConfig(), sparsity=0.6)
    trainer = TicketTrainer(task.model, task.adapt_(args), ticket=mask, **task.trainer_arguments(args))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.fixture(scope="module")
def whole(config: Any, tmp_path_factory: pytest.TempPathFactory) -> TicketTrainer:
    return train(config, tmp_path_factory.mktemp("whole"))


def test_a_resumed_training_ends_at_the_same_bits(config: Any, whole: TicketTrainer, tmp_path: Path) -> None:
    resumed = train(config, tmp_path, str(Path(whole.args.output_dir) / "checkpoint-2"))
    expected = whole.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_pipelines_read_what_is_saved(whole: TicketTrainer, tmp_path: Path) -> None:
    whole.save_model(str(tmp_path))
    (tmp_path / "picture.png").write_bytes(picture())
    image = Image.open(tmp_path / "picture.png")
    if "Detection" in type(whole.model).__name__:
        found = pipeline("object-detection", str(tmp_path))(image, threshold=0.0)
        assert {entry["label"] for entry in found} <= {"cat", "dog"}
        assert len(found) == 20
    else:
        found = pipeline("image-segmentation", str(tmp_path))(image)
        assert {entry["label"] for entry in found} <= {"0", "1"}
        assert found[0]["mask"].size == image.size
