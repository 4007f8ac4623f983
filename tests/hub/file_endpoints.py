"""Endpoints for what is in repositories: uploads, commits, listings and downloads."""

import base64
import hashlib
import json
import re
from typing import Any
from urllib.parse import quote

from hub import cards
from hub.messages import Answer, Call, HubError, json_answer
from hub.repositories import LARGEST_REGULAR_FILE, Commit, File, Repository, tree_entries
from hub.routes import FILES, NAME, REPOSITORY, route
from hub.store import KINDS, Store

LFS_JSON = {"Content-Type": "application/vnd.git-lfs+json"}
BYTE_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@route("POST", "/api/validate-yaml")
def validate_card(store: Store, call: Call) -> Answer:
    """Check the metadata of a README."""
    errors, warnings = cards.check(str(call.json().get("content", "")))
    if errors and "text/plain" in call.headers.get("accept", ""):
        return Answer(400, "\n".join(errors).encode(), {"Content-Type": "text/plain"})
    found = {
        "errors": [{"message": message} for message in errors],
        "warnings": [{"message": message} for message in warnings],
    }
    return json_answer(found, 400 if errors else 200)


@route("POST", rf"{REPOSITORY}/preupload/(?P<revision>[^/]+)")
def preupload(store: Store, call: Call, plural: str, name: str, revision: str) -> Answer:
    """How each file is to be uploaded, and what is there under its name."""
    repository = store.repository(KINDS[plural], name, call.user)
    store.check_push(repository, call.user, revision, opens=call.flag("create_pr"))
    files, known = [], repository.commit(revision).files
    for asked in call.json()["files"]:
        lfs = repository.wants_lfs(revision, asked["path"], asked["size"])
        about = {"path": asked["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
        if asked["path"] in known:
            about["oid"] = known[asked["path"]].known_as
        files.append(about)
    return json_answer({"files": files})


@route("POST", rf"{REPOSITORY}/commit/(?P<revision>[^/]+)")
def commit(store: Store, call: Call, plural: str, name: str, revision: str) -> Answer:
    """Make one commit of all the operations, or none of them."""
    repository = store.repository(KINDS[plural], name, call.user)
    opens = call.flag("create_pr")
    user = store.check_push(repository, call.user, revision, opens=opens)
    parent = repository.commit(revision)
    lines = [json.loads(line) for line in call.body.splitlines() if line.strip()]
    header = next((line["value"] for line in lines if line["key"] == "header"), None)
    if header is None or not header.get("summary"):
        raise HubError(400, "A commit needs a summary")
    if header.get("parentCommit") and not parent.oid.startswith(header["parentCommit"]):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    reference = repository.reference(revision)
    if reference is None or reference.startswith("refs/tags/"):
        raise HubError(400, f"Cannot commit to {revision}: it is not a branch")
    files = _changed(store, parent, lines)
    answer: dict[str, Any] = {"success": True}
    if opens:
        discussion = repository.discuss(
            header["summary"], header.get("description", ""), user.name, pull_request=True, status="open"
        )
        reference = f"refs/pr/{discussion.number}"
        answer["pullRequestUrl"] = f"{store.address(repository)}/discussions/{discussion.number}"
    made = repository.advance(reference, files, header["summary"], header.get("description", ""), user.name)
    return json_answer(answer | {"commitOid": made.oid, "commitUrl": f"{store.address(repository)}/commit/{made.oid}"})


def _changed(store: Store, parent: Commit, lines: list[dict[str, Any]]) -> dict[str, File]:
    """The files of a commit's parent after its operations; raises before anything is recorded."""
    files = dict(parent.files)
    for line in lines:
        key, value = line["key"], line["value"]
        if key == "file":
            content = base64.b64decode(value["content"])
            if len(content) > LARGEST_REGULAR_FILE:
                raise HubError(400, f"File {value['path']} is larger than 10 MiB: it must be uploaded as a LFS file")
            files[value["path"]] = File(content)
        elif key == "lfsFile":
            if value["oid"] not in store.large_files:
                raise HubError(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
            files[value["path"]] = File(store.large_files[value["oid"]], lfs=True)
        elif key == "deletedFile":
            if value["path"] not in files:
                raise HubError(404, f"A file with this name doesn't exist: {value['path']}", "EntryNotFound")
            del files[value["path"]]
        elif key == "deletedFolder":
            prefix = value["path"].rstrip("/") + "/"
            if not any(path.startswith(prefix) for path in files):
                raise HubError(404, f"A folder with this name doesn't exist: {value['path']}", "EntryNotFound")
            files = {path: file for path, file in files.items() if not path.startswith(prefix)}
        elif key != "header":
            raise HubError(400, f"Unknown operation: {key}")
    readme = files.get("README.md")
    if readme is not None and readme != parent.files.get("README.md"):
        errors, _ = cards.check(readme.content.decode(errors="replace"))
        if errors:
            raise HubError(400, "Invalid metadata in README.md: " + "; ".join(errors))
    return files


@route("POST", rf"(?:/(?P<plural>datasets|spaces))?/{NAME}\.git/info/lfs/objects/batch")
def lfs_batch(store: Store, call: Call, plural: str | None, name: str) -> Answer:
    """Where to upload large files; nowhere when their content is known."""
    repository = store.repository(KINDS[plural or "models"], name, call.user)
    store.writer(call.user)
    objects = []
    for asked in call.json()["objects"]:
        about: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"], "authenticated": True}
        if asked["oid"] not in store.large_files:
            upload = {"href": f"{store.storage}/upload/{asked['oid']}?size={asked['size']}"}
            verify = {"href": f"{store.address(repository)}.git/info/lfs/verify"}
            about["actions"] = {"upload": upload, "verify": verify}
        objects.append(about)
    return json_answer({"transfer": "basic", "objects": objects}, headers=LFS_JSON)


@route("PUT", r"/upload/(?P<oid>[0-9a-f]{64})")
def lfs_upload(store: Store, call: Call, oid: str) -> Answer:
    """Keep the content of a large file, if it is what its digest says; the address is enough to be let in."""
    if str(len(call.body)) != call.first("size") or hashlib.sha256(call.body).hexdigest() != oid:
        raise HubError(400, "The content does not match its sha256")
    store.large_files[oid] = call.body
    return Answer(200, headers={"ETag": f'"{oid}"'})


@route("POST", rf"(?:/(?P<plural>datasets|spaces))?/{NAME}\.git/info/lfs/verify")
def lfs_verify(store: Store, call: Call, plural: str | None, name: str) -> Answer:
    """Whether a large file is there."""
    store.repository(KINDS[plural or "models"], name, call.user)
    asked = call.json()
    if len(store.large_files.get(asked["oid"], b"")) != asked["size"] or asked["oid"] not in store.large_files:
        raise HubError(404, "The object does not exist")
    return json_answer({})


@route("GET", rf"{REPOSITORY}/commits/(?P<revision>[^/]+)")
def history(store: Store, call: Call, plural: str, name: str, revision: str) -> Answer:
    """The commits that lead to a revision."""
    repository = store.repository(KINDS[plural], name, call.user)
    store.check_files(repository, call.user)
    listed = []
    for known in repository.history(revision):
        about = {"id": known.oid, "title": known.title, "message": known.description, "date": known.date}
        listed.append(about | {"authors": [{"user": known.author}]})
    return json_answer(listed)


@route("GET", rf"{REPOSITORY}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?")
def tree(store: Store, call: Call, plural: str, name: str, revision: str, folder: str | None) -> Answer:
    """The files and folders of a revision."""
    repository = store.repository(KINDS[plural], name, call.user)
    store.check_files(repository, call.user)
    known = repository.commit(revision)
    found = list(tree_entries(known.files, folder or "", recursive=call.flag("recursive")))
    if folder and not found:
        raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    return json_answer([_expanded(entry, known, call.flag("expand")) for entry in found])


@route("POST", rf"{REPOSITORY}/paths-info/(?P<revision>[^/]+)")
def paths_info(store: Store, call: Call, plural: str, name: str, revision: str) -> Answer:
    """What is known of some paths; paths that do not exist are left out."""
    repository = store.repository(KINDS[plural], name, call.user)
    store.check_files(repository, call.user)
    known, asked = repository.commit(revision), call.form()
    entries = {entry["path"]: entry for entry in tree_entries(known.files, "", recursive=True)}
    expand = asked.get("expand", ["false"])[0].lower() == "true"
    paths = [path for path in asked.get("paths", []) if path in entries]
    return json_answer([_expanded(entries[path], known, expand) for path in paths])


def _expanded(entry: dict[str, Any], known: Commit, expand: bool) -> dict[str, Any]:
    return entry | {"lastCommit": {"id": known.oid, "title": known.title, "date": known.date}} if expand else entry


@route("GET", rf"{FILES}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(store: Store, call: Call, plural: str | None, name: str, revision: str, path: str) -> Answer:
    """A file, or for a large one the address of its content."""
    repository, known, file = _readable(store, call, plural, name, revision, path)
    headers = {"X-Repo-Commit": known.oid, "ETag": f'"{file.known_as}"', "Accept-Ranges": "bytes"}
    if file.lfs:
        headers |= {
            "X-Linked-Etag": f'"{file.sha256}"',
            "X-Linked-Size": str(len(file.content)),
            "Location": f"{store.storage}/content/{file.sha256}/{quote(path)}",
        }
        store.large_files.setdefault(file.sha256, file.content)
        return Answer(302, b"Found. Redirecting to the content", headers)
    if call.method == "GET":
        repository.downloads += 1
    return _content(file.content, headers, call.headers.get("range"))


@route("GET", r"/content/(?P<oid>[0-9a-f]{64})/.+")
def large_content(store: Store, call: Call, oid: str) -> Answer:
    """The content of a large file; the address is enough to be let in, and a token must not be sent here."""
    if "authorization" in call.headers:
        raise HubError(400, "Only one auth mechanism allowed")
    if oid not in store.large_files:
        raise HubError(404, "The object does not exist")
    headers = {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"}
    return _content(store.large_files[oid], headers, call.headers.get("range"))


@route("GET", rf"{FILES}/raw/(?P<revision>[^/]+)/(?P<path>.+)")
def raw(store: Store, call: Call, plural: str | None, name: str, revision: str, path: str) -> Answer:
    """A file as git keeps it: for a large one, the pointer."""
    _, known, file = _readable(store, call, plural, name, revision, path)
    headers = {"X-Repo-Commit": known.oid, "ETag": f'"{file.git_id}"'}
    return _content(file.pointer if file.lfs else file.content, headers, call.headers.get("range"))


def _readable(
    store: Store, call: Call, plural: str | None, name: str, revision: str, path: str
) -> tuple[Repository, Commit, File]:
    repository = store.repository(KINDS[plural or "models"], name, call.user)
    store.check_files(repository, call.user)
    return repository, *repository.file(revision, path)


def _content(content: bytes, headers: dict[str, str], asked: str | None) -> Answer:
    """A body, or the part of it that a Range header asks for."""
    headers = {"Content-Type": "application/octet-stream"} | headers
    match = BYTE_RANGE.fullmatch(asked.replace(" ", "")) if asked else None
    if match is None or match.groups() == ("", ""):
        return Answer(200, content, headers)
    first, last = match.groups()
    start = int(first) if first else max(len(content) - int(last), 0)
    stop = min(int(last) + 1, len(content)) if first and last else len(content)
    if start >= stop:
        raise HubError(416, "Range Not Satisfiable", headers={"Content-Range": f"bytes */{len(content)}"})
    return Answer(206, content[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"})
