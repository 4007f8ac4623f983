"""The stand-in's HTTP server, and what tests do with it directly."""

import contextlib
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from hub import collection_endpoints, file_endpoints, repository_endpoints  # noqa: F401  they register their routes
from hub.faults import Fault, Faults
from hub.messages import Answer, Call, HubError
from hub.repositories import Commit, File, Repository
from hub.routes import dispatch
from hub.store import Store

BLOCK = 64 * 1024
NO_LINGER = struct.pack("ii", 1, 0)


@dataclass
class Request:
    """One request as the server saw it: its unquoted path and query, the status of the answer, bytes of bodies.

    The status is 0 until there is an answer, and stays so when there is none.
    """

    method: str
    path: str
    status: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0


class Hub:
    """A stand-in for the Hub on a free port of the loopback interface, from its making until `close`."""

    def __init__(self) -> None:
        self._server = _Server(self)
        port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        self._storage = f"http://localhost:{port}"
        self.reset()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="hub", daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Forget all repositories, collections, faults and requests; a call under way ends on the old ones."""
        self.store = Store(self.endpoint, self._storage)
        self.faults = Faults()
        self.requests: list[Request] = []
        self.errors: list[BaseException] = []

    def close(self) -> None:
        """Stop answering and close all connections."""
        self._server.shutdown()
        self._server.server_close()
        self._server.close_connections()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fail(self, path: str = "", *, method: str | None = None, **fault: Any) -> Fault:
        """Let requests go wrong.

        Args:
            path (str, default: any): Regular expression to be found in the unquoted path and query. A large file is
                uploaded to `/upload/<sha256>` and downloaded from `/content/<sha256>/<its path>`.
            method (str, default: any): HTTP method.
            status, message, code, headers (int, str, str, dict): Answer with this error instead; `code` is
                X-Error-Code.
            times (int or None, default: 1): How many requests go wrong; None: all.
            after (int, default: 0): How many that match are answered well before.
            delay (float, default: 0, seconds): Wait before anything else is done.
            cut_upload (int): Reset the connection after reading this many bytes of the request's body.
            cut_download (int): Reset the connection after sending this many bytes of the answer's body.
            truncate (int): Close the connection in an orderly way after this many bytes; Content-Length is right.
            shorten (int): Send only this many bytes, with a Content-Length that says so.
            corrupt (bool): Flip a bit in the middle of the answer's body.
            lose_answer (bool): Do what is asked, then close the connection without an answer.

        Returns:
            Fault: `hits` counts how often it has happened. Of several faults the first that matches happens.
        """
        return self.faults.add(Fault(path=re.compile(path), method=method, **fault))

    def add_repository(
        self,
        name: str,
        files: Mapping[str, bytes] | None = None,
        *,
        kind: str = "model",
        owner: str = "me",
        private: bool = False,
        gated: bool = False,
    ) -> Repository:
        """Make a repository without a client, with one more commit where files are given."""
        with self.store.lock:
            repository = self.store.add(name, kind, owner, private=private, gated=gated)
        if files:
            self.commit(name, files, kind=kind)
        return repository

    def commit(
        self,
        name: str,
        files: Mapping[str, bytes | None],
        *,
        revision: str = "main",
        title: str = "Change files",
        kind: str = "model",
    ) -> Commit:
        """Commit to a branch without a client; None as the content removes a file."""
        with self.store.lock:
            repository = self.repository(name, kind)
            tree = dict(repository.commit(revision).files)
            for path, content in files.items():
                if content is None:
                    del tree[path]
                else:
                    tree[path] = File(content, lfs=repository.wants_lfs(revision, path, len(content)))
            reference = repository.reference(revision)
            assert reference is not None, f"{revision} is not a branch"
            return repository.advance(reference, tree, title, "", "me")

    def repository(self, name: str, kind: str = "model") -> Repository:
        """A repository; KeyError without one."""
        return self.store.repositories[kind, name]

    def commits(self, name: str, revision: str = "main", kind: str = "model") -> list[Commit]:
        """The commits that lead to a revision, the newest first; the last is the Hub's own "initial commit"."""
        with self.store.lock:
            return self.repository(name, kind).history(revision)

    def files(self, name: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        """The files of a revision, path -> content."""
        with self.store.lock:
            return self.repository(name, kind).commit(revision).contents()

    def references(self, name: str, kind: str = "model") -> dict[str, str]:
        """The full names of branches, tags and pull requests -> commit."""
        with self.store.lock:
            return dict(self.repository(name, kind).references)

    def asked(self, method: str, path: str) -> list[Request]:
        """The requests with this method whose path and query the regular expression is found in."""
        return [known for known in list(self.requests) if known.method == method and re.search(path, known.path)]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(NO_LINGER)) == NO_LINGER:
            self.close_request(request)  # at once: an orderly shutdown would look like an end of file
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        # A client that went away is no error of the server's.
        if error is not None and not isinstance(error, ConnectionError | TimeoutError):
            self.hub.errors.append(error)

    def close_connections(self) -> None:
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Cut(Exception):
    """The connection is to be closed without a complete answer."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    # Head and body are written one after the other: without this the second waits for the first to be confirmed.
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: tests look at `Hub.requests`."""

    def _handle(self) -> None:
        hub = self.server.hub
        store, target = hub.store, unquote(self.path)
        fault = hub.faults.take(self.command, target)
        # Logged at once, and filled in before anything is sent: a client that has its answer finds it all here.
        self._log = Request(self.command, target)
        hub.requests.append(self._log)
        try:
            if fault is not None and fault.delay:
                time.sleep(fault.delay)
            body = self._read(fault)
            answer = self._answer(store, fault, body)
            self._send(answer, fault)
        except (_Cut, ConnectionError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _answer(self, store: Store, fault: Fault | None, body: bytes) -> Answer:
        address, headers = urlsplit(self.path), {key.lower(): value for key, value in self.headers.items()}
        try:
            if fault is not None and fault.status is not None:
                raise HubError(fault.status, fault.message, fault.code, fault.headers)
            user = store.user(headers.get("authorization"))
            call = Call(self.command, address.path, parse_qs(address.query), headers, body, user)
            return dispatch(store, call)
        except HubError as error:
            return error.answer()

    def _read(self, fault: Fault | None) -> bytes:
        limit = None if fault is None else fault.cut_upload
        body = bytearray()
        for block in self._blocks():
            body += block
            self._log.bytes_received = len(body)
            if limit is not None and len(body) >= limit:
                self._reset()
        if limit is not None:
            self._reset()
        return bytes(body)

    def _blocks(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self._exactly(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            block = self._exactly(min(left, BLOCK))
            left -= len(block)
            yield block

    def _exactly(self, size: int) -> bytes:
        block = self.rfile.read(size)
        if len(block) < size:
            raise _Cut  # the client went away
        return block

    def _send(self, answer: Answer, fault: Fault | None) -> None:
        if fault is not None and fault.lose_answer:
            raise _Cut
        body, length = answer.body, len(answer.body)
        if fault is not None and fault.damages_answer and self.command != "HEAD":
            if fault.corrupt and body:
                middle = length // 2
                body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
            if fault.shorten is not None:
                body = body[: fault.shorten]
                length = len(body)
        self._log.status = answer.status
        self.send_response(answer.status)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "HEAD":
            return
        stop = None if fault is None else fault.truncate if fault.cut_download is None else fault.cut_download
        for start in range(0, len(body), BLOCK):
            block = body[start : min(start + BLOCK, len(body) if stop is None else stop)]
            self._log.bytes_sent += len(block)
            self.wfile.write(block)
        if fault is not None and fault.cut_download is not None:
            self._reset()
        if stop is not None:
            raise _Cut

    def _reset(self) -> None:
        """Close the connection so that the other end gets an error, not an end of file."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        raise _Cut
