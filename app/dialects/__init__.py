"""Wire formats: one module each. Pure: a request's body → what to run, an event → the client's bytes.

A dialect's rendering is a function of the event alone, so that its bytes can be shared by all clients
that watch the same run in the same dialect; two dialects are equal when they render equally. One that must
know what came before (Open WebUI's) is its client's own, and equal to nothing but itself.
"""

from collections.abc import Hashable
from typing import ClassVar, Protocol

from core.events import AnyEvent, Unrecognised


class Dialect(Hashable, Protocol):
    """How one client reads a run. Every method returns bytes of an event stream, or none at all.

    `resumable`: whether such a client can go on elsewhere when its stream ends before the run.
    """

    resumable: ClassVar[bool]

    def opening(self, *, resumed: bool) -> bytes:
        """What the client reads at once, before any worker knows of the run."""
        ...

    def queued(self, place: int) -> bytes:
        """The run waits; `place` 1 is the next one to start. Not an event: it belongs to the moment."""
        ...

    def taking_turns(self) -> bytes:
        """Another run of the same conversation is at work; this one is next."""
        ...

    def render(self, event: AnyEvent | Unrecognised, data: bytes) -> bytes:
        """One event; `data` is its encoding in the log. The terminal event ends the stream.

        A client is given each event once, in order, from the first one behind its cursor.
        """
        ...

    def heartbeat(self) -> bytes:
        """A sign of life that changes nothing."""
        ...

    def farewell(self) -> bytes:
        """This replica ends, the run may go on: the end of the stream, before the run's own."""
        ...

    def lost(self) -> bytes:
        """The log is gone: the end of the stream, with a clear error."""
        ...
