"""Pushing a ticket: what is on the Hub afterwards."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from transformers import BertModel

from hf_tickets.errors import HubError
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.mask import Mask
from hf_tickets.ticket.base import base_fields
from hf_tickets.ticket.config import CONFIG_FILE, TicketConfig
from hf_tickets.ticket.ladder import LADDER_FILE
from hf_tickets.ticket.theta import THETA_FILE, backbone_state
from hf_tickets.ticket.ticket import Ticket
from hub.conftest import RunClient
from hub.server import Hub
from hub.tickets import (
    BASE,
    NAME,
    TAGS,
    all_files,
    base_files,
    bytes_sent,
    draw_quickly,
    local_base,
    local_ticket,
    masks,
    provenance,
    put_base,
    state,
    ticket_on,
    tiny_model,
)

FILES = {CONFIG_FILE, LADDER_FILE, "README.md", "accuracy.png", "layers.png"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_quickly(monkeypatch)


def pulled(tmp_path: Path, name: str = NAME, **arguments: object) -> Ticket:
    """A ticket from the Hub by way of an empty cache."""
    cache = tmp_path / f"cache-{len(list(tmp_path.iterdir()))}"
    return Ticket.from_pretrained(name, cache_dir=cache, **arguments)


def on_hub(hub: Hub, revision: str = "main", name: str = NAME) -> set[str]:
    """The names of a revision's files."""
    return set(hub.files(name, revision)) - {".gitattributes"}


def test_main_holds_the_whole_ladder_by_one_commit(hub: Hub, tmp_path: Path) -> None:
    ticket = ticket_on(hub)
    commit = ticket.push_to_hub(NAME)
    assert on_hub(hub) == FILES
    assert [known.oid for known in hub.commits(NAME)][:-1] == [commit.oid]
    there = pulled(tmp_path)
    assert [mask.digest for mask in there.masks] == [mask.digest for mask in ticket.at(0.9).masks]
    assert there.config == replace(ticket.config, license="mit")
    assert there.theta is None


@pytest.mark.parametrize("which", range(3))
def test_each_rung_lies_alone_under_its_tag_and_is_cheaper(hub: Hub, tmp_path: Path, which: int) -> None:
    ticket = ticket_on(hub)
    ticket.push_to_hub(NAME)
    assert {name for name in hub.references(NAME) if name.startswith("refs/tags/")} == {f"refs/tags/{t}" for t in TAGS}
    hub.requests.clear()
    pulled(tmp_path)
    whole = bytes_sent(hub)
    hub.requests.clear()
    rung = pulled(tmp_path, revision=TAGS[which])
    assert bytes_sent(hub) < whole
    assert [mask.digest for mask in rung.masks] == [masks()[which].digest]
    assert [known["sparsity"] for known in rung.config.rungs] == [masks()[which].sparsity]
    assert rung.config.base_model_revision == ticket.config.base_model_revision
    assert on_hub(hub, TAGS[which]) == FILES - {"accuracy.png", "layers.png"}  # main has the pictures


def test_the_ladder_of_the_last_rungs_is_not_under_the_first_tag(hub: Hub) -> None:
    ticket_on(hub).push_to_hub(NAME)
    sizes = {tag: len(hub.files(NAME, tag)[LADDER_FILE]) for tag in (*TAGS, "main")}
    assert max(sizes[tag] for tag in TAGS) < sizes["main"]
    # One rung of three alone: about a third of the whole.
    assert sizes["sparsity-0.90"] < 0.5 * sizes["main"]


def test_rungs_whose_short_names_collide_get_longer_ones(hub: Hub, tmp_path: Path) -> None:
    sparsities = (0.5, 0.901, 0.904)
    made = masks(sparsities)
    Ticket(made, provenance(made, base_model_revision=put_base(hub))).push_to_hub(NAME)
    tags = {name.removeprefix("refs/tags/") for name in hub.references(NAME) if name.startswith("refs/tags/")}
    assert tags == {"sparsity-0.50", "sparsity-0.9010", "sparsity-0.9040"}
    for mask, tag in zip(made, sorted(tags), strict=True):
        assert pulled(tmp_path, revision=tag).mask.digest == mask.digest


