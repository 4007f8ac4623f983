"""`--control` of `find` and `train`, as a user gives it."""

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from hf_tickets import Ticket, TicketConfig, control, prune
from hf_tickets.cli.main import main
from hf_tickets.cli.options import recipe_options
from hf_tickets.cli.recipe import load_recipe
from hf_tickets.cli.settings import Settings
from hf_tickets.cli.transfer import results_side_by_side
from hf_tickets.pruning.controls import MASK_CONTROLS, WEIGHT_CONTROLS
from hf_tickets.studies.controls import CONTROLS
from hf_tickets.tasks.registry import prepare

# The learning rate is 0: the weights that were trained are those that training started from.
RECIPE = """
family: image-classification
model: test_resnet
pretrained: false
dataset: sklearn/digits
labels: [0, 1]
image_size: 32
horizontal_flip: false
maximum_training_examples: 8
maximum_evaluation_examples: 8
sparsities: [0.5]
max_steps: 1
per_device_train_batch_size: 8
learning_rate: 0
save_strategy: "no"
seed: 4
use_cpu: true
output_dir: run
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """The recipe's model, in a folder with the recipe and a ticket of it."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(RECIPE)
    model = prepare(Settings.read(load_recipe("recipe.yaml", {}, recipe_options())).task).model
    Ticket(prune(model, sparsity=0.7), TicketConfig(task={"dataset": "glue", "task": "rte"})).save_pretrained("ticket")
    return model


def test_train_starts_from_the_control(model: torch.nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "recipe.yaml", "--ticket", "ticket", "--sparsity", "0.7", "--control", "shuffled_elements"]
    assert main([*words, "--control_seed", "6"]) == 0
    shown = capsys.readouterr().out
    assert "ticket: sparsity 70.00%, found on glue/rte" in shown  # the mask of another task is a control too
    assert "control: shuffled_elements, seed 6" in shown
    made = control("shuffled_elements", Ticket.from_pretrained("ticket"), model, seed=6)
    assert made.theta is not None
    trained = load_file("run/model.safetensors")
    for entry, kept in made.mask.items():
        assert torch.equal(next(trained[name] for name in trained if name.endswith(entry)), made.theta[entry] * kept)
    settings = json.loads(Path("run/result.json").read_text())["settings"]
    assert settings["control"] == {"name": "shuffled_elements", "seed": 6}
    assert Ticket.from_pretrained("run").config.control == {"name": "shuffled_elements", "seed": 6}
    assert main(words) == 1  # by default the training's seed, 4: another control than the folder's
    assert "control.seed: 6 → 4" in capsys.readouterr().err


def test_find_searches_from_other_weights(model: torch.nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find", "recipe.yaml", "--control", "reinitialised"]) == 0
    ticket = Ticket.from_pretrained("run")
    assert ticket.config.control == {"name": "reinitialised", "seed": 4}
    made = control("reinitialised", Ticket(prune(model, sparsity=0)), model, seed=4)
    assert made.theta is not None
    assert ticket.theta is not None
    for entry, kept in ticket.mask.items():
        assert torch.equal(ticket.theta[entry], made.theta[entry] * kept)
    assert main(["inspect", "run", "--json"]) == 0
    described = capsys.readouterr().out.partition("\n{\n")
    assert json.loads("{\n" + described[2])["provenance"]["control"]["name"] == "reinitialised"
    assert main(["find", "recipe.yaml", "--control", "shuffled_elements"]) == 1
    assert "control.name: reinitialised → shuffled_elements" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["find", "recipe.yaml", "--control", "random"], "a search finds its own masks"),
        (["train", "recipe.yaml", "--control", "random"], "give --ticket too"),
        (["train", "recipe.yaml", "--ticket", "ticket", "--control_seed", "1"], "give --control too"),
        (["train", "recipe.yaml", "--ticket", "ticket", "--control", "shuffle"], "shuffled"),
        (["find", "recipe.yaml", "--control_seed", "1"], "give --control too"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(RECIPE)
    assert main(words) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert message in errors[0]
    assert not Path("run").exists()


def test_help_lists_every_control_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in CONTROLS:
        assert name in ("ticket", "dense") or f"{name}: " in text
    assert set(CONTROLS) == {"ticket", "dense", *MASK_CONTROLS, *WEIGHT_CONTROLS}


def test_a_table_of_many_controls_shows_every_number() -> None:
    results = {name: {0.5: {"metrics": {"accuracy": 0.1234}}} for name in CONTROLS if name != "dense"}
    results["dense"] = {0.0: {"metrics": {"accuracy": 0.5678}}}
    console = Console(width=80, file=io.StringIO())
    with console.capture() as capture:
        console.print(results_side_by_side(results, [0.5], "accuracy"))
    assert capture.get().count("0.1234") == len(CONTROLS) - 1
    assert "0.5678" in capture.get()
