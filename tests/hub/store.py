"""All the stand-in keeps: users, repositories, LFS objects and collections; and who may do what."""

import threading
from typing import Any

from hub.messages import HubError, User
from hub.repositories import Discussion, Repository

TOKENS = {
    "hf_test": User("me", organisations=("lab",)),
    "hf_other": User("other"),
    "hf_read": User("me", may_write=False),
}
KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}


class Store:
    """The state of the stand-in; `lock` is held while a call reads or changes it."""

    def __init__(self, endpoint: str, storage: str) -> None:
        # Large files are downloaded from another host name, as on the Hub, so that clients drop their token.
        self.endpoint, self.storage = endpoint, storage
        self.page_size = 1000
        self.lock = threading.RLock()
        self.tokens = dict(TOKENS)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.collections: dict[str, dict[str, Any]] = {}

    def user(self, authorization: str | None) -> User | None:
        """Who sent a token; None without one. An unknown token is an error."""
        if authorization is None:
            return None
        token = authorization.removeprefix("Bearer ")
        if token not in self.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.tokens[token]

    def writer(self, user: User | None, namespace: str | None = None) -> User:
        """The user, who must be allowed to write, and to write under the namespace where one is given."""
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if not user.may_write:
            raise HubError(403, "You must use a token with write access")
        if namespace is not None and not user.owns(namespace):
            raise HubError(403, f"You don't have the rights to write under the namespace {namespace!r}")
        return user

    def add(
        self, name: str, kind: str = "model", owner: str = "me", *, private: bool = False, gated: bool = False
    ) -> Repository:
        """Make a repository."""
        repository = Repository(name, kind, owner, private=private, gated=gated)
        self.repositories[kind, name] = repository
        return repository

    def repository(self, kind: str, name: str, user: User | None) -> Repository:
        """A repository the user may know of."""
        repository = self.repositories.get((kind, name))
        if repository is not None and (not repository.private or (user and user.owns(repository.namespace))):
            return repository
        if user is None:  # the Hub does not tell strangers whether a private repository exists
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        raise HubError(404, "Repository not found", "RepoNotFound")

    def check_files(self, repository: Repository, user: User | None) -> None:
        """Raise unless the user may read the files of a repository."""
        known = user is not None and (user.owns(repository.namespace) or user.name in repository.granted)
        if repository.gated and not known:
            message = f"Access to model {repository.name} is restricted. You must have access to it to read its files."
            raise HubError(401 if user is None else 403, message, "GatedRepo")

    def check_push(self, repository: Repository, user: User | None, revision: str, *, opens: bool) -> User:
        """The user, who must own the repository, open a pull request, or be its author."""
        user = self.writer(user)
        asked = self.pull_request(repository, revision)
        if opens or (asked is not None and asked.author == user.name):
            return user
        return self.writer(user, repository.namespace)

    def pull_request(self, repository: Repository, revision: str) -> Discussion | None:
        """The pull request whose commits a revision such as refs/pr/1 holds."""
        number = revision.removeprefix("refs/pr/")
        return repository.discussion(int(number)) if number != revision and number.isdigit() else None

    def address(self, repository: Repository) -> str:
        """The page of a repository."""
        prefix = "" if repository.kind == "model" else f"{repository.kind}s/"
        return f"{self.endpoint}/{prefix}{repository.name}"
