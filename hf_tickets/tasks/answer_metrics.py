"""Exact match and F1 of answers, by the rules of SQuAD's official script (Rajpurkar et al. 2016 and 2018)."""

import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from transformers import EvalPrediction

from hf_tickets.errors import DataError
from hf_tickets.tasks.answers import Answer, AnswerSearch, Window
from hf_tickets.tasks.metrics import InMemoryMetric

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_PADDING = -100  # Trainer pads what differs in size between batches with it


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous white space."""
    words = re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_NO_PUNCTUATION))
    return " ".join(words.split())


def exact_match(answer: str, gold: str) -> float:
    """1 where two answers are equal once normalised, else 0."""
    return float(normalise(answer) == normalise(gold))


def overlap_f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall of an answer's words; where either has none, whether both have none."""
    given, right = normalise(answer).split(), normalise(gold).split()
    if not given or not right:
        return float(given == right)
    common = (Counter(given) & Counter(right)).total()
    return 2 * common / (len(given) + len(right))


class Squad(InMemoryMetric):
    """Exact match and F1 of answers, each the best over the right answers; shares between 0 and 1.

    With `unanswerable` also over the questions that have an answer (HasAns) and those that have none (NoAns).
    """

    def __init__(self, unanswerable: bool = False, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.unanswerable = unanswerable

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=(self.__doc__ or "").strip(),
            citation="",
            inputs_description="predictions: a text each; references: the list of right answers, empty for none.",
            features=datasets.Features(predictions=text, references=datasets.Sequence(text)),
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        exact, f1 = (
            np.array([_best(score, *pair) for pair in zip(predictions, references, strict=True)])
            for score in (exact_match, overlap_f1)
        )
        results = {"exact_match": float(exact.mean()), "f1": float(f1.mean())}
        answered = np.array([any(map(normalise, right)) for right in references])
        for name, chosen in (("HasAns", answered), ("NoAns", ~answered)) if self.unanswerable else ():
            if chosen.any():
                results |= {f"{name}_exact": float(exact[chosen].mean()), f"{name}_f1": float(f1[chosen].mean())}
        return results


class AnswerMetrics:
    """Trainer's `compute_metrics` of a model that points at answers.

    Windows are recognised by their tokens, so that neither their order nor their number matters: it is another one
    with `train_sampling_strategy="group_by_length"`. Trainer must hand them over: `include_for_metrics=["inputs"]`.

    Args:
        windows: what `Windows.of` made of the questions.
        contexts: the context of each question.
        gold: the right answers to each question, none where there is no answer.
        search: how answers are chosen.
        padding: the tokenizer's padding token.
    """

    def __init__(
        self,
        windows: datasets.Dataset,
        contexts: Sequence[str],
        gold: Sequence[Sequence[str]],
        search: AnswerSearch,
        padding: int,
    ) -> None:
        self.windows = windows
        self.contexts = contexts
        self.gold = gold
        self.search = search
        self.padding = padding
        self.metric = Squad(search.null_threshold is not None)

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        answers = self.answers(prediction)
        results = self.metric.compute(
            predictions=[best[0].text for best in answers.values()],
            references=[list(self.gold[example]) for example in answers],
        )
        return dict(results)

    def answers(self, prediction: EvalPrediction) -> dict[int, list[Answer]]:
        """The best answers to each question that was evaluated, the one to give first; by its place in the data.

        Args:
            prediction: what `Trainer.predict` returned, with inputs; its predictions are start and end logits.

        Raises:
            DataError: inputs are missing, or are not of this task.
        """
        windows: dict[int, list[Window]] = defaultdict(list)
        for example, window in self._said(prediction):
            windows[example].append(window)
        return {example: self.search(self.contexts[example], windows[example]) for example in sorted(windows)}

    def _said(self, prediction: EvalPrediction) -> Iterator[tuple[int, Window]]:
        if prediction.inputs is None:
            raise DataError('answers need the inputs: set include_for_metrics to ["inputs"] in TrainingArguments')
        table = self.windows.with_format("numpy")[:]
        known: dict[bytes, list[int]] = defaultdict(list)
        for row in reversed(range(len(self.windows))):
            known[self._key(table["input_ids"][row])].append(row)
        starts, ends = prediction.predictions
        for index, inputs in enumerate(np.asarray(prediction.inputs)):
            rows = known.get(self._key(inputs))
            if not rows:
                raise DataError("the model was evaluated on other questions than the task's; prepare a task for them")
            row = rows.pop()  # windows that are alike in their order
            first, last = np.asarray(table["first"][row]), np.asarray(table["last"][row])
            yield (
                int(table["example"][row]),
                Window(starts[index][: len(first)], ends[index][: len(first)], first, last, int(table["null"][row])),
            )

    def _key(self, input_ids: np.ndarray) -> bytes:
        ids = np.asarray(input_ids)
        return ids[(ids != self.padding) & (ids != _PADDING)].astype(np.int64).tobytes()


def _best(score: Any, answer: str, gold: Sequence[str]) -> float:
    right = [text for text in gold if normalise(text)] or [""]  # an answer of articles alone is none
    return max(score(answer, text) for text in right)
