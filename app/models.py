"""GET /v1/models: the profiles, as OpenAI lists models. No CLI is asked."""

from typing import Any

from flask import Blueprint

from app.auth import required
from app.services import Services
from core.profiles import Profile


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("models", __name__)

    @blueprint.get("/v1/models")
    @required(services.api_keys)
    def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [describe(profile) for profile in services.profiles.offered]}

    @blueprint.get("/v1/models/<path:model_id>")
    @required(services.api_keys)
    def show(model_id: str) -> dict[str, Any]:
        return describe(services.profiles.offer(model_id))

    return blueprint


def describe(profile: Profile) -> dict[str, Any]:
    """A profile as an OpenAI model object; `name` and `description` are what Open WebUI shows."""
    return {
        "id": profile.id,
        "object": "model",
        "created": 0,
        "owned_by": "heartline",
        "name": profile.label,
        "description": profile.description,
    }
