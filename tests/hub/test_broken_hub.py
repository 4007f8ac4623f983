"""A Hub that refuses, breaks off or answers wrongly: what the user is told, and what is left behind.

The waits of a second and more between the client's own attempts are cut short, so that faults can outlast them.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_tickets.errors import HubError, TicketFileError, TicketsError
from hf_tickets.ticket.config import CONFIG_FILE
from hf_tickets.ticket.ladder import LADDER_FILE
from hf_tickets.ticket.theta import THETA_FILE, backbone_state
from hf_tickets.ticket.ticket import Ticket
from hub.server import Hub
from hub.tickets import BASE, NAME, draw_quickly, masks, provenance, put_base, state, tiny_model

ALWAYS: dict[str, Any] = {"times": None}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait for a second or more, as the client does before it tries again; and draw no pictures."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds if seconds < 1 else 0.01))
    draw_quickly(monkeypatch)


def two_rungs(criterion: str = "magnitude") -> Ticket:
    """A ticket of two rungs that carries its weights, so that all its large files count."""
    made = masks((0.5, 0.9), criterion)
    return Ticket(made, provenance(made, base_model=None), backbone_state(tiny_model()))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def told(error: TicketsError) -> str:
    """What the user reads: one line that is not too long and holds no piece of a program."""
    message = str(error)
    assert message.isprintable()
    assert 20 < len(message) < 400
    assert not any(word in message for word in ("Traceback", "object at 0x", "Error("))
    return message


# Pushing.

OLD, NEW = "random", "magnitude"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ticket to push, on this machine."""
    made = tmp_path_factory.mktemp("local") / "ticket"
    two_rungs(NEW).save_pretrained(made)
    return made


class Pushed:
    """What a repository is after a push that was not disturbed, by digests of its files."""

    def __init__(self, hub: Hub) -> None:
        two_rungs(OLD).push_to_hub(NAME)
        self.commits = hub.commits(NAME)
        self.old = state(hub)
        two_rungs(NEW).push_to_hub(NAME)
        self.new = state(hub)


@pytest.fixture(scope="module")
def states() -> dict[str, Any]:
    """Of the old ticket and of the new one; made once, by the first test that needs them."""
    return {}


def put_old(hub: Hub, states: dict[str, Any]) -> None:
    """Put the old ticket on the Hub as an earlier push left it."""
    if not states:
        states["pushed"] = Pushed(hub)
        states["files"] = {tag: hub.files(NAME, oid) for tag, oid in _old_commits(hub, states["pushed"])}
        hub.reset()
    hub.add_repository(NAME)
    for tag, files in states["files"].items():
        if tag == "main":
            hub.commit(NAME, files)
    repository = hub.repository(NAME)
    repository.references["refs/heads/rungs"] = repository.references["refs/heads/main"]
    for tag, files in states["files"].items():
        if tag != "main":
            stale: dict[str, bytes | None] = {name: None for name in hub.files(NAME, "rungs") if name not in files}
            repository.references[f"refs/tags/{tag}"] = hub.commit(NAME, files | stale, revision="rungs").oid
    assert state(hub) == states["pushed"].old
    hub.requests.clear()


def _old_commits(hub: Hub, pushed: Pushed) -> list[tuple[str, str]]:
    by_tree = {
        frozenset((path, file.sha256) for path, file in commit.files.items()): oid
        for oid, commit in hub.repository(NAME).commits.items()
    }
    return [
        (reference.split("/", 2)[2], by_tree[frozenset(files.items())])
        for reference, files in pushed.old.items()
        if reference != "refs/heads/rungs"
    ]


def check_push(
    hub: Hub, folder: Path, states: dict[str, Any], fault: dict[str, Any], expected: str, remedy: str
) -> None:
    """Push under a fault and once more without it; look at everything that was there before."""
    put_old(hub, states)
    pushed: Pushed = states["pushed"]
    before = contents(folder)
    injected = hub.fail(**fault)
    with pytest.raises(HubError) as caught:
        Ticket.from_pretrained(folder).push_to_hub(NAME)
    message = told(caught.value)
    assert NAME in message
    assert expected in message
    assert remedy in message
    assert injected.hits
    now = state(hub)
    assert now["refs/heads/main"] in (pushed.old["refs/heads/main"], pushed.new["refs/heads/main"])
    for reference, files in now.items():
        if reference != "refs/heads/rungs":
            assert files in (pushed.old[reference], pushed.new[reference]), reference
    assert contents(folder) == before
    injected.times = injected.hits
    Ticket.from_pretrained(folder).push_to_hub(NAME)
    assert state(hub) == pushed.new
    assert contents(folder) == before


