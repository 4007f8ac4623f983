"""Questions about texts, and the answers that their contexts hold, as SQuAD writes them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import datasets
import numpy as np

from hf_tickets.errors import DataError
from hf_tickets.tasks.labels import column_values
from hf_tickets.tasks.tokenization import check_texts

logger = logging.getLogger(__name__)


class Columns(NamedTuple):
    """Names of the columns of a dataset of questions."""

    question: str = "question"
    context: str = "context"
    answers: str = "answers"


class Gold(NamedTuple):
    """The right answers to one question, none where there is no answer: their texts, and where each begins."""

    texts: tuple[str, ...]
    starts: tuple[int, ...]

    def lies_in(self, context: str) -> bool:
        """Whether the first answer, which is trained on, begins where the data says."""
        if not self.texts:
            return True
        text, start = self.texts[0], self.starts[0]
        return start >= 0 and context[start : start + len(text)] == text


@dataclass(frozen=True)
class Questions:
    """Rows of a split.

    Attributes:
        split: the rows.
        numbers: the number of each in the whole split.
        gold: the answers of each.
        columns: names of the columns.
        where: names dataset and split, for messages.
    """

    split: datasets.Dataset
    numbers: np.ndarray
    gold: Sequence[Gold]
    columns: Columns
    where: str

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def contexts(self) -> list[str]:
        """The context of each."""
        return column_values(self.split, self.columns.context, self.where, self.where)

    def only(self, kept: np.ndarray) -> "Questions":
        """These rows alone."""
        gold = [self.gold[row] for row in kept]
        return replace(self, split=self.split.select(kept), numbers=self.numbers[kept], gold=gold)

    def require_answers(self) -> None:
        """Refuse a question without an answer.

        Raises:
            DataError: names the first.
        """
        for number, gold in zip(self.numbers, self.gold, strict=True):
            if not gold.texts:
                raise DataError(
                    f"{self.where}, row {number}: the question has no answer; leave unanswerable out, or set it to true"
                )

    def without_misplaced(self) -> "Questions":
        """Leave out rows whose answer does not begin where the data says, as BERT's own preprocessing does.

        Raises:
            DataError: there is no other row.
        """
        right = np.array([gold.lies_in(context) for gold, context in zip(self.gold, self.contexts, strict=True)])
        if right.all():
            return self
        first = int(np.flatnonzero(~right)[0])
        found = (
            f"{self.where}: {int((~right).sum())} rows have an answer_start that does not point at the answer, "
            f"the first row {self.numbers[first]} ({self.gold[first].texts[0]!r:.60} at {self.gold[first].starts[0]})"
        )
        if not right.any():
            raise DataError(f"{found}; answer_start counts characters of the context from 0")
        logger.warning("%s: they are left out of training", found)
        return self.only(np.flatnonzero(right))


def read_questions(split: datasets.Dataset, name: str, dataset: str, columns: Columns) -> Questions:
    """Read the answers of a split, and check every row.

    Args:
        split: the rows.
        name: its name, for messages.
        dataset: the dataset's name, for messages.
        columns: names of the columns.

    Raises:
        DataError: a column is missing, or a row holds no text or no answers.
    """
    where, numbers = f"dataset {dataset}, split {name}", np.arange(len(split))
    for column in columns[:2]:
        check_texts(column_values(split, column, dataset, name), numbers.tolist(), column, where)
    values = column_values(split, columns.answers, dataset, name)
    gold = [gold_answers(value, f"{where}, row {row}: column {columns.answers}") for row, value in enumerate(values)]
    return Questions(split, numbers, gold, columns, where)


def gold_answers(value: Any, where: str) -> Gold:
    """The answers that one cell holds: {text: [...], answer_start: [...]}, or a list of {text, answer_start}.

    Args:
        value: the cell.
        where: names its row and column.

    Raises:
        DataError: it holds something else.
    """
    try:
        if isinstance(value, dict):
            texts, starts = tuple(value["text"]), tuple(value["answer_start"])
        else:
            texts, starts = (tuple(answer[key] for answer in value) for key in ("text", "answer_start"))
    except (TypeError, KeyError):
        texts, starts = ("",), ()
    whole = all(isinstance(start, (int, np.integer)) for start in starts)
    if len(texts) != len(starts) or not whole or not all(isinstance(text, str) and text for text in texts):
        raise DataError(f"{where} holds {value!r:.80}, not as many texts as answer_starts: {{text, answer_start}}")
    return Gold(texts, tuple(int(start) for start in starts))
