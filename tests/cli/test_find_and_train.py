"""`hf-tickets find`, `train` and `inspect` as a user runs them: real processes, real data (scikit-learn's digits)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from hf_tickets import Ticket
from hf_tickets.cli.main import main
from hf_tickets.ticket.publishing import publishable

RECIPE = """
family: image-classification
model: resnet10t
pretrained: false
dataset: sklearn/digits
labels: [0, 1, 2]
image_size: 32
horizontal_flip: false
maximum_training_examples: 64
maximum_evaluation_examples: 32
sparsities: [0.5, 0.8]
max_steps: 3
per_device_train_batch_size: 16
learning_rate: 1e-3
save_strategy: "no"
use_cpu: true
output_dir: run
pretrain:
  max_steps: 4
transfer:
  labels: [3, 4]
  controls: [ticket, random, dense]
  at: [0.8]
"""


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "hf_tickets", *words], cwd=folder, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run."""
    folder = tmp_path_factory.mktemp("find")
    (folder / "recipe.yaml").write_text(RECIPE)
    result = command(folder, "find", "recipe.yaml")
    assert result.returncode == 0, result.stderr
    (folder / "output.txt").write_text(result.stdout)
    return folder


def test_output_ends_with_the_table_and_the_ticket(folder: Path) -> None:
    lines = (folder / "output.txt").read_text().splitlines()
    assert lines[-1].startswith("ticket: run")
    assert any("50.00%" in line for line in lines)
    assert any("random" in line for line in lines)


def test_ticket_has_a_rung_a_round_and_its_provenance(folder: Path) -> None:
    ticket = Ticket.from_pretrained(folder / "run")
    assert ticket.sparsities == pytest.approx((0.5, 0.8), abs=1e-6)
    assert ticket.config.task["dataset"] == "sklearn/digits"
    assert [rung["round"] for rung in ticket.config.rungs] == [1, 2]
    assert ticket.config.dense["sparsity"] == 0
    assert ticket.config.training["max_steps"] == 3


def test_base_model_was_trained_and_is_theta0(folder: Path) -> None:
    ticket = Ticket.from_pretrained(folder / "run")
    assert ticket.config.base_model == str((folder / "run/base").resolve())
    assert json.loads((folder / "run/base/result.json").read_text())["steps"] == 4


def test_plots_are_there(folder: Path) -> None:
    for name in ("accuracy.png", "transfer.png"):
        assert (folder / "run" / name).read_bytes().startswith(b"\x89PNG")


def test_transfer_trained_each_control_with_its_mask(folder: Path) -> None:
    cells = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("run/transfer/*/result.json")}
    assert set(cells) == {"ticket-0.8000", "random-0.8000", "dense"}
    assert cells["ticket-0.8000"]["kept"] == cells["random-0.8000"]["kept"]
    ticket = Ticket.from_pretrained(folder / "run/transfer/ticket-0.8000")
    assert ticket.mask == Ticket.from_pretrained(folder / "run", 0.8).mask


def test_finished_run_does_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.glob("run/**/*") if path.suffix != ".png"}
    result = command(folder, "find", "recipe.yaml")
    assert result.returncode == 0, result.stderr
    changed = [str(path) for path, time in before.items() if path.is_file() and path.stat().st_mtime_ns != time]
    assert changed == []


def test_changed_recipe_is_refused_with_the_difference(folder: Path) -> None:
    result = command(folder, "find", "recipe.yaml", "--learning_rate", "2e-3")
    assert result.returncode != 0
    assert "training.learning_rate: 0.001 → 0.002" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_train_holds_the_rung_that_was_asked_for(folder: Path) -> None:
    words = ("train", "recipe.yaml", "--ticket", "run", "--output_dir", "tuned", "--labels", "5,6")
    result = command(folder, *words, "--sparsity", "0.5")
    assert result.returncode == 0, result.stderr
    assert "model: tuned" in result.stdout
    assert Ticket.from_pretrained(folder / "tuned").sparsity == pytest.approx(0.5, abs=1e-6)


