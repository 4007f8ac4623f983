"""Endpoints for collections of models."""

import re
import uuid
from typing import Any

from hub.messages import Answer, Call, HubError, json_answer
from hub.repositories import now
from hub.routes import route
from hub.store import Store

COLLECTION = r"/api/collections/(?P<slug>[^/]+/[^/]+)"


@route("POST", "/api/collections")
def create(store: Store, call: Call) -> Answer:
    """Make a collection; a namespace holds one of each title."""
    asked = call.json()
    user = store.writer(call.user, asked["namespace"])
    for slug, known in store.collections.items():
        if (known["owner"]["name"], known["title"]) == (asked["namespace"], asked["title"]):
            return json_answer({"error": "You already created this collection", "slug": slug}, 409)
    words = re.sub(r"[^a-z0-9]+", "-", asked["title"].lower()).strip("-")
    slug = f"{asked['namespace']}/{words}-{uuid.uuid4().hex[:24]}"
    store.collections[slug] = {
        "slug": slug,
        "title": asked["title"],
        "description": asked.get("description"),
        "owner": {"name": asked["namespace"], "type": "user" if asked["namespace"] == user.name else "org"},
        "items": [],
        "lastUpdated": now(),
        "position": len(store.collections),
        "private": bool(asked.get("private")),
        "theme": "orange",
        "upvotes": 0,
    }
    return json_answer(store.collections[slug])


@route("GET", "/api/collections")
def search(store: Store, call: Call) -> Answer:
    """The public collections of the owners, that hold the items ("models/<name>")."""
    owners, items = set(call.query.get("owner", [])), set(call.query.get("item", []))
    found = []
    for known in store.collections.values():
        held = {f"{item['type']}s/{item['id']}" for item in known["items"]}
        if _visible(known, call) and (not owners or known["owner"]["name"] in owners) and items <= held:
            # The position is the client's own count.
            found.append({key: value for key, value in known.items() if key != "position"})
    return json_answer(found)


@route("GET", COLLECTION)
def read(store: Store, call: Call, slug: str) -> Answer:
    """One collection."""
    return json_answer(_collection(store, call, slug))


@route("DELETE", COLLECTION)
def delete(store: Store, call: Call, slug: str) -> Answer:
    """Remove a collection."""
    store.writer(call.user, _collection(store, call, slug)["owner"]["name"])
    del store.collections[slug]
    return json_answer({})


@route("POST", rf"{COLLECTION}/items")
def add_item(store: Store, call: Call, slug: str) -> Answer:
    """Add an existing model or dataset to a collection, once."""
    known, asked = _collection(store, call, slug), call.json()
    store.writer(call.user, known["owner"]["name"])
    name, kind = asked["item"]["id"], asked["item"]["type"]
    store.repository(kind, name, call.user)
    if any((item["id"], item["type"]) == (name, kind) for item in known["items"]):
        raise HubError(409, "Item already in collection")
    item = {"_id": uuid.uuid4().hex[:24], "id": name, "type": kind, "position": len(known["items"])}
    if asked.get("note"):
        item["note"] = {"text": asked["note"]}
    known["items"].append(item)
    known["lastUpdated"] = now()
    return json_answer(known)


@route("DELETE", rf"{COLLECTION}/items/(?P<item>[^/]+)")
def remove_item(store: Store, call: Call, slug: str, item: str) -> Answer:
    """Take an item out of a collection."""
    known = _collection(store, call, slug)
    store.writer(call.user, known["owner"]["name"])
    kept = [other for other in known["items"] if other["_id"] != item]
    if len(kept) == len(known["items"]):
        raise HubError(404, "Item not found in collection")
    known["items"] = [{**other, "position": position} for position, other in enumerate(kept)]
    return json_answer({})


def _visible(known: dict[str, Any], call: Call) -> bool:
    return not known["private"] or (call.user is not None and call.user.owns(known["owner"]["name"]))


def _collection(store: Store, call: Call, slug: str) -> dict[str, Any]:
    known = store.collections.get(slug)
    if known is None or not _visible(known, call):
        raise HubError(404, "Collection not found")
    return known
