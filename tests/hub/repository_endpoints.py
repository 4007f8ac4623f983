"""Endpoints for repositories as a whole: making, finding and describing them, their references and discussions."""

from typing import Any
from urllib.parse import urlencode

from hub import cards
from hub.messages import Answer, Call, HubError, json_answer
from hub.repositories import Discussion, Repository, now
from hub.routes import REPOSITORY, route
from hub.store import KINDS, Store


@route("GET", "/api/whoami-v2")
def whoami(store: Store, call: Call) -> Answer:
    """Who the token belongs to."""
    if call.user is None:
        raise HubError(401, "Invalid username or password.")
    role = "write" if call.user.may_write else "read"
    return json_answer(
        {
            "type": "user",
            "id": call.user.name,
            "name": call.user.name,
            "fullname": call.user.name.title(),
            "isPro": False,
            "orgs": [{"type": "org", "name": name, "roleInOrg": "write"} for name in call.user.organisations],
            "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": role, "createdAt": now()}},
        }
    )


@route("POST", "/api/repos/create")
def create(store: Store, call: Call) -> Answer:
    """Make a repository with a first commit, as the Hub does."""
    asked = call.json()
    kind, namespace = asked.get("type") or "model", asked.get("organization")
    user = store.writer(call.user, namespace)
    name = f"{namespace or user.name}/{asked['name']}"
    repository = store.repositories.get((kind, name))
    if repository is not None:
        about = {"error": f"You already created this {kind} repo: {name}", "url": store.address(repository)}
        return json_answer(about, 409)
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    repository = store.add(name, kind, user.name, private=private)
    return json_answer({"url": store.address(repository), "name": name, "id": name})


@route("DELETE", "/api/repos/delete")
def delete(store: Store, call: Call) -> Answer:
    """Remove a repository."""
    asked = call.json()
    user = store.writer(call.user, asked.get("organization"))
    kind, name = asked.get("type") or "model", f"{asked.get('organization') or user.name}/{asked['name']}"
    store.repository(kind, name, call.user)
    del store.repositories[kind, name]
    return json_answer({})


@route("GET", "/api/models")
def search(store: Store, call: Call) -> Answer:
    """The models with all the tags in `filter`, by the author, whose name contains the text in `search`."""
    wanted = {tag for value in call.query.get("filter", []) for tag in value.split(",")}
    wanted |= set(call.query.get("pipeline_tag", []))
    author, text = call.first("author"), (call.first("search") or "").lower()
    found = []
    for (kind, name), repository in store.repositories.items():
        visible = not repository.private or (call.user is not None and call.user.owns(repository.namespace))
        if kind == "model" and visible and text in name.lower() and author in (None, repository.namespace):
            about = describe(store, repository, "main")
            if wanted <= set(about["tags"]):
                found.append(about)
    start, size = int(call.first("cursor") or 0), min(int(call.first("limit") or store.page_size), store.page_size)
    page = [_shown(about, call) for about in found[start : start + size]]
    headers = {}
    if start + size < len(found):
        query = urlencode({**call.query, "cursor": [str(start + size)]}, doseq=True)
        headers["Link"] = f'<{store.endpoint}/api/models?{query}>; rel="next"'
    return json_answer(page, headers=headers)


def _shown(about: dict[str, Any], call: Call) -> dict[str, Any]:
    keys = {
        "_id",
        "id",
        "modelId",
        "likes",
        "private",
        "downloads",
        "tags",
        "pipeline_tag",
        "library_name",
        "createdAt",
    }
    if call.flag("full"):
        keys |= {"author", "sha", "lastModified", "gated", "disabled", "siblings"}
    if call.flag("cardData"):
        keys.add("cardData")
    if "expand" in call.query:
        keys = {"_id", "id", *call.query["expand"]}
    return {key: value for key, value in about.items() if key in keys}


def describe(store: Store, repository: Repository, revision: str, *, blobs: bool = False) -> dict[str, Any]:
    """What the Hub tells of a repository at a revision."""
    commit = repository.commit(revision)
    card = cards.card_of(commit.files)
    siblings = []
    for path, file in commit.files.items():
        sibling: dict[str, Any] = {"rfilename": path}
        if blobs:
            sibling |= {"size": len(file.content), "blobId": file.git_id}
            if file.lfs:
                sizes = {"size": len(file.content), "pointerSize": len(file.pointer)}
                sibling["lfs"] = {"sha256": file.sha256, **sizes}
        siblings.append(sibling)
    about = {
        "_id": repository.name,
        "id": repository.name,
        "modelId": repository.name,
        "author": repository.namespace or None,
        "sha": commit.oid,
        "lastModified": commit.date,
        "createdAt": repository.created,
        "private": repository.private,
        "gated": "manual" if repository.gated else False,
        "disabled": False,
        "downloads": repository.downloads,
        "likes": 0,
        "tags": cards.tags_of(commit.files, card),
        "library_name": cards.library_of(commit.files, card),
        "pipeline_tag": card.get("pipeline_tag"),
        "cardData": card or None,
        "model-index": card.get("model-index"),
        "siblings": siblings,
    }
    return {key: value for key, value in about.items() if value is not None}


@route("GET", rf"{REPOSITORY}/auth-check(?P<write>/write)?")
def check_access(store: Store, call: Call, plural: str, name: str, write: str | None) -> Answer:
    """Whether the files may be read, or written."""
    repository = store.repository(KINDS[plural], name, call.user)
    store.check_files(repository, call.user)
    if write:
        store.writer(call.user, repository.namespace)
    return json_answer({})


