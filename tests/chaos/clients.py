"""The clients: each asks one question, until it is taken in, and reads its answer to the end, whatever happens.

A client never judges; it keeps what it read (see `proof`).
"""

import contextlib
import http.client
import json
import random
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests import sse
from tests.chaos.questions import Question

RETRY_SECONDS = 0.2
GIVE_UP_SECONDS = 150.0
SILENT_SECONDS = 40.0
TERMINAL = ("completed", "failed", "cancelled")


class Refused(Exception):
    """An HTTP answer that is neither a stream nor a request to try again."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"HTTP {status}: {body[:200]!r}")
        self.status = status


@dataclass(frozen=True)
class Accepted:
    """A run that a client was told of, between two Unix times."""

    run_id: str
    asked_at: float
    told_at: float


class Client(threading.Thread):
    """One client in a thread of its own, with an `Idempotency-Key` of its own."""

    leaves = False
    """Whether it may be cut off at any moment."""

    def __init__(self, question: Question, urls: Sequence[str], key: str, chance: random.Random) -> None:
        super().__init__(name=f"client-{question.tag}", daemon=True)
        self.question = question
        self.accepted: list[Accepted] = []
        self.attempts = 0
        self.resumed = 0
        self.longest_silence = 0.0
        self.lost = False  # it was told that its run is not known
        self.crash: BaseException | None = None
        self._urls = list(urls)
        chance.shuffle(self._urls)
        self._key = key
        self._socket: socket.socket | None = None
        self._give_up_at = float("inf")

    @property
    def run_id(self) -> str | None:
        return self.accepted[-1].run_id if self.accepted else None

    @property
    def finished(self) -> bool:
        """Whether it has read its run's end."""
        raise NotImplementedError

    def run(self) -> None:
        self._give_up_at = time.monotonic() + GIVE_UP_SECONDS
        try:
            self.live()
        except BaseException as error:
            self.crash = error

    def live(self) -> None:
        raise NotImplementedError

    def forget(self) -> None:
        """What was read before belongs to another run."""

    def cut(self) -> bool:
        """Drop the connection, in the middle of whatever it is; the client comes back. False without one."""
        connected = self._socket
        if connected is None:
            return False
        with contextlib.suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)
        return True

    # --- HTTP -------------------------------------------------------------------------------------

    def _patiently(self) -> Iterator[str]:
        """Replicas to try, one after the other, with pauses, until the client gives up."""
        while time.monotonic() < self._give_up_at:
            yield self._urls[self.attempts % len(self._urls)]
            self.attempts += 1
            time.sleep(RETRY_SECONDS)
        raise TimeoutError(f"{self.question.tag}: no end within {GIVE_UP_SECONDS} s; run {self.run_id}")

    @contextlib.contextmanager
    def _request(self, url: str, method: str, path: str, body: Any, **headers: str) -> Iterator[Any]:
        address = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=SILENT_SECONDS)
        given = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json", **headers}
        try:
            connection.connect()
            self._socket = connection.sock
            connection.request(method, path, json.dumps(body) if body is not None else None, given)
            response = connection.getresponse()
            if response.status >= 300:
                raise Refused(response.status, response.read())
            yield response
            response.close()
        finally:
            self._socket = None
            connection.close()

    def _frames(self, response: Any) -> Iterator[sse.Frame]:
        heard_at = time.monotonic()
        for frame in sse.frames(line.decode().rstrip("\r\n") for line in response):
            now = time.monotonic()
            self.longest_silence = max(self.longest_silence, now - heard_at)
            heard_at = now
            yield frame

    def _accept(self, response: Any, asked_at: float) -> None:
        run_id = response.headers["X-Run-Id"]
        if run_id != self.run_id:  # the first one, or one in place of a run that is lost
            self.accepted.append(Accepted(run_id, asked_at, time.time()))
            self.lost = False
            self.forget()


def passes(error: Exception) -> bool:
    """Whether the client should simply try again: no connection, a broken one, a 503, or a proxy's 502."""
    return not isinstance(error, Refused) or error.status in (502, 503)


