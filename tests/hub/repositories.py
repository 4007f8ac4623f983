"""Repositories with commits: each commit is an immutable snapshot, branches and tags point to commits."""

import fnmatch
import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any

from hub.messages import HubError

GIT_ATTRIBUTES = "".join(
    f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n"
    for suffix in (".7z", ".bin", ".gz", ".h5", ".npy", ".npz", ".onnx", ".pt", ".pth", ".safetensors", ".zip")
).encode()
LARGEST_REGULAR_FILE = 10 * 1024 * 1024
COMMIT_ID = re.compile(r"[0-9a-f]{40}")


def now() -> str:
    """The time as the Hub writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class File:
    """The content of a file, and whether git keeps it or only a pointer to it (LFS)."""

    content: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        """The digest an LFS file is known by."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What git keeps in place of an LFS file."""
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        ).encode()

    @cached_property
    def git_id(self) -> str:
        """The id of git's blob: of the content, or of the pointer to it."""
        blob = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def known_as(self) -> str:
        """The digest by which a client sees that its file is not new, and the ETag of a download."""
        return self.sha256 if self.lfs else self.git_id

    def entry(self, path: str) -> dict[str, Any]:
        """The file in the listing of a tree."""
        entry: dict[str, Any] = {"type": "file", "oid": self.git_id, "size": len(self.content), "path": path}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
        return entry


@dataclass(frozen=True)
class Commit:
    """A snapshot of all files, never changed once it is recorded."""

    oid: str
    parent: str | None
    files: Mapping[str, File]
    title: str
    description: str
    author: str
    date: str

    def contents(self) -> dict[str, bytes]:
        """The files as path -> bytes."""
        return {path: file.content for path, file in self.files.items()}


@dataclass
class Discussion:
    """A discussion or a pull request; the latter has commits under refs/pr/<number>."""

    number: int
    title: str
    author: str
    description: str
    is_pull_request: bool
    status: str
    base: str
    created: str = field(default_factory=now)
    merged_as: str | None = None


class Repository:
    """A repository: its commits, its references and its settings."""

    def __init__(self, name: str, kind: str, owner: str, *, private: bool = False, gated: bool = False) -> None:
        self.name, self.kind = name, kind
        self.private, self.gated = private, gated
        self.granted: set[str] = set()
        self.created = now()
        self.downloads = 0
        self.commits: dict[str, Commit] = {}
        self.references: dict[str, str] = {}
        self.discussions: list[Discussion] = []
        first = self._record(None, {".gitattributes": File(GIT_ATTRIBUTES)}, "initial commit", "", owner)
        self.references["refs/heads/main"] = first.oid

    @property
    def namespace(self) -> str:
        """The user or organisation the repository belongs to; empty for a name without one."""
        return self.name.rpartition("/")[0]

    def reference(self, revision: str) -> str | None:
        """The full name of a branch, tag or pull request; None when there is none of that name."""
        candidates = (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        return next((name for name in candidates if name in self.references), None)

    def commit(self, revision: str) -> Commit:
        """The commit a revision names, or the Hub's error when there is none."""
        reference = self.reference(revision)
        oid = revision if reference is None else self.references[reference]
        if oid not in self.commits and re.fullmatch(r"[0-9a-f]{7,39}", oid):
            oid = next((known for known in self.commits if known.startswith(oid)), oid)
        if oid not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def file(self, revision: str, path: str) -> tuple[Commit, File]:
        """A file of a revision, or the Hub's error when there is none."""
        commit = self.commit(revision)
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit.oid})
        return commit, commit.files[path]

    def history(self, revision: str) -> list[Commit]:
        """The commits that lead to a revision, the newest first."""
        commits = [self.commit(revision)]
        while commits[-1].parent is not None:
            commits.append(self.commits[commits[-1].parent])
        return commits

    def advance(
        self,
        reference: str,
        files: Mapping[str, File],
        title: str,
        description: str,
        author: str,
    ) -> Commit:
        """Record a snapshot after the head of a reference and point the reference to it, both or neither."""
        commit = self._record(self.references[reference], files, title, description, author)
        self.references[reference] = commit.oid
        return commit

    def wants_lfs(self, revision: str, path: str, size: int) -> bool:
        """Whether a file goes to LFS: by the patterns in .gitattributes, or because it is large."""
        attributes = self.commit(revision).files.get(".gitattributes", File(b"")).content.decode()
        patterns = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]
        name = path.rpartition("/")[2]
        return size > LARGEST_REGULAR_FILE or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)

    def discuss(
        self, title: str, description: str, author: str, *, pull_request: bool, status: str = "draft"
    ) -> Discussion:
        """Open a discussion, or a pull request that starts at the head of main."""
        base = self.references["refs/heads/main"]
        number = len(self.discussions) + 1
        state = status if pull_request else "open"
        discussion = Discussion(number, title, author, description, pull_request, state, base)
        self.discussions.append(discussion)
        if pull_request:
            self.references[f"refs/pr/{number}"] = base
        return discussion

    def discussion(self, number: int) -> Discussion:
        """A discussion by its number, or the Hub's error when there is none."""
        if not 1 <= number <= len(self.discussions):
            raise HubError(404, "Discussion not found")
        return self.discussions[number - 1]

    def merge(self, discussion: Discussion, author: str) -> Commit:
        """Apply what a pull request changed to main."""
        head, base = self.commit(f"refs/pr/{discussion.number}").files, self.commits[discussion.base].files
        files = {path: file for path, file in self.commit("main").files.items() if path in head or path not in base}
        files |= {path: file for path, file in head.items() if base.get(path) != file}
        commit = self.advance("refs/heads/main", files, f"{discussion.title} (#{discussion.number})", "", author)
        discussion.status, discussion.merged_as = "merged", commit.oid
        return commit

    def _record(
        self, parent: str | None, files: Mapping[str, File], title: str, description: str, author: str
    ) -> Commit:
        # The random part keeps ids apart between tests, as a client's cache outlives a reset.
        tree = {path: file.git_id for path, file in sorted(files.items())}
        text = json.dumps([parent, tree, title, author, uuid.uuid4().hex])
        oid = hashlib.sha1(text.encode()).hexdigest()
        snapshot = MappingProxyType(dict(sorted(files.items())))
        self.commits[oid] = Commit(oid, parent, snapshot, title, description, author, now())
        return self.commits[oid]


def tree_entries(files: Mapping[str, File], folder: str, *, recursive: bool) -> Iterable[dict[str, Any]]:
    """The files and folders of a tree that lie under a folder, as the Hub lists them."""
    prefix = f"{folder}/" if folder else ""
    folders: set[str] = set()
    for path, file in files.items():
        if not path.startswith(prefix):
            continue
        parents = path[len(prefix) :].split("/")[:-1]
        for depth in range(1, len(parents) + 1 if recursive else min(len(parents), 1) + 1):
            parent = prefix + "/".join(parents[:depth])
            if parent not in folders:
                folders.add(parent)
                yield {"type": "directory", "oid": hashlib.sha1(parent.encode()).hexdigest(), "size": 0, "path": parent}
        if recursive or not parents:
            yield file.entry(path)
