"""Many HTTP clients in one thread: raw sockets that do not block, and one selector.

Cheap on purpose: on a small machine a client that parses what it reads would be what is measured.
"""

import resource
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

AT_ONCE = 100
"""So many connections are opened before the answers to them are waited for."""
PATIENCE_SECONDS = 30.0
READ_BYTES = 1 << 16


class Crowd:
    """`with Crowd(address) as crowd: crowd.ask(requests); for client, data in crowd.read(1.0): …`"""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []
        _raise_open_files()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._selector.close()
        for connection in self._sockets:
            connection.close()

    def __len__(self) -> int:
        return len(self._sockets)

    def ask(
        self, requests: Sequence[bytes], at_once: int = AT_ONCE, hear: Callable[[int, bytes], None] = lambda *_: None
    ) -> None:
        """One more client for each request. Returns when each has got the beginning of its answer; `hear` is told what
        comes meanwhile.

        Raises `AssertionError` when one is refused.
        """
        for start in range(0, len(requests), at_once):
            waiting = set(map(self.send, requests[start : start + at_once]))
            deadline = time.monotonic() + PATIENCE_SECONDS
            while waiting:
                assert time.monotonic() < deadline, f"{len(waiting)} clients got no answer"
                for client, data in self.read(0.5):
                    assert client not in waiting or b" 200 " in data[:16], data[:300]
                    waiting.discard(client)
                    hear(client, data)

    def send(self, request: bytes) -> int:
        """One more client, which asks this; returns its number: 0, 1, 2 …"""
        connection = socket.create_connection(self._address, timeout=PATIENCE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(request)
        connection.setblocking(False)
        self._sockets.append(connection)
        self._selector.register(connection, selectors.EVENT_READ, len(self._sockets) - 1)
        return len(self._sockets) - 1

    def read(self, seconds: float) -> Iterator[tuple[int, bytes]]:
        """What has come, as (client, bytes), waiting so long for something. A client that was closed says no more."""
        for key, _ in self._selector.select(seconds):
            with suppress(BlockingIOError):
                data = self._sockets[key.data].recv(READ_BYTES)
                if not data:
                    self._selector.unregister(key.fileobj)
                    continue
                yield key.data, data


def get(path: str, key: str = "") -> bytes:
    """A GET request."""
    return _head("GET", path, key) + b"\r\n"


def post(path: str, body: bytes, key: str = "") -> bytes:
    """A POST request with a JSON body."""
    head = _head("POST", path, key) + f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return head + body


def _head(method: str, path: str, key: str) -> bytes:
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n{authorization}".encode()


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 20_000 if hard == resource.RLIM_INFINITY else min(20_000, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
