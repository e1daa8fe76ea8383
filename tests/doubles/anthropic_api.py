"""An Anthropic Messages API on the loopback that says what a test scripted, for runs of the real CLI.

Owns what the model "says" in a conversation, in which pieces and with which pauses and faults, and a record
of what it was asked. Never runs a tool, never judges a request, never needs a key, never leaves this host.

Source of the shapes: https://docs.anthropic.com/en/api/messages-streaming and .../en/api/errors.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Json = dict[str, Any]

CLOSE_SECONDS = 5.0
POLL_SECONDS = 0.01


# Steps: what a turn is made of.


@dataclass(frozen=True)
class Text:
    """One text block, streamed as `pieces`, or as a single delta."""

    text: str
    pieces: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        joined = "".join(self.pieces).encode("utf-16", "surrogatepass").decode("utf-16")  # halves made whole
        if self.pieces and joined != self.text:
            raise ValueError("The pieces of a Text must add up to its text.")

    def opening(self) -> Json:
        return {"type": "text", "text": ""}

    def deltas(self) -> list[Json]:
        return [{"type": "text_delta", "text": piece} for piece in self.pieces or (self.text,)]

    def whole(self) -> Json:
        return {"type": "text", "text": self.text}


@dataclass(frozen=True)
class Thinking:
    """One thinking block, streamed as a single delta and a signature."""

    thinking: str
    signature: str = "signed"

    def opening(self) -> Json:
        return {"type": "thinking", "thinking": "", "signature": ""}

    def deltas(self) -> list[Json]:
        return [
            {"type": "thinking_delta", "thinking": self.thinking},
            {"type": "signature_delta", "signature": self.signature},
        ]

    def whole(self) -> Json:
        return {"type": "thinking", "thinking": self.thinking, "signature": self.signature}


@dataclass(frozen=True)
class ToolUse:
    """A call of the tool `name`; without an `id`, each answer gets a new one."""

    name: str
    input: Json
    id: str | None = None

    def opening(self) -> Json:
        return self.whole() | {"input": {}}

    def deltas(self) -> list[Json]:
        return [{"type": "input_json_delta", "partial_json": json.dumps(self.input)}]

    def whole(self) -> Json:
        return {"type": "tool_use", "id": self.id or _new_id("toolu"), "name": self.name, "input": self.input}


@dataclass(frozen=True)
class Silence:
    """No bytes for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Gate:
    """No bytes until the test sets `event`; after `timeout` seconds the connection is cut instead."""

    event: threading.Event
    timeout: float = 30


@dataclass(frozen=True)
class ApiError:
    """An error instead of an answer: the first and only step of its turn."""

    status: int
    message: str
    type: str = "invalid_request_error"

    def body(self) -> Json:
        return {"type": "error", "error": {"type": self.type, "message": self.message}}


@dataclass(frozen=True)
class Cut:
    """The connection breaks off, in the middle of the stream.

    The CLI forgets what it had not read by then. A Gate before the cut, opened when the test has seen the
    text, makes sure that it was read.
    """


Block = Text | Thinking | ToolUse


@dataclass(frozen=True)
class Unfinished:
    """A block whose end never comes, because a Cut does."""

    block: Block


Step = Block | Unfinished | Silence | Gate | ApiError | Cut


class Turn:
    """One answer of the model: its steps in order, and its usage as (input, output) tokens."""

    def __init__(self, *steps: Step, usage: tuple[int, int] = (10, 7)) -> None:
        if any(isinstance(step, ApiError) for step in steps[1:]):
            raise ValueError("An ApiError must be the first step of its turn.")
        self.steps = steps
        self.input_tokens, self.output_tokens = usage

    @property
    def error(self) -> ApiError | None:
        """The error that this turn answers with, if it does."""
        first = self.steps[0] if self.steps else None
        return first if isinstance(first, ApiError) else None

    @property
    def stop_reason(self) -> str:
        """`tool_use` when the turn calls a tool, else `end_turn`."""
        return "tool_use" if any(isinstance(step, ToolUse) for step in self.steps) else "end_turn"

    def message(self, model: str, content: list[Json], *, finished: bool) -> Json:
        """Anthropic's message object: as `message_start` opens it, or finished."""
        return {
            "id": _new_id("msg"),
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": content,
            "stop_reason": self.stop_reason if finished else None,
            "stop_sequence": None,
            "usage": {
                "input_tokens": self.input_tokens,
                "output_tokens": self.output_tokens if finished else 1,
            },
        }


UNSCRIPTED = Turn(Text("No script for this conversation."))


# The API: scripts, records, life cycle.


@dataclass(frozen=True)
class Request:
    """A POST as it arrived: path with query, headers with lower-case names, JSON body."""

    path: str
    headers: dict[str, str]
    body: Json