TROUBLE = (OSError, http.client.HTTPException, Refused)


class Reader(Client):
    """Native: a detached run, watched from wherever it left off, on whichever replica."""

    leaves = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: list[bytes] = []
        self.earlier: list[list[bytes]] = []  # what it had seen whenever it was told to start over
        self.over = False  # it was told that nothing will follow
        self._last = ""

    @property
    def finished(self) -> bool:
        return self._last in TERMINAL

    def live(self) -> None:
        self._submit()
        self.attempts += 1  # the first look at the other replica already
        for url in self._patiently():
            try:
                self._watch(url)
            except Refused as error:
                if error.status == 404:
                    self.lost = True
                elif not passes(error):
                    raise
            except TROUBLE:
                pass
            if self.finished or self.over or self.lost:
                return
            self.resumed += 1

    def _submit(self) -> None:
        body = {"model": self.question.model, "prompt": self.question.prompt, "detach": True}
        asked_at = time.time()
        for url in self._patiently():
            try:
                with self._request(url, "POST", "/v1/runs", body, **{"Idempotency-Key": self.name}) as response:
                    response.read()
                    self._accept(response, asked_at)
                    return
            except TROUBLE as error:
                if not passes(error):
                    raise

    def _watch(self, url: str) -> None:
        path = f"/v1/runs/{self.run_id}/events"
        with self._request(url, "GET", path, None, **{"Last-Event-ID": str(len(self.seen))}) as response:
            if response.status == 204:
                self.over = True
                return
            for frame in self._frames(response):
                self._take(frame)
                if self.finished:
                    return

    def _take(self, frame: sse.Frame) -> None:
        if frame.event == "reset":
            self.earlier.append(self.seen)
            self.seen, self._last = [], ""
        elif frame.id is not None and frame.data is not None:
            self.seen.append(frame.data.encode())
            self._last = str(frame.event)


class Chatter(Client):
    """A chat client: stays; when its replica dies, it asks again with the same key. What it asks is a task when it is
    plain: those wait in their own lane."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.text: list[tuple[int, str]] = []
        self.end: int | None = None  # the seq of the run's end
        self.earlier: list[list[tuple[int, str]]] = []
        self.leave_after: int | None = None
        self.gone = False

    @property
    def finished(self) -> bool:
        return self.end is not None

    def forget(self) -> None:
        self.earlier.clear()

    def live(self) -> None:
        asked_at = time.time()
        for url in self._patiently():
            if self.text:
                self.earlier.append(self.text)
            self.text = []
            try:
                self._ask(url, asked_at)
            except Refused as error:
                if not passes(error):
                    raise
            except TROUBLE:
                pass
            if self.finished or self.gone:
                return
            self.resumed += bool(self.accepted)

    def _ask(self, url: str, asked_at: float) -> None:
        body = {
            "model": self.question.model,
            "stream": True,
            "messages": [{"role": "user", "content": self.question.prompt}],
        }
        headers = {"Idempotency-Key": self.name}
        if self.question.kind == "plain":
            headers["X-OpenWebUI-Task"] = "title_generation"
        with self._request(url, "POST", "/v1/chat/completions", body, **headers) as response:
            self._accept(response, asked_at)
            for frame in self._frames(response):
                if frame.data == "[DONE]":
                    return
                if frame.data is not None and frame.id is not None:
                    self._keep(int(frame.id), frame.json)
                elif frame.data is not None and '"log_lost"' in frame.data:
                    self.lost = True
                if self.leave_after is not None and len(self.text) >= self.leave_after:
                    self.gone = True
                    return

    def _keep(self, seq: int, chunk: dict[str, Any]) -> None:
        choices = chunk.get("choices", [])
        if "error" in chunk or any(choice["finish_reason"] for choice in choices):
            self.end = seq
        for choice in choices:
            if text := choice["delta"].get("content"):
                self.text.append((seq, text))
