"""The stand-in answers the real client as the Hub does."""

import os
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    ModelCardData,
    __version__,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from packaging import version

from hub.conftest import RunClient
from hub.server import Hub

WEIGHTS = os.urandom(200_000)
CARD = "---\nlicense: mit\nlibrary_name: hf_tickets\nbase_model: bert-base-uncased\ntags: [lottery]\n---\n# A ticket\n"


@pytest.fixture
def api(hub: Hub) -> HfApi:
    return HfApi()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small file, a card and a large file."""
    made = tmp_path / "folder"
    (made / "deep" / "er").mkdir(parents=True)
    (made / "deep" / "er" / "notes.txt").write_text("hello")
    (made / "README.md").write_text(CARD)
    (made / "mask.safetensors").write_bytes(WEIGHTS)
    return made


def contents(folder: str | Path) -> dict[str, bytes]:
    """The files under a folder."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def uploaded(hub: Hub, name: str, revision: str = "main") -> dict[str, bytes]:
    """What is in a repository besides the Hub's own file."""
    return {path: content for path, content in hub.files(name, revision).items() if path != ".gitattributes"}


def test_a_folder_comes_back_as_it_was_sent_in_one_commit(hub: Hub, api: HfApi, folder: Path, tmp_path: Path) -> None:
    url = api.create_repo("me/ticket")
    assert (url.repo_id, str(url)) == ("me/ticket", f"{hub.endpoint}/me/ticket")
    commit = api.upload_folder(repo_id="me/ticket", folder_path=folder, commit_message="Add the ticket")
    assert [known.title for known in hub.commits("me/ticket")] == ["Add the ticket", "initial commit"]
    assert commit.oid == hub.commits("me/ticket")[0].oid == api.model_info("me/ticket").sha
    assert uploaded(hub, "me/ticket") == contents(folder)
    downloaded = contents(snapshot_download("me/ticket", cache_dir=tmp_path / "cache"))
    assert {path: downloaded[path] for path in contents(folder)} == contents(folder)
    assert sorted(downloaded) == api.list_repo_files("me/ticket")


def test_bytes_on_the_wire_are_counted_and_known_content_is_not_sent_again(
    hub: Hub, api: HfApi, folder: Path, tmp_path: Path
) -> None:
    api.create_repo("me/ticket")
    api.upload_folder(repo_id="me/ticket", folder_path=folder)
    assert [put.bytes_received for put in hub.asked("PUT", "^/upload/")] == [len(WEIGHTS)]
    api.upload_file(path_or_fileobj=WEIGHTS, path_in_repo="copy.safetensors", repo_id="me/ticket")
    assert len(hub.asked("PUT", "^/upload/")) == 1
    hf_hub_download("me/ticket", "mask.safetensors", cache_dir=tmp_path)
    hf_hub_download("me/ticket", "mask.safetensors", cache_dir=tmp_path)
    assert [get.bytes_sent for get in hub.asked("GET", "mask.safetensors")] == [len(WEIGHTS)]
    before = hub.commits("me/ticket")
    api.upload_folder(repo_id="me/ticket", folder_path=folder)  # the client sees that nothing is new
    assert hub.commits("me/ticket") == before


def test_a_repository_is_made_once_and_can_be_removed(hub: Hub, api: HfApi) -> None:
    api.create_repo("me/ticket", private=True)
    assert api.model_info("me/ticket").private
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("me/ticket")
    assert api.create_repo("me/ticket", exist_ok=True).repo_id == "me/ticket"
    api.update_repo_settings("me/ticket", private=False)
    assert not api.model_info("me/ticket").private
    api.delete_repo("me/ticket")
    assert not api.repo_exists("me/ticket")
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("me/ticket")
    assert api.create_repo("table", repo_type="dataset").repo_id == "me/table"
    assert api.dataset_info("me/table").sha == hub.repository("me/table", "dataset").commit("main").oid