def test_pushing_again_changes_nothing(hub: Hub) -> None:
    ticket = ticket_on(hub)
    first = ticket.push_to_hub(NAME)
    before, commits = hub.references(NAME), set(hub.repository(NAME).commits)
    hub.requests.clear()
    second = ticket.push_to_hub(NAME)
    assert (hub.references(NAME), set(hub.repository(NAME).commits)) == (before, commits)
    assert second.oid == first.oid
    assert hub.asked("PUT", "^/upload/") == []


def test_a_pulled_ticket_pushed_elsewhere_is_the_same_ticket(hub: Hub, tmp_path: Path) -> None:
    ticket_on(hub).push_to_hub(NAME)
    pulled(tmp_path).push_to_hub("lab/copy")
    for tag in (*TAGS, "main"):
        first, second = hub.files(NAME, tag), hub.files("lab/copy", tag)
        assert first[CONFIG_FILE] == second[CONFIG_FILE]
        assert first[LADDER_FILE] == second[LADDER_FILE]


@pytest.mark.parametrize("described", [True, False])
def test_a_changed_ladder_moves_the_tags(hub: Hub, tmp_path: Path, described: bool) -> None:
    """Other masks of the same sparsities, with their digests in the config and without."""
    commit = put_base(hub)

    def ticket(made: list[Mask]) -> Ticket:
        config = provenance(made, base_model_revision=commit)
        return Ticket(made, config if described else replace(config, rungs=[]))

    ticket(masks()).push_to_hub(NAME)
    before = hub.references(NAME)
    others = masks(criterion="random")
    ticket(others).push_to_hub(NAME)
    for tag, mask, old in zip(TAGS, others, masks(), strict=True):
        assert mask.digest != old.digest
        assert hub.references(NAME)[f"refs/tags/{tag}"] != before[f"refs/tags/{tag}"]
        assert pulled(tmp_path, revision=tag).mask.digest == mask.digest
    # Who noted down a commit keeps what it held.
    assert pulled(tmp_path, revision=before["refs/tags/sparsity-0.70"]).mask.digest == masks()[1].digest


def test_a_ticket_of_one_rung_has_its_tag_on_the_commit_of_main(hub: Hub, tmp_path: Path) -> None:
    ticket_on(hub).at(0.7).rung().push_to_hub(NAME)
    references = hub.references(NAME)
    assert set(references) == {"refs/heads/main", "refs/tags/sparsity-0.70"}
    assert len(set(references.values())) == 1
    ticket_on(hub).push_to_hub(NAME)
    for tag, mask in zip(TAGS, masks(), strict=True):
        assert [known.digest for known in pulled(tmp_path, revision=tag).masks] == [mask.digest]


def test_tags_of_rungs_that_are_no_more_go(hub: Hub) -> None:
    """A stranger must not get a rung of the ticket before under this one's name; other tags are left alone."""
    ticket = ticket_on(hub)
    ticket.push_to_hub(NAME)
    HfApi().create_tag(NAME, tag="paper")
    Ticket(masks()[:2], ticket.config).push_to_hub(NAME)
    assert {name for name in hub.references(NAME) if "/tags/" in name} == {
        "refs/tags/sparsity-0.50",
        "refs/tags/sparsity-0.70",
        "refs/tags/paper",
    }


def test_files_of_the_ticket_that_was_there_before_go_and_those_of_others_stay(hub: Hub, tmp_path: Path) -> None:
    local_ticket(local_base(tmp_path / "base")).push_to_hub(NAME)
    hub.commit(NAME, {"notes.txt": b"mine"})
    assert on_hub(hub) == {*FILES, THETA_FILE, "notes.txt"}
    ticket_on(hub).push_to_hub(NAME)
    assert on_hub(hub) == {*FILES, "notes.txt"}
    for tag in TAGS:
        assert THETA_FILE not in on_hub(hub, tag)
    assert pulled(tmp_path).theta is None


