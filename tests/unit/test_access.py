"""The access log: what a line says of a request, when it is written, and what it never says."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, Response, g, request
from flask.testing import FlaskClient

from app import access
from app.client import Client
from core.errors import InvalidRequest
from core.logs import fields

RUN_ID = "0123456789abcdef0123456789abcdef"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Stream:
    """A stream that tells when it is closed, as a generator of the relay does."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.closed = False

    def chunks(self) -> Iterator[bytes]:
        self.client.ended = "client_gone"
        try:
            for _ in range(3):
                self.client.events += 1
                yield b"12345"
            self.client.ended = "completed"
        finally:
            self.closed = True


@pytest.fixture
def streams() -> list[Stream]:
    return []


@pytest.fixture
def client(streams: list[Stream]) -> FlaskClient:
    app = Flask("test")
    ticks = iter(range(100))
    access.register(app, clock=lambda: next(ticks))

    @app.route("/v1/runs/<run_id>", methods=["GET", "POST"])
    def show(run_id: str) -> str:
        g.owner = "alice"
        return "größe"

    @app.get("/stream")
    def stream() -> Response:
        streams.append(Stream(Client.of(request)))
        return Response(streams[-1].chunks(), headers={"X-Run-Id": RUN_ID})

    @app.get("/wrong")
    def wrong() -> str:
        raise InvalidRequest("no")

    @app.get("/healthz")
    def alive() -> str:
        return "ok"

    app.register_error_handler(InvalidRequest, lambda error: ("no", 400))
    return app.test_client()


def said(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [fields(record) or {} for record in caplog.records if record.name == "app.access"]


@pytest.fixture(autouse=True)
def _listen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="app.access")


def test_a_line_tells_of_the_request_without_its_query(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    client.get(f"/v1/runs/{RUN_ID}?secret=1", headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, buffered=True)
    assert said(caplog) == [
        {
            "method": "GET", "route": "/v1/runs/<run_id>", "status": 200, "seconds": 1, "bytes": 7, "owner": "alice",
            "run_id": RUN_ID, "trace_id": TRACE,
        }
    ]  # fmt: skip


def test_a_path_that_holds_no_id_is_not_repeated(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    client.get("/v1/runs/my%20secret", buffered=True)
    client.get("/nowhere/my-secret", buffered=True)
    client.open("/v1/runs/x", method="STEAL", buffered=True)
    assert [(line["method"], line["route"], line["status"]) for line in said(caplog)] == [
        ("GET", "/v1/runs/<run_id>", 200), ("GET", "none", 404), ("other", "none", 405),
    ]  # fmt: skip
    assert "secret" not in caplog.text
    assert "STEAL" not in caplog.text


def test_a_stream_is_told_of_at_its_end(
    client: FlaskClient, streams: list[Stream], caplog: pytest.LogCaptureFixture
) -> None:
    response = client.get("/stream")
    body = response.iter_encoded()
    next(body)
    assert said(caplog) == []
    list(body)
    response.close()
    (line,) = said(caplog)
    assert (line["bytes"], line["events"], line["ended"], line["run_id"]) == (15, 3, "completed", RUN_ID)


def test_a_stream_that_is_left_is_closed_and_told_of(
    client: FlaskClient, streams: list[Stream], caplog: pytest.LogCaptureFixture
) -> None:
    response = client.get("/stream")
    next(iter(response.iter_encoded()))
    response.close()
    assert streams[0].closed
    (line,) = said(caplog)
    assert (line["events"], line["ended"]) == (1, "client_gone")


def test_errors_have_their_status_and_head_no_bytes(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    client.get("/wrong", buffered=True)
    client.head(f"/v1/runs/{RUN_ID}", buffered=True)
    assert [(line["status"], line["bytes"]) for line in said(caplog)] == [(400, 2), (200, 0)]


def test_probes_are_told_of_only_when_one_debugs(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    client.get("/healthz", buffered=True)
    assert said(caplog) == []
    caplog.set_level(logging.DEBUG, logger="app.access")
    client.get("/healthz", buffered=True)
    assert [line["route"] for line in said(caplog)] == ["/healthz"]


def test_a_body_lets_go_of_what_it_is_made_of() -> None:
    closed = []

    def chunks() -> Iterator[bytes]:
        try:
            yield b"a"
            yield b"b"
        finally:
            closed.append(True)

    body = access.Counted(part for part in chunks())
    assert next(body) == b"a"
    body.close()
    assert closed == [True]
    assert (body.bytes, list(body)) == (1, [])