def test_a_pull_request_leaves_main_alone_until_it_is_merged(hub: Hub, api: HfApi) -> None:
    hub.add_repository("lab/ticket", {"a.txt": b"1"})
    stranger = HfApi(token="hf_other")
    with pytest.raises(HfHubHTTPError, match="403"):
        stranger.upload_file(path_or_fileobj=b"2", path_in_repo="a.txt", repo_id="lab/ticket")
    commit = stranger.upload_file(
        path_or_fileobj=b"2", path_in_repo="a.txt", repo_id="lab/ticket", create_pr=True, commit_message="Change a"
    )
    assert (commit.pr_num, commit.pr_revision) == (1, "refs/pr/1")
    stranger.upload_file(path_or_fileobj=b"3", path_in_repo="b.txt", repo_id="lab/ticket", revision="refs/pr/1")
    assert hub.files("lab/ticket")["a.txt"] == b"1"
    assert uploaded(hub, "lab/ticket", "refs/pr/1") == {"a.txt": b"2", "b.txt": b"3"}
    refs = api.list_repo_refs("lab/ticket", include_pull_requests=True)
    assert [ref.ref for ref in refs.pull_requests or []] == ["refs/pr/1"]
    api.merge_pull_request("lab/ticket", 1)
    assert uploaded(hub, "lab/ticket") == {"a.txt": b"2", "b.txt": b"3"}
    details = api.get_discussion_details("lab/ticket", 1)
    assert (details.status, details.title, details.author) == ("merged", "Change a", "other")


