"""Text tasks: GLUE by name, other datasets by columns, and what is said about data that does not fit."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

from hf_tickets.errors import DataError
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.glue import GLUE
from hf_tickets.tasks.registry import prepare

ROWS = [("good film", "yes"), ("bad film", "no"), ("good day", "yes"), ("bad day", "no")]


def text(model: str, **keys: Any) -> TaskConfig:
    return TaskConfig("text-classification", model, **{"max_length": 32, **keys})


def write_rows(folder: Path, rows: list[dict[str, Any]], name: str = "train.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def review_folder(folder: Path, **extra: Any) -> Path:
    rows = [{"text": words, "label": label, **extra} for words, label in ROWS]
    write_rows(folder, rows)
    return write_rows(folder, rows[:2], "validation.jsonl")


def run(task: Any, folder: Path, **arguments: Any) -> dict[str, float]:
    args = TrainingArguments(
        str(folder),
        max_steps=3,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=64,
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        **arguments,
    )
    trainer = Trainer(task.model, args, **task.trainer_arguments())
    trainer.train()
    return trainer.evaluate()


# GLUE on real data


@pytest.mark.parametrize("name", ["cola", "sst2", "mrpc", "rte", "stsb"])
def test_glue_tasks_train_and_log_their_metrics(bert: str, data: Path, name: str, tmp_path: Path) -> None:
    task = prepare(text(bert, task=name, dataset=str(data / "glue"), maximum_evaluation_examples=100))
    metrics = run(task, tmp_path)
    assert {f"eval_{metric}" for metric in GLUE[name].metrics} <= set(metrics)
    assert f"eval_{task.metric}" in metrics
    rows = load_dataset(str(data / "glue" / name))["train"]
    assert len(task.train_dataset) == len(rows)
    assert task.provenance["dataset"] == f"glue/{name}"
    assert str(data) not in json.dumps(task.provenance)


def test_the_inputs_are_what_the_tokenizer_makes_of_both_columns(bert: str, data: Path) -> None:
    task = prepare(text(bert, task="qnli", dataset=str(data / "glue" / "qnli_from_dev")))
    rows = load_dataset(str(data / "glue" / "qnli_from_dev"))["validation"]
    tokenizer = AutoTokenizer.from_pretrained(bert)
    for i in (0, 7, 1139):
        tokens = tokenizer(rows[i]["question"], rows[i]["sentence"], truncation=True, max_length=32)
        assert task.evaluation_dataset[i] == {**tokens, "labels": rows[i]["label"]}


def test_a_batch_is_padded_to_its_longest_example_only(bert: str, data: Path) -> None:
    task = prepare(text(bert, task="rte", dataset=str(data / "glue"), max_length=128))
    examples = [task.evaluation_dataset[i] for i in range(4)]
    batch = task.data_collator(examples)
    assert batch["input_ids"].shape == (4, max(len(example["input_ids"]) for example in examples))
    assert batch["labels"].dtype == torch.int64


def test_similarity_is_a_regression_on_the_scores(bert: str, data: Path) -> None:
    task = prepare(text(bert, task="stsb", dataset=str(data / "glue")))
    rows = load_dataset(str(data / "glue" / "stsb"))["train"]
    batch = task.data_collator([task.train_dataset[i] for i in range(5)])
    assert batch["labels"].tolist() == pytest.approx(rows[:5]["label"])
    task.model.eval()
    with torch.no_grad():
        output = task.model(**batch)
    errors = output.logits[:, 0] - batch["labels"]
    assert float(output.loss) == pytest.approx(float((errors**2).mean()))


def test_matched_and_mismatched_are_evaluated_apart(small_bert: str, tmp_path: Path) -> None:
    rows = [{"premise": "a b", "hypothesis": "c d", "label": label} for label in (0, 1, 2, -1)]
    write_rows(tmp_path / "mnli", rows)
    write_rows(tmp_path / "mnli", rows[:2], "validation_matched.jsonl")
    write_rows(tmp_path / "mnli", rows[:3], "validation_mismatched.jsonl")
    task = prepare(text(small_bert, task="mnli", dataset=str(tmp_path)))
    assert {name: len(split) for name, split in task.evaluation_dataset.items()} == {
        "matched": 2,
        "mismatched": 3,
    }
    metrics = run(task, tmp_path / "run")
    assert {"eval_matched_accuracy", "eval_mismatched_accuracy"} <= set(metrics)
    assert task.metric == "matched_accuracy"
    assert task.model.config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}


def test_the_table_of_glue_tasks() -> None:
    main = {name: task.metrics[0] for name, task in GLUE.items()}
    assert main.pop("cola") == "matthews_correlation"
    assert main.pop("stsb") == "pearson"
    assert set(main.values()) == {"accuracy"}
    assert set(main) == {"sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "wnli"}
    assert GLUE["mrpc"].metrics == GLUE["qqp"].metrics == ("accuracy", "f1")
    assert {name: len(task.labels) for name, task in GLUE.items() if len(task.labels) != 2} == {
        "mnli": 3,
        "stsb": 0,
    }


def test_class_numbers_follow_what_the_dataset_says(small_bert: str, tmp_path: Path) -> None:
    names = ["not_entailment", "entailment"]  # the other way round than on the Hub
    features = Features(sentence1=Value("string"), sentence2=Value("string"), label=ClassLabel(names=names))
    rows = Dataset.from_dict({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0, 1]}, features)
    DatasetDict(train=rows, validation=rows).save_to_disk(tmp_path / "rte")
    task = prepare(text(small_bert, task="rte", dataset=str(tmp_path)))
    assert list(task.model.config.id2label.values()) == names


# Any dataset by its columns


def test_texts_as_labels_become_sorted_classes(small_bert: str, tmp_path: Path) -> None:
    task = prepare(text(small_bert, dataset=str(review_folder(tmp_path / "reviews"))))
    assert task.model.config.label2id == {"no": 0, "yes": 1}
    assert list(task.train_dataset["labels"]) == [1, 0, 1, 0]
    assert "eval_accuracy" in run(task, tmp_path / "run")


def test_the_loaded_backbone_is_the_checkpoints_and_the_head_is_seeded(small_bert: str, tmp_path: Path) -> None:
    folder = str(review_folder(tmp_path / "reviews"))
    torch.manual_seed(0)
    one = prepare(text(small_bert, dataset=folder)).model.state_dict()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    two = prepare(text(small_bert, dataset=folder)).model.state_dict()
    assert (torch.get_rng_state() == state).all()
    other = prepare(text(small_bert, dataset=folder, task_seed=1)).model.state_dict()
    reference = AutoModelForSequenceClassification.from_pretrained(small_bert).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])
    backbone = [name for name in reference if name.startswith("bert.") and "pooler" not in name]
    assert backbone
    assert all(torch.equal(one[name], reference[name]) for name in backbone)


def test_random_weights_on_request(small_bert: str, tmp_path: Path) -> None:
    folder = str(review_folder(tmp_path / "reviews"))
    loaded = prepare(text(small_bert, dataset=folder)).model
    random = prepare(text(small_bert, dataset=folder, pretrained=False)).model
    again = prepare(text(small_bert, dataset=folder, pretrained=False)).model
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(loaded.state_dict()[name], random.state_dict()[name])
    assert torch.equal(again.state_dict()[name], random.state_dict()[name])


def test_model_arguments_reach_the_model(small_bert: str, tmp_path: Path) -> None:
    folder = str(review_folder(tmp_path / "reviews"))
    for pretrained in (True, False):
        arguments = {"attn_implementation": "eager", "hidden_dropout_prob": 0.3}
        config = text(small_bert, dataset=folder, pretrained=pretrained, model_arguments=arguments)
        model = prepare(config).model
        assert model.config._attn_implementation == "eager"
        assert model.config.hidden_dropout_prob == 0.3
        assert next(model.parameters()).dtype == torch.float32


def test_half_precision_checkpoints_are_trained_in_float32_unless_asked(small_bert: str, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(small_bert, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(small_bert).save_pretrained(tmp_path / "half")
    folder = str(review_folder(tmp_path / "reviews"))
    half = str(tmp_path / "half")
    assert prepare(text(half, dataset=folder)).model.dtype == torch.float32
    kept = prepare(text(half, dataset=folder, model_arguments={"dtype": "auto"})).model
    assert kept.dtype == torch.bfloat16


def test_chosen_labels_are_kept_in_the_order_given(small_bert: str, tmp_path: Path) -> None:
    rows = [{"text": "a", "label": label} for label in (5, 3, 7, 5, 7)]
    write_rows(tmp_path / "d", rows)
    write_rows(tmp_path / "d", rows, "validation.jsonl")
    task = prepare(text(small_bert, dataset=str(tmp_path / "d"), labels=[7, "5"]))
    assert list(task.train_dataset["labels"]) == [1, 0, 1, 0]
    assert task.model.config.id2label == {0: "7", 1: "5"}


@pytest.mark.parametrize("name", ["reviews.csv", "reviews.tsv", "reviews.jsonl", "reviews.parquet"])
def test_one_file_with_slices_as_splits(small_bert: str, name: str, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"words": [a for a, _ in ROWS], "grade": [b for _, b in ROWS]})
    file = str(tmp_path / name)
    if name.endswith("parquet"):
        rows.to_parquet(file)
    elif name.endswith("jsonl"):
        rows.to_json(file)
    else:
        rows.to_csv(file, sep="\t" if name.endswith("tsv") else ",", index=False)
    task = prepare(
        text(
            small_bert,
            dataset=file,
            text_columns=["words"],
            label_column="grade",
            train_split="train[:75%]",
            evaluation_split="train[75%:]+train[:1]",
        )
    )
    assert list(task.train_dataset["labels"]) == [1, 0, 1]
    assert list(task.evaluation_dataset["labels"]) == [0, 1]
    assert task.provenance["dataset"] == name


def test_whole_numbers_can_be_a_regression_and_whole_floats_classes(small_bert: str, tmp_path: Path) -> None:
    rows = [{"text": "a", "stars": stars, "grade": float(stars)} for stars in (1, 2, 4)]
    write_rows(tmp_path / "d", rows)
    write_rows(tmp_path / "d", rows, "test.jsonl")
    folder = str(tmp_path / "d")
    regression = prepare(text(small_bert, dataset=folder, label_column="stars", problem_type="regression"))
    assert regression.model.config.num_labels == 1
    assert list(regression.train_dataset["labels"]) == [1.0, 2.0, 4.0]
    classes = prepare(
        text(small_bert, dataset=folder, label_column="grade", problem_type="single_label_classification")
    )
    assert classes.model.config.id2label == {0: "1", 1: "2", 2: "4"}


def test_a_head_of_another_label_count_is_replaced_quietly(
    small_bert: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(small_bert, num_labels=5)
    model.save_pretrained(tmp_path / "five")
    AutoTokenizer.from_pretrained(small_bert).save_pretrained(tmp_path / "five")
    folder = str(review_folder(tmp_path / "reviews"))
    capfd.readouterr()
    caplog.clear()
    task = prepare(text(str(tmp_path / "five"), dataset=folder))
    assert task.model.classifier.weight.shape == (2, 16)
    assert torch.equal(task.model.bert.pooler.dense.weight, model.bert.pooler.dense.weight)
    assert "classifier" not in caplog.text + capfd.readouterr().err


def test_fresh_backbone_weights_are_named(small_bert: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "hf_tickets"):
        prepare(text(small_bert, dataset=str(review_folder(tmp_path / "reviews"))))
    assert "bert.pooler.dense.weight" in caplog.text  # masked language models have no pooler


def test_a_decoder_without_padding_works(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

    words = ["<end>", "<unknown>", "good", "bad", "film", "day"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unknown>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", unk_token="<unknown>")
    config = GPT2Config(vocab_size=6, n_embd=8, n_layer=1, n_head=2, n_positions=64, eos_token_id=0)
    GPT2Model(config).save_pretrained(tmp_path / "gpt")
    tokenizer.save_pretrained(tmp_path / "gpt")
    task = prepare(text(str(tmp_path / "gpt"), dataset=str(review_folder(tmp_path / "reviews"))))
    assert "eval_accuracy" in run(task, tmp_path / "run")


def test_a_maximum_takes_the_same_random_rows_for_every_seed(small_bert: str, tmp_path: Path) -> None:
    rows = [{"text": "a" if i < 50 else "b", "label": int(i >= 50)} for i in range(100)]
    write_rows(tmp_path / "d", rows)
    write_rows(tmp_path / "d", rows, "validation.jsonl")
    keys = {"dataset": str(tmp_path / "d"), "maximum_training_examples": 20}
    labels = [list(prepare(text(small_bert, task_seed=s, **keys)).train_dataset["labels"]) for s in (1, 2)]
    assert labels[0] == labels[1]
    assert len(labels[0]) == 20
    assert set(labels[0]) == {0, 1}  # not the first rows, which are all of one class


def test_withheld_labels_are_left_out_and_reported(
    small_bert: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"sentence": "a", "label": label} for label in (0, -1, 1, -1)]
    write_rows(tmp_path / "sst2", rows)
    write_rows(tmp_path / "sst2", rows, "validation.jsonl")
    task = prepare(text(small_bert, task="sst2", dataset=str(tmp_path / "sst2")))
    assert list(task.evaluation_dataset["labels"]) == [0, 1]
    assert "2 rows without a label" in caplog.text


# What is said about data that does not fit


def refused(config: TaskConfig, *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        prepare(config)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_columns_that_are_not_there(small_bert: str, tmp_path: Path) -> None:
    folder = str(review_folder(tmp_path / "reviews"))
    refused(text(small_bert, dataset=folder, text_columns=["txt"]), "reviews", "no column txt", "nearest: text")
    refused(text(small_bert, dataset=folder, label_column="lable"), "no column lable", "nearest: label")
    refused(text(small_bert, dataset=folder, task="rte"), "no column sentence1")


def test_two_texts_to_choose_from(small_bert: str, tmp_path: Path) -> None:
    rows = [{"title": "a", "body": "b", "label": i} for i in (0, 1)]
    write_rows(tmp_path / "d", rows)
    write_rows(tmp_path / "d", rows, "test.jsonl")
    refused(text(small_bert, dataset=str(tmp_path / "d")), "set text_columns", "title, body, label")


def test_splits_that_are_not_there(small_bert: str, tmp_path: Path) -> None:
    folder = str(review_folder(tmp_path / "reviews"))
    refused(text(small_bert, dataset=folder, evaluation_split="validaton"), "nearest: validation")
    refused(text(small_bert, dataset=folder, train_split="tran[:50%]"), "no split tran", "nearest: train")
    refused(text(small_bert, dataset=folder, train_split="train[x"), "train[x")
    refused(text(small_bert, dataset=folder, evaluation_split="train[4:]"), "train[4:]", "no rows")
    alone = str(write_rows(tmp_path / "alone", [{"text": "a", "label": i} for i in (0, 1)]) / "train.jsonl")
    refused(text(small_bert, dataset=alone), "no split validation or test", "train[90%:]")


def test_labels_that_are_not_there(small_bert: str, tmp_path: Path) -> None:
    folder = str(review_folder(tmp_path / "reviews"))
    refused(text(small_bert, dataset=folder, labels=["yes", "nope"]), "no label 'nope'", "no, yes")
    refused(text(small_bert, dataset=folder, labels=["yes", "yes"]), "different classes")
    write_rows(tmp_path / "reviews", [{"text": "a", "label": "no"}, {"text": "a", "label": "nah"}], "test.jsonl")
    refused(text(small_bert, dataset=folder, evaluation_split="test"), "split test, row 1", "'nah'", "no, yes")


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({"text": None, "label": "no"}, ("row 4", "column text", "None")),
        ({"text": "a", "label": None}, ("row 4", "column label", "None")),
    ],
)
def test_a_missing_cell_is_named(small_bert: str, tmp_path: Path, row: dict[str, Any], parts: tuple[str, ...]) -> None:
    folder = review_folder(tmp_path / "reviews")
    write_rows(folder, [*[{"text": words, "label": label} for words, label in ROWS], row])
    refused(text(small_bert, dataset=str(folder)), "split train", *parts)


def test_a_score_that_is_no_number(small_bert: str, tmp_path: Path) -> None:
    rows = [{"text": "a", "label": score} for score in (0.5, 1.5, None)]
    write_rows(tmp_path / "d", rows)
    write_rows(tmp_path / "d", rows[:2], "test.jsonl")
    refused(text(small_bert, dataset=str(tmp_path / "d")), "row 2", "not a finite number")


def test_one_class_only(small_bert: str, tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 3}] * 2
    write_rows(tmp_path / "d", rows)
    write_rows(tmp_path / "d", rows, "test.jsonl")
    refused(text(small_bert, dataset=str(tmp_path / "d")), "every label is 3")


def test_sources_that_cannot_be_read(small_bert: str, tmp_path: Path) -> None:
    refused(text(small_bert, dataset=str(tmp_path / "nowhere")), "no such file or folder")
    (tmp_path / "empty").mkdir()
    refused(text(small_bert, dataset=str(tmp_path / "empty")), "empty", "cannot be read")
    (tmp_path / "broken.jsonl").write_text("junk")
    refused(text(small_bert, dataset=str(tmp_path / "broken.jsonl")), "broken.jsonl", "cannot be read")
    (tmp_path / "notes.doc").write_text("junk")
    refused(text(small_bert, dataset=str(tmp_path / "notes.doc")), "notes.doc", ".csv")
    refused(text(small_bert), "no dataset")
    review_folder(tmp_path / "many" / "sst2")
    review_folder(tmp_path / "many" / "cola")
    refused(text(small_bert, task="wnli", dataset=str(tmp_path / "many")), "no sub-folder wnli", "cola, sst2")


def test_models_that_cannot_be_read(small_bert: str, tmp_path: Path) -> None:
    folder = str(review_folder(tmp_path / "reviews"))
    (tmp_path / "nothing").mkdir()
    refused(text(str(tmp_path / "nothing"), dataset=folder), "cannot be loaded")
    refused(text(str(tmp_path / "nothing"), tokenizer=small_bert, dataset=folder), "model", "cannot be loaded")
    wider = {"intermediate_size": 48}
    refused(text(small_bert, dataset=folder, model_arguments=wider), "intermediate", "(32", "(48")


def test_inputs_longer_than_the_model_reads(small_bert: str, tmp_path: Path) -> None:
    folder = str(review_folder(tmp_path / "reviews"))
    refused(text(small_bert, dataset=folder, max_length=65), "max_length", "65", "64")


def test_a_tokenizer_of_another_model(small_bert: str, bert: str, tmp_path: Path) -> None:
    folder = str(review_folder(tmp_path / "reviews"))
    refused(text(small_bert, tokenizer=bert, dataset=folder), "tokenizer", "token")
