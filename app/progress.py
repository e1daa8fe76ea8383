"""What a chat shows of the work behind its answer: chosen by the setting, the client, or the request."""

from typing import Literal, get_args

from flask import Request

from core.errors import InvalidRequest

Progress = Literal["openwebui", "text", "reasoning", "none"]

HEADER = "X-Heartline-Progress"
OPEN_WEBUI = "x-openwebui-"
"""Begins the headers that Open WebUI sends when it is set up to. Nothing else tells it from other clients: without
them it sends no header of its own, and the user agent of the library that it is made with (aiohttp)."""


def chosen(setting: Literal["auto"] | Progress, request: Request) -> Progress:
    """The request's own word, else the setting. Raises `InvalidRequest` for a word that there is not."""
    word = request.headers.get(HEADER, "").strip().lower() or setting
    for known in get_args(Progress):
        if word == known:
            return known  # type: ignore[no-any-return]
    if word != "auto":
        raise InvalidRequest(f"{HEADER}: expected 'auto', {', '.join(map(repr, get_args(Progress)))}.", param=HEADER)
    return "openwebui" if any(name.lower().startswith(OPEN_WEBUI) for name, _ in request.headers) else "none"
