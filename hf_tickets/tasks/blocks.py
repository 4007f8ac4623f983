"""A corpus as blocks of tokens: all its texts one after another, cut into pieces of one length."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset

from hf_tickets.errors import DataError
from hf_tickets.tasks.labels import require_column
from hf_tickets.tasks.tokenization import check_texts, check_vocabulary

IGNORED = -100  # label of positions that no loss counts


class Blocks(Dataset):
    """Blocks of a tokenised corpus, which stays where `datasets` keeps it: on disk, mapped into memory.

    Each token is in one block, in the corpus's order; the last block is as short as its tokens are few. An
    example is {input_ids, labels}, int64 of the block's length; labels are the tokens themselves, but -100
    where a special token stands.

    Args:
        texts: column `input_ids` holds the tokens of each text, without special tokens.
        size: tokens of a block, special tokens included.
        before: special tokens that begin each block.
        after: special tokens that end each block.
        shortest: fewest tokens of the corpus in the last block; where fewer are left, they are left out.
        numbers: the blocks to take, in this order; all by default.
    """

    def __init__(
        self,
        texts: datasets.Dataset,
        size: int,
        before: Sequence[int] = (),
        after: Sequence[int] = (),
        shortest: int = 1,
        numbers: np.ndarray | None = None,
    ) -> None:
        self._arguments = (texts, size, before, after, shortest, numbers)
        chunks = texts.data.column("input_ids").chunks
        self._pieces = [chunk.flatten().to_numpy(zero_copy_only=True) for chunk in chunks]
        self._ends = np.cumsum([len(piece) for piece in self._pieces], dtype=np.int64)
        self.before = torch.tensor(before, dtype=torch.int64)
        self.after = torch.tensor(after, dtype=torch.int64)
        self.length = size - len(before) - len(after)
        whole, rest = divmod(int(self._ends[-1]) if len(self._ends) else 0, self.length)
        self.numbers = np.arange(whole + (rest >= shortest)) if numbers is None else numbers

    def __reduce__(self) -> tuple[Any, ...]:
        # loader workers that do not fork map the file themselves, rather than be sent its tokens
        return Blocks, self._arguments

    def only(self, numbers: np.ndarray) -> "Blocks":
        """Some of these blocks, by their numbers here."""
        return Blocks(*self._arguments[:-1], self.numbers[numbers])

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = self._tokens(int(self.numbers[index]) * self.length)
        special = [torch.full_like(tokens, IGNORED) for tokens in (self.before, self.after)]
        return {
            "input_ids": torch.cat([self.before, tokens, self.after]),
            "labels": torch.cat([special[0], tokens, special[1]]),
        }

    def _tokens(self, start: int) -> torch.Tensor:
        """The corpus's tokens from `start` on, as many as one block holds."""
        stop = min(start + self.length, int(self._ends[-1]))
        parts = []
        for piece in range(int(np.searchsorted(self._ends, start, side="right")), len(self._pieces)):
            if start >= stop:
                break
            end = int(self._ends[piece])
            offset = end - len(self._pieces[piece])
            parts.append(self._pieces[piece][start - offset : stop - offset])
            start = min(stop, end)
        return torch.from_numpy(np.concatenate(parts).astype(np.int64))


def tokenise(
    split: datasets.Dataset, column: str, tokenizer: Any, vocabulary: int, dataset: str, split_name: str
) -> datasets.Dataset:
    """The tokens of each text of a split, without special tokens, in a column `input_ids`.

    Args:
        split: the texts.
        column: the column that holds them.
        tokenizer: the model's.
        vocabulary: number of tokens that the model knows.
        dataset: the dataset's name, for messages.
        split_name: the split's name, for messages.

    Raises:
        DataError: there is no such column, a cell is no text, no text has a token, or the model does not know one.
    """
    require_column(split, column, dataset, split_name)
    where = f"dataset {dataset}, split {split_name}"

    def encode(batch: dict[str, list[Any]], rows: list[int]) -> dict[str, Any]:
        check_texts(batch[column], rows, column, where)
        # not verbose: that a whole book is longer than the model's input is no news
        tokens = tokenizer(
            batch[column],
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        check_vocabulary(tokens, vocabulary)
        return {"input_ids": tokens}

    encoded = split.map(
        encode,
        batched=True,
        with_indices=True,
        remove_columns=split.column_names,
        features=datasets.Features(input_ids=datasets.List(datasets.Value("int32"))),
        desc=f"Tokenizing {split_name}",
    )
    if not any(len(chunk.flatten()) for chunk in encoded.data.column("input_ids").chunks):
        raise DataError(f"{where}: column {column} holds no text, only empty cells")
    return encoded


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and after a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(whole) + 1) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def collate(examples: list[dict[str, torch.Tensor]], padding: int) -> dict[str, torch.Tensor]:
    """A batch of blocks; a shorter one is filled up with the token `padding`, which nothing attends to or counts."""

    def stack(tensors: list[torch.Tensor], filling: int) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=filling)

    tokens = [example["input_ids"] for example in examples]
    return {
        "input_ids": stack(tokens, padding),
        "attention_mask": stack([torch.ones_like(block) for block in tokens], 0),
        "labels": stack([example["labels"] for example in examples], IGNORED),
    }
