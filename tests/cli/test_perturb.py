"""`hf-tickets perturb` fine-tunes a ticket and measures it as its mask is flipped and its weights get noise."""

import json
from dataclasses import replace
from pathlib import Path

import pandas
import pytest
import torch
from transformers import AutoModelForImageClassification

from hf_tickets import Ticket, flipped, prune
from hf_tickets.cli.main import main
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.registry import prepare
from hf_tickets.ticket.base import describe_base

KEYS = {
    "family": "image-classification",
    "dataset": "sklearn/digits",
    "image_size": 32,
    "horizontal_flip": False,
    "maximum_training_examples": 64,
    "maximum_evaluation_examples": 64,
}
RECIPE = (
    "".join(f"{key}: {str(value).lower()}\n" for key, value in KEYS.items())
    + """
model: nothing/at-all
max_steps: 8
per_device_train_batch_size: 16
learning_rate: 1e-2
save_strategy: "no"
use_cpu: true
output_dir: out
"""
)
WORDS = ["perturb", "recipe.yaml", "--ticket", "ticket", "--shares", "0,0.3", "--multiples", "0,2", "--drawings", "2"]


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    monkeypatch.chdir(tmp_path)
    model = prepare(TaskConfig(model="test_resnet", pretrained=False, **KEYS)).model
    model.save_pretrained("base")
    config = replace(describe_base(model), base_model=str(tmp_path / "base"))
    Ticket(prune(model, sparsity=0.5), config).save_pretrained("ticket")
    Path("recipe.yaml").write_text(RECIPE)
    return model


def accuracy(model: torch.nn.Module) -> float:
    examples = list(prepare(TaskConfig(model="test_resnet", pretrained=False, **KEYS)).evaluation_dataset)
    pixels = torch.stack([example["pixel_values"] for example in examples])
    labels = torch.tensor([example["labels"] for example in examples])
    with torch.no_grad():
        return float((model.eval()(pixel_values=pixels).logits.argmax(1) == labels).float().mean())


def test_results_are_those_of_the_perturbed_model(base: torch.nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(WORDS) == 0
    printed = capsys.readouterr().out
    assert "entries of the mask flipped" in printed
    assert all(len(line) <= 80 for line in printed.splitlines())
    flips, noise = pandas.read_csv("out/flips.csv"), pandas.read_csv("out/noise.csv")
    assert all(Path(f"out/{name}.png").read_bytes().startswith(b"\x89PNG") for name in ("flips", "noise"))
    plain = json.loads(Path("out/ticket/result.json").read_text())["metrics"]["accuracy"]
    assert flips["share"].tolist() == [0, 0.3, 0.3]
    assert noise["multiple"].tolist() == [0, 2, 2]
    assert flips["result"][0] == noise["result"][0] == pytest.approx(plain)
    ticket = Ticket.from_pretrained("ticket")
    for row in flips.itertuples():
        model = AutoModelForImageClassification.from_pretrained("out/ticket")
        mask = flipped(ticket.mask, row.share, row.seed)
        with torch.no_grad():
            for name, kept in ticket.mask.items():
                weight = model.timm_model.get_parameter(name)
                weight.copy_(torch.where(kept, weight, base.timm_model.get_parameter(name)) * mask[name])
        assert row.result == pytest.approx(accuracy(model))


def test_mistakes_are_one_line_before_training(base: torch.nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    Ticket(prune(base, sparsity=0.6)).save_pretrained("ticket")
    for words, message in (
        (("--shares", "1"), "at most"),
        (("--shares", "much"), "--shares"),
        (("--multiples", "-1"), "at least 0"),
        (("--drawings", "0"), "--drawings"),
    ):
        assert main(["perturb", "recipe.yaml", "--ticket", "ticket", *words]) in (1, 2)
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not Path("out").exists()
