"""A chat client that knows when the first word came: one request on one connection, in the thread of the caller."""

import http.client
import json
import time
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server, and how it wants to be asked."""

    url: str
    model: str
    key: str = "not-needed"

    def ask(self, messages: Messages) -> tuple[float, str]:
        """When the first content came, and the whole answer. Raises `AssertionError` when there is none."""
        address = urllib.parse.urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        body = json.dumps({"model": self.model, "messages": messages, "stream": True})
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        first, pieces = 0.0, []
        try:
            connection.request("POST", "/v1/chat/completions", body, headers)
            response = connection.getresponse()
            for line in response:
                if content := _content(line):
                    first = first or time.perf_counter()
                    pieces.append(content)
        finally:
            connection.close()
        assert first, f"{self.url} has answered nothing (HTTP {response.status})"
        return first, "".join(pieces)


def _content(line: bytes) -> str:
    """The text of one line of the stream."""
    data = line.removeprefix(b"data:").strip()
    if data == line.strip() or not data.startswith(b"{"):
        return ""
    chunk: dict[str, Any] = json.loads(data)
    return "".join(choice["delta"].get("content") or "" for choice in chunk.get("choices", []))


def at_once(calls: Sequence[Callable[[], float]]) -> list[float]:
    """How long each of these took until the moment that it returns, all begun at the same time."""
    start = Barrier(len(calls))

    def timed(call: Callable[[], float]) -> float:
        start.wait()
        begun = time.perf_counter()
        return call() - begun

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(timed, calls))