@route("PUT", rf"{REPOSITORY}/settings")
def change_settings(store: Store, call: Call, plural: str, name: str) -> Answer:
    """Change who may see a repository."""
    repository = store.repository(KINDS[plural], name, call.user)
    store.writer(call.user, repository.namespace)
    asked = call.json()
    if "visibility" in asked or "private" in asked:
        repository.private = asked.get("visibility") == "private" or bool(asked.get("private"))
    if "gated" in asked:
        repository.gated = bool(asked["gated"])
    return json_answer({"private": repository.private, "gated": repository.gated})


@route("GET", rf"{REPOSITORY}/refs")
def references(store: Store, call: Call, plural: str, name: str) -> Answer:
    """The branches, tags and pull requests."""
    repository = store.repository(KINDS[plural], name, call.user)
    listed: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
    for reference, oid in repository.references.items():
        for prefix, group in (("refs/heads/", "branches"), ("refs/tags/", "tags"), ("refs/pr/", "pullRequests")):
            if reference.startswith(prefix):
                short = reference.removeprefix(prefix)
                listed[group].append({"name": short, "ref": reference, "targetCommit": oid})
    return json_answer(listed)


@route("POST", rf"{REPOSITORY}/(?P<group>tag|branch)/(?P<label>[^/]+)")
def add_reference(store: Store, call: Call, plural: str, name: str, group: str, label: str) -> Answer:
    """Make a tag of the revision in the address, or a branch of that name."""
    repository = store.repository(KINDS[plural], name, call.user)
    store.writer(call.user, repository.namespace)
    asked = call.json()
    if group == "tag":
        reference, start = f"refs/tags/{asked['tag']}", label
    else:
        reference, start = f"refs/heads/{label}", asked.get("startingPoint") or "main"
    target = repository.commit(start).oid
    if reference in repository.references:
        raise HubError(409, f"Reference already exists: {reference}")
    repository.references[reference] = target
    return json_answer({})


@route("DELETE", rf"{REPOSITORY}/(?P<group>tag|branch)/(?P<label>[^/]+)")
def remove_reference(store: Store, call: Call, plural: str, name: str, group: str, label: str) -> Answer:
    """Remove a tag or a branch."""
    repository = store.repository(KINDS[plural], name, call.user)
    store.writer(call.user, repository.namespace)
    reference = f"refs/{'tags' if group == 'tag' else 'heads'}/{label}"
    if reference == "refs/heads/main":
        raise HubError(403, "Cannot delete the main branch")
    if repository.references.pop(reference, None) is None:
        raise HubError(404, f"Invalid rev id: {label}", "RevisionNotFound")
    return json_answer({})


@route("POST", rf"{REPOSITORY}/discussions")
def open_discussion(store: Store, call: Call, plural: str, name: str) -> Answer:
    """Open a discussion or a pull request."""
    repository, asked = store.repository(KINDS[plural], name, call.user), call.json()
    author = store.writer(call.user).name
    pull_request = bool(asked.get("pullRequest"))
    opened = repository.discuss(asked["title"], asked.get("description", ""), author, pull_request=pull_request)
    return json_answer({"num": opened.number, "pullRequest": opened.is_pull_request})


@route("GET", rf"{REPOSITORY}/discussions")
def list_discussions(store: Store, call: Call, plural: str, name: str) -> Answer:
    """All discussions and pull requests."""
    repository = store.repository(KINDS[plural], name, call.user)
    listed = [_discussion(repository, discussion) for discussion in reversed(repository.discussions)]
    return json_answer({"discussions": listed, "count": len(listed), "start": 0})


@route("GET", rf"{REPOSITORY}/discussions/(?P<number>\d+)")
def read_discussion(store: Store, call: Call, plural: str, name: str, number: str) -> Answer:
    """One discussion or pull request."""
    repository = store.repository(KINDS[plural], name, call.user)
    return json_answer(_discussion(repository, repository.discussion(int(number))))


@route("POST", rf"{REPOSITORY}/discussions/(?P<number>\d+)/merge")
def merge(store: Store, call: Call, plural: str, name: str, number: str) -> Answer:
    """Merge a pull request."""
    repository = store.repository(KINDS[plural], name, call.user)
    user = store.writer(call.user, repository.namespace)
    discussion = repository.discussion(int(number))
    if not discussion.is_pull_request or discussion.status not in ("open", "draft"):
        raise HubError(400, "This pull request cannot be merged")
    return json_answer({"oid": repository.merge(discussion, user.name).oid})


def _discussion(repository: Repository, discussion: Discussion) -> dict[str, Any]:
    comment = {
        "id": f"{discussion.number:024x}",
        "type": "comment",
        "createdAt": discussion.created,
        "author": {"name": discussion.author},
        "data": {"edited": False, "hidden": False, "latest": {"raw": discussion.description}},
    }
    about: dict[str, Any] = {
        "num": discussion.number,
        "title": discussion.title,
        "author": {"name": discussion.author},
        "createdAt": discussion.created,
        "status": discussion.status,
        "repo": {"name": repository.name, "type": repository.kind},
        "isPullRequest": discussion.is_pull_request,
        "events": [comment],
    }
    if discussion.is_pull_request:
        changes = {"base": "refs/heads/main", "mergeCommitId": discussion.merged_as}
        about |= {"changes": changes, "filesWithConflicts": [], "diff": ""}
    return about


@route("GET", rf"{REPOSITORY}(?:/revision/(?P<revision>[^/]+))?")
def information(store: Store, call: Call, plural: str, name: str, revision: str | None) -> Answer:
    """What is known of a repository; everyone may see that of a gated one."""
    repository = store.repository(KINDS[plural], name, call.user)
    about = describe(store, repository, revision or "main", blobs=call.flag("blobs"))
    return json_answer(_shown(about, call) if "expand" in call.query else about)
