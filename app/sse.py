"""Event-stream framing. Pure: bytes in, bytes out.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from werkzeug.datastructures import Headers

CONTENT_TYPE = "text/event-stream; charset=utf-8"


# To an event stream only CR and LF end a line, and JSON has neither. But clients that read it with Python's
# `str.splitlines` (httpx's `iter_lines`, for one) also break lines at these, so they are written as escapes.
_LINE_BREAKS = tuple((char.encode(), b"\\u%04x" % ord(char)) for char in "\x85\u2028\u2029")


def frame(data: bytes, *, seq: int | None = None, event: bytes | None = None) -> bytes:
    """One event. `data` must be JSON in one line, as our encoders write it; `seq` becomes its id."""
    if not data.isascii():
        for char, escape in _LINE_BREAKS:
            data = data.replace(char, escape)
    head = b""
    if seq is not None:
        head = b"id: %d\n" % seq
    if event is not None:
        head += b"event: %s\n" % event
    return head + b"data: " + data + b"\n\n"


def comment(text: bytes) -> bytes:
    """A line that every client ignores; `text` must be one line."""
    return b": " + text + b"\n\n"


def headers(run_id: str | None = None) -> Headers:
    """What keeps caches and proxies from holding a stream back, and says which run's stream it is, if any's."""
    found = Headers(
        {
            "Content-Type": CONTENT_TYPE,
            "Cache-Control": "no-cache, no-transform",
            "X-Accel-Buffering": "no",  # nginx: do not buffer this answer
        }
    )
    if run_id is not None:
        found["X-Run-Id"] = run_id
    return found
