"""What a line of log looks like, as text and as JSON, and that no value can break out of it."""

import ast
import json
import logging
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import logs
from core.logs import JsonLines, TextLines, fields, remember_trace

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def record(template: str, *arguments: object, error: BaseException | None = None) -> logging.LogRecord:
    exc_info = (type(error), error, None) if error else None
    return logging.LogRecord("app.intake", logging.INFO, "file.py", 1, template, arguments, exc_info)


def as_json(made: logging.LogRecord) -> dict[str, Any]:
    text = JsonLines().format(made)
    assert len(text.splitlines()) == 1
    found: dict[str, Any] = json.loads(text)
    return found


def test_json_has_the_action_and_its_fields_as_they_are() -> None:
    made = record("run_queued run_id=%s seconds=%g count=%d error=%r", "abc", 1.5, 3, ValueError("x y=z"))
    found = as_json(made)
    assert found.pop("ts").endswith("+00:00")
    assert found == {
        "level": "INFO", "logger": "app.intake", "message": "run_queued",
        "run_id": "abc", "seconds": 1.5, "count": 3, "error": "ValueError('x y=z')",
    }  # fmt: skip


def test_an_action_without_fields_is_in_our_form() -> None:
    assert as_json(record("janitor_failed"))["message"] == "janitor_failed"
    assert fields(record("janitor_failed")) == {}


@pytest.mark.parametrize(
    ("template", "arguments", "message"),
    [
        ("Worker exiting (pid: %s)", (7,), "Worker exiting (pid: 7)"),
        ("a=%s", ("b",), "a=b"),
        ("action a=%s and more", ("b",), "action a=b and more"),
        ("action message=%s", ("b",), "action message=b"),
        ("100 %% done", (), "100 %% done"),
    ],
)
def test_text_that_is_not_in_our_form_is_the_message(template: str, arguments: tuple[Any, ...], message: str) -> None:
    found = as_json(record(template, *arguments))
    assert set(found) == {"ts", "level", "logger", "message"}
    assert found["message"] == message


def test_a_traceback_is_a_field() -> None:
    found = as_json(record("run_crashed run_id=%s", "abc", error=RuntimeError("two\nlines")))
    assert found["run_id"] == "abc"
    assert "RuntimeError: two\nlines" in found["exception"]


values = st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.binary())


@given(st.lists(values, min_size=1, max_size=4))
def test_no_value_breaks_a_line_or_passes_for_a_field(given_values: list[Any]) -> None:
    template = " ".join(["action", *(f"f{i}=%s" for i in range(len(given_values)))])
    made = record(template, *given_values)
    found = as_json(made)
    assert set(found) == {"ts", "level", "logger", "message", *(f"f{i}" for i in range(len(given_values)))}
    for i, value in enumerate(given_values):
        assert str(found[f"f{i}"]) == str(value)
    line = TextLines().format(made)
    assert "\n" not in line
    assert "\r" not in line


def test_text_reads_as_before() -> None:
    assert TextLines().format(record("run_queued run_id=%s", "abc")).endswith(" INFO app.intake run_queued run_id=abc")


@pytest.fixture
def run_id() -> str:
    """Of a run that is in the trace."""
    made = uuid.uuid4().hex
    remember_trace(made, TRACE)
    return made


def test_every_line_that_names_a_run_names_its_trace(run_id: str) -> None:
    made = record("run_ended run_id=%s ending=%s", run_id, "completed")
    assert as_json(made)["trace_id"] == TRACE
    assert TextLines().format(made).endswith(f"run_id={run_id} ending=completed trace_id={TRACE}")


def test_a_line_with_a_trace_of_its_own_keeps_it(run_id: str) -> None:
    made = record("request_ended run_id=%s trace_id=%s", run_id, "f" * 32)
    assert as_json(made)["trace_id"] == "f" * 32
    assert TextLines().format(made).count("trace_id=") == 1


def test_runs_without_a_trace_have_none() -> None:
    remember_trace("untraced", "")
    assert "trace_id" not in as_json(record("run_ended run_id=%s", "untraced"))


def test_traces_are_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_traces", {})
    monkeypatch.setattr(logs, "LOGGED_TRACES", 3)
    for number in range(5):
        remember_trace(f"run{number}", TRACE)
        remember_trace(f"run{number}", TRACE)
    assert list(logs._traces) == ["run2", "run3", "run4"]


def templates() -> Iterator[str]:
    """What our own lines are made of."""
    root = Path(__file__).resolve().parents[2]
    for path in (path for part in ("app", "core", "worker") for path in (root / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr=level), args=[ast.Constant(value=str(text)), *_]):
                    if level in ("debug", "info", "warning", "error", "exception", "critical"):
                        yield text


def test_every_line_of_ours_is_in_the_form() -> None:
    """One that is not would lose its fields in JSON."""
    found = list(templates())
    assert len(found) > 40
    assert [template for template in found if logs._form(template) is None] == []
