"""Metrics that need no network: `evaluate.Metric` classes around scikit-learn and SciPy."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics
from transformers import EvalPrediction


class InMemoryMetric(evaluate.Metric):
    """A metric that keeps its inputs in memory and touches no file, so that processes cannot collide."""

    dtype = "int64"

    def __init__(self, **keywords: Any) -> None:
        super().__init__(keep_in_memory=True, **keywords)

    def _build_data_dir(self) -> str:
        # evaluate would create this folder, and never use it for a metric that is kept in memory
        return ""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=(self.__doc__ or "").strip(),
            citation="",
            inputs_description="predictions and references: one number an example.",
            features=datasets.Features(predictions=datasets.Value(self.dtype), references=datasets.Value(self.dtype)),
            format="numpy",
        )


class Accuracy(InMemoryMetric):
    """Share of examples that are predicted right."""

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {"accuracy": float(sklearn_metrics.accuracy_score(references, predictions))}


class F1(InMemoryMetric):
    """Harmonic mean of precision and recall of class 1."""

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {"f1": float(sklearn_metrics.f1_score(references, predictions, zero_division=0.0))}


class MatthewsCorrelation(InMemoryMetric):
    """Matthews correlation coefficient, 0 where either side is constant."""

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {"matthews_correlation": float(sklearn_metrics.matthews_corrcoef(references, predictions))}


class Pearson(InMemoryMetric):
    """Pearson correlation coefficient, 0 where either side is constant."""

    dtype = "float64"

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {"pearson": _correlation(stats.pearsonr, predictions, references)}


class Spearman(InMemoryMetric):
    """Spearman rank correlation coefficient, 0 where either side is constant."""

    dtype = "float64"

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {"spearmanr": _correlation(stats.spearmanr, predictions, references)}


METRICS: dict[str, type[InMemoryMetric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "matthews_correlation": MatthewsCorrelation,
    "pearson": Pearson,
    "spearmanr": Spearman,
}


class ComputeMetrics:
    """Trainer's `compute_metrics` for one label an example.

    Args:
        names: metrics to compute, keys of METRICS.
        regression: outputs are values; otherwise they are logits, and the largest is the prediction.
    """

    def __init__(self, names: Sequence[str], regression: bool = False) -> None:
        self.metrics = [METRICS[name]() for name in names]
        self.regression = regression

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        outputs = prediction.predictions
        # models that return more than logits: the logits come first
        logits = np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs)
        predictions = logits.reshape(-1) if self.regression else logits.argmax(axis=-1)
        references = np.asarray(prediction.label_ids).reshape(-1)
        results: dict[str, float] = {}
        for metric in self.metrics:
            results.update(metric.compute(predictions=predictions, references=references))
        return results


def _correlation(function: Any, predictions: np.ndarray, references: np.ndarray) -> float:
    # undefined where one side is constant, as the outputs of an untrained model may be: no correlation
    if np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return 0.0
    return float(function(predictions, references)[0])
