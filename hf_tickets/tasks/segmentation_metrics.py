"""Intersection over union of a segmenter in Trainer."""

from typing import Any

import torch
from torchmetrics.classification import MulticlassConfusionMatrix
from transformers import EvalPrediction

from hf_tickets.tasks.masks import IGNORED


def most_likely(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Trainer's `preprocess_logits_for_metrics`: (images, height, width) class numbers in the size of the masks."""
    logits = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    if logits.shape[-2:] != labels.shape[-2:]:  # many segmenters answer at a quarter of the size
        logits = torch.nn.functional.interpolate(
            logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False
        )
    numbers = logits.argmax(dim=1)
    return numbers.to(torch.uint8 if logits.shape[1] <= 255 else torch.int32)


class IntersectionOverUnion:
    """Trainer's `compute_metrics` of a segmenter, whole or batch by batch (`batch_eval_metrics`).

    mean_iou and mean_accuracy are over the classes that occur in a mask or, for the first, in an answer;
    overall_accuracy is over pixels.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        self.matrix = MulticlassConfusionMatrix(classes, ignore_index=IGNORED)

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        answers, masks = (torch.as_tensor(values) for values in (prediction.predictions, prediction.label_ids))
        self.matrix.to(answers.device).update(answers.long(), masks.long())
        if not compute_result:
            return {}
        counts = self.matrix.compute().double().cpu()
        self.matrix.reset()
        right, asked, answered = counts.diag(), counts.sum(dim=1), counts.sum(dim=0)
        union = asked + answered - right
        return {
            "mean_iou": _mean(right, union),
            "mean_accuracy": _mean(right, asked),
            "overall_accuracy": _mean(right.sum()[None], asked.sum()[None]),
        }


def _mean(parts: torch.Tensor, wholes: torch.Tensor) -> float:
    """The mean of the shares of those wholes that are there at all; 0 where none is."""
    there = wholes > 0
    return float((parts[there] / wholes[there]).mean()) if bool(there.any()) else 0.0