STATUSES = {
    401: ("401", "log in"),
    403: ("403", "log in"),
    404: ("404", ""),
    409: ("409", "try again"),
    429: ("429", "try again in 7 seconds"),
    500: ("500", "try again"),
    503: ("503", "try again"),
}


@pytest.mark.parametrize("status", STATUSES)
def test_a_commit_that_is_refused(hub: Hub, folder: Path, states: dict[str, Any], status: int) -> None:
    cause, remedy = STATUSES[status]
    fault = {"path": "/commit/main", "status": status, "headers": {"Retry-After": "7"}} | ALWAYS
    check_push(hub, folder, states, fault, cause, remedy)


STEPS = {
    "make the repository": ("POST", "/api/repos/create"),
    "list the files": ("GET", "/tree/main"),
    "ask how to upload": ("POST", "/preupload/"),
    "ask where to upload": ("POST", "/objects/batch"),
    "upload": ("PUT", "^/upload/"),
    "verify": ("POST", "/lfs/verify"),
    "look at a tag": ("GET", "/tree/sparsity-0.90"),
    "make the branch": ("POST", "/branch/rungs"),
    "commit a rung": ("POST", "/commit/rungs"),
    "list the tags": ("GET", "/refs"),
    "remove a tag": ("DELETE", "/tag/"),
    "make a tag": ("POST", "/tag/"),
}
# Where these may not be made, the client looks whether they are there already.
OTHERWISE = {"make the repository": 500, "make the branch": 500}


@pytest.mark.parametrize("step", STEPS)
def test_each_step_of_a_push_may_fail(hub: Hub, folder: Path, states: dict[str, Any], step: str) -> None:
    method, path = STEPS[step]
    status = OTHERWISE.get(step, 403)
    fault = {"path": path, "method": method, "status": status} | ALWAYS
    check_push(hub, folder, states, fault, str(status), "log in" if status == 403 else "try again")


@pytest.mark.parametrize("step", ["upload", "verify", "commit a rung"])
@pytest.mark.parametrize("damage", [{"status": 503}, {"cut_upload": 100}, {"lose_answer": True}])
def test_a_push_whose_connection_or_hub_fails_for_long(
    hub: Hub, folder: Path, states: dict[str, Any], step: str, damage: dict[str, Any]
) -> None:
    method, path = STEPS[step]
    check_push(hub, folder, states, {"path": path, "method": method} | damage | ALWAYS, "", "try again")


@pytest.mark.parametrize("step", ["make the repository", "ask how to upload", "ask where to upload", "list the tags"])
@pytest.mark.parametrize("damage", [{"shorten": 15}, {"truncate": 15}])
def test_an_answer_that_is_not_whole(
    hub: Hub, folder: Path, states: dict[str, Any], step: str, damage: dict[str, Any]
) -> None:
    method, path = STEPS[step]
    check_push(hub, folder, states, {"path": path, "method": method} | damage | ALWAYS, "", "try again")


@pytest.mark.parametrize("path", ["/commit/main", "/commit/rungs", "/tag/"])
def test_an_answer_that_is_lost_after_the_deed(hub: Hub, folder: Path, states: dict[str, Any], path: str) -> None:
    check_push(hub, folder, states, {"path": path, "method": "POST", "lose_answer": True}, "", "try again")


def test_a_rung_whose_tag_was_removed_and_not_made_again(hub: Hub, folder: Path, states: dict[str, Any]) -> None:
    """Between removing a tag and making it there is none; the next push makes it."""
    put_old(hub, states)
    hub.fail("/tag/", method="POST", status=500)
    with pytest.raises(HubError):
        Ticket.from_pretrained(folder).push_to_hub(NAME)
    Ticket.from_pretrained(folder).push_to_hub(NAME)
    assert state(hub) == states["pushed"].new


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429}, {"cut_upload": 1000}])
def test_a_short_fault_of_an_upload_is_not_noticed(hub: Hub, folder: Path, states: dict[str, Any], fault: Any) -> None:
    put_old(hub, states)
    injected = hub.fail("^/upload/", method="PUT", **fault)
    Ticket.from_pretrained(folder).push_to_hub(NAME)
    assert injected.hits == 1
    assert state(hub) == states["pushed"].new


