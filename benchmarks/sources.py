"""Where events for watchers come from: written straight into Valkey as a worker's, or published to nginx with nchan.

Neither is measured: they send prepared bytes, and read no answers but to throw them away. Each event has `MARK` in it
once, which nothing else in a stream has.
"""

import socket
import time

from redis import Redis

from core import events, keys
from core.log import EventLog, Writer
from core.run import Message, Run, RunRequest, new_id
from core.runs import RunStore
from tests.deployment import Deployment

MARK = b"~"
TEXT = "~" + "x" * 159
"""About 256 bytes as an event."""
TTL_SECONDS = 3600


class ValkeySource:
    """Running runs of nobody's, and the next event of each at once.

    The events are appended and published by plain commands in place of the log's script, so that this side costs
    little; what a replica reads is the same.
    """

    def __init__(self, url: str, runs: int, *, owner: str, detach: bool = True) -> None:
        self.run_ids = [new_id() for _ in range(runs)]
        self._seq = 1
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(url.removeprefix("unix://"))
        self._connection.sendall(_command(b"CLIENT", b"REPLY", b"OFF"))
        redis = Redis.from_url(url)
        store, log = RunStore(redis, TTL_SECONDS), EventLog(redis, TTL_SECONDS)
        for run_id in self.run_ids:
            run = Run(
                id=run_id, owner=owner, profile="chat", model="chat", created_at=time.time(), detach=detach
            )  # fmt: skip
            store.create(run, RunRequest(messages=(Message("user", "?"),)))
            Writer(log, run_id).start("benchmark")
        redis.close()

    @property
    def paths(self) -> list[str]:
        """Where each run is watched."""
        return [f"/v1/runs/{run_id}/events" for run_id in self.run_ids]

    def prepare(self) -> bytes:
        """The next event of every run, ready to be sent."""
        self._seq += 1
        now, place = time.time(), f"{self._seq}-0".encode()
        return b"".join(
            _command(b"XADD", keys.log(run_id).encode(), place, b"e", event)
            + _command(b"PUBLISH", keys.channel(run_id).encode(), event)
            for run_id in self.run_ids
            for event in [_event(run_id, self._seq, now)]
        )

    def send(self, prepared: bytes) -> None:
        self._connection.sendall(prepared)

    def close(self) -> None:
        self._connection.close()


class NchanSource:
    """Channels of nchan, and one event to each at once: pipelined requests on one connection."""

    def __init__(self, address: tuple[str, int], channels: int) -> None:
        self._names = [new_id() for _ in range(channels)]
        self._seq = 1
        self._connection = socket.create_connection(address)

    @property
    def paths(self) -> list[str]:
        return [f"/watch/{name}" for name in self._names]

    def prepare(self) -> bytes:
        self._seq += 1
        now = time.time()
        return b"".join(_publish(name, _event(name, self._seq, now)) for name in self._names)

    def send(self, prepared: bytes) -> None:
        """Answers are thrown away between the pieces: an nginx that nobody reads reads nobody."""
        self._throw_away()
        for start in range(0, len(prepared), 1 << 16):
            self._connection.sendall(prepared[start : start + (1 << 16)])
            self._throw_away()

    def close(self) -> None:
        self._connection.close()

    def _throw_away(self) -> None:
        try:
            while self._connection.recv(1 << 20, socket.MSG_DONTWAIT):
                pass
        except BlockingIOError:
            pass


Source = ValkeySource | NchanSource


def url_of(heartline: Deployment) -> str:
    """Where a deployment's Valkey is."""
    return heartline.environment["HEARTLINE_REDIS_URL"]


def _event(run_id: str, seq: int, now: float) -> bytes:
    return events.encode(events.Text(text=TEXT, run_id=run_id, seq=seq, at=now))


def _command(*words: bytes) -> bytes:
    """A command in Redis's protocol (https://redis.io/docs/latest/develop/reference/protocol-spec/)."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _publish(name: str, event: bytes) -> bytes:
    return b"POST /publish/%s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s" % (
        name.encode(),
        len(event),
        event,
    )
