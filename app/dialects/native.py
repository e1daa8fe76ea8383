"""The native dialect: every event as it stands in the log, resumable by its seq."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from app import images, sse
from core.errors import InvalidRequest, TooLarge
from core.events import AnyEvent, Unrecognised
from core.run import Image, Message, Run, RunRequest
from core.sentences import sentence
from core.settings import Settings

MAX_ID_CHARACTERS = 200

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

    def taking_turns(self) -> bytes:
        return sse.frame(msgspec.json.encode({"place": None, "waits_for": "conversation"}), event=b"queued")

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


@dataclass(frozen=True)
class SessionStream(NativeStream):
    """The same for a client that knows sessions, not runs: told both at once, and it never comes back for the rest."""

    session_id: str = ""
    run_id: str = ""
    resumable: ClassVar[bool] = False

    def opening(self, *, resumed: bool) -> bytes:
        accepted = {"session_id": self.session_id, "run_id": self.run_id}
        return sse.frame(msgspec.json.encode(accepted), event=b"accepted")

    def farewell(self) -> bytes:
        return sse.frame(msgspec.json.encode({"message": sentence(self.language, "replica_shutdown")}), event=b"lost")


class StreamBody(msgspec.Struct, frozen=True):
    """The body of `POST /chat/stream` and `POST /execute/stream`. Without a `session_id`, a new session begins."""

    message: str
    user_id: Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARACTERS)]
    session_id: Annotated[str, Meta(max_length=MAX_ID_CHARACTERS)] | None = None


def message_of(body: StreamBody, settings: Settings) -> RunRequest:
    """What to run. Raises `InvalidRequest` or `TooLarge`, naming the field."""
    return checked(RunRequest(messages=(Message("user", body.message),)), settings, "message")


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


def parse(body: RunBody, settings: Settings) -> RunRequest:
    """What to run. Raises `InvalidRequest` or `TooLarge`, naming the field."""
    if (body.prompt is None) == (not body.messages):
        raise InvalidRequest("Give either 'prompt' or 'messages'.", param="prompt")
    if body.parent is not None and body.messages:
        raise InvalidRequest("Give 'prompt' with 'parent': the earlier messages are known.", param="messages")
    messages = tuple(_message(message, f"messages[{i}]", settings) for i, message in enumerate(body.messages))
    param = "messages" if body.prompt is None else "prompt"
    messages = messages or (Message("user", body.prompt or ""),)
    return checked(RunRequest(messages=messages, system=body.system), settings, param)


def behind(parent: RunRequest, answer: str, request: RunRequest) -> RunRequest:
    """The request with all that was said before it: what the parent was asked, and its answer."""
    asked = parent.messages[:-1] if parent.continues else parent.messages
    earlier = (*asked, Message("assistant", answer))
    system = request.system or parent.system
    return msgspec.structs.replace(request, messages=(*earlier, *request.messages), system=system)


def _message(message: Message, where: str, settings: Settings) -> Message:
    if message.role not in ("user", "assistant"):
        raise InvalidRequest(
            f"{where}.role: expected 'user' or 'assistant'; system text goes into 'system'.", param=f"{where}.role"
        )
    if message.images and message.role != "user":
        raise InvalidRequest(f"{where}.images: pictures belong into a user's message.", param=f"{where}.images")
    pictures = tuple(_picture(each, f"{where}.images[{i}]", settings) for i, each in enumerate(message.images))
    return msgspec.structs.replace(message, images=pictures)


def _picture(given: Image, where: str, settings: Settings) -> Image:
    if given.url and given.data:
        raise InvalidRequest(f"{where}: give either 'data' or 'url'.", param=where)
    if given.url:
        return images.from_url(given.url, f"{where}.url", addresses_allowed=settings.image_urls == "on")
    return images.from_base64(given.data, f"{where}.data")


def checked(request: RunRequest, settings: Settings, param: str = "messages") -> RunRequest:
    """The same request, if it ends with what a user says and is not too large; any dialect's last step."""
    last = request.messages[-1]
    if last.role != "user" or not (last.text.strip() or last.images):
        raise InvalidRequest("The last message must be a user's, and not empty.", param=param)
    pictures = [picture for message in request.messages for picture in message.images]
    if len(pictures) > settings.max_images:
        raise InvalidRequest(
            f"{param}: they have {len(pictures)} pictures; this server takes {settings.max_images} "
            "(HEARTLINE_MAX_IMAGES). Leave some out, or start a new chat.",
            param=param,
        )
    size = len(request.system.encode()) + sum(len(message.text.encode()) for message in request.messages)
    size += sum(len(picture.data or picture.url) for picture in pictures)
    if size > settings.max_prompt_bytes:
        raise TooLarge(
            f"The messages are {size} bytes together; this server takes {settings.max_prompt_bytes} "
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