def test_a_first_push_that_fails_leaves_an_empty_main(hub: Hub, folder: Path) -> None:
    hub.fail("/commit/main", status=500)
    with pytest.raises(HubError):
        Ticket.from_pretrained(folder).push_to_hub(NAME)
    assert set(hub.files(NAME)) == {".gitattributes"}


def test_a_base_that_cannot_be_asked_about_is_named(hub: Hub) -> None:
    put_base(hub)
    ticket = Ticket(masks(), provenance(masks()))
    hub.fail(f"/api/models/{BASE}", status=503, times=None)
    with pytest.raises(HubError, match=f"^{BASE}: .*503.*try again"):
        ticket.push_to_hub(NAME)
    assert ("model", NAME) not in hub.store.repositories


def test_a_card_that_the_hub_refuses_is_said_so(hub: Hub, folder: Path) -> None:
    ticket = Ticket.from_pretrained(folder)
    ticket.config.license = "mine"
    with pytest.raises(HubError, match="license") as caught:
        ticket.push_to_hub(NAME)
    assert NAME in told(caught.value)
    assert set(hub.files(NAME)) == {".gitattributes"}


# Pulling.

FILES = (CONFIG_FILE, LADDER_FILE, THETA_FILE)


def put_ticket(hub: Hub, folder: Path) -> None:
    hub.add_repository(NAME, contents(folder))
    hub.requests.clear()


def check_pull(hub: Hub, folder: Path, cache: Path, fault: dict[str, Any]) -> str:
    """Pull under a fault and once more without it, with one cache; return what was said."""
    put_ticket(hub, folder)
    injected = hub.fail(**fault)
    with pytest.raises((HubError, TicketFileError)) as caught:
        Ticket.from_pretrained(NAME, cache_dir=cache)
    assert injected.hits
    injected.times = injected.hits
    # Nobody takes for a ticket what is not one.
    with pytest.raises(HubError, match="not all of it"):
        Ticket.from_pretrained(NAME, cache_dir=cache, local_files_only=True)
    assert_whole(Ticket.from_pretrained(NAME, cache_dir=cache))
    assert_whole(Ticket.from_pretrained(NAME, cache_dir=cache, local_files_only=True))
    message = told(caught.value)
    assert NAME in message
    return message


def assert_whole(ticket: Ticket) -> None:
    assert [mask.digest for mask in ticket.masks] == [mask.digest for mask in masks((0.5, 0.9))]
    assert set(ticket.theta) == set(backbone_state(tiny_model()))


@pytest.mark.parametrize("status", [401, 403, 404, 409, 429, 500, 503])
@pytest.mark.parametrize("file", [CONFIG_FILE, LADDER_FILE])
def test_a_file_that_is_refused(hub: Hub, folder: Path, tmp_path: Path, file: str, status: int) -> None:
    fault = {"path": file, "status": status, "headers": {"Retry-After": "7"}} | ALWAYS
    message = check_pull(hub, folder, tmp_path, fault)
    if status == 401:  # the Hub's word for a private repository and a missing one
        assert "log in" in message
    else:
        assert str(status) in message
        assert {403: "log in", 404: "", 429: "7 seconds"}.get(status, "try again") in message


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [{"cut_download": 20}, {"truncate": 20}, {"shorten": 20}, {"status": 503}])
def test_a_download_that_is_not_whole(
    hub: Hub, folder: Path, tmp_path: Path, file: str, damage: dict[str, Any]
) -> None:
    fault = {"path": rf"(resolve|content)/\w+/{file}", "method": "GET"} | damage
    if file != CONFIG_FILE:
        fault["path"] = rf"^/content/.*{file}"
    assert "try again" in check_pull(hub, folder, tmp_path, fault | ALWAYS)


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_download_is_thrown_away(hub: Hub, folder: Path, tmp_path: Path, file: str) -> None:
    """One bit is wrong, time and again; when the fault is over, the same cache serves."""
    path = rf"resolve/\w+/{file}" if file == CONFIG_FILE else rf"^/content/.*{file}"
    message = check_pull(hub, folder, tmp_path, {"path": path, "method": "GET", "corrupt": True} | ALWAYS)
    assert file in message
    assert "try again" in message


