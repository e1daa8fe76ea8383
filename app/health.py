"""GET /healthz: this process runs. GET /readyz: it can serve, with what it depends on. No key is needed."""

from typing import Any

from flask import Blueprint, request

from app.services import Services
from core.clients import AWAY
from core.errors import InvalidRequest


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/healthz")
    def alive() -> dict[str, Any]:
        return {"status": "ok"}

    @blueprint.get("/readyz")
    def ready() -> tuple[dict[str, Any], int]:
        wanted = _workers_wanted()
        if services.relay.drain.draining:
            return {"status": "draining"}, 503
        try:
            workers = services.liveness.count()
        except AWAY:
            return {"status": "unavailable", "redis": "unreachable", "workers": 0}, 503
        if workers < wanted:
            return {"status": "unavailable", "redis": "ok", "workers": 0}, 503
        return {"status": "ok", "redis": "ok", "workers": workers}, 200

    return blueprint


def _workers_wanted() -> int:
    """How many live workers make it ready. A proxy asks for 0: without any, requests may still come, and wait."""
    text = request.args.get("workers", "1")
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise InvalidRequest("workers: expected a whole number, how many workers must be alive.", param="workers")
    return int(text)
