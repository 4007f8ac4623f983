"""README's section "Publish and pull" works as it stands there."""

import functools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer.tiny import arguments
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
)

from hf_tickets import PruningConfig, Ticket, TicketTrainer
from hf_tickets.cli.main import main
from hub.server import Hub

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BASE = "google-bert/bert-base-uncased"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "day", *"abcdefgh"]


@functools.cache
def small_bert() -> BertForSequenceClassification:
    """A BERT that takes texts as long as the large one does; not to be changed."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return BertForSequenceClassification(BertConfig(**sizes, vocab_size=len(WORDS)))


def block(name: str) -> str:
    """The code block that follows a marker."""
    found = re.findall(rf"<!-- {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert len(found) == 1
    return found[0]


def encoded(tokenizer: Any) -> list[dict[str, Any]]:
    pairs = [(f"{word} film {letter}", word == "good") for word in ("good", "bad") for letter in "abcdef"]
    return [{**tokenizer(text), "labels": int(good)} for text, good in pairs]


@pytest.fixture
def folder(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder as the text supposes it, with a small BERT on the Hub in place of the large one."""
    hub.add_repository(BASE, owner="google-bert")
    small_bert().save_pretrained(tmp_path / "bert")
    BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)}).save_pretrained(tmp_path / "bert")
    files = {path.name: path.read_bytes() for path in (tmp_path / "bert").iterdir()}
    hub.commit(BASE, {**files, "README.md": b"---\nlicense: apache-2.0\n---\n"})
    work = tmp_path / "work"
    (work / "glue" / "rte").mkdir(parents=True)
    rows = [
        {"sentence1": f"good film {letter}", "sentence2": "bad day", "label": i % 2}
        for i, letter in enumerate("abcdefgh")
    ]
    for split in ("train", "validation"):
        (work / "glue" / "rte" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (work / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(work)
    trainer = TicketTrainer(
        AutoModelForSequenceClassification.from_pretrained(BASE),
        arguments("runs/mrpc", max_steps=2),
        train_dataset=encoded(AutoTokenizer.from_pretrained(BASE)),
        processing_class=AutoTokenizer.from_pretrained(BASE),
        pruning=PruningConfig(sparsities=[0.4, 0.7]),
    )
    trainer.train()
    return work


def commands() -> Iterator[list[str]]:
    for line in block("hub-commands").splitlines():
        name, *words = shlex.split(line, comments=True)
        assert name == "hf-tickets"
        yield words


def test_the_python_of_publish_and_pull_runs(hub: Hub, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    names: dict[str, Any] = {"args": arguments("runs/sst2", max_steps=2), "sst2": encoded(tokenizer)}
    code = block("hub")
    exec(compile(code, "README.md", "exec"), names)
    mask = Ticket.from_pretrained("runs/mrpc", 0.7).mask
    for name, kept in mask.items():
        assert not names["model"].get_parameter(f"bert.{name}")[~kept].any(), name
    assert not torch.equal(names["model"].classifier.weight, small_bert().classifier.weight)
    assert set(hub.references("me/bert-mrpc")) >= {"refs/tags/sparsity-0.40", "refs/tags/sparsity-0.70"}
    assert Ticket.from_pretrained("me/bert-mrpc", revision="sparsity-0.70").mask.digest == mask.digest


def test_the_commands_of_publish_and_pull_run(hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for words in commands():
        # Where a test may not take minutes, it takes two steps; all else is as it is written.
        if words[0] == "train":
            words += ["--max_steps", "2", "--use_cpu"]
        assert main(words) == 0, (words, capsys.readouterr().err)
        shown.append((words[0], capsys.readouterr().out))
    assert [command for command, _ in shown] == ["push", "list", "inspect", "train", "export"]
    said = dict(shown)
    assert "me/bert-mrpc" in said["push"]
    assert "me/bert-mrpc" in said["list"]
    assert BASE in said["inspect"]
    assert "model: runs/mrpc-rte" in said["train"]
    mask = Ticket.from_pretrained("runs/mrpc", 0.7).mask
    tuned = AutoModelForSequenceClassification.from_pretrained("runs/mrpc-rte")
    merged = AutoModelForSequenceClassification.from_pretrained("sparse-bert")
    for name, kept in mask.items():
        assert not tuned.get_parameter(f"bert.{name}")[~kept].any(), name
        dense = small_bert().get_parameter(f"bert.{name}")
        assert torch.equal(merged.get_parameter(f"bert.{name}"), dense * kept), name
