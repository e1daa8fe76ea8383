"""Where a chat request comes from, as Open WebUI's headers tell it (see README: the header template)."""

from flask import Request

from core.conversation import Origin

_PREFIX = "X-OpenWebUI-"
_SHARED_CHATS = ("temporary:", "local:")
"""Chats that Open WebUI does not keep: all of a browser's have one id, so it names none of them."""


def origin_of(request: Request, user: str | None = None) -> Origin:
    """`user` is what the body says, for clients that send no headers. What is asked beside a chat, for a title or a
    merged answer, is no part of it."""
    chat = "" if _header(request, "Task") else _header(request, "Chat-Id")
    return Origin(
        user=_header(request, "User-Id") or user or "",
        chat="" if chat.startswith(_SHARED_CHATS) else chat,
        message=_header(request, "Message-Id"),
        parent=_header(request, "User-Message-Parent-Id"),
    )


def _header(request: Request, name: str) -> str:
    value = request.headers.get(_PREFIX + name, "").strip()
    return "" if value.startswith("{{") else value  # a template that the client's version does not know
