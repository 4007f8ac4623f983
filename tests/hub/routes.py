"""Which function answers which call."""

import re
from collections.abc import Callable
from urllib.parse import unquote

from hub.messages import Answer, Call, HubError
from hub.store import Store

Endpoint = Callable[..., Answer]
NAME = r"(?P<name>[^/]+(?:/[^/]+)?)"
REPOSITORY = rf"/api/(?P<plural>models|datasets|spaces)/{NAME}"
FILES = rf"(?:/(?P<plural>datasets|spaces))?/{NAME}"

_routes: list[tuple[str, re.Pattern[str], Endpoint]] = []


def route(method: str, pattern: str) -> Callable[[Endpoint], Endpoint]:
    """Let a function answer calls to a path; it gets the pattern's groups, unquoted, as arguments."""

    def register(endpoint: Endpoint) -> Endpoint:
        _routes.append((method, re.compile(pattern), endpoint))
        return endpoint

    return register


def dispatch(store: Store, call: Call) -> Answer:
    """The answer to a call; the state is locked meanwhile, so that a call is done whole or not at all."""
    # A HEAD is a GET whose body is not sent.
    method = "GET" if call.method == "HEAD" else call.method
    for known, pattern, endpoint in _routes:
        match = pattern.fullmatch(call.path) if known == method else None
        if match is not None:
            groups = {key: None if value is None else unquote(value) for key, value in match.groupdict().items()}
            with store.lock:
                return endpoint(store, call, **groups)
    raise HubError(404, f"Sorry, we can't find the page {call.path}")
