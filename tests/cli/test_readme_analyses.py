"""README's section "Look into masks" works as it stands there, and so do the examples of the analyses."""

import doctest
import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

from hf_tickets import Mask, Ticket, prune
from hf_tickets.cli.main import main

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
MODULES = [f"analysis.{name}" for name in ("blocks", "kernels", "layers", "overlap", "removable", "units")]


def block(name: str) -> str:
    found = re.findall(rf"<!-- {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert len(found) == 1
    return found[0]


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def test_commands(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Ticket(prune(model, sparsity=0.5)).save_pretrained("runs/mrpc")
    Ticket(prune(model, sparsity=0.7)).save_pretrained("runs/rte")
    for line in block("analyses").splitlines():
        command = shlex.split(line, comments=True)
        assert command[0] == "hf-tickets"
        assert main(command[1:]) == 0
    assert len(list(Path("overlap").iterdir())) == 4
    assert len(list(Path("pictures").iterdir())) == 4


def test_python(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = {
        "model": model,
        "inputs": torch.rand(1, 6),
        "ticket": Ticket(prune(model, sparsity=0.5)),
        "theirs": Ticket(prune(model, sparsity=0.7)),
        "evaluate": lambda model: model(torch.ones(1, 6)).mean().item(),
    }
    exec(compile(block("analyses-python"), "README.md", "exec"), given)
    assert Path("flips.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", [*MODULES, "studies.perturbation"])
def test_examples_of_docstrings(name: str) -> None:
    module = importlib.import_module(f"hf_tickets.{name}")
    result = doctest.testmod(module, extraglobs={"Mask": Mask, "torch": torch, "nn": nn})
    assert result.attempted
    assert not result.failed
