"""Precision, recall and F1 of named entities, and the accuracy of tags."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from nervaluate import Evaluator
from transformers import EvalPrediction

_ENTITY_TAG = re.compile(r"[BIESLU]-(?P<kind>.+)")
# every chunk notation as IOB2's: S and U are entities of one word, E and L the last word of one
_TO_IOB = {"S": "B", "U": "B", "E": "I", "L": "I"}


def most_likely(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Trainer's `preprocess_logits_for_metrics`: the most likely tag of each token, (examples, tokens)."""
    logits = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    return logits.argmax(dim=-1)


def are_entity_tags(names: Sequence[str]) -> bool:
    """Whether tags mark the parts of entities, as B-PER, I-PER and O do, rather than, say, parts of speech."""
    others = [name for name in names if name != "O"]
    return bool(others) and all(_ENTITY_TAG.fullmatch(name) for name in others)


class TagMetrics:
    """Trainer's `compute_metrics` for one tag a word; tokens of label -100 do not count.

    accuracy is over words. Where tags mark entities, precision, recall and f1 are those of CoNLL-2003's evaluation
    (Tjong Kim Sang and De Meulder 2003): an entity is right if its kind and both ends are, all kinds together. A
    tag I- that continues nothing begins an entity.

    Args:
        names: the tags in the order of their numbers.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.entities = are_entity_tags(names)
        self._tags = np.array([f"{_TO_IOB.get(name[:1], name[:1])}{name[1:]}" for name in names], dtype=object)
        matches = (_ENTITY_TAG.fullmatch(name) for name in names)
        self._kinds = sorted({match["kind"] for match in matches if match})

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        predicted, expected = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        counted = expected >= 0
        accuracy = float((predicted == expected)[counted].mean())
        if not self.entities:
            return {"accuracy": accuracy}
        rows = [
            [self._tags[tags[words]].tolist() for tags, words in zip(part, counted, strict=True)]
            for part in (expected, predicted)
        ]
        # strict: kind and both ends, nervaluate's name for what CoNLL counts
        result = Evaluator(*rows, tags=self._kinds, loader="list").evaluate()["overall"]["strict"]
        return {
            "precision": float(result.precision),
            "recall": float(result.recall),
            "f1": float(result.f1),
            "accuracy": accuracy,
        }
