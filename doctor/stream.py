"""One stream as it arrives: when each chunk and each event came. Judges it; pure but for `read`.

Every event says in `at` when it was written. How long one was on its way cannot be told between two clocks; but
that some were longer on their way than others can, and tells a stream that is held back.
"""

import http.client
import json
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

READ_BYTES = 65536


@dataclass(frozen=True)
class Arrival:
    """An event, and when it came (Unix seconds)."""

    at: float
    event: str
    data: dict[str, Any]


@dataclass
class Reading:
    """What came of one stream. Times are Unix seconds."""

    asked_at: float
    chunks: list[float] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)

    @property
    def first_byte_seconds(self) -> float:
        return self.chunks[0] - self.asked_at if self.chunks else 0.0

    @property
    def largest_gap_seconds(self) -> float:
        """The longest silence between two chunks."""
        return max((later - earlier for earlier, later in pairwise(self.chunks)), default=0.0)

    @property
    def held_back_seconds(self) -> float:
        """How much longer the slowest event was on its way than the quickest."""
        ways = [arrival.at - arrival.data["at"] for arrival in self.arrivals if "at" in arrival.data]
        return max(ways) - min(ways) if ways else 0.0

    def facts(self) -> dict[str, float | str]:
        return {
            "first_byte_seconds": round(self.first_byte_seconds, 4),
            "largest_gap_seconds": round(self.largest_gap_seconds, 4),
            "held_back_seconds": round(self.held_back_seconds, 4),
            "chunks": len(self.chunks),
            "events": len(self.arrivals),
        }


class StillRunning(Exception):
    """The stream takes longer than there is time."""


def read(
    response: http.client.HTTPResponse, reading: Reading, until: float, clock: Callable[[], float] = time.time
) -> Iterator[Arrival]:
    """Each event as it arrives, kept in `reading`. Raises `StillRunning` when the stream is not over by `until`
    (Unix seconds), `ValueError` for what is none of Heartline's, and what http.client raises."""
    lines, unpack = Lines(), unpacker(response)
    while chunk := response.read1(READ_BYTES):
        now = clock()
        reading.chunks.append(now)
        for event, data in lines.feed(unpack(chunk)):
            arrival = Arrival(now, event, data)
            reading.arrivals.append(arrival)
            yield arrival
        if now > until:
            raise StillRunning


def unpacker(response: http.client.HTTPResponse) -> Callable[[bytes], bytes]:
    """What undoes a proxy's compression, piece by piece. Raises `ValueError` for what is none."""
    if response.getheader("Content-Encoding") != "gzip":
        return lambda chunk: chunk
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 16)  # 16: with gzip's head

    def unpack(chunk: bytes) -> bytes:
        try:
            return unpacking.decompress(chunk)
        except zlib.error as error:
            raise ValueError(str(error)) from None

    return unpack


class Lines:
    """Takes an event stream's bytes as they come and gives its events, as Heartline writes them: JSON in one line."""

    def __init__(self) -> None:
        self._rest = b""
        self._event = "message"

    def feed(self, chunk: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            name, _, value = line.rstrip(b"\r").partition(b": ")
            if name == b"event":
                self._event = value.decode(errors="replace")
            elif name == b"data":
                event, self._event = self._event, "message"
                yield event, json.loads(value)
