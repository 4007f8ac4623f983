"""Detection and segmentation in two processes: images of different numbers of objects, and an odd image out."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import Launch
from pictures import GOOD, boxes_dataset, detection, mask_of, masks_dataset, segmentation
from transformers import Trainer, TrainingArguments

from hf_tickets.tasks.registry import prepare


def evaluate(folder: Path, steps: int = 0) -> list[dict[str, float]]:
    """The metrics of both tasks with the weights they start from; then train, in all processes, without a failure."""
    results = []
    for task in (prepare(detection(folder / "boxes")), prepare(segmentation(folder / "masks"))):
        sizes = {"per_device_eval_batch_size": 2, "per_device_train_batch_size": 2}
        args = TrainingArguments(
            str(folder / "run"),
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
            max_steps=steps,
            ddp_backend="gloo" if steps else None,
            **sizes,
        )
        trainer = Trainer(task.model, task.adapt_(args), **task.trainer_arguments())
        metrics = trainer.evaluate()
        results.append({name: value for name, value in metrics.items() if "_per_second" not in name})
        if steps:
            trainer.train()
    return results


@torch.no_grad()
def what_it_finds(folder: Path, images: int) -> list[dict[str, Any]]:
    """Objects at which the untrained detector is right, more in each image than in the one before."""
    boxes_dataset(folder, [GOOD] * 4, evaluation=[GOOD] * images)
    task = prepare(detection(folder / "boxes"))
    objects = []
    for row in range(images):
        outputs = task.model.eval()(task.evaluation_dataset[row]["pixel_values"][None])
        found = task.preprocess_logits_for_metrics((outputs.logits, outputs.pred_boxes), None)[0, : 2 * row]
        corners = found[:, 2:].clamp(0, 1) * torch.tensor([48, 36, 48, 36])
        boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1)
        objects.append({"bbox": boxes.tolist(), "category": found[:, 1].long().tolist()})
    return objects


def main() -> None:
    """What each of two processes does."""
    folder = Path(sys.argv[1])
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(evaluate(folder, steps=1)))


def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    objects = what_it_finds(tmp_path / "first", images=5)
    boxes_dataset(tmp_path, [GOOD] * 4, evaluation=objects)
    masks = [mask_of(torch.randint(0, 3, (36, 48)).numpy()) for _ in range(5)]
    masks_dataset(tmp_path, masks)
    status, output = Launch(2, tmp_path, program=Path(__file__)).wait()
    assert status == 0, output
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    for alone, *both in zip(evaluate(tmp_path), first, second, strict=True):
        for name in ("eval_map", "eval_map_50", "eval_map_75", "eval_mean_iou", "eval_overall_accuracy"):
            if name in alone:
                assert [found[name] for found in both] == pytest.approx([alone[name]] * 2, abs=1e-6), name
    assert first[0]["eval_map"] > 0.05
    assert first[1]["eval_mean_iou"] > 0.05