class ScriptedApi:
    """The API as a context manager; safe to script and to inspect while it answers.

    A script belongs to a marker, a text that the user's messages contain. A conversation follows the script
    whose marker is in its latest user message that has one; if there are several, the longest. Tool results
    and the model's own text are not searched.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scripts: dict[str, tuple[Turn, ...]] = {}
        self._records: list[tuple[str | None, Request]] = []
        self._closing = threading.Event()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_SECONDS,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:PORT`, for ANTHROPIC_BASE_URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def requests(self) -> list[Request]:
        """All POST requests so far, oldest first."""
        with self._lock:
            return [request for _, request in self._records]

    def requests_for(self, marker: str) -> list[Request]:
        """The message requests so far that `marker`'s script answered, oldest first."""
        with self._lock:
            return [request for owner, request in self._records if owner == marker]

    def script(self, marker: str, *turns: Turn) -> None:
        """The n-th request of `marker`'s conversations gets the n-th turn; the last one repeats.

        Raises ValueError when there is nothing to say, or the marker has a script already.
        """
        with self._lock:
            if not marker or not turns or marker in self._scripts:
                raise ValueError("A script needs a marker of its own and at least one turn.")
            self._scripts[marker] = turns

    def record(self, request: Request) -> None:
        """Keep a request that no script answers."""
        with self._lock:
            self._records.append((None, request))

    def answer(self, request: Request) -> Turn:
        """Keep a message request and choose the turn that answers it."""
        with self._lock:
            marker = _latest_marker(request.body, list(self._scripts))
            turns = self._scripts[marker] if marker else (UNSCRIPTED,)
            asked_before = sum(owner == marker for owner, _ in self._records)
            self._records.append((marker, request))
            return turns[min(asked_before, len(turns) - 1)]

    def wait(self, step: Silence | Gate) -> None:
        """Return when the step is over; raise Broken when the gate stays shut or the API closes."""
        if isinstance(step, Silence):
            if self._closing.wait(step.seconds):
                raise Broken
            return
        deadline = time.monotonic() + step.timeout
        while not step.event.wait(POLL_SECONDS):
            if self._closing.is_set() or time.monotonic() > deadline:
                raise Broken

    def close(self) -> None:
        """End every answer at once and free the port; raise RuntimeError if a thread survives."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive() or not self._server.hang_up(CLOSE_SECONDS):
            raise RuntimeError("The scripted API did not stop.")


class Broken(Exception):
    """The connection has to break off here."""


def _new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def _latest_marker(body: Json, markers: list[str]) -> str | None:
    for message in reversed(body.get("messages", [])):
        if message["role"] == "user":
            text = _text(message["content"])
            found = [marker for marker in markers if marker in text]
            if found:
                return max(found, key=len)
    return None


def _text(content: str | list[Json]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content if block["type"] == "text")


# HTTP.


class _Server(ThreadingHTTPServer):
    """The listening socket, and the connections that are open."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, api: ScriptedApi) -> None:
        self.api = api
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._open.add(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self._until_closed(request):
            super().process_request_thread(request, client_address)

    @contextmanager
    def _until_closed(self, connection: socket.socket) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._open.discard(connection)
                self._changed.notify_all()

    def hang_up(self, timeout: float) -> bool:
        """Break every open connection; true when all their handlers have ended in time."""
        with self._changed:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            return self._changed.wait_for(lambda: not self._open, timeout)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that left is no news
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, lets the API choose the turn, writes it down the wire."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._probe()

    def do_GET(self) -> None:
        self._probe()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        request = Request(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        path = self.path.partition("?")[0]
        if path == "/v1/messages":
            self._answer(self.server.api.answer(request), body)
            return
        self.server.api.record(request)
        if path == "/v1/messages/count_tokens":
            self._json(HTTPStatus.OK, {"input_tokens": 5})
        else:
            self._not_found()

    def _probe(self) -> None:
        if self.path.partition("?")[0] != "/":
            self._not_found()
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("content-length", "0")
        self.end_headers()

    def _not_found(self) -> None:
        error = ApiError(HTTPStatus.NOT_FOUND, "Not found", "not_found_error")
        self._json(error.status, error.body())

    def _json(self, status: int, body: Json) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _answer(self, turn: Turn, body: Json) -> None:
        try:
            if turn.error:
                self._json(turn.error.status, turn.error.body())
            elif body.get("stream"):
                self._stream(turn, body["model"])
            else:
                self._whole(turn, body["model"])
        except Broken:
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def _whole(self, turn: Turn, model: str) -> None:
        content = []
        for step in turn.steps:
            if isinstance(step, Block):
                content.append(step.whole())
            else:
                self._pause(step)
        self._json(HTTPStatus.OK, turn.message(model, content, finished=True))

    def _stream(self, turn: Turn, model: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")  # so that a cut is an error, not the end
        self.send_header("connection", "close")
        self.end_headers()
        self._event("message_start", message=turn.message(model, [], finished=False))
        index = 0
        for step in turn.steps:
            if isinstance(step, Block):
                self._block(index, step)
                index += 1
                continue
            if isinstance(step, Unfinished):
                self._open_block(index, step.block)
            self._pause(step)
        self._event(
            "message_delta",
            delta={"stop_reason": turn.stop_reason, "stop_sequence": None},
            usage={"output_tokens": turn.output_tokens},
        )
        self._event("message_stop")
        self._chunk(b"")

    def _block(self, index: int, block: Block) -> None:
        self._open_block(index, block)
        self._event("content_block_stop", index=index)

    def _open_block(self, index: int, block: Block) -> None:
        self._event("content_block_start", index=index, content_block=block.opening())
        for delta in block.deltas():
            self._event("content_block_delta", index=index, delta=delta)

    def _pause(self, step: Step) -> None:
        if isinstance(step, Cut):
            raise Broken
        if isinstance(step, Silence | Gate):
            self.server.api.wait(step)

    def _event(self, kind: str, **fields: Any) -> None:
        self._chunk(f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
