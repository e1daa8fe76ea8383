"""What the doctor makes of a stream's times."""

import io
import itertools
import zlib
from collections.abc import Iterable
from typing import Any

import pytest

from doctor.case import Case
from doctor.finding import Grade
from doctor.stream import Lines, Reading, StillRunning, read
from doctor.way import Way, judged

WAY = Way("url", "http://proxy.example/v1/", "k")
STREAM = b': watching\n\nid: 1\nevent: text\ndata: {"at": 5.0, "text": "a"}\n\ndata: {"at": 6.0}\r\n\r\n'


class Chunks(io.BytesIO):
    """An answer that comes in these chunks."""

    def __init__(self, chunks: Iterable[bytes], encoding: str | None = None) -> None:
        super().__init__()
        self._chunks = iter(chunks)
        self._encoding = encoding

    def getheader(self, name: str) -> str | None:
        return self._encoding if name == "Content-Encoding" else None

    def read1(self, size: int | None = -1) -> bytes:
        return next(self._chunks, b"")


def reading(ways: Iterable[float]) -> Reading:
    """Of ten events, one a second, each so long on its way."""
    found = Reading(asked_at=100.0)
    ways = list(ways)
    times = iter([100.0 + number + way for number, way in enumerate(ways)])
    chunks = Chunks(b'data: {"at": %d}\n\n' % (100 + number) for number in range(len(ways)))
    for _ in read(chunks, found, 200.0, lambda: next(times)):  # type: ignore[arg-type]
        pass
    return found


@pytest.mark.parametrize("size", [1, 2, 7, len(STREAM)])
def test_events_are_the_same_however_they_are_cut(size: int) -> None:
    lines, found = Lines(), list[tuple[str, dict[str, Any]]]()
    for start in range(0, len(STREAM), size):
        found += lines.feed(STREAM[start : start + size])
    assert found == [("text", {"at": 5.0, "text": "a"}), ("message", {"at": 6.0})]


def test_a_stream_that_comes_as_it_is_written_is_well() -> None:
    found = judged("url: run", WAY, reading([0.01] * 10), "a run")
    assert found.grade is Grade.OK
    assert found.facts["largest_gap_seconds"] == 1.0
    assert found.facts["held_back_seconds"] == 0.0


def test_another_clock_is_no_fault_of_the_stream() -> None:
    assert judged("url: run", WAY, reading([-3600.0] * 10), "a run").grade is Grade.OK


def test_a_stream_that_comes_all_at_once_is_buffered() -> None:
    found = judged("url: run", WAY, reading(9.0 - number for number in range(10)), "a run")
    assert found.grade is Grade.FAILED
    assert "buffers" in found.said
    assert "proxy_buffering off" in found.fix


def test_a_stream_that_comes_in_two_halves_is_buffered() -> None:
    ways = [4.0 - number % 5 for number in range(10)]
    assert judged("url: run", WAY, reading(ways), "a run").grade is Grade.FAILED


def test_a_stream_that_hesitates_is_a_warning() -> None:
    assert judged("url: run", WAY, reading([0.0] * 9 + [0.8]), "a run").grade is Grade.WARNING


def test_a_stream_that_a_proxy_has_compressed_is_read_as_it_comes() -> None:
    packing, found = zlib.compressobj(wbits=31), Reading(100.0)
    lines = [b'data: {"at": %d}\n\n' % number for number in range(3)]
    packed = [packing.compress(line) + packing.flush(zlib.Z_SYNC_FLUSH) for line in lines]
    arrivals = read(Chunks(packed, "gzip"), found, 200.0, lambda: 101.0)  # type: ignore[arg-type]
    for number, arrival in enumerate(arrivals):
        assert arrival.data == {"at": number}
        assert len(found.chunks) == number + 1


def test_what_only_pretends_to_be_compressed_is_none_of_heartlines() -> None:
    with pytest.raises(ValueError, match="incorrect header"):
        list(read(Chunks([b"plain"], "gzip"), Reading(100.0), 200.0))  # type: ignore[arg-type]


def test_a_stream_without_end_is_left() -> None:
    endless = Chunks(itertools.repeat(b": heartbeat\n\n"))
    clock = itertools.count(100.0)
    with pytest.raises(StillRunning):
        list(read(endless, Reading(100.0), 130.0, lambda: next(clock)))  # type: ignore[arg-type]


def test_the_address_may_be_the_one_that_openais_clients_are_given() -> None:
    assert WAY.url == "http://proxy.example"


def test_a_case_begins_with_nothing_known() -> None:
    assert Case({}).claude_profiles == []
