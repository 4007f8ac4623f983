"""Token classification: a word's tag on its first token, CoNLL's counting of entities, and what is refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import bert_tokenizer, save, save_headless_bert, write_rows
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from transformers import (
    EvalPrediction,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
    Trainer,
    TrainingArguments,
)

from hf_tickets.errors import DataError, RecipeError
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.entity_metrics import TagMetrics
from hf_tickets.tasks.registry import prepare
from hf_tickets.tasks.token_classification import first_tokens

ROWS = [
    {"tokens": ["ann", "lives", "in", "newyork"], "ner_tags": ["B-PER", "O", "O", "B-LOC"]},
    {"tokens": ["bob", "lives"], "ner_tags": ["B-PER", "O"]},
    {"tokens": ["in", "newyork", "lives", "bob", "ann"], "ner_tags": ["O", "B-LOC", "O", "B-PER", "I-PER"]},
]
NAMES = ("B-LOC", "B-PER", "I-PER", "O")
PIECES = ["ann", "bob", "in", "live", "##s", "new", "##york"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return save_headless_bert(tmp_path_factory.mktemp("model"), bert_tokenizer(PIECES))


def tagging(model: str, dataset: str, **keys: Any) -> TaskConfig:
    return TaskConfig("token-classification", model, **{"dataset": dataset, "max_length": 16, **keys})


def rows(folder: Path, train: Sequence[dict[str, Any]] = ROWS, validation: Sequence[dict[str, Any]] = ROWS) -> str:
    return write_rows(folder, train=list(train), validation=list(validation))


def words_and_labels(example: dict[str, Any], tokenizer: Any, names: Sequence[str]) -> list[tuple[str, str | None]]:
    tokens = tokenizer.convert_ids_to_tokens(example["input_ids"])
    return [
        (token, None if label < 0 else names[label]) for token, label in zip(tokens, example["labels"], strict=True)
    ]


# Alignment


def test_a_tag_is_on_the_first_token_of_its_word(model: str, tmp_path: Path) -> None:
    task = prepare(tagging(model, rows(tmp_path)))
    assert words_and_labels(task.train_dataset[0], task.processing_class, NAMES) == [
        ("[CLS]", None),
        ("ann", "B-PER"),
        ("live", "O"),
        ("##s", None),
        ("in", "O"),
        ("new", "B-LOC"),
        ("##york", None),
        ("[SEP]", None),
    ]
    assert task.model.config.id2label == dict(enumerate(NAMES))
    batch = task.data_collator([task.train_dataset[i] for i in range(2)])
    assert batch["labels"][1].tolist() == [-100, 1, 3, -100, -100, -100, -100, -100]


@pytest.mark.parametrize(
    ("words", "tags", "expected"),
    [
        ([None, 0, 0, 1, None], [5, 6], [-100, 5, -100, 6, -100]),
        ([0, 1, 1, 1], [5, 5], [5, 5, -100, -100]),
        ([None, 1, None], [5, 6], [-100, 6, -100]),  # the first word has no token
        ([None, 0], [5, 6], [-100, 5]),  # the second was cut off
        ([], [], []),
    ],
)
def test_alignment_by_hand(words: list[int | None], tags: list[int], expected: list[int]) -> None:
    assert first_tokens(words, tags) == expected


def test_byte_level_tokenizers_see_a_space_before_each_word(tmp_path: Path) -> None:
    vocab = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *"abc"])}
    tokenizer = RobertaTokenizer(vocab=vocab, merges=[])
    config = RobertaConfig(vocab_size=len(vocab), hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    folder = save(tmp_path / "roberta", RobertaModel(config), tokenizer)
    split = [{"tokens": ["ab", "c"], "ner_tags": ["O", "B-X"]}]
    task = prepare(tagging(folder, rows(tmp_path, split, split)))
    assert words_and_labels(task.train_dataset[0], task.processing_class, ("B-X", "O")) == [
        ("<s>", None),
        ("Ġ", "O"),
        ("a", None),
        ("b", None),
        ("Ġ", "B-X"),
        ("c", None),
        ("</s>", None),
    ]


def test_classes_numbers_and_names_give_the_same_labels(model: str, tmp_path: Path) -> None:
    expected = prepare(tagging(model, rows(tmp_path / "names"))).train_dataset["labels"]
    order = ("O", "I-PER", "B-PER", "B-LOC")  # as the numbers of the column go

    def numbered(tag: Any) -> DatasetDict:
        split = Dataset.from_list(
            [{"words": row["tokens"], "tags": [order.index(name) for name in row["ner_tags"]]} for row in ROWS],
            features=Features(words=List(Value("string")), tags=List(tag)),
        )
        return DatasetDict(train=split, validation=split)

    numbered(ClassLabel(names=list(order))).save_to_disk(tmp_path / "classes")
    numbered(Value("int64")).save_to_disk(tmp_path / "numbers")
    classes = prepare(tagging(model, str(tmp_path / "classes")))
    assert classes.provenance["labels"] == list(order)
    sorted_classes = prepare(tagging(model, str(tmp_path / "classes"), labels=list(NAMES)))
    assert list(sorted_classes.train_dataset["labels"]) == list(expected)
    numbers = prepare(tagging(model, str(tmp_path / "numbers"), labels=list(order)))
    assert list(numbers.train_dataset["labels"]) == list(classes.train_dataset["labels"])
    unnamed = prepare(tagging(model, str(tmp_path / "numbers")))
    assert (unnamed.metric, unnamed.provenance["labels"]) == ("accuracy", ["0", "1", "2", "3"])


# Metrics


def score(expected: list[list[str]], predicted: list[list[str]], names: Sequence[str]) -> dict[str, float]:
    width = max(map(len, expected)) + 1

    def numbers(rows: list[list[str]], padding: int) -> np.ndarray:
        return np.array([[padding, *map(list(names).index, row), *[padding] * (width - 1 - len(row))] for row in rows])

    return TagMetrics(names)(EvalPrediction(numbers(predicted, 0), numbers(expected, -100)))


TAGS = ("O", "B-A", "I-A", "B-B", "I-B")
# expected, predicted, right entities, predicted entities, expected entities: counted by hand
COUNTED = [
    (["B-A", "I-A", "O", "B-B"], ["B-A", "I-A", "O", "B-B"], 2, 2, 2),
    (["B-A", "I-A", "O"], ["B-A", "O", "O"], 0, 1, 1),  # a wrong end
    (["B-A", "I-A"], ["B-B", "I-B"], 0, 1, 1),  # a wrong kind
    (["B-A", "B-A", "I-A"], ["B-A", "I-A", "I-A"], 0, 1, 2),  # two neighbours taken for one
    (["B-A", "I-A", "O"], ["I-A", "I-A", "O"], 1, 1, 1),  # I- that continues nothing begins an entity
    (["B-A", "B-B"], ["I-A", "I-B"], 2, 2, 2),  # I- of another kind too
    (["O", "O"], ["O", "B-B"], 0, 1, 0),
    (["B-B", "O"], ["O", "O"], 0, 0, 1),
]


@pytest.mark.parametrize(("expected", "predicted", "right", "said", "there"), COUNTED)
def test_entities_count_as_in_conll(
    expected: list[str], predicted: list[str], right: int, said: int, there: int
) -> None:
    measured = score([expected], [predicted], TAGS)
    precision, recall = right / said if said else 0, right / there if there else 0
    assert measured["precision"] == pytest.approx(precision)
    assert measured["recall"] == pytest.approx(recall)
    assert measured["f1"] == pytest.approx(2 * right / (said + there))
    same = np.mean([a == b for a, b in zip(expected, predicted, strict=True)])
    assert measured["accuracy"] == pytest.approx(same)


def test_rows_and_kinds_are_counted_together() -> None:
    measured = score([case[0] for case in COUNTED], [case[1] for case in COUNTED], TAGS)
    right, said, there = (sum(case[column] for case in COUNTED) for column in (2, 3, 4))
    assert measured["f1"] == pytest.approx(2 * right / (said + there))
    assert (measured["precision"], measured["recall"]) == pytest.approx((right / said, right / there))


def test_other_notations_count_the_same_entities() -> None:
    names = ("O", "B-A", "I-A", "E-A", "S-A")
    measured = score([["B-A", "I-A", "E-A", "S-A"]], [["B-A", "E-A", "E-A", "O"]], names)
    assert (measured["precision"], measured["recall"]) == (1, 0.5)
    assert set(score([["NOUN"]], [["VERB"]], ("NOUN", "VERB"))) == {"accuracy"}


def test_it_learns_in_trainer_and_logs_its_metrics(model: str, tmp_path: Path) -> None:
    task = prepare(tagging(model, rows(tmp_path / "rows")))
    args = TrainingArguments(
        str(tmp_path),
        max_steps=30,
        learning_rate=1e-2,
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        report_to="none",
        per_device_eval_batch_size=2,  # batches of different lengths
    )
    trainer = Trainer(task.model, args, **task.trainer_arguments())
    trainer.train()
    measured = trainer.evaluate()
    assert [measured[f"eval_{name}"] for name in ("precision", "recall", "f1", "accuracy")] == [1, 1, 1, 1]
    assert task.metric == "f1"
    assert json.dumps(task.provenance)


# What does not fit


def test_words_and_tags_that_do_not_fit_name_their_row(model: str, tmp_path: Path) -> None:
    for name, row, message in (
        ("short", {"tokens": ["ann", "in"], "ner_tags": ["O"]}, "row 1: 2 words in tokens, but 1 tags in ner_tags"),
        ("none", {"tokens": ["ann"], "ner_tags": None}, "row 1: 1 words in tokens, but no tags"),
        ("gap", {"tokens": ["ann", None], "ner_tags": ["O", "O"]}, "row 1: column tokens holds"),
        ("new", {"tokens": ["ann"], "ner_tags": ["B-ORG"]}, "row 1: column ner_tags holds 'B-ORG'.*there are B-LOC"),
    ):
        dataset = rows(tmp_path / name, ROWS, [ROWS[0], row])
        with pytest.raises(DataError, match=f"dataset {name}, split validation, {message}") as caught:
            prepare(tagging(model, dataset))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"labels": ["O", "B-PER", "B-LOC"]}, DataError, "split train, row 2: .*'I-PER'.*not in labels"),
        ({"labels": ["O", "O"]}, DataError, "names a tag twice"),
        ({"text_columns": ["word"]}, DataError, "no column word; there are tokens, ner_tags, id"),
        ({"label_column": "id"}, DataError, "column id holds no lists of tags"),
        ({"text_columns": ["a", "b"]}, RecipeError, "one column of words, not 2"),
        ({"max_length": 33}, DataError, "max_length: 33 is more than the 32 tokens"),
        ({"problem_type": "regression"}, RecipeError, "problem_type: only text-classification tasks"),
    ],
)
def test_what_does_not_fit_is_refused(
    model: str, tmp_path: Path, keys: dict[str, Any], error: type[Exception], message: str
) -> None:
    dataset = rows(tmp_path, [{**row, "id": str(i)} for i, row in enumerate(ROWS)])
    with pytest.raises(error, match=message):
        prepare(tagging(model, dataset, **keys))


def test_what_is_left_out_is_said(model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = rows(tmp_path, [*ROWS, {"tokens": [], "ner_tags": []}])
    task = prepare(tagging(model, dataset, max_length=6))
    # of four tokens beside [CLS] and [SEP], ann live ##s in | bob live ##s | in new ##york live
    assert "split train: 3 words, beyond max_length 6 or without a token, are left out" in caplog.text
    assert len(task.train_dataset) == 3
