"""The access log: one line for each request, at its end, which for a stream is when its client has read or left it.

Routes stand there as templates; queries, bodies and keys do not.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from flask import Flask, Response, g, request

from app.client import Client
from app.metrics import HTTP_REQUESTS
from app.traceparent import trace_id_of

logger = logging.getLogger(__name__)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""What machines ask every few seconds: logged at DEBUG."""


class Counted:
    """A body as it is sent, and how many bytes it was."""

    __slots__ = ("_body", "_chunks", "_on_close", "bytes")

    def __init__(self, body: Any, on_close: Callable[[], None] | None = None) -> None:
        self._on_close = on_close
        self._body = body
        self._chunks = iter(body)
        self.bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk: bytes = next(self._chunks)
        self.bytes += len(chunk)
        return chunk

    def close(self) -> None:
        """The body is let go of, too: a chain of iterators has no `close`, and its parts end when they are dropped."""
        body, self._body, self._chunks = self._body, (), iter(())
        on_close, self._on_close = self._on_close, None  # it closes this again
        try:
            if hasattr(body, "close"):
                body.close()
        finally:
            if on_close is not None:
                on_close()


def register(app: Flask, clock: Callable[[], float] = time.monotonic) -> None:
    """Log and count every request to `app`."""

    @app.before_request
    def begin() -> None:
        g.began = clock()

    @app.after_request
    def end(response: Response) -> Response:
        client = Client.of(request)
        facts = {
            "method": request.method if request.method in METHODS else "other",
            "route": request.url_rule.rule if request.url_rule else "none",
            "status": response.status_code,
        }
        whose = {"owner": g.get("owner"), "run_id": _run_id(response), "trace_id": trace_id_of(request) or None}
        began = g.began
        body = Counted(response.response, response.close)
        if request.method == "HEAD":
            pass
        elif response.is_streamed:
            response.response = body
            response.direct_passthrough = True  # no iterators of werkzeug's around it, which each stream would hold
        else:
            body.bytes = response.calculate_content_length() or 0

        def done() -> None:
            how = {"events": client.events, "ended": client.ended} if client.ended else {}
            HTTP_REQUESTS.labels(*map(str, facts.values())).inc()
            _log({**facts, "seconds": round(clock() - began, 4), "bytes": body.bytes, **whose, **how})

        response.call_on_close(done)
        return response


def _log(facts: dict[str, Any]) -> None:
    known = {name: value for name, value in facts.items() if value is not None}
    level = logging.DEBUG if facts["route"] in PROBES else logging.INFO
    template = " ".join(["request_ended", *(f"{name}=%s" for name in known)])
    logger.log(level, template, *known.values())


def _run_id(response: Response) -> str | None:
    """The run that the request made or asked for. What stands in its path may be anything else, too."""
    asked: str = (request.view_args or {}).get("run_id", "")
    return response.headers.get("X-Run-Id") or (asked if re.fullmatch(r"[0-9a-f]{32}", asked, re.ASCII) else None)
