"""Question answering: windows over long contexts, answers found again, and data that does not fit."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import debug_launcher
from accelerate.state import AcceleratorState, GradientState
from datasets import load_dataset
from transformers import AutoTokenizer, BertTokenizer, ByT5Tokenizer, EvalPrediction, Trainer, TrainingArguments

from hf_tickets import PruningConfig, TicketTrainer
from hf_tickets.errors import DataError, RecipeError
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.registry import prepare

Row = dict[str, Any]
WORDS = "abcdefgh"


def context_of(length: int, seed: int) -> str:
    """Random words, no pair of neighbours alike, with marks and white space of all kinds."""
    generator = np.random.default_rng(seed)
    pieces = [str(generator.choice(list(WORDS))).upper() + str(generator.choice([" ", ", ", "  ", ".\n"]))]
    pieces += [
        str(generator.choice([*WORDS, "good", "film"])) + str(generator.choice([" ", " - "])) for _ in range(length)
    ]
    return "".join(pieces)


def question(seed: int, length: int = 60, answered: bool = True) -> Row:
    """A question whose answer is a few words anywhere in a context of this length."""
    context = context_of(length, seed)
    words = [(at, at + len(word)) for word in WORDS for at in range(len(context)) if context.startswith(f"{word} ", at)]
    words = sorted(pair for pair in words if pair[0] == 0 or not context[pair[0] - 1].isalnum())
    generator = np.random.default_rng(seed)
    index = int(generator.integers(len(words) - 3))
    start, end = words[index][0], words[index + int(generator.integers(3))][1]
    texts = [context[start:end]] if answered else []
    answers = {"text": texts, "answer_start": [start] * len(texts)}
    return {"id": str(seed), "title": "t", "context": context, "question": "  b good a", "answers": answers}


def write(folder: Path, rows: list[Row], evaluation: list[Row] | None = None) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", rows), ("validation", evaluation or rows)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return str(folder)


def squad(model: str, dataset: str, **keys: Any) -> TaskConfig:
    return TaskConfig("question-answering", model, dataset=dataset, **{"max_length": 24, "stride": 6, **keys})


def gold_logits(task: Any, order: np.ndarray | None = None) -> EvalPrediction:
    """What evaluation would hand over if the model pointed at exactly the tokens it is trained to point at."""
    rows = task.evaluation_dataset
    order = np.arange(len(rows)) if order is None else order
    longest = max(len(ids) for ids in rows["input_ids"])
    inputs = np.full((len(rows), longest), -100)
    logits = np.full((2, len(rows), longest), -100.0, dtype=np.float32)
    for place, row in enumerate(order.tolist()):
        ids = rows[row]["input_ids"]
        inputs[place, : len(ids)] = ids
        logits[:, place, : len(ids)] = 0
        logits[0, place, rows[row]["start_positions"]] = 10
        logits[1, place, rows[row]["end_positions"]] = 10
    return EvalPrediction(predictions=tuple(logits), label_ids=(), inputs=inputs)


@pytest.fixture(scope="module")
def left_bert(small_bert: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny BERT's tokenizer, padding on the left."""
    folder = tmp_path_factory.mktemp("left")
    BertTokenizer.from_pretrained(small_bert, padding_side="left").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [question(seed, length) for seed, length in enumerate((60, 9, 45, 120, 30, 50))]
    return write(tmp_path_factory.mktemp("questions"), rows)


# Windows


@pytest.mark.parametrize("stride", [0, 6, 13])
@pytest.mark.parametrize("side", ["right", "left"])
def test_windows_cover_every_token_of_the_context_and_overlap_by_the_stride(
    small_bert: str, left_bert: str, made_up: str, stride: int, side: str
) -> None:
    tokenizer = left_bert if side == "left" else small_bert
    task = prepare(squad(small_bert, made_up, tokenizer=tokenizer, stride=stride))
    windows, plain = task.compute_metrics.windows, AutoTokenizer.from_pretrained(tokenizer)
    for example, context in enumerate(task.compute_metrics.contexts):
        whole = plain(context, add_special_tokens=False, return_offsets_mapping=True)
        own = [row for row in windows if row["example"] == example]
        seen: list[tuple[int, int]] = []
        for number, row in enumerate(own):
            part = [pair for pair in zip(row["first"], row["last"], strict=True) if pair[0] >= 0]
            assert len(row["input_ids"]) <= 24
            assert not number or seen[len(seen) - stride :] == part[:stride]
            seen += part[stride if number else 0 :]
        assert seen == whole["offset_mapping"]
    assert {"example", "first", "last", "null"}.isdisjoint(task.evaluation_dataset.column_names)


