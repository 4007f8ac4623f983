"""Answers: the parts of a context that a model's start and end logits point at."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hf_tickets.tasks.windows import OUTSIDE


class Answer(NamedTuple):
    """A part of the context, or the empty text for "no answer", and its score: the sum of two logits."""

    text: str
    score: float


class Window(NamedTuple):
    """What a model says of one window, an entry a token: logits, and where the token lies in the context.

    `null` is the position whose logits speak for "no answer".
    """

    start_logits: np.ndarray
    end_logits: np.ndarray
    first: np.ndarray
    last: np.ndarray
    null: int


@dataclass(frozen=True)
class AnswerSearch:
    """Chooses answers in the way of the BERT paper (Devlin et al. 2019, sections 4.2 and 4.3).

    Args:
        n_best: likeliest starts and ends of a window that are tried together, and most answers in a list.
        max_length: longest answer, in tokens.
        null_threshold: how much higher than the best answer's the score of no answer must be; None: there always
            is an answer.
    """

    n_best: int = 20
    max_length: int = 30
    null_threshold: float | None = None

    def __call__(self, context: str, windows: Iterable[Window]) -> list[Answer]:
        """The best answers to one question, the one to give first.

        Args:
            context: the whole text, from which answers are cut as they stand.
            windows: all windows of this context.
        """
        windows = list(windows)
        scores: dict[tuple[int, int], float] = {}
        for window in windows:
            for span, score in self._spans(window):
                scores[span] = max(score, scores.get(span, -np.inf))
        ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[: self.n_best]
        answers = [Answer(context[first:last], score) for (first, last), score in ranked]
        if self.null_threshold is None:
            return answers or [Answer("", -np.inf)]
        null = min(float(window.start_logits[window.null] + window.end_logits[window.null]) for window in windows)
        refused = not answers or null - answers[0].score > self.null_threshold
        return [Answer("", null), *answers] if refused else [*answers, Answer("", null)]

    def _spans(self, window: Window) -> Iterable[tuple[tuple[int, int], float]]:
        """Spans of characters and their scores: the likeliest starts with the likeliest ends."""
        inside = np.flatnonzero(window.first != OUTSIDE)
        starts = inside[np.argsort(-window.start_logits[inside], kind="stable")[: self.n_best]]
        ends = inside[np.argsort(-window.end_logits[inside], kind="stable")[: self.n_best]]
        lengths = ends[None, :] - starts[:, None] + 1
        pairs = np.nonzero((lengths > 0) & (lengths <= self.max_length))
        for start, end in zip(starts[pairs[0]].tolist(), ends[pairs[1]].tolist(), strict=True):
            score = float(window.start_logits[start] + window.end_logits[end])
            yield (int(window.first[start]), int(window.last[end])), score
