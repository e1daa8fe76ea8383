"""Event-stream framing. Pure: bytes in, bytes out.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from werkzeug.datastructures import Headers

CONTENT_TYPE = "text/event-stream; charset=utf-8"


def frame(data: bytes, *, seq: int | None = None, event: bytes | None = None) -> bytes:
    """One event. `data` must be one line (JSON as our encoders write it always is); `seq` becomes its id."""
    head = b""
    if seq is not None:
        head = b"id: %d\n" % seq
    if event is not None:
        head += b"event: %s\n" % event
    return head + b"data: " + data + b"\n\n"


def comment(text: bytes) -> bytes:
    """A line that every client ignores; `text` must be one line."""
    return b": " + text + b"\n\n"


def headers(run_id: str) -> Headers:
    """What keeps caches and proxies from holding a stream back, and says whose stream it is."""
    return Headers(
        {
            "Content-Type": CONTENT_TYPE,
            "Cache-Control": "no-cache, no-transform",
            "X-Accel-Buffering": "no",  # nginx: do not buffer this answer
            "X-Run-Id": run_id,
        }
    )
