"""A small BERT on the stand-in Hub as the base model "me/tiny", and a ticket of it with three rungs."""

import functools
import hashlib
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.mask import Mask
from hf_tickets.pruning.prune import prune
from hf_tickets.ticket import card
from hf_tickets.ticket.base import base_fields
from hf_tickets.ticket.config import TicketConfig
from hf_tickets.ticket.theta import backbone_digest
from hf_tickets.ticket.ticket import Ticket
from hub.server import Hub

BASE, NAME = "me/tiny", "me/ticket"
SPARSITIES = (0.5, 0.7, 0.9)
TAGS = ("sparsity-0.50", "sparsity-0.70", "sparsity-0.90")
BASE_CARD = b"---\nlicense: mit\n---\n# A small BERT\n"


@functools.cache
def tiny_model() -> BertForSequenceClassification:
    """The base model; not to be changed."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    return BertForSequenceClassification(BertConfig(**sizes, vocab_size=50, max_position_embeddings=16))


@functools.cache
def base_files() -> dict[str, bytes]:
    """The base model's checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        tiny_model().save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()} | {"README.md": BASE_CARD}


@functools.cache
def masks(sparsities: tuple[float, ...] = SPARSITIES, criterion: str = "magnitude") -> list[Mask]:
    """Nested masks of the base model."""
    made: list[Mask] = []
    for sparsity in sparsities:
        settings = PruningConfig(criterion=criterion, pruning_seed=len(made))
        made.append(prune(tiny_model(), settings, made[-1] if made else None, sparsity))
    return made


def draw_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pictures be a few bytes: drawing them is most of the time that a push takes."""

    def draw(path: Path, *_: Any) -> None:
        path.write_bytes(b"\x89PNG")

    monkeypatch.setattr(card, "save_layer_figure", draw)
    monkeypatch.setattr(card, "save_accuracy_figure", draw)


def provenance(rungs: list[Mask], /, **fields: Any) -> TicketConfig:
    """What a search would record of these rungs: the first two match the dense model."""
    config = TicketConfig(
        base_model=BASE,
        base_config=base_fields(tiny_model())["base_config"],
        theta0_digest=backbone_digest(tiny_model()),
        model_type="bert",
        pruning=PruningConfig(amount=0.2, rounds=len(rungs)).to_dict(),
        rewind={"rewind": "weights", "rewind_to": 0},
        task={"family": "text-classification", "dataset": "nyu-mll/glue", "task": "cola", "metric": "accuracy"},
        training={"learning_rate": 2e-5, "num_train_epochs": 3},
        seeds={"seed": 1, "pruning_seed": 0},
        dense={"round": 0, "sparsity": 0.0, "metrics": {"accuracy": 0.9, "loss": 0.3}, "std": {"accuracy": 0.02}},
        rungs=[
            {
                "round": number + 1,
                "sparsity": mask.sparsity,
                "kept": mask.kept,
                "digest": mask.digest,
                "metrics": {"accuracy": (0.91, 0.885, 0.7)[number % 3], "loss": 0.4, "runtime": 12.5},
                "std": {"accuracy": 0.02},
            }
            for number, mask in enumerate(rungs)
        ],
        versions={"hf_tickets": "0.1.0", "torch": "2.11.0"},
    )
    return replace(config, **fields)


def put_base(hub: Hub) -> str:
    """Put the base model on the Hub; return its commit."""
    hub.add_repository(BASE)
    return hub.commit(BASE, base_files()).oid


def ticket_on(hub: Hub, **fields: Any) -> Ticket:
    """A ticket whose base model is put on the Hub if it is not there."""
    known = ("model", BASE) in hub.store.repositories
    commit = hub.commits(BASE)[0].oid if known else put_base(hub)
    return Ticket(masks(), provenance(masks(), **{"base_model_revision": commit} | fields))


def local_base(folder: Path) -> Path:
    """Write the base model into a folder."""
    folder.mkdir(parents=True)
    for name, content in base_files().items():
        (folder / name).write_bytes(content)
    return folder


def local_ticket(base: Path, **fields: Any) -> Ticket:
    """A ticket whose base model is a folder of this machine."""
    return Ticket(masks(), provenance(masks(), base_model=str(base), **fields))


def state(hub: Hub, name: str = NAME) -> dict[str, dict[str, str]]:
    """The digests of all files under each branch and tag: what a repository is to those who read it."""
    return {
        reference: {path: hashlib.sha256(content).hexdigest() for path, content in hub.files(name, reference).items()}
        for reference in sorted(hub.references(name))
    }


def all_files(hub: Hub, name: str = NAME) -> dict[str, bytes]:
    """Every version of every file in a repository's history."""
    repository = hub.repository(name)
    return {
        f"{path}@{commit.oid}": content
        for commit in repository.commits.values()
        for path, content in commit.contents().items()
    }


def downloads(hub: Hub) -> list[str]:
    """The files whose content was asked for, in order."""
    asked = (re.search(r"/(?:resolve/[^/]+|content/[0-9a-f]{64})/(.+)", got.path) for got in hub.asked("GET", ""))
    redirected = [got.status for got in hub.asked("GET", "")]
    return [found.group(1) for found, status in zip(asked, redirected, strict=True) if found and status in (200, 206)]


def bytes_sent(hub: Hub) -> int:
    """Bytes of all bodies that the Hub has sent."""
    return sum(request.bytes_sent for request in hub.requests)
