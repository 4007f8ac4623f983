"""The commands that reach the Hub, as a user types them: push, list, inspect, train, env."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification, BertTokenizer

from hf_tickets import Ticket
from hf_tickets.cli.main import main
from hf_tickets.ticket.config import CONFIG_FILE
from hub.server import Hub
from hub.tickets import BASE, NAME, local_base, local_ticket, masks, provenance, put_base, ticket_on, tiny_model

Captured = pytest.CaptureFixture[str]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "day", *"abcdefgh"]
RECIPE = """
family: text-classification
model: {model}
dataset: {folder}/data
text_columns: [sentence]
max_length: 8
per_device_train_batch_size: 4
max_steps: 2
learning_rate: 1e-2
save_strategy: "no"
use_cpu: true
output_dir: {folder}/run
"""


def recipe(folder: Path, model: str = "me/nowhere") -> str:
    """A recipe on a dataset of a few sentences."""
    (folder / "data").mkdir(parents=True)
    rows = [
        {"sentence": f"{word} film {letter}", "label": int(word == "good")}
        for word in ("good", "bad")
        for letter in "abcdef"
    ]
    for split in ("train", "validation"):
        (folder / "data" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder, model=model))
    return str(folder / "recipe.yaml")


def base_with_tokenizer(hub: Hub, folder: Path) -> None:
    put_base(hub)
    BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)}).save_pretrained(folder)
    hub.commit(BASE, {path.name: path.read_bytes() for path in folder.iterdir()})


def words(*values: Any) -> list[str]:
    return [str(value) for value in values]


def test_push_publishes_a_folder(hub: Hub, tmp_path: Path, capsys: Captured) -> None:
    ticket = ticket_on(hub)
    ticket.save_pretrained(tmp_path / "ticket")
    assert main(words("push", tmp_path / "ticket", NAME, "--private", "--tag", "mine", "--tag", "bert")) == 0
    assert capsys.readouterr().out.strip() == f"ticket: {hub.endpoint}/{NAME}"
    assert hub.repository(NAME).private
    assert {"mine", "bert"} <= set(ModelCard.load(NAME).data.tags)
    pulled = Ticket.from_pretrained(NAME, cache_dir=tmp_path / "cache")
    assert [mask.digest for mask in pulled.masks] == [mask.digest for mask in masks()]


def test_push_to_a_branch_or_a_pull_request(hub: Hub, tmp_path: Path, capsys: Captured) -> None:
    ticket_on(hub).save_pretrained(tmp_path)
    assert main(words("push", tmp_path, NAME, "--revision", "trial", "--message", "A trial")) == 0
    assert hub.commits(NAME, "trial")[0].title == "A trial"
    assert CONFIG_FILE not in hub.files(NAME)
    capsys.readouterr()
    assert main(words("push", tmp_path, NAME, "--create-pr")) == 0
    assert capsys.readouterr().out.strip() == f"ticket: {hub.endpoint}/{NAME}/discussions/1"
    assert CONFIG_FILE not in hub.files(NAME)
    assert CONFIG_FILE in hub.files(NAME, "refs/pr/1")


def test_push_with_the_base_beside_it(hub: Hub, tmp_path: Path) -> None:
    local_ticket(local_base(tmp_path / "base")).save_pretrained(tmp_path / "ticket")
    assert main(words("push", tmp_path / "ticket", NAME, "--push-base")) == 0
    pulled = Ticket.from_pretrained(NAME, cache_dir=tmp_path / "cache")
    assert (pulled.config.base_model, pulled.theta) == (f"{NAME}-base", None)
    loaded = AutoModelForSequenceClassification.from_pretrained(f"{NAME}-base", cache_dir=tmp_path / "cache")
    assert all(torch.equal(value, tiny_model().state_dict()[name]) for name, value in loaded.state_dict().items())


def test_inspect_shows_a_ticket_of_the_hub(hub: Hub, capsys: Captured) -> None:
    ticket = ticket_on(hub, default_sparsity=0.7)
    ticket.push_to_hub(NAME)
    assert main(["inspect", NAME, "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["digest"] == masks()[1].digest
    assert [round(rung["sparsity"], 2) for rung in described["rungs"]] == [0.5, 0.7, 0.9]
    assert described["provenance"]["base_model_revision"] == ticket.config.base_model_revision
    assert main(["inspect", NAME, "--revision", "sparsity-0.90", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert (described["digest"], len(described["rungs"])) == (masks()[2].digest, 1)
    assert main(["inspect", NAME]) == 0
    shown = capsys.readouterr().out
    assert BASE in shown
    assert "encoder.layer.0" in shown


def test_list_finds_tickets_by_their_base(hub: Hub, tmp_path: Path, capsys: Captured) -> None:
    ticket_on(hub).push_to_hub(NAME)
    ticket_on(hub).push_to_hub("lab/second")
    local_ticket(local_base(tmp_path / "base")).push_to_hub("me/carried")
    hub.add_repository("me/adapter", {"README.md": f"---\nbase_model: {BASE}\ntags: [peft]\n---\n".encode()})

    capsys.readouterr()  # what libraries said while the tickets were made

    def found(*options: str) -> list[str]:
        assert main(["list", *options, "--json"]) == 0
        return sorted(entry["id"] for entry in json.loads(capsys.readouterr().out))

    assert found("--base-model", BASE) == ["lab/second", NAME]
    assert found() == ["lab/second", "me/carried", NAME]
    assert found("--author", "lab") == ["lab/second"]
    assert found("--base-model", "nobody/nothing") == []
    assert len(found("--limit", "1")) == 1
    assert main(["list", "--base-model", BASE, "--json"]) == 0
    entry = next(item for item in json.loads(capsys.readouterr().out) if item["id"] == NAME)
    assert entry["base_model"] == BASE
    assert entry["sparsities"] == pytest.approx([0.5, 0.7, 0.9], abs=1e-4)
    assert entry["task"] == "text-classification"
    assert main(["list", "--base-model", BASE]) == 0
    table = capsys.readouterr().out
    assert NAME in table
    assert "0.5, 0.7, 0.9" in table
    assert main(["list", "--author", "nobody"]) == 0
    assert capsys.readouterr().out.strip() == "no tickets found"


def test_a_strangers_card_cannot_break_the_list(hub: Hub, capsys: Captured) -> None:
    card = """---
