"""What features are worth without training the encoder on: nearest neighbours and a linear probe."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import EvalPrediction

_KNN_TEMPERATURE = 0.07
_LINEAR_STEPS = 200


def knn_accuracy(
    bank: np.ndarray, bank_labels: np.ndarray, features: np.ndarray, labels: np.ndarray, neighbours: int
) -> float:
    """Accuracy of the weighted vote of the nearest neighbours (Wu et al. 2018, section 3.4).

    Args:
        bank: (examples, width) features that are labelled.
        bank_labels: (examples,) class numbers.
        features: (images, width) features to classify.
        labels: (images,) their class numbers.
        neighbours: how many vote, each with exp(cosine similarity / 0.07).
    """

    def votes(distances: np.ndarray) -> np.ndarray:
        return np.exp(-distances / _KNN_TEMPERATURE)

    count = min(neighbours, len(bank))
    classifier = KNeighborsClassifier(count, metric="cosine", weights=votes, algorithm="brute")
    return float(classifier.fit(bank, bank_labels).score(features, labels))


def linear_accuracy(bank: np.ndarray, bank_labels: np.ndarray, features: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of logistic regression on standardised features; arguments as in `knn_accuracy`."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_LINEAR_STEPS))
    with warnings.catch_warnings():
        # it is stopped early on purpose: on most features of few examples it would go on for long, to no use
        warnings.simplefilter("ignore", ConvergenceWarning)
        return float(classifier.fit(bank, bank_labels).score(features, labels))


class ProbeMetrics:
    """Trainer's `compute_metrics` for features: what classifiers on top of them reach.

    Args:
        bank: how many of the first examples of the evaluation dataset are labelled training examples, from which the
            classifiers learn; they are measured on the rest.
        neighbours: of the k-NN classifier.
        linear: also train a linear probe.
    """

    def __init__(self, bank: int, neighbours: int, linear: bool) -> None:
        self.bank = bank
        self.neighbours = neighbours
        self.linear = linear

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        outputs = prediction.predictions
        features = np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs, dtype=np.float32)
        labels = np.asarray(prediction.label_ids).reshape(-1)
        parts = features[: self.bank], labels[: self.bank], features[self.bank :], labels[self.bank :]
        metrics = {"knn_accuracy": knn_accuracy(*parts, neighbours=self.neighbours)}
        if self.linear and len(np.unique(parts[1])) > 1:
            metrics["linear_accuracy"] = linear_accuracy(*parts)
        return metrics
