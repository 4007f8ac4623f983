"""Pushing a ticket to the Hub: the ladder on main, and each rung alone under a tag of its own."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

from hf_tickets.errors import HubError
from hf_tickets.paths import is_folder
from hf_tickets.ticket.blobs import is_blob
from hf_tickets.ticket.card import ACCURACY_FIGURE, CARD_FILE, LAYERS_FIGURE, save_card
from hf_tickets.ticket.config import CONFIG_FILE
from hf_tickets.ticket.hub_errors import hub_errors
from hf_tickets.ticket.ladder import LADDER_FILE
from hf_tickets.ticket.publishing import publishable
from hf_tickets.ticket.tags import is_rung_tag, rung_tags
from hf_tickets.ticket.theta import THETA_FILE

if TYPE_CHECKING:
    from hf_tickets.ticket.ticket import Ticket

logger = logging.getLogger(__name__)

_OWN_FILES = (CONFIG_FILE, LADDER_FILE, THETA_FILE, CARD_FILE, ACCURACY_FIGURE, LAYERS_FIGURE)
_RUNGS = "rungs"  # the branch of the commits that hold one rung each
_BASE_FILES = [
    "config.json",
    "generation_config.json",
    "model*.safetensors*",
    "*token*",
    "vocab*",
    "merges.txt",
    "*.model",
    "*processor_config.json",
    "chat_template*",
]


def push(
    ticket: "Ticket",
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    token: str | None = None,
    tags: Sequence[str] = (),
    push_base: bool = False,
) -> CommitInfo:
    """Push a ticket; arguments and errors as in `Ticket.push_to_hub`."""
    api = HfApi(token=token)
    with hub_errors(repo_id, revision, token), TemporaryDirectory() as temporary:
        ready = publishable(_on_pushed_base(ticket, repo_id, private, api) if push_base else ticket, token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        folder = _write(ready, Path(temporary) / "ladder", repo_id, tags)
        on_main = revision in (None, "main") and not create_pr
        if revision is not None and not on_main and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        message = commit_message or f"Ticket of {len(ready.sparsities)} sparsities up to {ready.sparsities[-1]:.2%}"
        commit = _commit(api, repo_id, folder, revision, message, create_pr)
        if on_main and len(ready.sparsities) == 1:
            _tag(api, repo_id, rung_tags(ready.sparsities)[0], commit.oid)
        elif on_main:
            for tag, rung in _rungs(ready):
                _push_rung(api, repo_id, tag, _write(rung, Path(temporary) / tag, repo_id, tags, figures=False))
        if on_main:
            _delete_other_tags(api, repo_id, rung_tags(ready.sparsities))
    logger.info("ticket pushed: %s", commit.commit_url)
    return commit


def _rungs(ticket: "Ticket") -> "Iterator[tuple[str, Ticket]]":
    """Yield tag and ticket of each rung, the densest first: each mask is composed from the one before."""
    for tag, sparsity in zip(rung_tags(ticket.sparsities), ticket.sparsities, strict=True):
        yield tag, ticket.at(sparsity).rung(theta=True)


def _write(ticket: "Ticket", folder: Path, repo_id: str, tags: Sequence[str], figures: bool = True) -> Path:
    ticket.save_pretrained(folder)
    save_card(ticket, folder, repo_id, tags, figures)
    return folder


def _commit(
    api: HfApi, repo_id: str, folder: Path, revision: str | None, message: str, create_pr: bool = False
) -> CommitInfo:
    """Make a folder's files a repository's in one commit; those of an earlier ticket that it lacks are deleted."""
    files = {path.name: path for path in sorted(folder.iterdir())}
    there = set() if create_pr and revision else set(api.list_repo_files(repo_id, revision=revision))
    return api.create_commit(
        repo_id,
        [
            *(CommitOperationAdd(name, path) for name, path in files.items()),
            *(CommitOperationDelete(name) for name in _OWN_FILES if name in there and name not in files),
        ],
        commit_message=message,
        revision=revision,
        create_pr=create_pr,
    )


def _push_rung(api: HfApi, repo_id: str, tag: str, folder: Path) -> None:
    """Put a rung alone under its tag, unless it is there already."""
    if _is_there(api, repo_id, tag, folder):
        return
    api.create_branch(repo_id, branch=_RUNGS, exist_ok=True)
    commit = _commit(api, repo_id, folder, _RUNGS, f"The rung {tag} alone")
    _tag(api, repo_id, tag, commit.oid)


def _tag(api: HfApi, repo_id: str, tag: str, commit: str) -> None:
    there = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id).tags}
    if there.get(tag) == commit:
        return
    if tag in there:
        api.delete_tag(repo_id, tag=tag)
    api.create_tag(repo_id, tag=tag, revision=commit)


def _delete_other_tags(api: HfApi, repo_id: str, tags: Sequence[str]) -> None:
    """Delete the tags of rungs that an earlier ticket had and this one has not."""
    for ref in api.list_repo_refs(repo_id).tags:
        if ref.name not in tags and is_rung_tag(ref.name):
            api.delete_tag(repo_id, tag=ref.name)


def _is_there(api: HfApi, repo_id: str, tag: str, folder: Path) -> bool:
    """Whether the ticket under a tag is the one in a folder, by the digests that the Hub keeps of files."""
    try:
        listed = [file for file in api.list_repo_tree(repo_id, revision=tag) if isinstance(file, RepoFile)]
    except RevisionNotFoundError:
        return False
    there = {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in listed if file.path in _OWN_FILES}
    here = {path.name: path for path in folder.iterdir()}
    return there.keys() == here.keys() and all(is_blob(path, there[name]) for name, path in here.items())


def _on_pushed_base(ticket: "Ticket", repo_id: str, private: bool | None, api: HfApi) -> "Ticket":
    """Upload a base model of this machine beside the ticket, and name it as the ticket's base."""
    base = ticket.config.base_model
    if base is None or not is_folder(base):
        raise HubError(f"the base model to push must be a folder, and the ticket's is {base!r}")
    publishable(ticket)  # the folder still holds the weights that the ticket was found on
    name = f"{repo_id}-base"
    with hub_errors(name):
        name = api.create_repo(name, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=name, folder_path=base, allow_patterns=_BASE_FILES, commit_message="Base model of a ticket"
        )
    config = replace(ticket.config, base_model=name, base_model_revision=commit.oid)
    return type(ticket)(ticket.ladder, config, ticket.theta, ticket.sparsity)
