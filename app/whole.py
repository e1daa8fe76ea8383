"""A run's answer as a whole, for clients that do not stream."""

from dataclasses import dataclass
from typing import ClassVar

from core.events import Answer, AnyEvent, Terminal, Unrecognised
from core.log import EventLog


@dataclass(frozen=True)
class Silent:
    """The dialect of a client that waits for the whole: white space, which JSON allows in front of a value."""

    resumable: ClassVar[bool] = False

    def opening(self, *, resumed: bool) -> bytes:
        return b""

    def queued(self, place: int) -> bytes:
        return b""

    def taking_turns(self) -> bytes:
        return b""

    def render(self, event: AnyEvent | Unrecognised, data: bytes) -> bytes:
        return b""

    def heartbeat(self) -> bytes:
        return b"\n"

    def farewell(self) -> bytes:
        return b""

    def lost(self) -> bytes:
        return b""


@dataclass(frozen=True)
class Whole:
    """What a log amounts to: the answer so far, and how the run ended, if it has."""

    text: str
    terminal: Terminal | None

    @classmethod
    def read(cls, log: EventLog, run_id: str) -> "Whole":
        answer, event = Answer(), None
        for event in log.read_all(run_id):
            answer.add(event)
        return cls(answer.text, event if isinstance(event, Terminal) else None)
