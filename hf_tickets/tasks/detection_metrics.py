"""Average precision, as COCO defines it, of a detector in Trainer."""

from typing import Any

import torch
from torchmetrics.detection import MeanAveragePrecision
from transformers import EvalPrediction

PADDING = -100  # Trainer pads what differs in size between batches with it
DETECTIONS = 100  # the most that COCO counts in an image
_METRICS = ("map", "map_50", "map_75")


def pad_targets(targets: list[torch.Tensor]) -> torch.Tensor:
    """(images, most objects, 6) of (objects, 6) tables, so that processes can exchange them."""
    longest = max(1, *(len(table) for table in targets)) if targets else 1
    padded = torch.full((len(targets), longest, 6), float(PADDING))
    for row, table in zip(padded, targets, strict=True):
        row[: len(table)] = table
    return padded


class BestDetections:
    """Trainer's `preprocess_logits_for_metrics`: the best boxes of each image.

    Args:
        processor: transformers' image processor of the detector; it knows how its scores are to be read.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, outputs: Any, labels: Any) -> torch.Tensor:
        """(images, detections, 6): score, class, and corners as shares of the image's sides."""
        logits, boxes = [value for value in outputs if isinstance(value, torch.Tensor)][:2]
        ones = torch.ones(len(logits), 2, device=boxes.device)
        named = _Outputs(logits.float(), boxes.float())
        found = self.processor.post_process_object_detection(named, threshold=-1.0, target_sizes=ones)
        return torch.stack([_best(image) for image in found])


class AveragePrecision:
    """Trainer's `compute_metrics` of a detector: AP averaged over IoU 0.50–0.95, at 0.50, and at 0.75."""

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        metric = MeanAveragePrecision(box_format="xyxy", iou_type="bbox", backend="pycocotools")
        metric.warn_on_many_detections = False
        detections = torch.as_tensor(prediction.predictions)
        targets = torch.as_tensor(prediction.label_ids)
        metric.update([_detected(table) for table in detections], [_annotated(table) for table in targets])
        results = metric.compute()
        return {name: max(float(results[name]), 0.0) for name in _METRICS}


class _Outputs:
    def __init__(self, logits: torch.Tensor, pred_boxes: torch.Tensor) -> None:
        self.logits = logits
        self.pred_boxes = pred_boxes


def _best(image: dict[str, torch.Tensor]) -> torch.Tensor:
    scores, order = image["scores"].topk(min(DETECTIONS, len(image["scores"])))
    classes = image["labels"][order].to(scores.dtype)
    return torch.cat([scores[:, None], classes[:, None], image["boxes"][order]], dim=1)


def _detected(table: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"scores": table[:, 0], "labels": table[:, 1].long(), "boxes": table[:, 2:]}


def _annotated(table: torch.Tensor) -> dict[str, torch.Tensor]:
    table = table[table[:, 0] != PADDING]
    return {"labels": table[:, 0].long(), "iscrowd": table[:, 1].long(), "boxes": table[:, 2:]}