@pytest.mark.parametrize("file", FILES)
def test_a_file_damaged_once_is_fetched_again(hub: Hub, folder: Path, tmp_path: Path, file: str) -> None:
    put_ticket(hub, folder)
    path = rf"resolve/\w+/{file}" if file == CONFIG_FILE else rf"^/content/.*{file}"
    fault = hub.fail(path, method="GET", corrupt=True)
    assert_whole(Ticket.from_pretrained(NAME, cache_dir=tmp_path))
    assert fault.hits == 1


@pytest.mark.parametrize("file", FILES)
def test_a_file_damaged_in_the_cache_is_fetched_again(hub: Hub, folder: Path, tmp_path: Path, file: str) -> None:
    put_ticket(hub, folder)
    Ticket.from_pretrained(NAME, cache_dir=tmp_path)
    blob = next(tmp_path.rglob(file)).resolve()
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    assert_whole(Ticket.from_pretrained(NAME, cache_dir=tmp_path))


def test_slow_answers_are_waited_for(hub: Hub, folder: Path, tmp_path: Path) -> None:
    put_ticket(hub, folder)
    slow = hub.fail("resolve|content", delay=0.3, times=None)
    assert_whole(Ticket.from_pretrained(NAME, cache_dir=tmp_path))
    assert slow.hits >= 2 * len(FILES)


def test_a_push_waits_for_slow_answers(hub: Hub, folder: Path, states: dict[str, Any]) -> None:
    put_old(hub, states)
    slow = hub.fail("", delay=0.1, times=None)
    Ticket.from_pretrained(folder).push_to_hub(NAME)
    assert slow.hits > len(STEPS)
    assert state(hub) == states["pushed"].new


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429}, {"status": 500}])
def test_a_hub_in_trouble_does_not_matter_to_who_has_the_ticket(
    hub: Hub, folder: Path, tmp_path: Path, fault: dict[str, Any]
) -> None:
    put_ticket(hub, folder)
    Ticket.from_pretrained(NAME, cache_dir=tmp_path)
    hub.fail("", times=None, **fault)
    assert_whole(Ticket.from_pretrained(NAME, cache_dir=tmp_path))


def test_an_update_that_fails_leaves_the_old_ticket_by_its_commit(hub: Hub, folder: Path, tmp_path: Path) -> None:
    put_ticket(hub, folder)
    old = hub.commits(NAME)[0].oid
    Ticket.from_pretrained(NAME, cache_dir=tmp_path)
    newer = tmp_path / "newer"
    two_rungs(OLD).save_pretrained(newer)
    hub.commit(NAME, contents(newer))
    hub.fail(rf"^/content/.*{LADDER_FILE}", method="GET", cut_download=20, times=None)
    with pytest.raises(HubError):
        Ticket.from_pretrained(NAME, cache_dir=tmp_path)
    assert_whole(Ticket.from_pretrained(NAME, revision=old, cache_dir=tmp_path, local_files_only=True))


def test_the_revisions_are_not_listed_where_that_fails_too(hub: Hub, folder: Path, tmp_path: Path) -> None:
    put_ticket(hub, folder)
    hub.fail("/refs", status=500, times=None)
    with pytest.raises(HubError) as caught:
        Ticket.from_pretrained(NAME, revision="sparsity-0.80", cache_dir=tmp_path)
    assert "sparsity-0.80" in told(caught.value)


@pytest.mark.parametrize(
    "call", [lambda name: Ticket.from_pretrained(name), lambda name: two_rungs().push_to_hub(name)]
)
def test_a_hub_out_of_reach(hub: Hub, call: Callable[[str], object]) -> None:
    """All connections are reset before anything is answered."""
    hub.fail("", cut_upload=0, times=None)
    with pytest.raises(HubError) as caught:
        call(NAME)
    assert "try again" in told(caught.value)
