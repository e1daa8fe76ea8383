"""What happens in a run, as immutable typed records, and their one JSON encoding.

Pure: no Redis, no HTTP, no processes. The worker translates the CLI's lines into these; a dialect
translates these into what a client reads. `run_id`, `seq` and `at` are stamped by the log's writer.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """One record of a run.

    `seq` counts 1, 2, 3 … without a hole; `at` is Unix time in seconds.
    """

    run_id: str = ""
    seq: int = 0
    at: float = 0.0


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a run consumed, as the CLI reports it; `cost_usd` in US dollars.

    `input_tokens` counts everything that was read, cached or not.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    turns: int = 0


class Started(Event, frozen=True, tag="started"):
    """A worker has taken the run."""

    worker: str


class Session(Event, frozen=True, tag="session"):
    """The CLI is up; `session_id` is its own name for the conversation, `model` what it really uses."""

    session_id: str
    model: str


class Text(Event, frozen=True, tag="text"):
    """A piece of the answer. The answer is all pieces joined, less what was retracted."""

    text: str


class Retracted(Event, frozen=True, tag="retracted"):
    """The last `characters` (code points) of the answer are void: the model's connection broke and
    the CLI asks again from before them."""

    characters: int


class Reasoning(Event, frozen=True, tag="reasoning"):
    """A piece of the model's thinking; never part of the answer."""

    text: str


class ToolStarted(Event, frozen=True, tag="tool_started"):
    """The agent uses a tool. `summary` is one short line; `input` is JSON text, cut if long.

    `parent_tool_id` is the sub-agent's tool when a sub-agent does it, else None.
    """

    tool_id: str
    name: str
    summary: str
    input: str
    parent_tool_id: str | None = None


class ToolFinished(Event, frozen=True, tag="tool_finished"):
    """A tool has ended; `truncated` says that `output` was cut."""

    tool_id: str
    output: str
    is_error: bool = False
    truncated: bool = False
    parent_tool_id: str | None = None


class ApiRetry(Event, frozen=True, tag="api_retry"):
    """The CLI could not reach the model and waits `delay_seconds` before its next attempt.

    `http_status` is None when there was no HTTP answer at all.
    """

    attempt: int
    max_attempts: int
    delay_seconds: float
    http_status: int | None = None


class Compacting(Event, frozen=True, tag="compacting"):
    """The CLI shortens the conversation to fit the model's context."""


class Completed(Event, frozen=True, tag="completed"):
    """The run has ended with an answer. `stop_reason` is the model's own word."""

    stop_reason: str = "end_turn"
    usage: Usage = Usage()


class Failed(Event, frozen=True, tag="failed"):
    """The run has ended without a whole answer; `message` is a sentence for the user."""

    code: str
    message: str
    usage: Usage = Usage()


class Cancelled(Event, frozen=True, tag="cancelled"):
    """The run was stopped on request; `reason` says whose."""

    reason: str
    usage: Usage = Usage()


class Unrecognised(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a type that this version does not know, written by a newer worker."""

    run_id: str
    seq: int
    at: float = 0.0


Terminal = Completed | Failed | Cancelled
AnyEvent = (
    Started | Session | Text | Retracted | Reasoning | ToolStarted | ToolFinished | ApiRetry | Compacting
    | Completed | Failed | Cancelled
)  # fmt: skip

MAX_TEXT_CHARACTERS = 16 * 1024
"""The most that one event carries of an answer: it bounds what a page of the log can weigh."""

_encode = msgspec.json.Encoder().encode
_decode: Callable[[bytes], AnyEvent] = msgspec.json.Decoder(AnyEvent).decode
_decode_unrecognised = msgspec.json.Decoder(Unrecognised).decode

E = TypeVar("E", bound=Event)


def encode(event: Event) -> bytes:
    """The event's JSON: the bytes in the log, on the channel and in the native dialect."""
    return _encode(event)


def decode(data: bytes) -> AnyEvent | Unrecognised:
    """Inverse of `encode`. Raises `msgspec.DecodeError` on bytes that are no event."""
    try:
        return _decode(data)
    except msgspec.ValidationError:
        return _decode_unrecognised(data)


def stamp(event: E, run_id: str, seq: int, at: float) -> E:
    """The same event with its place in a run's log."""
    return msgspec.structs.replace(event, run_id=run_id, seq=seq, at=at)


def compact(events: Iterable[Event]) -> list[Event]:
    """The same events with neighbouring text joined, and long text cut into `MAX_TEXT_CHARACTERS`."""
    joined: list[Event] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, Text) and isinstance(last, Text):
            joined[-1] = Text(text=last.text + event.text)
        elif isinstance(event, Reasoning) and isinstance(last, Reasoning):
            joined[-1] = Reasoning(text=last.text + event.text)
        else:
            joined.append(event)
    return [piece for event in joined for piece in _pieces(event)]


def _pieces(event: Event) -> Iterable[Event]:
    if isinstance(event, Text | Reasoning) and len(event.text) > MAX_TEXT_CHARACTERS:
        step = MAX_TEXT_CHARACTERS
        return [type(event)(text=event.text[i : i + step]) for i in range(0, len(event.text), step)]
    return [event]


class Answer:
    """Folds a run's events into the text that its user should end up with."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def add(self, event: Any) -> None:
        if isinstance(event, Text):
            self._pieces.append(event.text)
        elif isinstance(event, Retracted):
            self._pieces = [self.text[: -event.characters] if event.characters else self.text]

    @property
    def text(self) -> str:
        return "".join(self._pieces)
