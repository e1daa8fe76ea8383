"""GET /healthz: this process runs. GET /readyz: it can serve, with what it depends on. No key is needed."""

from typing import Any

from flask import Blueprint

from app.services import Services
from core.clients import AWAY


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/healthz")
    def alive() -> dict[str, Any]:
        return {"status": "ok"}

    @blueprint.get("/readyz")
    def ready() -> tuple[dict[str, Any], int]:
        if services.relay.drain.draining:
            return {"status": "draining"}, 503
        try:
            workers = services.liveness.count()
        except AWAY:
            return {"status": "unavailable", "redis": "unreachable", "workers": 0}, 503
        if not workers:
            return {"status": "unavailable", "redis": "ok", "workers": 0}, 503
        return {"status": "ok", "redis": "ok", "workers": workers}, 200

    return blueprint
