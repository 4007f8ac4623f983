"""The nine GLUE tasks: columns, labels and metrics (Wang et al., 2019, arXiv 1804.07461)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GlueTask:
    """One GLUE task.

    Attributes:
        columns: text columns, in the order the model reads them.
        labels: class names in the Hub's order; empty for regression.
        metrics: names of METRICS, the main one first.
        evaluations: evaluation set → split; one set has the empty name.
    """

    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    evaluations: tuple[tuple[str, str], ...] = (("", "validation"),)


HUB_ID = "nyu-mll/glue"
_PAIR = ("sentence1", "sentence2")

GLUE = {
    "cola": GlueTask(("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation",)),
    "sst2": GlueTask(("sentence",), ("negative", "positive")),
    "mrpc": GlueTask(_PAIR, ("not_equivalent", "equivalent"), ("accuracy", "f1")),
    "stsb": GlueTask(_PAIR, (), ("pearson", "spearmanr")),
    "qqp": GlueTask(("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
    "mnli": GlueTask(
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        evaluations=(("matched", "validation_matched"), ("mismatched", "validation_mismatched")),
    ),
    "qnli": GlueTask(("question", "sentence"), ("entailment", "not_entailment")),
    "rte": GlueTask(_PAIR, ("entailment", "not_entailment")),
    "wnli": GlueTask(_PAIR, ("not_entailment", "entailment")),
}