def test_tags_and_branches_point_to_commits(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    hub.add_repository("me/ticket", {"a.txt": b"1"})
    first = hub.commits("me/ticket")[0].oid
    api.create_tag("me/ticket", tag="v1", tag_message="The first")
    api.create_branch("me/ticket", branch="next/round")
    api.upload_file(path_or_fileobj=b"2", path_in_repo="a.txt", repo_id="me/ticket", revision="next/round")
    api.upload_file(path_or_fileobj=b"3", path_in_repo="a.txt", repo_id="me/ticket")
    for revision, content in {"v1": "1", first: "1", "next/round": "2", "main": "3"}.items():
        path = hf_hub_download("me/ticket", "a.txt", revision=revision, cache_dir=tmp_path)
        assert Path(path).read_text() == content
    refs = api.list_repo_refs("me/ticket")
    assert [(tag.name, tag.target_commit) for tag in refs.tags] == [("v1", first)]
    assert [branch.name for branch in refs.branches] == ["main", "next/round"]
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag("me/ticket", tag="v1")
    api.create_tag("me/ticket", tag="v1", exist_ok=True)
    api.create_branch("me/ticket", branch="next/round", exist_ok=True)
    api.delete_tag("me/ticket", tag="v1")
    api.delete_branch("me/ticket", branch="next/round")
    assert sorted(hub.references("me/ticket")) == ["refs/heads/main"]
    with pytest.raises(RevisionNotFoundError):
        api.create_tag("me/ticket", tag="v2", revision="v1")


def test_a_commit_is_made_whole_or_not_at_all(hub: Hub, api: HfApi) -> None:
    hub.add_repository("me/ticket", {"a.txt": b"1", "old/b.txt": b"1"})
    before = hub.commits("me/ticket")
    operations: list[Any] = [CommitOperationAdd("a.txt", b"2"), CommitOperationDelete("missing.txt")]
    with pytest.raises(EntryNotFoundError, match="doesn't exist"):
        api.create_commit("me/ticket", operations, commit_message="Half of this cannot be done")
    card = CommitOperationAdd("README.md", b"---\nlicense: mine\n---\n")
    with pytest.raises(ValueError, match='"license" must be one of'):
        api.create_commit("me/ticket", [CommitOperationAdd("a.txt", b"2"), card], commit_message="A wrong card")
    operations = [CommitOperationAdd("a.txt", b"2")]
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit("me/ticket", operations, commit_message="Too late", parent_commit=before[-1].oid)
    assert hub.commits("me/ticket") == before
    operations = [CommitOperationAdd("a.txt", b"2"), CommitOperationDelete("old/")]
    api.create_commit("me/ticket", operations, commit_message="Both", parent_commit=before[0].oid)
    assert uploaded(hub, "me/ticket") == {"a.txt": b"2"}
    assert hub.files("me/ticket", before[0].oid)["a.txt"] == b"1"
    assert [known.title for known in api.list_repo_commits("me/ticket")] == ["Both", "Change files", "initial commit"]


def test_what_is_missing_or_closed_raises_its_own_error(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    hub.add_repository("me/ticket", {"a.txt": b"1"})
    hub.add_repository("other/gated", {"a.txt": b"1"}, gated=True)
    hub.add_repository("other/private", {"a.txt": b"1"}, private=True)

    def download(name: str, file: str = "a.txt", **options: Any) -> str:
        return hf_hub_download(name, file, cache_dir=tmp_path, **options)

    with pytest.raises(RepositoryNotFoundError):
        download("me/nothing")
    with pytest.raises(RepositoryNotFoundError):
        download("me/nothing", token=False)
    with pytest.raises(EntryNotFoundError):
        download("me/ticket", "b.txt")
    with pytest.raises(RevisionNotFoundError):
        download("me/ticket", revision="v9")
    with pytest.raises(RepositoryNotFoundError):
        download("other/private")
    assert Path(download("other/private", token="hf_other")).read_text() == "1"
    for token in (None, False):
        with pytest.raises(GatedRepoError):
            download("other/gated", token=token)
    assert api.model_info("other/gated").gated == "manual"
    hub.repository("other/gated").granted.add("me")
    assert Path(download("other/gated")).read_text() == "1"
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        download("me/ticket", token="hf_unknown")
    for options in ({"token": False}, {"token": "hf_read"}, {"token": "hf_other"}):
        with pytest.raises(HfHubHTTPError, match=r"401|403"):
            api.upload_file(path_or_fileobj=b"2", path_in_repo="a.txt", repo_id="me/ticket", **options)
    assert uploaded(hub, "me/ticket") == {"a.txt": b"1"}


@pytest.mark.skipif(version.parse(__version__) < version.parse("2"), reason="it checks cards at the Hub itself only")
def test_a_card_is_pushed_as_it_is(hub: Hub) -> None:
    hub.add_repository("me/ticket")
    card = ModelCard(CARD)
    card.push_to_hub("me/ticket")
    assert uploaded(hub, "me/ticket") == {"README.md": str(card).encode()}


def test_cards_are_loaded_and_those_with_wrong_metadata_are_refused(hub: Hub, api: HfApi) -> None:
    data = ModelCardData(license="mit", base_model="bert-base-uncased", base_model_relation="adapter")
    hub.add_repository("me/ticket", {"README.md": f"---\n{data.to_yaml()}\n---\n".encode()})
    wrong = {
        "model-index: none": '"model-index" must be an array',
        "model-index:\n- name: a\n  results:\n  - task: {type: b}": r"results\[0\].dataset",
        "tags: one": '"tags" must be an array',
        "base_model: /home/me/bert": '"base_model" with value',
        "pipeline_tag: [a]": '"pipeline_tag" must be a string',
        "base_model: [a": "YAML",
        "- a": "must be an object",
    }
    for metadata, message in wrong.items():
        card = f"---\n{metadata}\n---\n"
        with pytest.raises(ValueError, match=message):
            api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id="me/ticket")
    assert ModelCard.load("me/ticket").data.to_dict() == data.to_dict()


def test_models_are_found_by_what_their_cards_say(hub: Hub, api: HfApi) -> None:
    hub.add_repository("me/a", {"README.md": CARD.encode(), "m.safetensors": b"1"})
    hub.add_repository("me/b", {"README.md": CARD.replace("license", "base_model_relation: adapter\nlicense").encode()})
    hub.add_repository("other/c", {"config.json": b"{}"})
    hub.add_repository("other/secret", {"README.md": CARD.encode()}, private=True)

    def found(**options: Any) -> list[str]:
        return [model.id for model in api.list_models(**options)]

    assert found() == ["me/a", "me/b", "other/c"]
    assert found(filter="base_model:bert-base-uncased") == ["me/a", "me/b"]
    assert found(filter="base_model:adapter:bert-base-uncased") == ["me/b"]
    assert found(filter=["hf_tickets", "lottery", "safetensors"]) == ["me/a"]
    assert (found(author="other"), found(search="/B"), found(limit=1)) == (["other/c"], ["me/b"], ["me/a"])
    hub.store.page_size = 2
    assert found() == ["me/a", "me/b", "other/c"]
    info = next(iter(api.list_models(search="me/a", full=True, cardData=True)))
    assert info.library_name == "hf_tickets"
    assert [file.rfilename for file in info.siblings or []] == [".gitattributes", "README.md", "m.safetensors"]
    assert info.card_data is not None
    assert info.card_data["license"] == "mit"


def test_sizes_and_digests_of_files_are_told(hub: Hub, api: HfApi) -> None:
    hub.add_repository("me/ticket", {"deep/a.txt": b"1", "m.safetensors": WEIGHTS})
    tree: dict[str, Any] = {entry.path: entry for entry in api.list_repo_tree("me/ticket")}
    assert sorted(tree) == [".gitattributes", "deep", "m.safetensors"]
    sha256 = CommitOperationAdd("m.safetensors", WEIGHTS).upload_info.sha256.hex()
    large = tree["m.safetensors"]
    assert (large.size, large.lfs.sha256) == (len(WEIGHTS), sha256)
    assert [info.path for info in api.get_paths_info("me/ticket", ["deep/a.txt", "missing"])] == ["deep/a.txt"]
    files = api.model_info("me/ticket", files_metadata=True).siblings or []
    assert {file.rfilename: file.size for file in files}["m.safetensors"] == len(WEIGHTS)
    assert api.file_exists("me/ticket", "deep/a.txt")
    assert not api.file_exists("me/ticket", "deep/b.txt")


def test_collections_hold_models_once(hub: Hub, api: HfApi) -> None:
    hub.add_repository("me/a")
    collection = api.create_collection("My tickets", description="All of them")
    assert api.create_collection("My tickets", exists_ok=True).slug == collection.slug
    api.add_collection_item(collection.slug, "me/a", "model", note="The first")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.add_collection_item(collection.slug, "me/a", "model")
    api.add_collection_item(collection.slug, "me/a", "model", exists_ok=True)
    with pytest.raises(HfHubHTTPError, match="404"):
        api.add_collection_item(collection.slug, "me/nothing", "model")
    items = api.get_collection(collection.slug).items
    assert [(item.item_id, item.item_type, item.note) for item in items] == [("me/a", "model", "The first")]
    assert [known.slug for known in api.list_collections(owner="me", item="models/me/a")] == [collection.slug]
    api.delete_collection_item(collection.slug, items[0].item_object_id)
    assert api.get_collection(collection.slug).items == []
    api.delete_collection(collection.slug)
    with pytest.raises(HfHubHTTPError, match="404"):
        api.get_collection(collection.slug)


def test_a_model_of_transformers_goes_up_and_comes_back(hub: Hub, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModel, BertConfig, BertModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = BertModel(BertConfig(vocab_size=16, **sizes))
    model.push_to_hub("me/tiny")
    assert {"README.md", "config.json", "model.safetensors"} <= set(hub.files("me/tiny"))
    loaded = AutoModel.from_pretrained("me/tiny", cache_dir=tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_another_program_reads_its_cache_when_it_is_offline(hub: Hub, run_client: RunClient) -> None:
    hub.add_repository("me/ticket", {"a.txt": b"1", "m.safetensors": WEIGHTS})
    code = "import sys; from huggingface_hub import snapshot_download as get; print(get('me/ticket', revision='main'))"
    online = run_client(code)
    assert online.returncode == 0, online.stderr
    asked = len(hub.requests)
    assert contents(online.stdout.strip()) == hub.files("me/ticket")
    offline = run_client(code, HF_HUB_OFFLINE="1")
    assert (offline.returncode, offline.stdout, len(hub.requests)) == (0, online.stdout, asked)
    empty = run_client(code, HF_HUB_OFFLINE="1", HF_HOME="elsewhere")
    assert empty.returncode == 1
    assert LocalEntryNotFoundError.__name__ in empty.stderr


def test_a_client_with_xet_opens_its_pull_request_first(hub: Hub, run_client: RunClient) -> None:
    hub.add_repository("me/ticket")
    code = """
from pathlib import Path
from huggingface_hub import upload_folder
Path("folder").mkdir()
Path("folder/a.txt").write_text("1")
print(upload_folder(repo_id="me/ticket", folder_path="folder", create_pr=True).pr_url)
"""
    result = run_client(code, HF_HUB_DISABLE_XET=None)
    assert result.stdout.strip() == f"{hub.endpoint}/me/ticket/discussions/1", result.stderr
    assert uploaded(hub, "me/ticket", "refs/pr/1") == {"a.txt": b"1"}
    assert uploaded(hub, "me/ticket") == {}
