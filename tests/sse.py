"""Reading event streams in tests: a parser by the letter, and a client that can stop and come back."""

import contextlib
import http.client
import json
import socket
import threading
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class Frame:
    """One event, or a comment."""

    id: str | None = None
    event: str | None = None
    data: str | None = None
    comment: str | None = None

    @property
    def json(self) -> Any:
        assert self.data is not None
        return json.loads(self.data)


def frames(lines: Iterable[str]) -> Iterator[Frame]:
    """The frames of a stream's lines; every comment block is a frame of its own."""
    frame = Frame()
    for line in lines:
        if not line:
            if frame != Frame():
                yield frame
            frame = Frame()
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "":
            frame.comment = value
        elif name == "data":
            frame.data = value if frame.data is None else f"{frame.data}\n{value}"
        elif name in ("id", "event"):
            setattr(frame, name, value)


def of(response: httpx.Response) -> Iterator[Frame]:
    """The frames of a streamed answer."""
    return frames(response.iter_lines())


def contents(found: Iterable[Frame]) -> str:
    """The text that a chat client puts together."""
    chunks = [frame.json for frame in found if frame.data and frame.data != "[DONE]"]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", []))


@dataclass
class Watcher:
    """A native client in a thread: keeps what it read, can be cut off at any moment, and goes on later."""

    run_id: str
    key: str
    seen: list[dict[str, Any]] = field(default_factory=list)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None
        self._cut = False

    @property
    def cursor(self) -> int:
        return self.seen[-1]["seq"] if self.seen else 0

    @property
    def finished(self) -> bool:
        return bool(self.seen) and self.seen[-1]["type"] in ("completed", "failed", "cancelled")

    def connect(self, base_url: str) -> None:
        """Watch on this replica from where it left off. Does nothing while it is connected."""
        if self._thread is not None:
            return
        self._cut = False
        self._thread = threading.Thread(target=self._read, args=(base_url,), daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Drop the connection, in the middle of whatever it was."""
        if self._thread is None:
            return
        self._cut = True
        if (connected := self._socket) is not None:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
        self.join()

    def join(self, seconds: float = 30) -> None:
        if self._thread is not None:
            self._thread.join(seconds)
            assert not self._thread.is_alive(), f"the stream of {self.run_id} does not end; seen {self.cursor}"
            self._thread = None
        if self.failure is not None:
            raise self.failure

    def _read(self, base_url: str) -> None:
        address = urllib.parse.urlsplit(base_url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        try:
            connection.connect()
            self._socket = connection.sock
            if self._cut:  # before it was even connected
                return
            headers = {"Authorization": f"Bearer {self.key}", "Last-Event-ID": str(self.cursor)}
            connection.request("GET", f"/v1/runs/{self.run_id}/events", headers=headers)
            response = connection.getresponse()
            assert response.status in (200, 204), response.read()
            for frame in frames(line.decode().rstrip("\r\n") for line in response):
                if frame.data is not None and frame.id is not None:
                    self.seen.append(frame.json)
            response.close()
        except BaseException as error:
            if not self._cut:
                self.failure = error
        finally:
            self._socket = None
            connection.close()
