"""The faults of the stand-in, as the real client sees them."""

import os
import time
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from hub.server import Hub

WEIGHTS = os.urandom(300_000)


@pytest.fixture
def ticket(hub: Hub) -> str:
    """A repository with a small and a large file."""
    hub.add_repository("me/ticket", {"a.txt": b"1", "m.safetensors": WEIGHTS})
    return "me/ticket"


@pytest.mark.parametrize("status", [401, 403, 404, 409, 429, 500, 502, 503])
def test_a_status_is_what_the_client_raises(hub: Hub, ticket: str, status: int) -> None:
    fault = hub.fail(method="POST", path="/commit/", status=status, message="Not now", headers={"Retry-After": "0"})
    api = HfApi()
    with pytest.raises(HfHubHTTPError, match="Not now") as caught:
        api.upload_file(path_or_fileobj=b"2", path_in_repo="a.txt", repo_id=ticket)
    assert (caught.value.response.status_code, fault.hits) == (status, 1)
    assert hub.files(ticket)["a.txt"] == b"1"
    api.upload_file(path_or_fileobj=b"2", path_in_repo="a.txt", repo_id=ticket)
    assert hub.files(ticket)["a.txt"] == b"2"


def test_a_code_chooses_the_error(hub: Hub, ticket: str, tmp_path: Path) -> None:
    for code, error in {"GatedRepo": GatedRepoError, "RepoNotFound": RepositoryNotFoundError}.items():
        hub.fail("a.txt", method="HEAD", status=403, code=code)
        with pytest.raises(error):
            hf_hub_download(ticket, "a.txt", cache_dir=tmp_path)
    hub.fail("a.txt", method="HEAD", status=404, code="EntryNotFound")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(ticket, "a.txt", cache_dir=tmp_path)


def test_an_upload_is_tried_again_when_the_hub_is_busy_or_the_connection_is_cut(hub: Hub, ticket: str) -> None:
    busy = hub.fail("^/upload/", method="PUT", status=429, headers={"Retry-After": "0"})
    cut = hub.fail("^/upload/", method="PUT", cut_upload=100_000)
    content = os.urandom(400_000)
    HfApi().upload_file(path_or_fileobj=content, path_in_repo="m.safetensors", repo_id=ticket)
    assert (busy.hits, cut.hits) == (1, 1)
    assert [put.status for put in hub.asked("PUT", "^/upload/")] == [429, 0, 200]
    assert hub.asked("PUT", "^/upload/")[1].bytes_received < len(content)
    assert hub.files(ticket)["m.safetensors"] == content


def test_a_commit_is_not_tried_again_even_if_it_was_made(hub: Hub, ticket: str) -> None:
    hub.fail("/commit/", method="POST", lose_answer=True)
    with pytest.raises(Exception, match=r"disconnected|reset"):
        HfApi().upload_file(path_or_fileobj=b"2", path_in_repo="a.txt", repo_id=ticket)
    assert len(hub.asked("POST", "/commit/")) == 1
    assert hub.files(ticket)["a.txt"] == b"2"


def test_a_download_that_ends_early_goes_on_after_its_last_whole_block(hub: Hub, tmp_path: Path) -> None:
    block = constants.DOWNLOAD_CHUNK_SIZE
    content = bytes(block + 200_000)
    hub.add_repository("me/ticket", {"m.safetensors": content})
    fault = hub.fail("^/content/", method="GET", truncate=block + 100_000)
    path = hf_hub_download("me/ticket", "m.safetensors", cache_dir=tmp_path)
    assert Path(path).read_bytes() == content
    assert fault.hits == 1
    sent = [(answer.status, answer.bytes_sent) for answer in hub.asked("GET", "^/content/")]
    assert sent == [(200, block + 100_000), (206, 200_000)]


def test_a_download_that_is_reset_leaves_nothing_in_the_cache(hub: Hub, ticket: str, tmp_path: Path) -> None:
    hub.fail("^/content/", method="GET", cut_download=100_000)
    with pytest.raises(Exception, match="reset"):
        hf_hub_download(ticket, "m.safetensors", cache_dir=tmp_path)
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download(ticket, "m.safetensors", cache_dir=tmp_path, local_files_only=True)
    assert Path(hf_hub_download(ticket, "m.safetensors", cache_dir=tmp_path)).read_bytes() == WEIGHTS


def test_a_body_that_is_too_short_is_refused(hub: Hub, ticket: str, tmp_path: Path) -> None:
    hub.fail("^/content/", method="GET", shorten=100_000)
    with pytest.raises(OSError, match="Consistency check failed"):
        hf_hub_download(ticket, "m.safetensors", cache_dir=tmp_path)


def test_a_body_with_a_wrong_bit_is_not_noticed(hub: Hub, ticket: str, tmp_path: Path) -> None:
    hub.fail("^/content/", method="GET", corrupt=True)
    read = Path(hf_hub_download(ticket, "m.safetensors", cache_dir=tmp_path)).read_bytes()
    assert len(read) == len(WEIGHTS)
    assert sum(bin(a ^ b).count("1") for a, b in zip(read, WEIGHTS, strict=True)) == 1


def test_a_slow_or_broken_hub_leads_to_the_cache(hub: Hub, ticket: str, tmp_path: Path) -> None:
    first = hf_hub_download(ticket, "a.txt", cache_dir=tmp_path)
    hub.fail("a.txt", method="HEAD", delay=2)
    start = time.monotonic()
    assert hf_hub_download(ticket, "a.txt", cache_dir=tmp_path, etag_timeout=0.2) == first
    assert time.monotonic() - start < 2
    for status in (500, 503, 429):
        hub.fail("a.txt", method="HEAD", status=status)
        assert hf_hub_download(ticket, "a.txt", cache_dir=tmp_path) == first


def test_with_an_empty_cache_a_busy_hub_is_asked_again(hub: Hub, ticket: str, tmp_path: Path) -> None:
    hub.fail("a.txt", method="HEAD", status=503)
    assert Path(hf_hub_download(ticket, "a.txt", cache_dir=tmp_path)).read_text() == "1"
    assert [head.status for head in hub.asked("HEAD", "a.txt")] == [503, 200]


def test_faults_happen_in_order_and_as_often_as_asked(hub: Hub, ticket: str) -> None:
    api = HfApi()
    later = hub.fail("/refs", status=500, after=1, times=2)
    outcomes = []
    for _ in range(4):
        try:
            outcomes.append(len(api.list_repo_refs(ticket).branches))
        except HfHubHTTPError as error:
            outcomes.append(error.response.status_code)
    assert (outcomes, later.hits) == ([1, 500, 500, 1], 2)
    always = hub.fail("/refs", status=502, times=None)
    for _ in range(3):
        with pytest.raises(HfHubHTTPError, match="502"):
            api.list_repo_refs(ticket)
    assert always.hits == 3


def test_a_closed_stand_in_refuses_connections() -> None:
    with Hub() as closed:
        api = HfApi(endpoint=closed.endpoint)
        assert api.whoami()["name"] == "me"
    with pytest.raises(Exception, match="refused"):
        api.whoami()
