"""Masked and causal language modelling: the numbers logged, fixed evaluation, tickets, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import (
    SENTENCES,
    bert_tokenizer,
    decoder_tokenizer,
    plain_tokens,
    save,
    save_headless_bert,
    write_rows,
    write_texts,
)
from safetensors.torch import load_file
from transformers import (
    DistilBertConfig,
    DistilBertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_tickets import PruningConfig, Ticket, TicketTrainer
from hf_tickets.errors import DataError, RecipeError
from hf_tickets.tasks.base import PreparedTask
from hf_tickets.tasks.blocks import IGNORED
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.registry import prepare
from hf_tickets.tasks.sources import load_source


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return save_headless_bert(tmp_path_factory.mktemp("headless"))


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> str:
    """48 training sentences, eight to evaluate on and a short one: no whole number of blocks."""
    return write_texts(tmp_path_factory.mktemp("books"), SENTENCES * 6, [*SENTENCES, "c c"])


def masked(model: str, dataset: str, **keys: Any) -> TaskConfig:
    return TaskConfig("masked-lm", model, **{"dataset": dataset, "block_size": 16, **keys})


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 4,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
    }
    return TrainingArguments(str(folder), **{**defaults, **changes})


def evaluate(task: PreparedTask, folder: Path, **changes: Any) -> dict[str, float]:
    args = task.adapt_(arguments(folder, **changes))
    measured = Trainer(task.model, args, **task.trainer_arguments()).evaluate()
    return {name: measured[f"eval_{name}"] for name in ("loss", "perplexity", "accuracy")}


def by_hand(task: PreparedTask, shifted: bool) -> dict[str, float]:
    """The same numbers in float64, a block at a time, from logarithms of the model's probabilities."""
    total, right, counted = 0.0, 0, 0
    task.model.eval()
    for i in range(len(task.evaluation_dataset)):
        example = task.evaluation_dataset[i]
        with torch.no_grad():
            probabilities = task.model(example["input_ids"][None]).logits[0].double().softmax(dim=-1)
        for position, label in enumerate(example["labels"].tolist()):
            if label == IGNORED or (shifted and position == 0):
                continue
            given = probabilities[position - shifted]
            total -= math.log(given[label])
            right += int(given.argmax() == label)
            counted += 1
    return {"loss": total / counted, "perplexity": math.exp(total / counted), "accuracy": right / counted}


# The numbers


def test_perplexity_and_accuracy_are_over_all_masked_tokens(headless: str, books: str, tmp_path: Path) -> None:
    task = prepare(masked(headless, books))
    # the last batch is one short block, which a mean of means would overrate
    assert len(task.evaluation_dataset) % 4 == 1
    assert len(task.evaluation_dataset[len(task.evaluation_dataset) - 1]["labels"]) == 4
    measured = evaluate(task, tmp_path)
    assert measured == pytest.approx(by_hand(task, shifted=False), rel=1e-5)
    assert json.dumps(task.provenance)


