"""The trace that a request belongs to, as its client says in the header `traceparent`. Pure.

https://www.w3.org/TR/trace-context/#traceparent-header
"""

import re

from flask import Request

# Version 00 has exactly these four parts; a later one may have more behind them, and ff is no version.
_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.ASCII)


def trace_id_of(request: Request) -> str:
    """The current request's trace, 32 hex digits; nothing when it has none, or one that is not in order."""
    return trace_id(request.headers.get("traceparent", ""))


def trace_id(header: str) -> str:
    """The same of the header's text. Two headers, which arrive joined by a comma, are not in order either."""
    found = _FORM.fullmatch(header.strip(" \t"))
    if found is None or (found[1] == "00" and found[4]):
        return ""
    trace, parent = found[2], found[3]
    return trace if trace.strip("0") and parent.strip("0") else ""
