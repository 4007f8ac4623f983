"""Pulling a ticket: what is downloaded, what is taken from the cache, and what is said where it cannot be had."""

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from hf_tickets.errors import HubError, SparsityError, TicketFileError
from hf_tickets.ticket.config import CONFIG_FILE, TicketConfig
from hf_tickets.ticket.ladder import LADDER_FILE
from hf_tickets.ticket.results import last_matching, matching, metric_name
from hf_tickets.ticket.theta import THETA_FILE, backbone_state
from hf_tickets.ticket.ticket import Ticket
from hub.conftest import RunClient
from hub.server import Hub
from hub.tickets import NAME, SPARSITIES, TAGS, downloads, masks, provenance, tiny_model


def saved(folder: Path, ticket: Ticket) -> dict[str, bytes]:
    """The files of a ticket, as its folder has them."""
    ticket.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A ticket's files, among others that a repository may hold."""
    made = saved(tmp_path_factory.mktemp("ticket"), Ticket(masks(), provenance(masks())))
    return made | {"README.md": b"# A ticket\n", "accuracy.png": b"png", "optimizer.bin": b"large", "x.py": b"1 / 0"}


@pytest.fixture(scope="module")
def with_theta(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a ticket that carries its weights."""
    config = provenance(masks(), base_model=None)
    return saved(tmp_path_factory.mktemp("ticket"), Ticket(masks(), config, backbone_state(tiny_model())))


def digests(ticket: Ticket) -> list[str]:
    return [mask.digest for mask in ticket.masks]


DIGESTS = [mask.digest for mask in masks()]


def test_only_the_needed_files_are_asked_for(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.add_repository(NAME, files)
    ticket = Ticket.from_pretrained(NAME, cache_dir=tmp_path)
    assert digests(ticket) == DIGESTS
    assert ticket.config == provenance(masks())
    assert downloads(hub) == [CONFIG_FILE, LADDER_FILE]
    # Nothing else is even looked at.
    assert {request.method for request in hub.requests} <= {"HEAD", "GET"}
    assert len(hub.requests) <= 5  # a HEAD and a GET a file, and the client's own question who it runs for


def test_weights_are_downloaded_where_the_ticket_carries_them(
    hub: Hub, with_theta: dict[str, bytes], tmp_path: Path
) -> None:
    hub.add_repository(NAME, with_theta)
    ticket = Ticket.from_pretrained(NAME, cache_dir=tmp_path)
    assert downloads(hub) == [CONFIG_FILE, LADDER_FILE, THETA_FILE]
    assert set(ticket.theta) == set(backbone_state(tiny_model()))
    assert next((tmp_path / "models--me--ticket" / "snapshots").iterdir(), None) is not None


def test_a_second_time_nothing_is_downloaded(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.add_repository(NAME, files)
    Ticket.from_pretrained(NAME, cache_dir=tmp_path)
    hub.requests.clear()
    Ticket.from_pretrained(NAME, cache_dir=tmp_path)
    assert downloads(hub) == []
    hub.requests.clear()
    Ticket.from_pretrained(NAME, cache_dir=tmp_path, local_files_only=True)
    assert hub.requests == []


@pytest.mark.parametrize(("method", "file"), [("GET", CONFIG_FILE), ("HEAD", LADDER_FILE)])
def test_all_files_are_of_one_commit_while_main_moves(
    hub: Hub, files: dict[str, bytes], tmp_path: Path, method: str, file: str
) -> None:
    """Another ladder is committed while a request for a file is on its way."""
    hub.add_repository(NAME, files)
    others = masks(criterion="random")
    newer = saved(tmp_path / "newer", Ticket(others, provenance(others)))
    hub.fail(file, method=method, delay=0.3)

    def push() -> None:
        while not hub.asked(method, file):
            time.sleep(0.005)
        hub.commit(NAME, newer)

    pusher = threading.Thread(target=push)
    pusher.start()
    ticket = Ticket.from_pretrained(NAME, cache_dir=tmp_path / "cache")
    pusher.join()
    assert [rung["digest"] for rung in ticket.config.rungs] == digests(ticket)
    assert digests(ticket) in (DIGESTS, [mask.digest for mask in others])
    after = Ticket.from_pretrained(NAME, cache_dir=tmp_path / "cache")
    assert digests(after) == [mask.digest for mask in others] == [rung["digest"] for rung in after.config.rungs]


@pytest.mark.parametrize("kind", ["branch", "tag", "commit", "short commit"])
def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: Hub, files: dict[str, bytes], tmp_path: Path, kind: str) -> None:
    hub.add_repository(NAME)
    first = hub.commit(NAME, files).oid
    HfApi().create_branch(NAME, branch="old", revision=first)
    HfApi().create_tag(NAME, tag="v1", revision=first)
    hub.commit(NAME, {CONFIG_FILE: b"{}", LADDER_FILE: b""})
    revision = {"branch": "old", "tag": "v1", "commit": first, "short commit": first[:8]}[kind]
    assert digests(Ticket.from_pretrained(NAME, revision=revision, cache_dir=tmp_path)) == DIGESTS


def test_a_subfolder_is_a_ticket_of_its_own(
    hub: Hub, files: dict[str, bytes], with_theta: dict[str, bytes], tmp_path: Path
) -> None:
    others = masks(criterion="random")
    root = saved(tmp_path / "other", Ticket(others, provenance(others)))
    deep = {f"tickets/bert/{name}": content for name, content in with_theta.items()}
    hub.add_repository(NAME, root | deep)
    cache = tmp_path / "cache"
    ticket = Ticket.from_pretrained(NAME, subfolder="tickets/bert", cache_dir=cache)
    assert (digests(ticket), ticket.theta is not None) == (DIGESTS, True)
    assert downloads(hub) == [f"tickets/bert/{name}" for name in (CONFIG_FILE, LADDER_FILE, THETA_FILE)]
    again = Ticket.from_pretrained(NAME, subfolder="tickets/bert", cache_dir=cache, local_files_only=True)
    assert digests(again) == DIGESTS
    with pytest.raises(HubError, match=r"tickets/vit"):
        Ticket.from_pretrained(NAME, subfolder="tickets/vit", cache_dir=cache)


def test_the_cache_named_is_the_one_used(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.add_repository(NAME, files)
    Ticket.from_pretrained(NAME, cache_dir=tmp_path / "a")
    assert (tmp_path / "a" / "models--me--ticket").is_dir()
    with pytest.raises(HubError, match="not in the cache"):
        Ticket.from_pretrained(NAME, cache_dir=tmp_path / "b", local_files_only=True)
    assert not list((tmp_path / "b").rglob(CONFIG_FILE))


OFFLINE = """
import sys
from hf_tickets import Ticket, TicketsError
for name in sys.argv[1:]:
    try:
        print(Ticket.from_pretrained(name).mask.digest)
    except TicketsError as error:
        print("refused:", error)
"""


def test_offline_the_cache_is_enough(
    hub: Hub, files: dict[str, bytes], client_env: dict[str, str], run_client: RunClient
) -> None:
    hub.add_repository(NAME, files)
    Ticket.from_pretrained(NAME, cache_dir=Path(client_env["HF_HOME"], "hub"))
    hub.requests.clear()
    found, refused = run_client(OFFLINE, NAME, "me/other", HF_HUB_OFFLINE="1").stdout.splitlines()
    assert found == DIGESTS[-1]
    assert refused.startswith("refused: me/other ")
    assert "cache" in refused
    assert hub.requests == []


PATIENT_FOR_A_SECOND = """
from hf_tickets import Ticket
from hf_tickets.errors import HubError
for only in (False, True):
    try:
        print(Ticket.from_pretrained("me/ticket", local_files_only=only).mask.digest)
    except HubError as error:
        print(error)
"""


def test_answers_that_come_too_late(hub: Hub, files: dict[str, bytes], run_client: RunClient, tmp_path: Path) -> None:
    """The client waits for a second, and the Hub takes two."""
    hub.add_repository(NAME, files)
    late = hub.fail(f"^/content/.*{LADDER_FILE}", method="GET", delay=2, times=None)
    cause, nothing_there = run_client(PATIENT_FOR_A_SECOND, HF_HUB_DOWNLOAD_TIMEOUT="1").stdout.splitlines()
    assert NAME in cause
    assert "try again" in cause
    assert "not all of it" in nothing_there
    late.times = late.hits
    cache = tmp_path / "hf_home" / "hub"
    assert digests(Ticket.from_pretrained(NAME, cache_dir=cache)) == DIGESTS
    assert digests(Ticket.from_pretrained(NAME, cache_dir=cache, local_files_only=True)) == DIGESTS


def test_a_wrong_revision_is_answered_with_those_there_are(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.add_repository(NAME, files)
    for tag in TAGS:
        HfApi().create_tag(NAME, tag=tag)
    with pytest.raises(HubError) as caught:
        Ticket.from_pretrained(NAME, revision="sparsity-0.80", cache_dir=tmp_path)
    assert "sparsity-0.80" in str(caught.value)
    for known in ("main", *TAGS):
        assert known in str(caught.value)


@pytest.mark.parametrize("lacks", [CONFIG_FILE, LADDER_FILE, THETA_FILE])
def test_what_is_not_a_ticket_is_said_by_the_file_it_lacks(
    hub: Hub, with_theta: dict[str, bytes], tmp_path: Path, lacks: str
) -> None:
    hub.add_repository(NAME, {name: content for name, content in with_theta.items() if name != lacks} | {"a": b"b"})
    with pytest.raises(HubError, match=rf"{NAME} is no ticket: it has no {lacks}$"):
        Ticket.from_pretrained(NAME, cache_dir=tmp_path)


def refusal(tmp_path: Path, name: str = NAME, **arguments: Any) -> str:
    """What is said where a ticket cannot be had: one line that names it."""
    with pytest.raises(HubError) as caught:
        Ticket.from_pretrained(name, cache_dir=tmp_path / "cache", **arguments)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 400
    assert name in message
    return message


def test_a_wrong_name_a_private_and_a_gated_one(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.add_repository("me/private", files, private=True)
    hub.add_repository("me/gated", files, gated=True)
    missing = refusal(tmp_path, "me/nothing")
    assert "check the name" in missing
    assert "log in" in missing
    for token in (False, "hf_other"):
        # The Hub does not tell strangers that it exists.
        assert refusal(tmp_path, "me/private", token=token) == missing.replace("me/nothing", "me/private")
        gated = refusal(tmp_path, "me/gated", token=token)
        assert "gated" in gated
        assert "accept" in gated
    assert "log in" in refusal(tmp_path, "me/private", token="hf_unknown")
    assert digests(Ticket.from_pretrained("me/private", cache_dir=tmp_path)) == DIGESTS
    assert digests(Ticket.from_pretrained("me/gated", token="hf_test", cache_dir=tmp_path)) == DIGESTS


@pytest.mark.parametrize("name", ["me/a/b/c", "a b", "me/" + "x" * 120, "café/ticket"])
def test_what_is_no_name_is_refused_without_a_request(hub: Hub, tmp_path: Path, name: str) -> None:
    assert "Hub id" in refusal(tmp_path, name)
    assert hub.requests == []


def test_a_rung_that_is_not_there_is_answered_with_those_there_are(
    hub: Hub, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.add_repository(NAME, files)
    with pytest.raises(SparsityError, match=r"0\.5000, 0\.7000, 0\.9000"):
        Ticket.from_pretrained(NAME, 0.8, cache_dir=tmp_path)


def test_a_ticket_from_the_hub_may_not_name_a_folder_as_its_base(hub: Hub, tmp_path: Path) -> None:
    own = saved(tmp_path / "ticket", Ticket(masks(), provenance(masks(), base_model=str(tmp_path / "models"))))
    hub.add_repository(NAME, own)
    with pytest.raises(TicketFileError, match="no Hub id"):
        Ticket.from_pretrained(NAME, cache_dir=tmp_path / "cache")


# The recorded default.


@pytest.mark.parametrize(("recorded", "expected"), [(None, 0.9), (0.7, 0.7)])
def test_without_a_sparsity_the_recorded_default_is_taken(
    hub: Hub, tmp_path: Path, recorded: float | None, expected: float
) -> None:
    config = provenance(masks(), default_sparsity=recorded)
    hub.add_repository(NAME, saved(tmp_path / "ticket", Ticket(masks(), config)))
    ticket = Ticket.from_pretrained(NAME, cache_dir=tmp_path)
    assert ticket.sparsity == pytest.approx(expected, abs=1e-4)
    assert ticket.default_sparsity == ticket.sparsity
    assert Ticket.from_pretrained(NAME, 0.5, cache_dir=tmp_path).sparsity == pytest.approx(0.5, abs=1e-4)


def results(dense: dict[str, Any] | None, rungs: list[dict[str, Any]], *, std: Any = None, **task: Any) -> TicketConfig:
    """What a search would record of a dense model and rungs at sparsities 0.1, 0.2, …"""
    config = TicketConfig(task=task)
    spread = {"std": std} if std else {}
    recorded = [{"sparsity": 0.1 * (number + 1), "metrics": metrics} | spread for number, metrics in enumerate(rungs)]
    dense_round = {} if dense is None else {"sparsity": 0.0, "metrics": dense}
    return replace(config, dense=dense_round, rungs=recorded)


def accuracies(*values: float) -> list[dict[str, Any]]:
    return [{"accuracy": value, "loss": 0.1} for value in values]


MATCHING = {
    "one seed: not worse": (results({"accuracy": 0.8}, accuracies(0.81, 0.8, 0.799)), [True, True, False]),
    "within one standard deviation of the rung": (
        results({"accuracy": 0.8}, accuracies(0.75, 0.7501, 0.7499), std={"accuracy": 0.05}),
        [True, True, False],
    ),
    "the deviation of another metric is none": (
        results({"accuracy": 0.8}, accuracies(0.79), std={"loss": 0.5}),
        [False],
    ),
    "lower is better by the task's word": (
        results({"wer": 0.2}, [{"wer": 0.25}, {"wer": 0.15}], metric="wer", greater_is_better=False),
        [False, True],
    ),
    "lower is better by the metric's name": (
        results({"perplexity": 20.0}, [{"perplexity": 19.0}, {"perplexity": 22.0}], std={"perplexity": 1.5}),
        [True, False],
    ),
    "a rung without the metric": (
        results({"accuracy": 0.8}, [{"f1": 0.9}, {"accuracy": 0.9}], metric="accuracy"),
        [None, True],
    ),
    "a metric that was not a number": (
        results({"accuracy": 0.8}, [{"accuracy": None}, {"accuracy": 0.9}]),
        [None, True],
    ),
    "no dense model": (results(None, accuracies(0.8, 0.9)), [None, None]),
    "nothing was measured": (results(None, [{}, {"runtime": 3.0, "steps_per_second": 2.0}]), [None, None]),
    "the task's metric counts, not the first": (
        results({"f1": 0.5, "accuracy": 0.9}, [{"f1": 0.6, "accuracy": 0.8}], metric="accuracy"),
        [False],
    ),
    "a loss where there is nothing else": (results({"loss": 0.5}, [{"loss": 0.4}, {"loss": 0.6}]), [True, False]),
}


@pytest.mark.parametrize("case", MATCHING)
def test_what_matching_means(case: str) -> None:
    config, expected = MATCHING[case]
    assert matching(config) == expected
    last = max((number for number, matches in enumerate(expected) if matches), default=None)
    assert last_matching(config) == (None if last is None else config.rungs[last]["sparsity"])


def test_a_rung_that_matches_again_after_one_that_does_not_is_the_last() -> None:
    assert last_matching(results({"accuracy": 0.8}, accuracies(0.9, 0.7, 0.85, 0.6))) == pytest.approx(0.3)


def test_the_metric_is_the_tasks_else_the_first_that_is_no_loss() -> None:
    both = [{"loss": 0.1, "runtime": 3.0, "f1": 0.5, "accuracy": 0.9}]
    assert metric_name(results({}, both, metric="accuracy")) == "accuracy"
    assert metric_name(results({}, both, metric="bleu")) == "f1"
    assert metric_name(results({}, both)) == "f1"
    assert metric_name(results({}, [{}, {"epoch": 3.0}])) is None


def test_hand_made_numbers_of_a_whole_ticket() -> None:
    """Dense 0.90 ± 0.02: 0.91 and 0.885 match, 0.70 does not."""
    config = provenance(masks())
    assert matching(config) == [True, True, False]
    assert last_matching(config) == masks()[1].sparsity
    assert SPARSITIES[1] == pytest.approx(last_matching(config), abs=1e-4)