def test_private_is_for_a_repository_that_is_made(hub: Hub) -> None:
    ticket = ticket_on(hub)
    ticket.push_to_hub("me/secret", private=True)
    ticket.push_to_hub("me/public", private=False)
    assert (hub.repository("me/secret").private, hub.repository("me/public").private) == (True, False)


def test_a_pull_request_leaves_main_and_makes_no_tags(hub: Hub, tmp_path: Path) -> None:
    hub.add_repository(NAME, {"README.md": b"# Old\n", THETA_FILE: b"old"})
    before, main = hub.references(NAME), hub.files(NAME)
    commit = ticket_on(hub).push_to_hub(NAME, create_pr=True)
    assert commit.pr_num == 1
    assert hub.files(NAME) == main
    assert hub.references(NAME) == before | {"refs/pr/1": commit.oid}
    assert on_hub(hub, "refs/pr/1") == FILES
    assert pulled(tmp_path, revision="refs/pr/1").mask.digest == masks()[-1].digest


def test_a_pull_request_may_be_opened_where_one_may_not_write(hub: Hub) -> None:
    ticket_on(hub).push_to_hub(NAME)
    before = hub.references(NAME)
    better = ticket_on(hub, license="apache-2.0")
    better.push_to_hub(NAME, create_pr=True, commit_message="Look", token="hf_other")
    assert hub.repository(NAME).discussion(1).author == "other"
    assert {name: oid for name, oid in hub.references(NAME).items() if "/pr/" not in name} == before


def test_a_branch_is_made_and_main_is_left_alone(hub: Hub, tmp_path: Path) -> None:
    commit = ticket_on(hub).push_to_hub(NAME, revision="trial")
    assert hub.references(NAME)["refs/heads/trial"] == commit.oid
    assert set(hub.references(NAME)) == {"refs/heads/main", "refs/heads/trial"}
    assert on_hub(hub) == set()
    assert pulled(tmp_path, revision="trial").mask.digest == masks()[-1].digest
    ticket_on(hub).push_to_hub(NAME, revision="main")
    assert on_hub(hub) == FILES


def test_the_commit_has_the_message_and_the_card_the_tags(hub: Hub) -> None:
    ticket_on(hub).push_to_hub(NAME, commit_message="First try", tags=["mine", "pruning"])
    assert hub.commits(NAME)[0].title == "First try"
    tags = HfApi().model_info(NAME).tags
    assert {"mine", "pruning", "lottery-ticket", "sparsity"} <= set(tags)
    assert tags.count("pruning") == 1


def test_the_token_given_is_the_one_used(hub: Hub) -> None:
    ticket = ticket_on(hub)
    ticket.push_to_hub("other/ticket", token="hf_other")
    assert hub.commits("other/ticket")[0].author == "other"
    with pytest.raises(HubError, match="may not do this"):
        ticket.push_to_hub("me/new", token="hf_other")
    with pytest.raises(HubError, match="log in"):
        ticket.push_to_hub("me/new", token="hf_unknown")
    assert ("model", "me/new") not in hub.store.repositories


def test_the_base_model_is_pinned_and_gives_its_licence(hub: Hub, tmp_path: Path) -> None:
    ticket = ticket_on(hub, base_model_revision=None)
    ticket.push_to_hub(NAME)
    pinned = hub.commits(BASE)[0].oid
    hub.commit(BASE, {"README.md": b"---\nlicense: apache-2.0\n---\n"})
    there = pulled(tmp_path)
    assert (there.config.base_model_revision, there.config.license) == (pinned, "mit")
    assert ticket.config.base_model_revision is None  # the user's own is as it was


def test_a_ticket_of_a_base_model_that_is_not_on_the_hub_is_refused(hub: Hub) -> None:
    ticket = Ticket(masks(), provenance(masks(), base_model="me/gone"))
    with pytest.raises(HubError, match="me/gone"):
        ticket.push_to_hub(NAME)
    assert ("model", NAME) not in hub.store.repositories


