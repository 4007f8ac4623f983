"""`AutoTicketModel…` where the base model is one that MoCo trained, in a program that has imported nothing else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hf_tickets import PruningConfig, Ticket, prune
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.self_supervised import make_model
from hf_tickets.ticket.base import describe_base
from hub.server import Hub

PROGRAM = """
import torch
from hf_tickets import AutoTicketModel, AutoTicketModelForCausalLM, AutoTicketModelForImageClassification, TicketsError

whole = AutoTicketModel.from_pretrained("me/ticket")
classifier = AutoTicketModelForImageClassification.from_pretrained("me/ticket", num_labels=3)
print(type(whole).__name__, classifier.config.name_or_path, *classifier(torch.rand(2, 3, 32, 32)).logits.shape)
torch.save([whole.encoder.timm_model.state_dict(), classifier.timm_model.state_dict()], "states.pt")
try:
    AutoTicketModelForCausalLM.from_pretrained("me/ticket")
except TicketsError as error:
    print(error)
"""


def test_a_moco_repository_is_loaded_whole_or_under_a_classifier(
    hub: Hub, tmp_path: Path, run_client: Callable[..., Any]
) -> None:
    model = make_model(TaskConfig("moco", "test_resnet", pretrained=False, projection=[16, 8], queue_size=32))
    model.save_pretrained(tmp_path / "base")
    config = replace(describe_base(model), base_model="me/moco")
    ticket = Ticket(prune(model, PruningConfig(), sparsity=0.5), config)
    ticket.save_pretrained(tmp_path / "ticket")
    for name, folder in (("me/moco", "base"), ("me/ticket", "ticket")):
        hub.add_repository(name, {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()})
    done = run_client(PROGRAM)
    assert done.returncode == 0, done.stderr
    first, refusal = done.stdout.strip().splitlines()[-2:]
    assert first == "MocoModel me/moco 2 3"
    assert "is a moco model, and AutoModelForCausalLM loads none" in refusal
    assert refusal.endswith("take AutoTicketModel, AutoTicketModelForImageClassification")
    own = model.encoder.timm_model.state_dict()
    for state in torch.load(tmp_path / "states.pt"):
        for name, kept in ticket.mask.items():
            assert torch.equal(state[name], own[name] * kept), name
        assert torch.equal(state["bn1.running_mean"], own["bn1.running_mean"])
    assert "weights are not" not in done.stderr
