"""`hf-tickets publish`: a set of tickets as one collection, shown before anything is sent."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard

from hf_tickets import Ticket
from hf_tickets.cli.main import main
from hub.server import Hub
from hub.tickets import local_base, local_ticket, masks, provenance, ticket_on

Captured = pytest.CaptureFixture[str]
TICKETS = ("me/bert-mrpc", "lab/bert-rte", "me/bert-local")


def manifest(folder: Path, **changes: Any) -> str:
    """A manifest of what `tickets` wrote."""
    (folder / "recipe.yaml").write_text("task: mrpc\namount: 0.1\n")
    entries = [
        {"repo": TICKETS[0], "folder": f"{folder}/hub", "recipe": f"{folder}/recipe.yaml", "tags": ["mrpc"]},
        {"repo": TICKETS[1], "folder": f"{folder}/hub"},
        {"repo": TICKETS[2], "folder": f"{folder}/local", "push_base": True},
    ]
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump({"collection": "BERT tickets", "tickets": entries, **changes}))
    return str(path)


def tickets(hub: Hub, folder: Path) -> None:
    ticket_on(hub).save_pretrained(folder / "hub")
    local_ticket(local_base(folder / "base")).save_pretrained(folder / "local")


def writes(hub: Hub) -> list[str]:
    return [request.path for request in hub.requests if request.method not in ("GET", "HEAD")]


def test_nothing_is_sent_until_it_is_asked_for(hub: Hub, tmp_path: Path, capsys: Captured) -> None:
    tickets(hub, tmp_path)
    hub.requests.clear()
    assert main(["publish", manifest(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in TICKETS)
    assert "nothing was sent; give --push" in shown
    assert "0.9000" in shown
    assert writes(hub) == []
    assert set(hub.store.repositories) == {("model", "me/tiny")}


def test_all_are_pushed_and_collected(hub: Hub, tmp_path: Path, capsys: Captured) -> None:
    tickets(hub, tmp_path)
    path = manifest(tmp_path)
    assert main(["publish", path, "--push"]) == 0
    shown = capsys.readouterr().out
    for name in TICKETS:
        assert f"{hub.endpoint}/{name}" in shown
        pulled = Ticket.from_pretrained(name, cache_dir=tmp_path / "cache")
        assert [mask.digest for mask in pulled.masks] == [mask.digest for mask in masks()]
    assert Ticket.from_pretrained(TICKETS[0], cache_dir=tmp_path / "cache").config.recipe == {
        "task": "mrpc",
        "amount": 0.1,
    }
    assert "mrpc" in ModelCard.load(TICKETS[0]).data.tags
    assert Ticket.from_pretrained(TICKETS[2], cache_dir=tmp_path / "cache").config.base_model == f"{TICKETS[2]}-base"
    (collection,) = HfApi().list_collections(owner="me")
    assert collection.title == "BERT tickets"
    items = HfApi().get_collection(collection.slug).items
    assert sorted(item.item_id for item in items) == sorted(TICKETS)
    # Again, it is the same set.
    before = {name: hub.references(name) for name in TICKETS}
    assert main(["publish", path, "--push"]) == 0
    assert {name: hub.references(name) for name in TICKETS} == before
    (again,) = HfApi().list_collections(owner="me")
    assert len(HfApi().get_collection(again.slug).items) == len(TICKETS)


def test_an_organisations_private_collection(hub: Hub, tmp_path: Path) -> None:
    tickets(hub, tmp_path)
    assert main(["publish", manifest(tmp_path, namespace="lab", private=True), "--push"]) == 0
    (collection,) = HfApi().list_collections(owner="lab")
    assert collection.private
    assert all(hub.repository(name).private for name in (*TICKETS, f"{TICKETS[2]}-base"))


def test_without_a_title_there_is_no_collection(hub: Hub, tmp_path: Path) -> None:
    tickets(hub, tmp_path)
    assert main(["publish", manifest(tmp_path, collection=None), "--push"]) == 0
    assert hub.store.collections == {}
    assert ("model", TICKETS[1]) in hub.store.repositories


GOOD = {"repo": "me/a", "folder": "{folder}/hub"}
BAD: dict[str, tuple[Any, str]] = {
    "no file": (None, "cannot be read"),
    "no YAML": ("tickets: [", "not YAML"),
    "two lines of YAML": ("a: b: c\nd", "not YAML"),
    "a list": ([GOOD], "not a mapping"),
    "nothing": ("", "not a mapping"),
    "no tickets": ({"collection": "x"}, "tickets missing"),
    "empty": ({"tickets": []}, "tickets must be a list of at least one"),
    "a word": ({"tickets": "me/a"}, "tickets must be a list of at least one"),
    "unknown key": ({"tickets": [GOOD], "colection": "x"}, "colection: unknown key; the keys are tickets, collection"),
    "unknown key of a ticket": ({"tickets": [GOOD | {"tag": "x"}]}, "ticket 1: tag: unknown key"),
    "no folder": ({"tickets": [GOOD, {"repo": "me/b"}]}, "ticket 2: folder missing"),
    "no mapping": ({"tickets": [GOOD, "me/b"]}, "ticket 2: not a mapping"),
    "twice": ({"tickets": [GOOD, GOOD]}, "me/a occurs twice"),
    "bad name": ({"tickets": [GOOD | {"repo": "me/a b"}]}, "is not a name for a repository"),
    "name of three": ({"tickets": [GOOD | {"repo": "a/b/c"}]}, "is not a name for a repository"),
    "a number": ({"tickets": [GOOD | {"repo": 7}]}, "repo"),
    "a number as folder": ({"tickets": [GOOD | {"folder": 7}]}, "folder"),
    "tags": ({"tickets": [GOOD | {"tags": "mrpc"}]}, "tags"),
    "a collection of two": ({"tickets": [GOOD], "collection": ["a", "b"]}, "collection"),
    "private": ({"tickets": [GOOD], "private": "perhaps"}, "private"),
    "nowhere": ({"tickets": [GOOD | {"folder": "{folder}/nowhere"}]}, "nowhere"),
    "no ticket": ({"tickets": [GOOD | {"folder": "{folder}/base"}]}, "is no ticket"),
    "no recipe": ({"tickets": [GOOD | {"recipe": "{folder}/nowhere.yaml"}]}, "there is no recipe"),
    "bad recipe": ({"tickets": [GOOD | {"recipe": "{folder}/bad.yaml"}]}, "bad.yaml"),
    "recipe of a list": ({"tickets": [GOOD | {"recipe": "{folder}/list.yaml"}]}, "list.yaml"),
    "of no weights": ({"tickets": [GOOD | {"folder": "{folder}/unknown"}]}, "does not say which weights"),
    "base gone": ({"tickets": [GOOD | {"folder": "{folder}/gone"}]}, "no-base"),
    "the last is bad": ({"tickets": [GOOD, {"repo": "me/b", "folder": "{folder}/nowhere"}]}, "nowhere"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_manifest_is_one_line_and_sends_nothing(hub: Hub, tmp_path: Path, capsys: Captured, name: str) -> None:
    tickets(hub, tmp_path)
    Ticket(masks()).save_pretrained(tmp_path / "unknown")
    Ticket(masks(), provenance(masks(), base_model=str(tmp_path / "no-base"))).save_pretrained(tmp_path / "gone")
    (tmp_path / "bad.yaml").write_text("a: [")
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    content, message = BAD[name]
    path = tmp_path / "manifest.yaml"
    if content is not None:
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        path.write_text(text.replace("{folder}", str(tmp_path)))
    hub.requests.clear()
    assert main(["publish", str(path), "--push"]) in (1, 2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("hf-tickets: ")
    assert message in line
    assert writes(hub) == []


def test_a_push_that_fails_is_one_line_and_is_taken_up_again(hub: Hub, tmp_path: Path, capsys: Captured) -> None:
    tickets(hub, tmp_path)
    path = manifest(tmp_path)
    fault = hub.fail(r"/api/models/lab/bert-rte/commit", method="POST", status=403)
    assert main(["publish", path, "--push"]) == 1
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert "lab/bert-rte" in line
    assert TICKETS[0] in captured.out
    assert fault.hits == 1
    assert main(["publish", path, "--push"]) == 0
    (collection,) = HfApi().list_collections(owner="me")
    assert len(HfApi().get_collection(collection.slug).items) == len(TICKETS)