library_name: hf_tickets
tags: [lottery-ticket]
base_model: ["a/b", "c/d"]
pipeline_tag: "[bold red]x"
ticket: {rungs: [1, "x", {a: b}, 0.25]}
---
"""
    hub.add_repository("other/odd", {"README.md": card.encode()})
    hub.add_repository(
        "other/odder", {"README.md": b"---\nlibrary_name: hf_tickets\ntags: [lottery-ticket]\nticket: 7\n---\n"}
    )
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "other/odd" in shown
    assert "other/odder" in shown


def test_env_names_what_a_bug_report_needs(capsys: Captured) -> None:
    assert main(["env"]) == 0
    lines = dict(line.removeprefix("- ").split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["torch"] == torch.__version__.split("+")[0] or lines["torch"] == torch.__version__
    libraries = ("hf_tickets", "transformers", "accelerate", "datasets", "evaluate", "huggingface_hub", "safetensors")
    for name in (*libraries, "timm", "torchvision", "numpy", "deepspeed", "peft", "trl", "sentence-transformers"):
        assert lines[name] == "not installed" or lines[name][0].isdigit(), name
    assert lines["transformers"][0].isdigit()
    assert {"platform", "python", "CPU", "GPU"} <= set(lines)


def trained(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForSequenceClassification.from_pretrained(folder).state_dict()


def test_train_uses_the_tickets_own_base(hub: Hub, tmp_path: Path, capsys: Captured) -> None:
    """At its commit; the recipe's own model does not exist."""
    base_with_tokenizer(hub, tmp_path / "tokenizer")
    ticket_on(hub).push_to_hub(NAME)
    hub.commit(BASE, {"model.safetensors": b"damaged"})
    out = tmp_path / "out"
    options = ("--ticket", NAME, "--sparsity", "0.7", "--output_dir", out, "--learning_rate", "0")
    assert main(words("train", recipe(tmp_path / "recipe"), *options)) == 0, capsys.readouterr().err
    assert f"model: {out}" in capsys.readouterr().out
    state = trained(out)
    for name, kept in masks()[1].items():  # nothing was learnt, so that the base itself is seen
        assert torch.equal(state[f"bert.{name}"], tiny_model().state_dict()[f"bert.{name}"] * kept), name
    assert Ticket.from_pretrained(out).mask.digest == masks()[1].digest


