"""Event-stream framing: what every client reads as one event."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import sse


@pytest.mark.parametrize(
    ("framed", "bytes_"),
    [
        (sse.frame(b"{}"), b"data: {}\n\n"),
        (sse.frame(b"{}", seq=7), b"id: 7\ndata: {}\n\n"),
        (sse.frame(b"{}", seq=0), b"id: 0\ndata: {}\n\n"),
        (sse.frame(b"{}", event=b"text"), b"event: text\ndata: {}\n\n"),
        (sse.frame(b"{}", seq=12, event=b"text"), b"id: 12\nevent: text\ndata: {}\n\n"),
        (sse.frame(b"[DONE]"), b"data: [DONE]\n\n"),
        (sse.comment(b"heartbeat"), b": heartbeat\n\n"),
    ],
)
def test_a_frame_has_the_form_of_the_specification(framed: bytes, bytes_: bytes) -> None:
    assert framed == bytes_


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_json_is_one_line_to_every_reader_and_stays_the_same_value(text: str) -> None:
    framed = sse.frame(json.dumps({"t": text}, ensure_ascii=False).encode(), seq=1)
    head, data, blank = framed.decode().splitlines()
    assert (head, blank) == ("id: 1", "")
    assert json.loads(data.removeprefix("data: ")) == {"t": text}


@pytest.mark.parametrize("breaker", ["\x85", "\u2028", "\u2029", "\n", "\r", "\x0b", "\x1c", "\\\u2028", "\\\\\x85"])
def test_what_some_readers_take_for_a_line_break_is_escaped(breaker: str) -> None:
    framed = sse.frame(json.dumps(f"a{breaker}b", ensure_ascii=False).encode())
    assert len(framed.decode().splitlines()) == 2
    assert json.loads(framed.removeprefix(b"data: ")) == f"a{breaker}b"


def test_the_headers_keep_everybody_from_holding_the_stream_back() -> None:
    headers = sse.headers("r1")
    assert headers["Content-Type"].startswith("text/event-stream")
    assert "no-cache" in headers["Cache-Control"]
    assert "no-transform" in headers["Cache-Control"]
    assert headers["X-Accel-Buffering"] == "no"
    assert headers["X-Run-Id"] == "r1"
