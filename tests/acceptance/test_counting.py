"""GET /test/stream: live, without Redis, only with a key, and gone with its client or its replica."""

import signal
import time
from collections.abc import Iterator
from itertools import pairwise

import httpx
import pytest

from tests import sse
from tests.deployment import KEYS, Deployment, Part, eventually

PATH = "/test/stream"
LATE_SECONDS = 0.5


@pytest.fixture(scope="module")
def heartline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("heartline"), workers=0, drain_seconds=8) as deployment:
        yield deployment


def test_counts_one_a_second_and_each_arrives_as_it_is_written_without_redis(heartline: Deployment) -> None:
    heartline.valkey.stop()
    try:
        with heartline.http() as client, client.stream("GET", PATH) as answer:
            found = [(time.time(), frame) for frame in sse.of(answer)]
    finally:
        heartline.start_again(heartline.valkey)
    assert [frame.json["count"] for _, frame in found] == list(range(10))
    assert [frame.id for _, frame in found] == [str(number) for number in range(10)]
    assert all(arrived - frame.json["at"] < LATE_SECONDS for arrived, frame in found)
    written = [frame.json["at"] for _, frame in found]
    assert all(abs(later - earlier - 1) < LATE_SECONDS for earlier, later in pairwise(written))


def test_has_the_headers_of_every_other_stream_also_for_head(heartline: Deployment) -> None:
    with heartline.http() as client:
        head = client.head(PATH)
        with client.stream("GET", PATH) as answer:
            pass
    for found in (head, answer):
        assert found.status_code == 200
        assert found.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert found.headers["Cache-Control"] == "no-cache, no-transform"
        assert found.headers["X-Accel-Buffering"] == "no"
        assert "X-Run-Id" not in found.headers
    assert head.content == b""


def test_wants_a_key(heartline: Deployment) -> None:
    with heartline.http(owner="") as client:
        assert client.get(PATH).status_code == 401
        assert client.head(PATH).status_code == 401


def test_ends_cleanly_when_its_replica_is_stopped(heartline: Deployment) -> None:
    part = heartline.start_replica()
    eventually(lambda: _answers(part))
    with (
        httpx.Client(base_url=part.url, headers={"Authorization": f"Bearer {KEYS['alice']}"}) as client,
        client.stream("GET", PATH) as answer,
    ):
        frames = sse.of(answer)
        assert next(frames).json["count"] == 0
        part.process.send_signal(signal.SIGTERM)
        last = list(frames)[-1]  # raises when the stream is cut in mid-chunk
    assert last.comment is not None
    assert "restarted" in last.comment
    assert part.stop() == 0
    heartline.parts.remove(part)


def _answers(part: Part) -> bool:
    try:
        return httpx.get(f"{part.url}/healthz").status_code == 200
    except httpx.TransportError:
        return False