def test_train_on_another_model_where_one_is_named(hub: Hub, tmp_path: Path, capsys: Captured) -> None:
    base_with_tokenizer(hub, tmp_path / "tokenizer")
    ticket_on(hub).push_to_hub(NAME)
    other = tmp_path / "other"
    torch.manual_seed(7)
    model = type(tiny_model())(tiny_model().config)
    model.save_pretrained(other)
    for path in (tmp_path / "tokenizer").iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    out = tmp_path / "out"
    options = ("--ticket", NAME, "--model", other, "--output_dir", out, "--learning_rate", "0")
    assert main(words("train", recipe(tmp_path / "recipe"), *options)) == 0, capsys.readouterr().err
    state, kept = trained(out), Ticket.from_pretrained(out).mask
    for name in kept:
        assert torch.equal(state[f"bert.{name}"], model.state_dict()[f"bert.{name}"] * kept[name]), name


def test_train_on_weights_that_travelled(hub: Hub, tmp_path: Path, capsys: Captured) -> None:
    base = local_base(tmp_path / "base")
    tokenizer = tmp_path / "tokenizer"
    BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)}).save_pretrained(tokenizer)
    local_ticket(base).push_to_hub(NAME)
    for path in base.iterdir():
        path.unlink()
    out = tmp_path / "out"
    options = ("--ticket", NAME, "--sparsity", "0.9", "--output_dir", out, "--learning_rate", "0")
    file = recipe(tmp_path / "recipe")
    assert main(words("train", file, *options, "--tokenizer", tokenizer)) == 0, capsys.readouterr().err
    state = trained(out)
    for name, kept in masks()[2].items():
        assert torch.equal(state[f"bert.{name}"], tiny_model().state_dict()[f"bert.{name}"] * kept), name


def assert_one_line(capsys: Captured, message: str) -> None:
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("hf-tickets: ")
    assert message in line
    assert "Traceback" not in captured.out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("push {folder}/nowhere me/ticket", "there is no folder"),
        ("push {folder}/ticket other/ticket", "403"),
        ("push {folder}/ticket not/a/name", "not/a/name"),
        ("push {folder}/unknown me/unknown", "does not say which weights it belongs to"),
        ("push {folder}/ticket", "REPO"),
        ("inspect me/nothing", "me/nothing is not on the Hub, or is private"),
        ("inspect me/tiny", "me/tiny is no ticket"),
        ("inspect me/ticket --revision v9", "it has main"),
        ("inspect me/ticket --sparsity 0.8", "its rungs are 0.5000, 0.7000, 0.9000"),
        ("inspect other/gated", "other/gated is gated"),
        ("list --limit many", "many"),
        ("train {folder}/recipe/recipe.yaml --ticket me/nothing", "me/nothing"),
        ("train {folder}/recipe/recipe.yaml --ticket me/ticket --sparsity 0.8", "its rungs are"),
        ("export me/nothing {folder}/out --merged", "me/nothing"),
        ("push {folder}/ticket me/ticket --pirvate", "nearest: --private"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(hub: Hub, tmp_path: Path, capsys: Captured, command: str, message: str) -> None:
    ticket = ticket_on(hub)
    ticket.push_to_hub(NAME)
    hub.add_repository("other/gated", {CONFIG_FILE: b"{}"}, gated=True)
    ticket.save_pretrained(tmp_path / "ticket")
    Ticket(masks()).save_pretrained(tmp_path / "unknown")
    recipe(tmp_path / "recipe")
    capsys.readouterr()
    assert main([word.replace("{folder}", str(tmp_path)) for word in command.split()]) in (1, 2)
    assert_one_line(capsys, message)


def test_a_hub_that_is_down_is_one_line(hub: Hub, tmp_path: Path, capsys: Captured) -> None:
    ticket_on(hub).save_pretrained(tmp_path)
    hub.fail("", status=403, times=None)
    for command in (["push", str(tmp_path), NAME], ["list"], ["inspect", "me/elsewhere"]):
        assert main(command) == 1
        assert_one_line(capsys, "403")
    assert provenance(masks()).base_model == BASE
