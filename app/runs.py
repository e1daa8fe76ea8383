"""/v1/runs: create a run, list, inspect and watch it. The native dialect."""

import re
from itertools import chain
from typing import Any

import msgspec
from flask import Blueprint, Response, g, jsonify, request, url_for

from app import sse
from app.auth import required, whose
from app.client import Client
from app.dialects.native import NativeStream, RunBody, behind, checked, describe, parse, reset
from app.intake import idempotency_key, read_body
from app.metrics import RESETS
from app.services import Services
from app.traceparent import trace_id_of
from app.whole import Whole
from core.errors import InvalidRequest, RunNotFound
from core.events import Failed
from core.run import Run, RunRequest, Status

MAX_PAGE = 100


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("runs", __name__)
    guard = required(services.api_keys)
    guard_of_pages = required(services.api_keys, services.logins)

    @blueprint.post("/v1/runs")
    @guard
    def create() -> Response:
        body = read_body(request, RunBody)
        asked = parse(body, services.settings)
        parent = None
        if body.parent is not None:
            parent, asked = _behind(services, body.parent, asked)
        run, is_new = services.intake.submit(
            g.owner,
            body.model or (parent.model if parent else None),
            asked,
            detach=body.detach,
            parent=parent,
            idempotency_key=idempotency_key(request),
            trace_id=trace_id_of(request),
        )
        response = jsonify(describe(run))
        response.status_code = 201 if is_new else 200
        response.headers["Location"] = url_for("runs.show", run_id=run.id)
        response.headers["X-Run-Id"] = run.id
        return response

    @blueprint.get("/v1/runs")
    @guard_of_pages
    def list_runs() -> dict[str, Any]:
        limit = _number("limit", default=20, low=1, high=MAX_PAGE)
        before = request.args.get("before")
        runs = services.runs.of(g.owner, int(limit), _number("before", 0, 0, 1e11) if before else None)
        return {"object": "list", "data": [describe(run) for run in runs]}

    @blueprint.get("/v1/runs/<run_id>")
    @guard_of_pages
    def show(run_id: str) -> dict[str, Any]:
        run = services.runs.get(run_id, whose())
        whole = Whole.read(services.log, run.id)
        terminal = whole.terminal
        error = {"code": terminal.code, "message": terminal.message} if isinstance(terminal, Failed) else None
        return {
            **describe(run),
            "answer": whole.text,
            "error": error,
            "usage": msgspec.to_builtins(terminal.usage) if terminal else None,
            "last_seq": services.log.length(run.id),
        }

    @blueprint.post("/v1/runs/<run_id>/cancel")
    @guard_of_pages
    def cancel(run_id: str) -> dict[str, Any]:
        """Idempotent: a run that has ended, however, stays as it is."""
        run = services.runs.get(run_id, whose())
        by = "its owner" if run.owner == g.owner else "an operator"
        return describe(services.stopper.cancel(run_id, f"cancelled by {by}"))

    @blueprint.get("/v1/runs/<run_id>/events")
    @guard_of_pages
    def watch(run_id: str) -> Response:
        run = services.runs.get(run_id, whose())
        headers = sse.headers(run.id)
        if request.method == "HEAD":
            return Response(headers=headers)
        after = _cursor()
        last_seq = services.log.length(run.id)
        if run.ended and after == last_seq:
            # Nothing will ever follow; 204 is how a server tells an EventSource to stop reconnecting.
            return Response(status=204)
        response = Response(_from(run, after, last_seq), headers=headers)
        if g.by_login or run.owner != g.owner:
            return response  # who only looks on keeps no run alive: Stop in a chat must stop it all the same
        return services.attendance.attending(run, response)

    def _from(run: Run, after: int, last_seq: int) -> Any:
        dialect, client = NativeStream(services.settings.language), Client.of(request)
        if after > last_seq:
            RESETS.inc()
            return chain([reset(last_seq)], services.relay.stream(run, dialect, client=client))
        return services.relay.stream(run, dialect, after, client)

    return blueprint


def _behind(services: Services, parent_id: str, asked: RunRequest) -> tuple[Run, RunRequest]:
    """The parent, and the request with its conversation in front."""
    try:
        parent = services.runs.get(parent_id, g.owner)
    except RunNotFound as error:
        raise RunNotFound(f"parent: {error}", param="parent") from None
    if parent.status is not Status.COMPLETED:
        raise InvalidRequest(
            f"parent: that run is {parent.status.value}; only a completed one can be gone on from.", param="parent"
        )
    earlier, answer = services.runs.request(parent.id), Whole.read(services.log, parent.id).text
    return parent, checked(behind(earlier, answer, asked), services.settings, "parent")


def _cursor() -> int:
    """Where to go on: `?after=`, else the header that an EventSource sends when it reconnects."""
    if "after" in request.args:
        return int(_number("after", 0, 0, 1e15))
    text = request.headers.get("Last-Event-ID", "").strip()
    if text and not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise InvalidRequest("Last-Event-ID: expected the id of an event, a whole number.", param="Last-Event-ID")
    return int(text or 0)


def _number(name: str, default: float, low: float, high: float) -> float:
    text = request.args.get(name, "")
    if not text:
        return default
    form = r"[0-9]{1,20}(\.[0-9]{1,20})?" if name == "before" else r"[0-9]{1,20}"
    value = (float(text) if name == "before" else int(text)) if re.fullmatch(form, text) else None
    if value is None or not low <= value <= high:
        raise InvalidRequest(f"{name}: expected a number from {low:.0f} to {high:.0f}.", param=name)
    return value