def test_train_without_a_ticket_is_dense(folder: Path) -> None:
    result = command(folder, "train", "recipe.yaml", "--output_dir", "dense")
    assert result.returncode == 0, result.stderr
    assert json.loads((folder / "dense/result.json").read_text())["sparsity"] == 0
    assert not (folder / "dense/ticket.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--ticket", "run", "--sparsity", "0.6"), "its rungs are 0.5000, 0.8000"),
        (("--ticket", "nowhere"), "nowhere"),
        (("--sparsity", "0.6"), "--ticket"),
        (("--labels", "5,77"), "77"),
        (("--dataset", "no/such"), "no/such"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path,
    words: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    assert main(["train", "recipe.yaml", "--output_dir", "mistake", *words]) in (1, 2)
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert message in errors[0]


def test_inspect_shows_layers_and_rungs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(folder / "run"), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert sum(layer["weights"] for layer in described["layers"]) == described["weights"] == 4_890_624
    assert all("accuracy" in row["metrics"] for row in (described["dense"], *described["rungs"]))


PRETRAINING = """
family: {family}
model: test_resnet
pretrained: false
dataset: pictures
image_size: 32
projection: [16, 8]
probe_examples: 16
linear_probe: false
{more}
sparsities: [0.5]
max_steps: 2
per_device_train_batch_size: 8
learning_rate: 1e-2
save_strategy: "no"
use_cpu: true
output_dir: {family}
pretrain:
  max_steps: 2
transfer:
  family: image-classification
  at: [0.5]
  controls: [ticket]
"""


def test_a_gradual_search_is_one_training_and_its_ticket_is_trained_in_the_transfer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(
        RECIPE[: RECIPE.index("transfer:")] + "transfer:\n  controls: [ticket]\n  at: [0.8]\n"
    )
    assert main(["find", "recipe.yaml", "--gradual", "true", "--criterion", "movement"]) == 0
    output = capsys.readouterr().out
    assert "accuracy.png" not in output
    assert Ticket.from_pretrained("run").sparsities == pytest.approx((0.5, 0.8), abs=1e-4)
    rounds = sorted(Path("run/_run").glob("round-*"))
    assert [path.name for path in rounds] == ["round-00"]
    trained = [json.loads(path.read_text())["sparsity"] for path in Path("run/transfer").glob("*/result.json")]
    assert trained == pytest.approx([0.8], abs=1e-4)


@pytest.mark.parametrize(
    ("family", "more"),
    [("simclr", "timm_optimizer: lars\noptim_args: momentum=0.9"), ("moco", "queue_size: 32\nbatch_norm_groups: 2")],
)
def test_a_ticket_of_self_supervised_training_on_a_folder_of_images(
    family: str, more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pre-trained, found, carried to classification, and fine-tuned again by `train`."""
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 20, 3), dtype=np.uint8)
    for index, pixels in enumerate(noise):
        path = tmp_path / "pictures" / ("test" if index < 4 else "train") / ("cat", "dog")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(PRETRAINING.format(family=family, more=more))
    assert main(["find", "recipe.yaml"]) == 0
    assert "knn_accuracy" in capsys.readouterr().out
    ticket = Ticket.from_pretrained(family)
    assert ticket.sparsity == pytest.approx(0.5, abs=1e-3)
    assert ticket.config.task["metric"] == "knn_accuracy"
    for_others = publishable(ticket)
    assert for_others.config.base_model is None
    assert for_others.config.base_config["model_type"] == "timm_wrapper"
    own = AutoModel.from_pretrained(f"{family}/base").encoder.timm_model.conv1[0].weight
    assert for_others.theta is not None
    assert torch.equal(for_others.theta["conv1.0.weight"], own)
    transferred = json.loads(Path(family, "transfer/ticket-0.5000/result.json").read_text())
    assert "accuracy" in transferred["metrics"]
    assert transferred["kept"] == ticket.mask.kept


def test_a_sparsity_that_no_round_reaches_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quickstart = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
    assert main(["find", str(quickstart), "--rounds", "1", "--output_dir", str(tmp_path / "run")]) == 2
    assert "transfer.at: no round reaches sparsity 0.7599; the rounds reach 0.3000" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_shipped_recipes_are_valid() -> None:
    from hf_tickets.cli.find import SECTIONS
    from hf_tickets.cli.options import recipe_options
    from hf_tickets.cli.recipe import load_recipe
    from hf_tickets.cli.settings import Settings
    from hf_tickets.pruning.config import PruningConfig

    files = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
    recipes = [path for path in files if path.parent.name != "accelerate" and "\nsources:" not in path.read_text()]
    assert {path.name for path in recipes} >= {"quickstart.yaml", "glue.yaml", "classification.yaml"}
    for path in recipes:
        recipe = load_recipe(path, {}, recipe_options(), SECTIONS)
        Settings.read(recipe)
        recipe.build(PruningConfig)
        assert recipe.description
