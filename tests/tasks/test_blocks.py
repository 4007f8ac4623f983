"""Packing keeps every token once and in order; masking keeps to BERT's shares."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import bert_tokenizer, decoder_tokenizer
from datasets import Dataset, Features, List, Value, concatenate_datasets
from scipy import stats

from hf_tickets.tasks.blocks import IGNORED, Blocks, collate, special_tokens, tokenise
from hf_tickets.tasks.masking import Masking
from hf_tickets.tasks.randomness import SeededDataset

TOKENS = Features(input_ids=List(Value("int32")))


def corpus(lengths: list[list[int]]) -> tuple[Dataset, list[int]]:
    """Texts of these lengths, a list for each piece of memory they lie in, and all their tokens in order."""
    flat = iter(range(100, 10_000))
    pieces = [[[next(flat) for _ in range(length)] for length in piece] for piece in lengths]
    parts = [Dataset.from_dict({"input_ids": texts}, features=TOKENS) for texts in pieces]
    return concatenate_datasets(parts), [token for piece in pieces for text in piece for token in text]


@pytest.mark.parametrize("size", [3, 4, 7, 50, 200])
@pytest.mark.parametrize(
    "lengths", [[[5, 0, 20], [1], [0], [37, 2]], [[64]], [[0, 0], [4]], [[1] * 30, [2] * 5]], ids=str
)
def test_every_token_is_in_one_block_and_in_order(size: int, lengths: list[list[int]]) -> None:
    texts, expected = corpus(lengths)
    blocks = Blocks(texts, size, before=[1], after=[2])
    examples = [blocks[i] for i in range(len(blocks))]
    body = size - 2
    assert [example["input_ids"].tolist() for example in examples] == [
        [1, *expected[start : start + body], 2] for start in range(0, len(expected), body)
    ]
    assert [example["labels"].tolist() for example in examples] == [
        [IGNORED, *expected[start : start + body], IGNORED] for start in range(0, len(expected), body)
    ]
    assert all(example["input_ids"].dtype == torch.int64 for example in examples)


def test_a_rest_too_short_to_learn_from_is_left_out() -> None:
    texts, expected = corpus([[9]])
    blocks = Blocks(texts, 4, shortest=2)
    assert [token for i in range(len(blocks)) for token in blocks[i]["input_ids"].tolist()] == expected[:8]


def test_some_blocks_and_copies_in_other_processes_are_the_same_blocks() -> None:
    texts, _ = corpus([[11, 4], [30]])
    blocks = Blocks(texts, 6, [1])
    some = blocks.only(np.array([7, 2])).only(np.array([1, 0]))
    for copy in (some, pickle.loads(pickle.dumps(some))):
        assert [copy[i]["input_ids"].tolist() for i in range(len(copy))] == [
            blocks[i]["input_ids"].tolist() for i in (2, 7)
        ]


def test_special_tokens_are_those_of_the_tokenizer() -> None:
    assert special_tokens(bert_tokenizer()) == ([2], [3])
    assert special_tokens(decoder_tokenizer()) == ([], [])
    assert special_tokens(decoder_tokenizer(begins=True)) == ([0], [])


def test_tokens_are_the_tokenizers_own_of_each_text(tmp_path: Path) -> None:
    texts = ["a b c", "", "d  e\nf", "a " * 900]
    split = Dataset.from_dict({"text": texts, "other": [1] * 4})
    tokenizer = bert_tokenizer()
    tokens = tokenise(split, "text", tokenizer, len(tokenizer), "books", "train")
    assert tokens.column_names == ["input_ids"]
    assert list(tokens["input_ids"]) == [tokenizer.convert_tokens_to_ids(text.split()) for text in texts]


def test_a_short_block_is_padded_where_nothing_attends() -> None:
    texts, _ = corpus([[7]])
    blocks = Blocks(texts, 5)
    batch = collate([blocks[0], blocks[1]], padding=9)
    assert batch["input_ids"][1].tolist()[2:] == [9, 9, 9]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0]]
    assert batch["labels"][1].tolist()[2:] == [IGNORED] * 3


# Masking

TOKENIZER = bert_tokenizer()
VOCABULARY = len(TOKENIZER)


def masked_blocks(probability: float, epoch: int = 0, fixed: bool = False, size: int = 64) -> list[tuple]:
    """(original, input, labels) of 200 blocks of ordinary tokens between two special ones."""
    drawn = np.random.default_rng(0).integers(5, VOCABULARY, 200 * (size - 2))
    texts = Dataset.from_dict({"input_ids": [drawn.tolist()]}, features=TOKENS)
    blocks = Blocks(texts, size, [2], [3])
    dataset = SeededDataset(blocks, Masking(TOKENIZER, probability), seed=4, fixed=fixed)
    dataset.set_epoch(epoch)
    examples = [dataset[i] for i in range(len(dataset))]
    return [(blocks[i]["input_ids"], e["input_ids"], e["labels"]) for i, e in enumerate(examples)]


@pytest.mark.parametrize("probability", [0.15, 0.4])
def test_the_shares_are_berts(probability: float) -> None:
    original, inputs, labels = (torch.stack(tensors) for tensors in zip(*masked_blocks(probability), strict=True))
    chosen = labels != IGNORED
    assert torch.equal(labels[chosen], original[chosen])
    assert torch.equal(inputs[~chosen], original[~chosen])
    assert not chosen[:, [0, -1]].any()
    ordinary = original[:, 1:-1].numel()
    assert stats.binomtest(int(chosen.sum()), ordinary, probability).pvalue > 1e-3
    before, after = original[chosen], inputs[chosen]
    kinds = (after == TOKENIZER.mask_token_id, (after != TOKENIZER.mask_token_id) & (after != before), after == before)
    # a random token may be the mask or the very token that it replaces
    expected = np.array([0.8 + 0.1 / VOCABULARY, 0.1 - 0.2 / VOCABULARY, 0.1 + 0.1 / VOCABULARY]) * len(before)
    assert stats.chisquare([int(kind.sum()) for kind in kinds], expected).pvalue > 1e-3


def test_epochs_draw_anew_and_evaluation_does_not() -> None:
    def inputs(**keys: int | bool) -> torch.Tensor:
        return torch.stack([example[1] for example in masked_blocks(0.15, **keys)])

    assert torch.equal(inputs(epoch=0), inputs(epoch=0))
    assert not torch.equal(inputs(epoch=0), inputs(epoch=1))
    assert torch.equal(inputs(epoch=0, fixed=True), inputs(epoch=1, fixed=True))


def test_no_block_is_without_a_token_to_predict() -> None:
    for original, inputs, labels in masked_blocks(1e-9, size=5):
        (chosen,) = (labels != IGNORED).nonzero()[:, 0].tolist()
        assert 0 < chosen < 4
        assert labels[chosen] == original[chosen]
        assert inputs[chosen] == TOKENIZER.mask_token_id
