"""Earlier turns for the CLI, as a session file of its own kind: the model gets them as real turns, not as
a text in which one speaker could pose as the other. Pure.

`claude --resume FILE --fork-session` reads such a file from anywhere and leaves it as it is (seen with
2.1.329: the API then receives exactly these messages in front of the new one).
"""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid5

from core.run import Image, Message

_NAMESPACE = UUID("6b1f9d53-3f0c-4b0e-9d58-6a3f7d1c9b10")
_OPENING = "(The conversation begins with your message.)"


def session_file(history: Sequence[Message], cwd: str) -> str:
    """The turns as lines of JSON, each pointing to the one before."""
    session, parent, lines = str(uuid5(_NAMESPACE, "session")), None, []
    for number, turn in enumerate(alternating(history)):
        uuid = str(uuid5(_NAMESPACE, str(number)))
        lines.append(json.dumps(_entry(turn, number, uuid, parent, session, cwd), ensure_ascii=False))
        parent = uuid
    return "\n".join(lines) + "\n"


def alternating(history: Sequence[Message]) -> list[Message]:
    """The turns as the Messages API wants them: the user begins, and nobody speaks twice in a row."""
    turns: list[Message] = []
    for message in history:
        if not turns and message.role == "assistant":
            turns.append(Message("user", _OPENING))
        if turns and turns[-1].role == message.role:
            turns[-1] = _joined(turns[-1], message)
        else:
            turns.append(message)
    return turns


def _joined(first: Message, second: Message) -> Message:
    text = "\n\n".join(filter(None, (first.text, second.text)))
    return Message(first.role, text, images=first.images + second.images)


def content(text: str, images: Sequence[Image]) -> list[dict[str, Any]]:
    """What a user says in one turn, as the Messages API's blocks: the pictures first, which models read best."""
    blocks: list[dict[str, Any]] = [{"type": "image", "source": _source(image)} for image in images]
    return [*blocks, {"type": "text", "text": text}] if text or not blocks else blocks


def _source(image: Image) -> dict[str, str]:
    if image.url:
        return {"type": "url", "url": image.url}
    return {"type": "base64", "media_type": image.media_type, "data": image.data}


def _entry(turn: Message, number: int, uuid: str, parent: str | None, session: str, cwd: str) -> dict[str, Any]:
    if turn.role == "user":
        message: dict[str, Any] = {
            "role": "user",
            "content": content(turn.text, turn.images) if turn.images else turn.text,
        }
    else:
        message = {
            "id": f"msg_history_{number}",
            "type": "message",
            "role": "assistant",
            "model": "claude",
            "content": [{"type": "text", "text": turn.text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
    return {
        "type": turn.role,
        "uuid": uuid,
        "parentUuid": parent,
        "sessionId": session,
        "cwd": cwd,
        "isSidechain": False,
        "userType": "external",
        "version": "2.1.329",
        "timestamp": "2026-01-01T00:00:00.000Z",
        "message": message,
    }
