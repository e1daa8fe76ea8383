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


CAPABILITIES = {
    "usage": True,  # Open WebUI asks for the usage, and shows it
    "vision": True,
    "file_upload": True,
    "file_context": True,  # it puts the text of attached files into the prompt
    "status_updates": True,
    "builtin_tools": False,  # the CLI has tools of its own; Open WebUI's would only be sent along
    "code_interpreter": False,
    "image_generation": False,
    "web_search": False,
    "terminal": False,
    "citations": False,
}
"""What Open WebUI (0.12.4) is to offer with a model; what is left out counts as true there."""


def describe(profile: Profile) -> dict[str, Any]:
    """A profile as an OpenAI model object; the last three are what Open WebUI shows and goes by."""
    return {
        "id": profile.id,
        "object": "model",
        "created": 0,
        "owned_by": "heartline",
        "name": profile.label,
        "description": profile.description,
        "info": {"meta": {"description": profile.description, "capabilities": CAPABILITIES}},
    }
