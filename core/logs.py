"""Python's logging, set up once per process: facts as `action key=value` or as JSON, on standard error.

A call says `logger.info("run_queued run_id=%s owner=%s", run_id, owner)`. The fields are read from this template and
its arguments, never from the finished text, so that no value can pass for a field.
"""

import functools
import json
import logging
import math
import re
import threading
from datetime import UTC, datetime
from typing import Any, Literal

LOGGED_TRACES = 20_000
"""For so many runs it is remembered which trace they belong to: as many as one replica has clients."""

_TEMPLATE = re.compile(r"(\w+)((?: \w+=%[\d.]*[sdrgf])*)", re.ASCII)
_FIELD = re.compile(r" (\w+)=%[\d.]*([sdrgf])")
_OWN = ("ts", "level", "logger", "message")

_traces: dict[str, str] = {}
_traces_lock = threading.Lock()


def configure(level: str, form: Literal["text", "json"] = "text") -> None:
    """RQ and gunicorn log at WARNING: what they tell at INFO is told by ours, with the run's id."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=level, handlers=[handler])
    logging.captureWarnings(True)
    logging.getLogger("gunicorn.error").addFilter(_unquoted)
    for name in ("rq", "rq.worker", "rq.job", "gunicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)


def remember_trace(run_id: str, trace_id: str) -> None:
    """From now on, each line of this process that names the run has the `trace_id` as well, if there is one."""
    if not trace_id or _traces.get(run_id) == trace_id:
        return
    with _traces_lock:
        if len(_traces) >= LOGGED_TRACES:
            del _traces[next(iter(_traces))]
        _traces[run_id] = trace_id


class TextLines(logging.Formatter):
    """One line for each record: what is in it cannot begin another one. Only a traceback has lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        line = super().formatMessage(record).replace("\r", "\\r").replace("\n", "\\n")
        named = fields(record) or {}
        trace_id = None if "trace_id" in named else _traces.get(named.get("run_id", ""))
        return f"{line} trace_id={trace_id}" if trace_id else line


class JsonLines(logging.Formatter):
    """One JSON object a line: `ts` (UTC), `level`, `logger`, `message`, and the fields. Text that is not in our form
    is the `message` as it stands."""

    def format(self, record: logging.LogRecord) -> str:
        named = fields(record)
        message = record.getMessage() if named is None else str(record.msg).partition(" ")[0]
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"ts": at, "level": record.levelname, "logger": record.name, "message": message, **(named or {})}
        if trace_id := _traces.get(line.get("run_id", "")):
            line.setdefault("trace_id", trace_id)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def fields(record: logging.LogRecord) -> dict[str, Any] | None:
    """The record's fields by name; None when its text is not in our form."""
    form = _form(str(record.msg))
    arguments = record.args if isinstance(record.args, tuple) else ()
    if form is None or len(form) != len(arguments):
        return None
    return {name: _value(kind, value) for (name, kind), value in zip(form, arguments, strict=True)}


@functools.lru_cache(maxsize=512)
def _form(template: str) -> tuple[tuple[str, str], ...] | None:
    """The template's fields: names, and how each is written."""
    found = _TEMPLATE.fullmatch(template)
    if found is None:
        return None
    form = tuple(_FIELD.findall(found[2]))
    return None if any(name in _OWN for name, _ in form) else form


def _value(kind: str, value: Any) -> Any:
    if kind == "r":
        return repr(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no word for it
    return value if isinstance(value, str | int | float | None) else str(value)


def _unquoted(record: logging.LogRecord) -> bool:
    """gunicorn quotes a line that it cannot read, which may hold a key."""
    if str(record.msg).startswith("Invalid request from"):
        record.msg, record.args = str(record.msg).partition(":")[0], ()
    return True
