"""What comes in and goes out of the stand-in: calls, answers and the Hub's errors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs


@dataclass(frozen=True)
class User:
    """Who a token belongs to, and whether the token may write."""

    name: str
    may_write: bool = True
    organisations: tuple[str, ...] = ()

    def owns(self, namespace: str) -> bool:
        """Whether the user may write to what lies under this name."""
        return namespace == self.name or namespace in self.organisations


@dataclass(frozen=True)
class Call:
    """One request, read to its end. Header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    user: User | None

    def json(self) -> dict[str, Any]:
        """The body, which must be a JSON object."""
        try:
            value = json.loads(self.body or b"{}")
        except ValueError as error:
            raise HubError(400, "The body is not JSON") from error
        if not isinstance(value, dict):
            raise HubError(400, "The body is not a JSON object")
        return value

    def form(self) -> dict[str, list[str]]:
        """The body, sent as a web form or as a JSON object."""
        if "json" in self.headers.get("content-type", ""):
            return {key: value if isinstance(value, list) else [str(value)] for key, value in self.json().items()}
        return parse_qs(self.body.decode())

    def flag(self, name: str) -> bool:
        """Whether a parameter of the address is set to true."""
        return self.query.get(name, ["false"])[0].lower() in ("1", "true")

    def first(self, name: str) -> str | None:
        """The first value of a parameter of the address."""
        return self.query.get(name, [None])[0]


@dataclass(frozen=True)
class Answer:
    """One response."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer whose body is JSON; dates in a card's metadata are written as text."""
    content = json.dumps(value, default=str).encode()
    return Answer(status, content, {"Content-Type": "application/json; charset=utf-8"} | dict(headers or {}))


class HubError(Exception):
    """An error the Hub answers with: a status, a message and the code its client knows it by."""

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.headers = dict(headers or {})

    def answer(self) -> Answer:
        """The response to send."""
        headers = {"X-Error-Message": self.message.splitlines()[0]} | self.headers
        if self.code is not None:
            headers["X-Error-Code"] = self.code
        return json_answer({"error": self.message}, self.status, headers)
