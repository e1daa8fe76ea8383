"""A run: one CLI execution that answers one request. What it is, which line it waits in, and which status may
follow which."""

import enum
import uuid

import msgspec

_IDEMPOTENCY = uuid.UUID("0d1c6a1e-3c57-4c7e-9a35-5f7c1f0a2b4d")


class Status(enum.StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})

TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.FAILED, Status.CANCELLED}),
    Status.RUNNING: TERMINAL,
    Status.COMPLETED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}


class Lane(enum.StrEnum):
    """The lines that runs wait in, by the names of their queues. Each has slots of its own, so that runs of one
    neither wait for those of the other nor hold them up."""

    RUNS = "heartline"
    TASKS = "heartline-tasks"


def may_become(target: Status) -> list[Status]:
    """The statuses from which a run may move to `target`."""
    return [status for status, following in TRANSITIONS.items() if target in following]


class Image(msgspec.Struct, frozen=True):
    """A picture in a user's message: its bytes in base64, or where the model's API is to fetch it."""

    media_type: str = ""
    data: str = ""
    url: str = ""


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of the conversation. `tool` marks what a tool was asked or answered, written out as text."""

    role: str  # "user" or "assistant"
    text: str
    tool: bool = False
    images: tuple[Image, ...] = ()


class RunRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is asked of the CLI, whatever wire format it came in. The last message is the user's.

    `effort` is the CLI's `--effort`, `schema` the JSON schema (as JSON text) that the answer must follow;
    `continues`: the answer goes on where the last assistant message stops, and the user's says only so.
    """

    messages: tuple[Message, ...]
    system: str = ""
    effort: str | None = None
    schema: str = ""
    continues: bool = False

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What is new: the user's messages behind the last answer, one or more."""
        return self.messages[self._first_new :]

    @property
    def history(self) -> tuple[Message, ...]:
        return self.messages[: self._first_new]

    @property
    def _first_new(self) -> int:
        first = len(self.messages)
        while first and self.messages[first - 1].role == "user" and not self.messages[first - 1].tool:
            first -= 1
        return first


class Place(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a run stands in its conversation.

    `conversation` (32 hex digits) names the workspace, `parent` the run whose session this one goes on from.
    Once completed, the run is found within `scope` under `message`, the client's id of the answer, or else by
    what was said; `in_chat`: the scope is one chat of the client's. Without a scope it is found by its id only.
    """

    conversation: str
    parent: str | None = None
    scope: str = ""
    message: str = ""
    in_chat: bool = False


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run's record. Times are Unix seconds.

    `model` is the name the client asked with, `profile` the id of the profile that serves it. A run that is
    not detached ends when its last watcher has left; one without a place belongs to no conversation. `trace_id`
    (32 hex digits, or nothing) is that of the request that made it.
    """

    id: str
    owner: str
    profile: str
    model: str
    created_at: float
    detach: bool = False
    place: Place | None = None
    lane: Lane = Lane.RUNS
    trace_id: str = ""
    status: Status = Status.QUEUED
    started_at: float | None = None
    ended_at: float | None = None
    worker: str | None = None

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL


def new_id() -> str:
    """An unguessable run id: 32 hex digits, also valid as a UUID (the CLI wants one) and as an RQ job id."""
    return uuid.uuid4().hex


def id_of(owner: str, idempotency_key: str) -> str:
    """The id of the one run that an owner's `Idempotency-Key` stands for, in the same form."""
    return uuid.uuid5(_IDEMPOTENCY, f"{owner}\0{idempotency_key}").hex