def test_the_question_is_first_unless_padding_is_on_the_left(small_bert: str, left_bert: str, made_up: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(small_bert)
    asked = tokenizer("b good a", add_special_tokens=False)["input_ids"]
    right = prepare(squad(small_bert, made_up)).train_dataset[0]["input_ids"]
    left = prepare(squad(small_bert, made_up, tokenizer=left_bert)).train_dataset
    assert right[1:4] == asked
    assert left[0]["input_ids"][-4:-1] == asked
    assert {len(ids) for ids in left["input_ids"]} == {24}  # padded: else a token's place would depend on its batch


@pytest.mark.parametrize("side", ["right", "left"])
def test_logits_at_the_gold_tokens_give_the_gold_answers_in_any_order(
    small_bert: str, left_bert: str, made_up: str, side: str
) -> None:
    task = prepare(squad(small_bert, made_up, tokenizer=left_bert if side == "left" else small_bert))
    order = np.random.default_rng(0).permutation(len(task.evaluation_dataset))
    assert len(order) > 10
    for prediction in (gold_logits(task), gold_logits(task, order)):
        assert task.compute_metrics(prediction) == {"exact_match": 1.0, "f1": 1.0}
        given = [answers[0].text for answers in task.compute_metrics.answers(prediction).values()]
        assert given == [gold[0] for gold in task.compute_metrics.gold]


def test_answers_of_squad_are_found_again_through_its_windows(bert: str, data: Path) -> None:
    keys = {"max_length": 96, "stride": 32, "maximum_training_examples": 8, "maximum_evaluation_examples": 48}
    task = prepare(squad(bert, str(data / "squad"), **keys))
    assert len(task.evaluation_dataset) > 2 * 48
    # answers are pairs of tokens: of "1990" in "1990s" there is no such pair
    given = [answers[0].text for answers in task.compute_metrics.answers(gold_logits(task)).values()]
    first = [gold[0] for gold in task.compute_metrics.gold]
    assert all(gold in answer for gold, answer in zip(first, given, strict=True))
    assert sum(gold == answer for gold, answer in zip(first, given, strict=True)) >= 46
    assert task.provenance["dataset"] == "squad"
    assert task.provenance["unanswerable"] is False


def test_windows_without_the_answer_point_at_the_class_token(small_bert: str, made_up: str) -> None:
    task = prepare(squad(small_bert, made_up))
    rows = task.compute_metrics.windows
    held = [row for row in rows if row["start_positions"]]
    assert 4 <= len(held) < len(rows)
    assert all(row["start_positions"] == row["end_positions"] == 0 for row in rows if row not in held)
    for row in held:
        gold = task.compute_metrics.gold[row["example"]][0]
        span = slice(row["first"][row["start_positions"]], row["last"][row["end_positions"]])
        assert task.compute_metrics.contexts[row["example"]][span] == gold


# Questions without an answer


def test_questions_without_an_answer_are_noticed_and_scored(small_bert: str, tmp_path: Path) -> None:
    rows = [question(seed, answered=seed % 2 == 0) for seed in range(4)]
    task = prepare(squad(small_bert, write(tmp_path, rows)))
    assert task.provenance["unanswerable"] is True
    perfect = task.compute_metrics(gold_logits(task))
    assert set(perfect) == {"exact_match", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1"}
    # a window that holds no answer leads by 20 to 0; the lowest of a question's windows counts
    assert perfect["f1"] == 1.0
    shy = prepare(squad(small_bert, str(tmp_path), null_threshold=-25.0)).compute_metrics(gold_logits(task))
    assert (shy["HasAns_f1"], shy["NoAns_f1"]) == (0.0, 1.0)
    bold = prepare(squad(small_bert, str(tmp_path), null_threshold=25.0)).compute_metrics(gold_logits(task))
    assert (bold["HasAns_f1"], bold["NoAns_f1"]) == (1.0, 0.0)


def test_the_recipe_may_say_whether_every_question_has_an_answer(small_bert: str, tmp_path: Path) -> None:
    folder = write(tmp_path, [question(0), question(1, answered=False)], [question(2)])
    refused(squad(small_bert, folder, unanswerable=False), DataError, "split train, row 1", "no answer")
    folder = write(tmp_path / "answered", [question(0)])
    assert prepare(squad(small_bert, folder, unanswerable=True)).provenance["unanswerable"] is True


# Training


def untrained(model: str, dataset: str) -> Any:
    """A task whose random weights are the same each time."""
    return prepare(squad(model, dataset, pretrained=False))


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    defaults = {"per_device_eval_batch_size": 3, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    return TrainingArguments(str(folder), **{**defaults, **changes})


def scores(task: Any, folder: Path, **changes: Any) -> dict[str, float]:
    args = task.adapt_(arguments(folder, **changes))
    metrics = Trainer(task.model, args, **task.trainer_arguments(args)).evaluate()
    assert "eval_loss" in metrics
    return {name: metrics[name] for name in ("eval_exact_match", "eval_f1")}


def test_evaluation_by_length_measures_the_same(small_bert: str, made_up: str, tmp_path: Path) -> None:
    task = untrained(small_bert, made_up)
    alone = scores(task, tmp_path)
    assert 0 < alone["eval_f1"] < 1
    assert scores(task, tmp_path, train_sampling_strategy="group_by_length") == alone


def one_of_two(model: str, dataset: str, folder: Path) -> None:
    """What each of two processes does."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    found = scores(untrained(model, dataset), folder, ddp_backend="gloo")
    (folder / f"{AcceleratorState().process_index}.json").write_text(json.dumps(found))


def test_two_processes_measure_what_one_does(small_bert: str, made_up: str, tmp_path: Path) -> None:
    alone = scores(untrained(small_bert, made_up), tmp_path)
    debug_launcher(one_of_two, (small_bert, made_up, tmp_path), num_processes=2)
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [alone] * 2


def test_a_search_prunes_and_scores_answers(small_bert: str, made_up: str, tmp_path: Path) -> None:
    task = prepare(squad(small_bert, made_up))
    args = task.adapt_(arguments(tmp_path, num_train_epochs=1, learning_rate=1e-2, logging_steps=1))
    pruning = PruningConfig(sparsities=[0.5])
    trainer = TicketTrainer(model=task.model, args=args, pruning=pruning, **task.trainer_arguments(args))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.history[0].log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert [set(result.metrics) for result in trainer.history] == [{"loss", "exact_match", "f1"}] * 2
    assert trainer.ticket.sparsity == pytest.approx(0.5, abs=1e-3)
    assert all(name.startswith("encoder.") for name in trainer.ticket.mask)
    first, second = trainer.evaluate(), trainer.evaluate()
    for name in ("loss", "exact_match", "f1"):
        assert first[f"eval_{name}"] == second[f"eval_{name}"] == trainer.history[1].metrics[name]


# What is said about data that does not fit


def refused(config: TaskConfig, kind: type[Exception], *parts: str) -> None:
    with pytest.raises(kind) as caught:
        prepare(config)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def misplaced(seed: int) -> Row:
    row = question(seed)
    return {**row, "answers": {**row["answers"], "answer_start": [row["answers"]["answer_start"][0] + 1]}}


def test_answers_that_are_not_where_the_data_says_are_left_out_of_training_alone(
    small_bert: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [question(0), misplaced(1), question(2), misplaced(3)]
    with caplog.at_level(logging.WARNING, "hf_tickets"):
        task = prepare(squad(small_bert, write(tmp_path, rows)))
    assert "2 rows" in caplog.text
    assert "row 1" in caplog.text
    assert task.provenance["training_examples"] == 2
    assert task.provenance["evaluation_examples"] == [4]  # what counts there are texts
    refused(squad(small_bert, write(tmp_path / "none", rows[1::2])), DataError, "split train", "row 0", "answer_start")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"question": None}, ("row 1", "column question", "None")),
        ({"context": None}, ("row 1", "column context", "None")),
        ({"answers": None}, ("row 1", "column answers", "None")),
        ({"answers": {"text": ["a", "b"], "answer_start": [0]}}, ("row 1", "answer_start")),
        ({"question": "a " * 16}, ("row 1", "16 tokens", "leaves 5", "stride 6")),
    ],
)
def test_a_row_that_cannot_be_used_is_named(small_bert: str, tmp_path: Path, change: Row, parts: tuple[str]) -> None:
    folder = write(tmp_path, [question(0), {**question(1), **change}], [question(2)])
    refused(squad(small_bert, folder), DataError, "split train", *parts)


def test_columns_may_have_other_names_but_must_be_there(small_bert: str, tmp_path: Path) -> None:
    rows = [{"q": row["question"], "text": row["context"], "a": row["answers"]} for row in map(question, range(2))]
    folder = write(tmp_path, rows)
    task = prepare(squad(small_bert, folder, text_columns=["q", "text"], label_column="a"))
    assert task.compute_metrics(gold_logits(task))["f1"] == 1.0
    refused(squad(small_bert, folder), DataError, "no column question", "q, text, a")
    refused(squad(small_bert, folder, text_columns=["q", "text"]), DataError, "no column answers")
    refused(squad(small_bert, folder, text_columns=["q"]), RecipeError, "two columns")


def test_keys_that_make_no_sense(small_bert: str, left_bert: str, made_up: str, tmp_path: Path) -> None:
    refused(squad(small_bert, made_up, stride=24), RecipeError, "stride: 24", "24")
    refused(squad(small_bert, made_up, n_best=0), RecipeError, "n_best: 0")
    refused(squad(small_bert, made_up, task="rte"), RecipeError, "task: only text-classification tasks")
    refused(squad(small_bert, made_up, labels=["a"]), RecipeError, "labels")
    refused(squad(small_bert, made_up, max_length=65), DataError, "max_length: 65", "64")
    ByT5Tokenizer().save_pretrained(tmp_path)
    refused(squad(small_bert, made_up, tokenizer=str(tmp_path)), DataError, "fast tokenizer")


def test_other_questions_are_not_scored_as_the_tasks(small_bert: str, made_up: str, tmp_path: Path) -> None:
    task = prepare(squad(small_bert, made_up))
    other = prepare(squad(small_bert, write(tmp_path, [question(9)])))
    with pytest.raises(DataError, match="other questions"):
        task.compute_metrics(gold_logits(other))


def test_the_hubs_columns_are_those_of_the_slice(data: Path) -> None:
    rows = load_dataset(str(data / "squad"))["train"]
    assert rows.column_names == ["id", "title", "context", "question", "answers"]
