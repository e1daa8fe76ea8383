"""The native dialect: every event as it stands in the log, resumable by its seq."""

from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from app import sse
from core.errors import InvalidRequest, TooLarge
from core.events import AnyEvent, Unrecognised
from core.run import Message, Run, RunRequest
from core.sentences import sentence

HEARTBEAT = sse.comment(b"heartbeat")
RETRY = b"retry: 500\n"
"""How soon an EventSource comes back, in milliseconds: its own 3 s or more would be a run's whole grace time."""


@dataclass(frozen=True)
class NativeStream:
    """The whole log of one run as Server-Sent Events: `id` is the seq, `event` the type, `data` the JSON."""

    language: str = "en"
    resumable: ClassVar[bool] = True

    def opening(self, *, resumed: bool) -> bytes:
        return RETRY + sse.comment(b"resumed" if resumed else b"watching")

    def queued(self, place: int) -> bytes:
        return sse.frame(msgspec.json.encode({"place": place}), event=b"queued")

    def render(self, event: AnyEvent | Unrecognised, data: bytes) -> bytes:
        name = "unrecognised" if isinstance(event, Unrecognised) else event.__struct_config__.tag
        return sse.frame(data, seq=event.seq, event=str(name).encode())

    def heartbeat(self) -> bytes:
        return HEARTBEAT

    def farewell(self) -> bytes:
        return sse.comment(b"this server is being restarted; connect again to go on")

    def lost(self) -> bytes:
        return sse.frame(msgspec.json.encode({"message": sentence(self.language, "log_lost")}), event=b"lost")


def reset(last_seq: int) -> bytes:
    """Tells a client whose cursor lies behind the end of the log that the stream starts over."""
    return sse.frame(msgspec.json.encode({"last_seq": last_seq}), event=b"reset")


class RunBody(msgspec.Struct, frozen=True):
    """The body of `POST /v1/runs`: `prompt`, or `messages` that end with the user's.

    With `parent`, the id of a completed run, `prompt` goes on from there; without a `model`, with its model. A run
    that is not to `detach` ends when its last watcher has left.
    """

    model: str | None = None
    prompt: str | None = None
    system: str = ""
    messages: tuple[Message, ...] = ()
    parent: str | None = None
    detach: bool = True


def parse(body: RunBody, max_prompt_bytes: int) -> RunRequest:
    """What to run. Raises `InvalidRequest` or `TooLarge`, naming the field."""
    if (body.prompt is None) == (not body.messages):
        raise InvalidRequest("Give either 'prompt' or 'messages'.", param="prompt")
    if body.parent is not None and body.messages:
        raise InvalidRequest("Give 'prompt' with 'parent': the earlier messages are known.", param="messages")
    messages = body.messages or (Message("user", body.prompt or ""),)
    for i, message in enumerate(messages):
        if message.role not in ("user", "assistant"):
            raise InvalidRequest(
                f"messages[{i}].role: expected 'user' or 'assistant'; system text goes into 'system'.",
                param=f"messages[{i}].role",
            )
    param = "messages" if body.prompt is None else "prompt"
    return checked(RunRequest(messages=messages, system=body.system), max_prompt_bytes, param)


def behind(parent: RunRequest, answer: str, request: RunRequest) -> RunRequest:
    """The request with all that was said before it: what the parent was asked, and its answer."""
    asked = parent.messages[:-1] if parent.continues else parent.messages
    earlier = (*asked, Message("assistant", answer))
    system = request.system or parent.system
    return msgspec.structs.replace(request, messages=(*earlier, *request.messages), system=system)


def checked(request: RunRequest, max_prompt_bytes: int, param: str = "messages") -> RunRequest:
    """The same request, if it ends with a user's text and is not too large; any dialect's last step."""
    last = request.messages[-1]
    if last.role != "user" or not last.text.strip():
        raise InvalidRequest("The last message must be a user's, and not empty.", param=param)
    size = len(request.system.encode()) + sum(len(message.text.encode()) for message in request.messages)
    if size > max_prompt_bytes:
        raise TooLarge(
            f"The messages are {size} bytes together; this server takes {max_prompt_bytes} "
            "(HEARTLINE_MAX_PROMPT_BYTES). Shorten them, or start a new chat.",
            param=param,
        )
    return request


def describe(run: Run) -> dict[str, Any]:
    """A run as clients see it. Times are Unix seconds."""
    return {
        "id": run.id,
        "object": "run",
        "status": run.status.value,
        "model": run.model,
        "profile": run.profile,
        "detach": run.detach,
        "conversation": run.place.conversation if run.place else None,
        "parent": run.place.parent if run.place else None,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
    }
