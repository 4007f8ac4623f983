"""The quickstart's ticket goes to a stranger: found here, pushed, pulled elsewhere, and fine-tuned there."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_tickets import Ticket
from hf_tickets.cli.main import main
from hub.server import Hub

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
# As the quickstart does it, with fewer rounds, epochs and images.
SHORTER = [
    "--rounds",
    "2",
    "--max_steps",
    "2",
    "--pretrain.max_steps",
    "3",
    "--maximum_training_examples",
    "64",
    "--maximum_evaluation_examples",
    "32",
    "--use_cpu",
    "--save_strategy",
    "no",
    "--transfer.controls",
    "ticket",
    "--transfer.at",
    "0.51",
]


def run(folder: Path, environment: dict[str, str], *words: str) -> str:
    """Run a Python program in a folder of its own; return what it printed."""
    result = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, f"{words}: {result.stderr[-3000:]}"
    return result.stdout


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.skipif(os.name == "nt", reason="accelerate launch starts its processes otherwise")
def test_a_quickstart_ticket_reaches_a_stranger(
    hub: Hub, tmp_path: Path, client_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finder, stranger = tmp_path / "finder", tmp_path / "stranger"
    finder.mkdir()
    stranger.mkdir()
    (finder / "quickstart.yaml").write_text(QUICKSTART.read_text())
    monkeypatch.chdir(finder)
    assert main(["find", "quickstart.yaml", *SHORTER]) == 0
    monkeypatch.chdir(tmp_path)
    found = Ticket.from_pretrained(finder / "runs/quickstart")
    assert found.sparsities == pytest.approx((0.3, 0.51), abs=1e-4)
    assert found.theta is None  # its base lies beside it
    assert hub.requests == []

    said = run(finder, client_env, "hf_tickets", "push", "runs/quickstart", "me/digits")
    assert f"{hub.endpoint}/me/digits" in said
    files = hub.files("me/digits")
    assert "theta.safetensors" in files
    config = json.loads(files["ticket_config.json"])
    assert config["base_model"] is None
    assert str(tmp_path) not in b"".join(files.values()).decode("latin-1")

    # The stranger has the recipe's text and the name: no cache, no base, no folder of the finder.
    base = load_file(finder / "runs/quickstart/base/model.safetensors")
    finder.rename(tmp_path / "away")
    (stranger / "quickstart.yaml").write_text(QUICKSTART.read_text())
    environment = {**client_env, "HF_HOME": str(stranger / "hf_home")}
    environment.pop("HF_TOKEN")
    hub.requests.clear()
    launch = ("accelerate.commands.launch", "--cpu", "--num_processes", "1", "--main_process_port", free_port())
    words = [
        "train",
        "quickstart.yaml",
        "--ticket",
        "me/digits",
        "--sparsity",
        "0.51",
        "--labels",
        "5,6,7,8,9",
        "--output_dir",
        "tuned",
    ]
    limits = ["--max_steps", "2", "--maximum_training_examples", "64", "--maximum_evaluation_examples", "32"]
    run(stranger, environment, *launch, "-m", "hf_tickets", *words, *limits)
    assert hub.asked("POST", "") == hub.asked("PUT", "") == []
    pulled = Ticket.from_pretrained(stranger / "tuned")
    assert pulled.mask.digest == found.at(0.51).mask.digest
    tuned, own = (load_file(stranger / name / "model.safetensors") for name in ("tuned", "tuned/base"))
    trained = 0
    for name, kept in pulled.mask.items():
        name = name if name in tuned else f"timm_model.{name}"
        full = next(known for known in tuned if known.endswith(name))
        assert not tuned[full][~kept].any(), full
        assert torch.equal(own[full] * kept, base[full] * kept), full
        trained += not torch.equal(tuned[full], base[full] * kept)
    assert trained
    result = json.loads((stranger / "tuned/result.json").read_text())
    assert (result["steps"], result["kept"]) == (2, pulled.mask.kept)