DECODERS = {
    "gpt2": (GPT2LMHeadModel, GPT2Config, {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 24}),
    "llama": (LlamaForCausalLM, LlamaConfig, {"num_key_value_heads": 1}),
    "qwen": (Qwen2ForCausalLM, Qwen2Config, {"num_key_value_heads": 2}),
}


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_predict_the_next_token(name: str, books: str, tmp_path: Path) -> None:
    model, config, sizes = DECODERS[name]
    tokenizer = decoder_tokenizer(begins=name == "llama")
    common = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1}
    if name != "gpt2":
        common |= {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        common |= {"max_position_embeddings": 24}
    torch.manual_seed(0)
    folder = save(tmp_path / name, model(config(**common, **sizes)), tokenizer)
    task = prepare(TaskConfig("causal-lm", folder, dataset=books))
    assert task.provenance["block_size"] == 24
    tokens = plain_tokens(folder, SENTENCES * 6)
    assert task.train_dataset[1]["input_ids"].tolist() == ([0, *tokens[23:46]] if name == "llama" else tokens[24:48])
    assert evaluate(task, tmp_path) == pytest.approx(by_hand(task, shifted=True), rel=1e-5)
    assert (task.metric, task.greater_is_better) == ("perplexity", False)
    args = task.adapt_(arguments(tmp_path, max_steps=20, learning_rate=1e-2))
    Trainer(task.model, args, **task.trainer_arguments()).train()
    assert evaluate(task, tmp_path)["perplexity"] < 10 < len(tokenizer)


# ModernBERT's own are beyond a small vocabulary
SPECIAL_TOKENS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
ENCODERS = {
    "roberta": (RobertaForMaskedLM, RobertaConfig, {"max_position_embeddings": 34, "pad_token_id": 1}),
    "distilbert": (DistilBertForMaskedLM, DistilBertConfig, {"max_position_embeddings": 32, "dim": 16}),
    "modernbert": (ModernBertForMaskedLM, ModernBertConfig, SPECIAL_TOKENS | {"max_position_embeddings": 32}),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_other_masked_models_read_blocks_as_long_as_they_can(name: str, books: str, tmp_path: Path) -> None:
    model, config, sizes = ENCODERS[name]
    tokenizer = bert_tokenizer()
    common = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    if name == "distilbert":
        common = {"n_layers": 1, "n_heads": 2, "hidden_dim": 16}
    torch.manual_seed(0)
    made = model(config(vocab_size=len(tokenizer), **common, **sizes))
    task = prepare(TaskConfig("masked-lm", save(tmp_path / name, made, tokenizer), dataset=books))
    assert task.provenance["block_size"] == 32
    assert evaluate(task, tmp_path) == pytest.approx(by_hand(task, shifted=False), rel=1e-5)


def test_evaluation_keeps_three_numbers_a_block(headless: str, books: str) -> None:
    task = prepare(masked(headless, books))
    batch = task.data_collator([task.evaluation_dataset[i] for i in range(4)])
    logits = task.model(batch["input_ids"]).logits
    assert task.preprocess_logits_for_metrics is not None
    assert task.preprocess_logits_for_metrics(logits, batch["labels"]).shape == (4, 3)
    assert task.training_arguments["batch_eval_metrics"]


def test_every_evaluation_asks_for_the_same_tokens(headless: str, books: str, tmp_path: Path) -> None:
    task = prepare(masked(headless, books))
    first = evaluate(task, tmp_path)
    task.train_dataset.set_epoch(3)
    task.evaluation_dataset.set_epoch(3)
    torch.manual_seed(99)
    for workers in (0, 1, 2):
        assert evaluate(task, tmp_path, dataloader_num_workers=workers) == first
    other = prepare(masked(headless, books, task_seed=7))
    for i in range(len(task.evaluation_dataset)):
        for key, tensor in task.evaluation_dataset[i].items():
            assert torch.equal(tensor, other.evaluation_dataset[i][key])
    assert not torch.equal(task.train_dataset[0]["input_ids"], other.train_dataset[0]["input_ids"])


def test_lines_of_a_plain_text_file_keep_their_ends(tmp_path: Path) -> None:
    text = "a b c\nd e f\n\ng h"
    (tmp_path / "book.txt").write_text(text)
    (tmp_path / "folder").mkdir()
    for name in ("train", "validation"):
        (tmp_path / "folder" / f"{name}.txt").write_text(text)
    for dataset in ("book.txt", "folder"):
        source = load_source(TaskConfig("masked-lm", "x", dataset=str(tmp_path / dataset)))
        assert "".join(source.splits["train"]["text"]) == text
    assert set(source.splits) == {"train", "validation"}


# A head, a search, and what becomes of its ticket


def test_a_model_without_a_head_gets_a_tied_one(headless: str, books: str, tmp_path: Path) -> None:
    task = prepare(masked(headless, books))
    embeddings = task.model.bert.embeddings.word_embeddings.weight
    assert task.model.cls.predictions.decoder.weight is embeddings
    assert torch.equal(embeddings, load_file(Path(headless) / "model.safetensors")["embeddings.word_embeddings.weight"])
    again, other = (prepare(masked(headless, books, task_seed=seed)).model for seed in (42, 1))
    transform = task.model.cls.predictions.transform.dense.weight
    assert torch.equal(transform, again.cls.predictions.transform.dense.weight)
    assert not torch.equal(transform, other.cls.predictions.transform.dense.weight)


class Stop(Exception):
    pass


class StopAt(TrainerCallback):
    """Ends the program at a step of the second training."""

    def __init__(self, step: int) -> None:
        self.step, self.trainings = step, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainings += 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainings == 2 and state.global_step == self.step:
            raise Stop


def search(model: str, dataset: str, folder: Path, *callbacks: TrainerCallback) -> TicketTrainer:
    task = prepare(masked(model, dataset))
    args = task.adapt_(
        arguments(
            folder,
            max_steps=40,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            save_strategy="steps",
            save_steps=20,
        )
    )
    trainer = TicketTrainer(
        task.model, args, pruning=PruningConfig(amount=0.3, rounds=1), **task.trainer_arguments(args)
    )
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def found(headless: str, books: str, tmp_path_factory: pytest.TempPathFactory) -> TicketTrainer:
    return search(headless, books, tmp_path_factory.mktemp("search"))


def test_dense_model_and_ticket_learn_the_sentences(found: TicketTrainer) -> None:
    for result in found.history:
        # of eight letters, as frequent as each other, one has to read the sentence to leave fewer to choose from
        assert 1 < result.metrics["perplexity"] < 6
        assert result.metrics["perplexity"] == pytest.approx(math.exp(result.metrics["loss"]))
    assert [round(result.sparsity, 2) for result in found.history] == [0, 0.3]


def test_a_search_that_was_interrupted_ends_like_one_that_was_not(
    found: TicketTrainer, headless: str, books: str, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        search(headless, books, tmp_path, StopAt(30))
    resumed = search(headless, books, tmp_path)
    whole = Path(found.args.output_dir)
    assert resumed.ticket.mask.digest == found.ticket.mask.digest
    names = ("accuracy", "perplexity", "loss")
    for ours, theirs in zip(resumed.history, found.history, strict=True):
        assert [ours.metrics[name] for name in names] == [theirs.metrics[name] for name in names]
    expected = load_file(whole / "_run/round-01/trained.safetensors")
    for name, tensor in load_file(tmp_path / "_run/round-01/trained.safetensors").items():
        assert torch.equal(tensor, expected[name]), name


def test_its_ticket_applies_to_a_classifier(found: TicketTrainer, headless: str, tmp_path: Path) -> None:
    rows = [{"text": sentence, "label": i % 2} for i, sentence in enumerate(SENTENCES)]
    dataset = write_rows(tmp_path, train=rows, validation=rows)
    model = prepare(TaskConfig("text-classification", headless, dataset=dataset, max_length=16)).model
    ticket = Ticket.from_pretrained(found.args.output_dir)
    report = ticket.apply(model)
    assert report.prefixes == ["bert."]
    assert report.dense == ["bert.pooler.dense.weight"]  # masked language models have no pooler
    assert not report.unused
    for name, kept in ticket.mask.items():
        assert not model.get_parameter(f"bert.{name}")[~kept].any()


# What does not fit


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"text_columns": ["txt"]}, DataError, "no column txt"),
        ({"text_columns": ["a", "b"]}, RecipeError, "one column, not 2"),
        ({"block_size": 33}, DataError, "block_size: 33 is more than the 32 tokens of .*; give 32"),
        ({"block_size": 3}, RecipeError, "block_size: 3 leaves no room"),
        ({"block_size": 0}, RecipeError, "block_size: 0"),
        ({"masking_probability": 0.0}, RecipeError, "masking_probability: 0.0"),
        ({"task": "rte"}, RecipeError, "task: only text-classification tasks"),
        ({"max_length": 16}, RecipeError, "max_length: only labelled-text tasks"),
        ({"family": "causal-lm", "masking_probability": 0.2}, RecipeError, "only masked-lm tasks"),
        ({"family": "causal-lm"}, RecipeError, "sees the tokens that causal-lm predicts; set family to masked-lm"),
    ],
)
def test_what_does_not_fit_is_refused(
    headless: str, books: str, keys: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        prepare(TaskConfig(**{"family": "masked-lm", "model": headless, "dataset": books, "block_size": 16, **keys}))
    assert "\n" not in str(caught.value)


def test_corpora_without_text_are_refused(headless: str, tmp_path: Path) -> None:
    empty = write_texts(tmp_path / "empty", ["", " "], ["a"])
    with pytest.raises(DataError, match="dataset empty, split train: column text holds no text"):
        prepare(masked(headless, empty))
    no_text = write_rows(tmp_path / "numbers", train=[{"n": 1}], validation=[{"n": 1}])
    with pytest.raises(DataError, match="dataset numbers: which columns hold the text"):
        prepare(masked(headless, no_text))
    gap = write_rows(tmp_path / "gap", train=[{"text": "a"}, {"text": None}], validation=[{"text": "a"}])
    with pytest.raises(DataError, match="dataset gap, split train, row 1: column text holds None"):
        prepare(masked(headless, gap))


def test_tokenizers_that_do_not_fit_are_refused(headless: str, books: str, tmp_path: Path) -> None:
    decoder_tokenizer().save_pretrained(tmp_path / "maskless")
    with pytest.raises(DataError, match="maskless has no mask token"):
        prepare(masked(headless, books, tokenizer=str(tmp_path / "maskless")))
    bert_tokenizer([*"abcdefgh", *map(str, range(60))]).save_pretrained(tmp_path / "larger")
    with pytest.raises(DataError, match="the tokenizer has 73 tokens, but the model knows 31"):
        prepare(masked(headless, books, tokenizer=str(tmp_path / "larger")))