def test_a_pushed_base_is_a_model_of_its_own_that_the_ticket_names(hub: Hub, tmp_path: Path) -> None:
    base = local_base(tmp_path / "base")
    (base / "optimizer.pt").write_bytes(b"not for strangers")
    ticket = local_ticket(base)
    ticket.push_to_hub(NAME, push_base=True)
    name = f"{NAME}-base"
    assert on_hub(hub, name=name) == {"config.json", "model.safetensors"}
    assert hub.files(name)["model.safetensors"] == base_files()["model.safetensors"]
    assert on_hub(hub) == FILES
    there = pulled(tmp_path)
    assert (there.config.base_model, there.config.base_model_revision) == (name, hub.commits(name)[0].oid)
    before = state(hub), state(hub, name)
    ticket.push_to_hub(NAME, push_base=True)
    assert (state(hub), state(hub, name)) == before
    assert len(hub.commits(name)) == 2  # the Hub's own, and the base


def test_a_base_on_the_hub_cannot_be_pushed(hub: Hub) -> None:
    ticket = ticket_on(hub)
    hub.requests.clear()
    with pytest.raises(HubError, match="must be a folder"):
        ticket.push_to_hub(NAME, push_base=True)
    assert hub.requests == []


STRANGER = """
import sys, torch
from hf_tickets import AutoTicketModel, Ticket
model = AutoTicketModel.from_pretrained("me/ticket", sparsity=0.7)
torch.save({name: tensor for name, tensor in model.state_dict().items()}, sys.argv[1])
rung = Ticket.from_pretrained("me/ticket", revision="sparsity-0.70")
torch.save({name: tensor for name, tensor in AutoTicketModel.from_pretrained(rung).state_dict().items()}, sys.argv[2])
print(model.ticket.mask.digest, rung.mask.digest, model.dtype)
"""


def test_a_stranger_gets_weights_that_are_on_no_hub_exactly(hub: Hub, tmp_path: Path, run_client: RunClient) -> None:
    local_ticket(local_base(tmp_path / "base")).push_to_hub(NAME)
    assert on_hub(hub) == {*FILES, THETA_FILE}
    for path in (tmp_path / "base").iterdir():
        path.unlink()
    hub.requests.clear()
    done = run_client(STRANGER, str(tmp_path / "ladder.pt"), str(tmp_path / "rung.pt"))
    assert done.returncode == 0, done.stderr
    digest = masks()[1].digest
    assert done.stdout.split() == [digest, digest, "torch.float32"]
    mask = masks()[1]
    for file in ("ladder.pt", "rung.pt"):
        weights = torch.load(tmp_path / file)
        for name, value in backbone_state(tiny_model()).items():
            if name.startswith("pooler."):
                continue  # BertModel has one, and so has the base: compared below
            expected = torch.where(mask[name], value, 0) if name in mask else value
            assert torch.equal(weights[name], expected), name
        assert torch.equal(weights["pooler.dense.bias"], tiny_model().bert.pooler.dense.bias)
    assert not [request for request in hub.requests if BASE in request.path]


def test_the_weights_of_a_rung_are_only_those_it_keeps(hub: Hub, tmp_path: Path) -> None:
    local_ticket(local_base(tmp_path / "base")).push_to_hub(NAME)
    sizes = [len(hub.files(NAME, tag)[THETA_FILE]) for tag in TAGS]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    theta = pulled(tmp_path, revision=TAGS[2]).theta
    name, kept = next(iter(masks()[2].items()))
    assert torch.equal(theta[name] != 0, kept)


