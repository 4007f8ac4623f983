"""`ticket_config.json`: comes back as it was, survives later versions, and refuses what it cannot know."""

import json
import logging

import pytest
import torch

from hf_tickets.errors import TicketFileError
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.mask import Mask
from hf_tickets.ticket.config import FORMAT_VERSION, TicketConfig
from hf_tickets.ticket.ticket import Ticket

FULL = TicketConfig(
    base_model="google-bert/bert-base-uncased",
    base_model_revision="86b5e0934494bd15c9632b12f734a8a67f723594",
    theta0_digest="ab" * 32,
    model_type="bert",
    optional_modules=["pooler", "other"],
    pruning=PruningConfig(sparsities=[0.5]).to_dict(),
    rewind={"to": "init"},
    task={"family": "text", "name": "größe"},
    training={"learning_rate": 5e-5},
    seeds={"seed": 3},
    rungs=[{"round": 1, "sparsity": 0.5, "metrics": {"accuracy": 0.9}}],
    versions={"torch": "2.15"},
)
MASK = Mask({"a": torch.tensor([True, False])})


def write(folder, values):
    folder.mkdir(exist_ok=True)
    (folder / "ticket_config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("config", [FULL, TicketConfig()])
def test_a_config_comes_back_as_it_was(tmp_path, config):
    config.save(tmp_path)
    assert TicketConfig.load(tmp_path) == config
    Ticket(MASK, config).save_pretrained(tmp_path / "ticket")
    assert Ticket.from_pretrained(tmp_path / "ticket").config == config


def test_unknown_keys_are_warned_about_and_dropped(tmp_path, caplog):
    write(tmp_path, FULL.to_dict() | {"from_the_future": 1, "and_another": {}})
    with caplog.at_level(logging.WARNING):
        assert TicketConfig.load(tmp_path) == FULL
    (record,) = caplog.records
    assert "and_another, from_the_future" in record.getMessage()


def test_missing_keys_have_their_defaults(tmp_path):
    assert TicketConfig.load(write(tmp_path, {"format_version": FORMAT_VERSION})) == TicketConfig()


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 0, -1, "1", 1.5, None, [], {}])
def test_an_unknown_format_version_is_refused(tmp_path, version):
    with pytest.raises(TicketFileError, match="format"):
        TicketConfig.load(write(tmp_path, FULL.to_dict() | {"format_version": version}))


def test_a_config_without_format_version_is_refused(tmp_path):
    with pytest.raises(TicketFileError, match="format version"):
        TicketConfig.load(write(tmp_path, {"base_model": "me/model"}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, 5) for key in FULL.to_dict() if key != "format_version"),
        *((key, [[]]) for key in FULL.to_dict()),
        ("optional_modules", "pooler"),
        ("optional_modules", [None]),
        ("rungs", ["one"]),
        ("rungs", None),
        ("pruning", None),
        ("model_type", {}),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(tmp_path, key, value):
    with pytest.raises(TicketFileError, match=key.replace("format_", "format.")):
        TicketConfig.load(write(tmp_path, FULL.to_dict() | {key: value}))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"5", b"\xff\xfe{}", b"{'a': 1}", b"[" * 100_000, b'{"a":' * 50_000, b"\x00" * 10],
)
def test_what_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / "ticket_config.json").write_bytes(content)
    with pytest.raises(TicketFileError, match=r"ticket_config\.json"):
        TicketConfig.load(tmp_path)


def test_a_folder_without_config_is_no_ticket(tmp_path):
    with pytest.raises(TicketFileError, match=r"no ticket: it has no ticket_config\.json"):
        TicketConfig.load(tmp_path)
    (tmp_path / "ticket_config.json").mkdir()
    with pytest.raises(TicketFileError, match=r"ticket_config\.json"):
        TicketConfig.load(tmp_path)


def test_a_metric_that_is_not_a_number_does_not_cost_the_ticket(tmp_path):
    """Matthews correlation and losses can be NaN; hours of training must still give a file of valid JSON."""
    metrics = {"matthews": float("nan"), "loss": float("inf"), "accuracy": 0.5, "each": [float("nan"), 1]}
    Ticket(MASK, TicketConfig(rungs=[{"metrics": metrics}])).save_pretrained(tmp_path)
    text = (tmp_path / "ticket_config.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    (rung,) = Ticket.from_pretrained(tmp_path).config.rungs
    assert rung["metrics"] == {"matthews": None, "loss": None, "accuracy": 0.5, "each": [None, 1]}


def test_a_config_that_cannot_be_written_leaves_the_folder_as_it_was(tmp_path):
    Ticket(MASK, FULL).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = Mask({"a": torch.tensor([False, False])})
    with pytest.raises(TicketFileError, match="JSON"):
        Ticket(other, TicketConfig(task={"data": object()})).save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_mutable_defaults_are_not_shared():
    TicketConfig().optional_modules.append("x")
    TicketConfig().pruning["a"] = 1
    assert TicketConfig() == TicketConfig(optional_modules=["pooler"], pruning={})
