"""Average precision as COCO's own tools compute it, intersection over union as scikit-learn does."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import accuracy_score, balanced_accuracy_score, jaccard_score
from transformers import EvalPrediction, RTDetrImageProcessor

from hf_tickets.tasks.detection_metrics import PADDING, AveragePrecision, BestDetections, pad_targets
from hf_tickets.tasks.masks import IGNORED
from hf_tickets.tasks.segmentation_metrics import IntersectionOverUnion, most_likely

WIDTH, HEIGHT = 320.0, 240.0


def random_boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    corners = generator.uniform(0, 0.6, (count, 2))
    return np.concatenate([corners, corners + generator.uniform(0.1, 0.4, (count, 2))], axis=1)


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Objects (class, crowd, corners) of an image, and detections (score, class, corners) near some of them."""
    generator = np.random.default_rng(seed)
    count = int(generator.integers(1, 6))
    crowd = generator.random((count, 1)) < 0.2
    objects = np.concatenate([generator.integers(0, 3, (count, 1)), crowd, random_boxes(generator, count)], axis=1)
    near = objects[:, 2:] + generator.normal(0, 0.02, (count, 4))
    found = np.concatenate([generator.random((count, 1)), objects[:, :1], near], axis=1)
    classes = generator.integers(0, 3, (4, 1))
    wrong = np.concatenate([generator.random((4, 1)), classes, random_boxes(generator, 4)], axis=1)
    return objects, np.concatenate([found, wrong])


def by_coco(scenes: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """COCO's three numbers, from boxes in pixels."""
    scale = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])

    def record(image: int, corners: np.ndarray, **more: Any) -> dict[str, Any]:
        left, top, right, bottom = corners * scale
        box = [left, top, right - left, bottom - top]
        return {"image_id": image, "bbox": box, "area": box[2] * box[3], **more}

    annotations: list[dict[str, Any]] = []
    for image, (objects, _) in enumerate(scenes):
        for row in objects:
            more = {"category_id": int(row[0]), "iscrowd": int(row[1]), "id": len(annotations) + 1}
            annotations.append(record(image, row[2:], **more))
    results = [
        record(image, row[2:], category_id=int(row[1]), score=float(row[0]))
        for image, (_, detections) in enumerate(scenes)
        for row in detections
    ]
    truth = COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        truth.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(scenes))],
            "annotations": annotations,
            "categories": [{"id": number} for number in range(3)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:3].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_cocos(seed: int) -> None:
    scenes = [scene(10 * seed + number) for number in range(6)]
    longest = max(len(detections) for _, detections in scenes)
    predictions = np.full((len(scenes), longest, 6), 0.0)
    predictions[:, :, 0] = -1.0  # what is not there scores least
    for padded, (_, detections) in zip(predictions, scenes, strict=True):
        padded[: len(detections)] = detections
    targets = pad_targets([torch.tensor(objects, dtype=torch.float32) for objects, _ in scenes])
    # Trainer pads further where batches differ
    targets = torch.nn.functional.pad(targets, (0, 0, 0, 3), value=PADDING)
    results = AveragePrecision()(EvalPrediction(predictions, targets.numpy()))
    assert list(results.values()) == pytest.approx(by_coco(scenes), abs=1e-4)
    assert 0.05 < results["map"] < results["map_50"] < 1


def test_a_perfect_detector_and_one_that_finds_nothing() -> None:
    objects, _ = scene(1)
    objects[:, 1] = 0
    targets = pad_targets([torch.tensor(objects)])
    perfect = np.concatenate([np.ones((len(objects), 1)), objects[:, :1], objects[:, 2:]], axis=1)[None]
    assert AveragePrecision()(EvalPrediction(perfect, targets)) == pytest.approx(
        {"map": 1.0, "map_50": 1.0, "map_75": 1.0}
    )
    elsewhere = np.array([[[0.9, 0, 0.0, 0.0, 0.001, 0.001]]])
    assert AveragePrecision()(EvalPrediction(elsewhere, targets))["map_50"] == 0


def test_the_best_detections_are_read_as_the_image_processor_reads_them() -> None:
    torch.manual_seed(0)
    logits, boxes = torch.randn(2, 30, 7), torch.rand(2, 30, 4)
    best = BestDetections(RTDetrImageProcessor())(({"loss_ce": torch.zeros(())}, logits, boxes, [torch.rand(3)]), None)
    scores, places = logits.sigmoid().flatten(1).topk(30)
    assert best.shape == (2, 30, 6)
    assert torch.allclose(best[:, :, 0], scores)
    assert torch.equal(best[:, :, 1].long(), places % 7)
    centre, sides = boxes.gather(1, (places // 7)[..., None].expand(-1, -1, 4)).split(2, dim=2)
    assert torch.allclose(best[:, :, 2:], torch.cat([centre - sides / 2, centre + sides / 2], dim=2), atol=1e-6)


def test_no_object_in_any_image() -> None:
    assert pad_targets([torch.zeros(0, 6), torch.zeros(0, 6)]).shape == (2, 1, 6)
    assert (pad_targets([torch.zeros(0, 6)]) == PADDING).all()


def test_intersection_over_union_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    masks = generator.integers(0, 4, (5, 9, 7))
    answers = np.where(generator.random(masks.shape) < 0.6, masks, generator.integers(0, 4, masks.shape))
    masks[generator.random(masks.shape) < 0.2] = IGNORED
    counted = masks != IGNORED
    right, found = masks[counted], answers[counted]
    metric = IntersectionOverUnion(6)  # classes 4 and 5 occur nowhere
    for batch in (slice(0, 2), slice(2, 3)):
        assert metric(EvalPrediction(answers[batch], masks[batch]), compute_result=False) == {}
    results = metric(EvalPrediction(answers[3:], masks[3:]))
    assert results["mean_iou"] == pytest.approx(jaccard_score(right, found, average="macro"))
    assert results["mean_accuracy"] == pytest.approx(balanced_accuracy_score(right, found))
    assert results["overall_accuracy"] == pytest.approx(accuracy_score(right, found))
    assert metric(EvalPrediction(masks.clip(0), masks))["mean_iou"] == 1.0  # nothing is left of before


def test_logits_of_a_smaller_size_are_enlarged_before_the_answer() -> None:
    logits = torch.randn(2, 3, 4, 5)
    labels = torch.zeros(2, 8, 10)
    expected = torch.nn.functional.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.equal(most_likely((logits, None), labels).long(), expected.argmax(dim=1))
    assert most_likely(torch.randn(1, 300, 2, 2), torch.zeros(1, 2, 2)).max() < 300
