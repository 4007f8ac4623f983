"""Metrics against formulas written out here, offline and without a trace on the disk."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from transformers import EvalPrediction

from hf_tickets.tasks.metrics import METRICS, ComputeMetrics

generator = np.random.default_rng(3)
TRUTH = generator.integers(0, 2, 200)
GUESS = np.where(generator.random(200) < 0.8, TRUTH, 1 - TRUTH)
SCORES = generator.normal(size=200)
ESTIMATES = np.round(SCORES + generator.normal(size=200), 1)


def _counts() -> tuple[int, int, int, int]:
    return tuple(int(np.sum((g == GUESS) & (t == TRUTH))) for g, t in ((1, 1), (1, 0), (0, 1), (0, 0)))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, ties averaged."""
    return np.array([(values < v).sum() + ((values == v).sum() - 1) / 2 for v in values])


def test_classification_metrics_equal_their_formulas() -> None:
    tp, fp, fn, tn = _counts()
    expected = {
        "accuracy": (tp + tn) / 200,
        "f1": 2 * tp / (2 * tp + fp + fn),
        "matthews_correlation": (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5,
    }
    for name, value in expected.items():
        assert METRICS[name]().compute(predictions=GUESS, references=TRUTH)[name] == pytest.approx(value)


def test_correlations_equal_their_formulas() -> None:
    def correlation(x: np.ndarray, y: np.ndarray) -> float:
        x, y = x - x.mean(), y - y.mean()
        return float((x * y).sum() / ((x * x).sum() * (y * y).sum()) ** 0.5)

    pearson = METRICS["pearson"]().compute(predictions=ESTIMATES, references=SCORES)
    spearman = METRICS["spearmanr"]().compute(predictions=ESTIMATES, references=SCORES)
    assert pearson["pearson"] == pytest.approx(correlation(ESTIMATES, SCORES))
    assert spearman["spearmanr"] == pytest.approx(correlation(_ranks(ESTIMATES), _ranks(SCORES)))


@pytest.mark.parametrize("name", ["pearson", "spearmanr", "matthews_correlation", "f1"])
def test_a_model_that_always_says_the_same_scores_zero(name: str) -> None:
    truth = np.array([0, 1, 1, 0])
    assert METRICS[name]().compute(predictions=np.zeros(4, int), references=truth) == {name: 0.0}


def test_a_diverged_model_is_not_called_uncorrelated() -> None:
    result = METRICS["pearson"]().compute(predictions=[float("nan"), 1.0, 2.0], references=[1.0, 2.0, 3.0])
    assert np.isnan(result["pearson"])


def test_logits_become_classes_and_extra_outputs_are_passed_over() -> None:
    logits = np.array([[0.1, 2.0], [3.0, -1.0], [0.0, 0.5]])
    hidden = np.zeros((3, 7))
    prediction = EvalPrediction(predictions=(logits, hidden), label_ids=np.array([1, 0, 0]))
    assert ComputeMetrics(["accuracy", "f1"])(prediction) == {
        "accuracy": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
    }


def test_regression_takes_the_single_output() -> None:
    prediction = EvalPrediction(predictions=np.array([[1.0], [2.0], [3.5]]), label_ids=np.array([1.0, 2.0, 3.5]))
    assert ComputeMetrics(["pearson"], regression=True)(prediction)["pearson"] == pytest.approx(1.0)


def test_random_state_survives_a_metric() -> None:
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    METRICS["accuracy"]().compute(predictions=GUESS, references=TRUTH)
    assert (np.random.get_state()[1] == before).all()


def _compute_often(results: "multiprocessing.Queue[float]") -> None:
    metric = METRICS["accuracy"]()
    for _ in range(20):
        metric.add_batch(predictions=GUESS[:100], references=TRUTH[:100])
        metric.add_batch(predictions=GUESS[100:], references=TRUTH[100:])
        results.put(metric.compute()["accuracy"])


def test_two_processes_at_once_agree_and_leave_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate

    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))
    monkeypatch.chdir(tmp_path)
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[float] = context.Queue()
    workers = [context.Process(target=_compute_often, args=(results,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    values = {results.get(timeout=60) for _ in range(40)}
    for worker in workers:
        worker.join()
    assert values == {float(np.mean(GUESS == TRUTH))}
    assert os.listdir(tmp_path) == []
