"""Windows: the inputs that a question and its context become, several where the context is long."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from hf_tickets.errors import DataError
from hf_tickets.tasks.questions import Columns, Questions, gold_answers
from hf_tickets.tasks.tokenization import check_vocabulary

OUTSIDE = -1  # offset of a token that is not of the context


@dataclass(frozen=True)
class Windows:
    """Cuts questions and contexts into inputs of a model, in the way of the BERT paper (Devlin et al. 2019).

    Tokenizers that pad on the right put the question first, those that pad on the left the context.

    Args:
        tokenizer: a fast tokenizer with a padding token.
        max_length: longest input, in tokens, question and special tokens included.
        stride: tokens that two windows of one context have in common.
        vocabulary: number of tokens that the model knows.
    """

    tokenizer: Any
    max_length: int
    stride: int
    vocabulary: int

    def of(self, questions: Questions, description: str) -> datasets.Dataset:
        """One row a window, those of one question side by side.

        Beside what the model reads they have start_positions and end_positions (tokens of the first answer, or the
        null position where the window does not hold it), null (that position), example (row in `questions`), and
        first and last (where each token begins and ends in the context, `OUTSIDE` for other tokens).

        Raises:
            DataError: a question is too long, or a token is none of the model's.
        """
        return questions.split.map(
            _Cut(self, questions.columns, questions.where, tuple(questions.numbers.tolist())),
            batched=True,
            with_indices=True,
            remove_columns=questions.split.column_names,
            desc=description,
        )

    @property
    def question_first(self) -> bool:
        return bool(self.tokenizer.padding_side == "right")

    def tokenize(self, questions: list[str], contexts: list[str]) -> Any:
        """All windows of these questions."""
        first = self.question_first
        return self.tokenizer(
            *((questions, contexts) if first else (contexts, questions)),
            truncation="only_second" if first else "only_first",
            max_length=self.max_length,
            stride=self.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            # padded on the left by batches, tokens would have another position in each
            padding=False if first else "max_length",
        )

    def check_room(self, questions: list[str], numbers: Sequence[int], where: str) -> None:
        """Refuse a question that leaves no room for more of the context than two windows have in common.

        Raises:
            DataError: names its row.
        """
        room = self.max_length - self.tokenizer.num_special_tokens_to_add(pair=True)
        for number, ids in zip(numbers, self.tokenizer(questions, add_special_tokens=False)["input_ids"], strict=True):
            if room - len(ids) <= self.stride:
                raise DataError(
                    f"{where}, row {number}: the question has {len(ids)} tokens and leaves {room - len(ids)} of "
                    f"max_length {self.max_length} to the context, not more than stride {self.stride}; "
                    "give a larger max_length or a smaller stride"
                )

    def null_position(self, ids: list[int]) -> int:
        """The token that stands for "no answer here": the class token, or else the first."""
        for token in (self.tokenizer.cls_token_id, self.tokenizer.bos_token_id):
            if token is not None and token in ids:
                return ids.index(token)
        return 0


@dataclass(frozen=True)
class _Cut:
    """What `datasets` maps over batches of rows."""

    windows: Windows
    columns: Columns
    where: str
    numbers: tuple[int, ...]

    def __call__(self, batch: dict[str, list[Any]], rows: list[int]) -> dict[str, Any]:
        windows, numbers = self.windows, [self.numbers[row] for row in rows]
        questions = [question.lstrip() for question in batch[self.columns.question]]
        contexts = batch[self.columns.context]
        gold = [gold_answers(value, self.where) for value in batch[self.columns.answers]]
        windows.check_room(questions, numbers, self.where)
        tokens = windows.tokenize(questions, contexts)
        check_vocabulary(tokens["input_ids"], windows.vocabulary)
        cut: dict[str, list[Any]] = {name: list(tokens[name]) for name in tokens if name in _model_inputs(windows)}
        more: dict[str, list[Any]] = {
            name: [] for name in ("start_positions", "end_positions", "null", "example", "first", "last")
        }
        for index, example in enumerate(tokens["overflow_to_sample_mapping"]):
            offsets = _context_offsets(tokens, index, 1 if windows.question_first else 0)
            null = windows.null_position(tokens["input_ids"][index])
            answer = gold[example]
            held = answer.texts and answer.lies_in(contexts[example])
            span = (answer.starts[0], answer.starts[0] + len(answer.texts[0])) if held else None
            positions = (_tokens_of(span, offsets) if span else None) or (null, null)
            for name, value in zip(more, (*positions, null, rows[example], *offsets), strict=True):
                more[name].append(value)
        return {**cut, **more}


def _model_inputs(windows: Windows) -> list[str]:
    return list(windows.tokenizer.model_input_names)


def _context_offsets(tokens: Any, index: int, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each token of a window begins and ends in the context."""
    inside = np.array([part == context for part in tokens.sequence_ids(index)])
    offsets = np.array(tokens["offset_mapping"][index], dtype=np.int32)
    offsets[~inside] = OUTSIDE
    return offsets[:, 0], offsets[:, 1]


def _tokens_of(span: tuple[int, int], offsets: tuple[np.ndarray, np.ndarray]) -> tuple[int, int] | None:
    """First and last token of a span of characters; None where the window does not hold all of it."""
    inside = np.flatnonzero(offsets[0] != OUTSIDE)
    first, last = (side[inside] for side in offsets)
    if not inside.size or first[0] > span[0] or last[-1] < span[1]:
        return None
    begin = int(np.searchsorted(first, span[0], side="right")) - 1
    end = int(np.searchsorted(last, span[1], side="left"))
    return int(inside[begin]), int(inside[end])