@pytest.mark.parametrize("push_base", [False, True])
def test_a_ticket_without_a_base_is_refused_before_any_request(hub: Hub, push_base: bool) -> None:
    ticket = Ticket(masks(), TicketConfig())
    hub.requests.clear()
    with pytest.raises(HubError, match=r"base model|base_model") as caught:
        ticket.push_to_hub(NAME, push_base=push_base)
    assert hub.requests == []
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("push_base", [False, True])
def test_a_base_folder_whose_weights_have_changed_is_refused(hub: Hub, tmp_path: Path, push_base: bool) -> None:
    base = local_base(tmp_path / "base")
    ticket = local_ticket(base)
    model = BertModel.from_pretrained(base)
    with torch.no_grad():
        model.encoder.layer[0].attention.self.query.weight[0, 0] += 1
    model.save_pretrained(base)
    with pytest.raises(HubError, match="other weights now"):
        ticket.push_to_hub(NAME, push_base=push_base)
    assert hub.requests == []


@pytest.mark.parametrize("missing", ["folder", "weights"])
def test_a_base_folder_that_has_gone_is_refused_before_any_request(hub: Hub, tmp_path: Path, missing: str) -> None:
    base = local_base(tmp_path / "base")
    ticket = local_ticket(base)
    if missing == "folder":
        base.rename(tmp_path / "elsewhere")
    else:
        (base / "model.safetensors").unlink()
    with pytest.raises(HubError, match="base"):
        ticket.push_to_hub(NAME)
    assert hub.requests == []


def test_no_path_of_this_machine_is_published(hub: Hub, tmp_path: Path) -> None:
    base = local_base(tmp_path / "base")
    data = tmp_path / "corpora" / "glue"
    ticket = local_ticket(
        base,
        task={"family": "text-classification", "dataset": str(data), "metric": "accuracy", "files": [f"{data}/a.csv"]},
        recipe={
            "base_model": str(base),
            "task": {"dataset": str(data)},
            "training": {"output_dir": str(tmp_path), "resume": f"{tmp_path}/x"},
            "command": f"hf-tickets find --data {data}",
            "uri": f"file://{data}/a.csv",
            str(data / "key"): 1,
        },
        training={"logging_dir": str(tmp_path / "logs"), "output_dir": "runs"},
        base_config=base_fields(tiny_model())["base_config"] | {"_name_or_path": str(base)},
    )
    ticket.push_to_hub(NAME)
    ticket.push_to_hub("me/both", push_base=True)
    for name in (NAME, "me/both", "me/both-base"):
        for path, content in all_files(hub, name).items():
            assert str(tmp_path).encode() not in content, f"{name}: {path}"
            assert str(Path.home()).encode() not in content or path.startswith("model.safetensors"), f"{name}: {path}"
    config = json.loads(hub.files(NAME)[CONFIG_FILE])
    assert config["base_model"] is None
    assert config["task"]["dataset"] == "glue"
    assert config["task"]["files"] == ["a.csv"]
    assert ticket.config.task["dataset"] == str(data)  # the user's own is as it was


def test_patterns_of_module_names_are_not_taken_for_paths(hub: Hub, tmp_path: Path) -> None:
    pattern = r"encoder\.layer\.\d+\.(attention|output)\..*"
    pruning = PruningConfig(target_modules=pattern).to_dict()
    long = {"note": "a long line " * 100, "separator": "/"}
    ticket = ticket_on(hub, pruning=pruning, recipe={"pruning": pruning, **long}).at(0.5).rung()
    ticket.push_to_hub(NAME)
    there = pulled(tmp_path).config
    assert there.pruning["target_modules"] == pattern
    assert there.recipe == {"pruning": pruning, **long}


def test_the_folder_of_a_ticket_is_not_touched(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "ticket"
    ticket_on(hub).save_pretrained(folder)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    Ticket.from_pretrained(folder).push_to_hub(NAME)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["a b/c", "me/ticket/more", "me/..x", ""])
def test_a_name_that_cannot_be_is_refused_by_name(hub: Hub, name: str) -> None:
    with pytest.raises(HubError, match="Hub id") as caught:
        ticket_on(hub).push_to_hub(name)
    assert "\n" not in str(caught.value)
    assert not hub.asked("POST", "/commit/")
