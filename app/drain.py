"""Draining: how a replica that was told to stop takes leave of its clients, none of them in the middle of a chunk.

Clients that can resume are sent elsewhere soon, spread over a while so that they do not all come at once;
the others get what time there is to read their answer to its end.
"""

from collections.abc import Callable

from app.dialects import Dialect

JITTER_SHARE = 0.5
"""Which part of the drain time the clients that can resume are spread over."""

LAST_SHARE = 0.85
"""After which part of the drain time everybody else is told; the rest is for the last bytes to go out."""


class Drain:
    """Whether this replica is draining, and when it is over for whom. Asked by every stream, at every turn."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begun_at: float | None = None
        self._seconds = 0.0

    @property
    def draining(self) -> bool:
        return self._begun_at is not None

    def begin(self, seconds: float) -> None:
        """Every stream must have ended within `seconds`; called again with less, sooner."""
        if self._begun_at is None:
            self._begun_at = self._clock()
        self._seconds = seconds

    def is_over_for(self, dialect: Dialect, lot: float) -> bool:
        """Whether a stream in this dialect should end now; `lot` is what it has drawn, from 0 to 1."""
        if self._begun_at is None:
            return False
        share = lot * JITTER_SHARE if dialect.resumable else LAST_SHARE
        return self._clock() - self._begun_at >= share * self._seconds
