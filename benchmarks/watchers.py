"""What one replica delivers to thousands of watchers, and what a watcher costs, beside nginx with nchan.

Two shapes: one run that all watch, and a run for each watcher. The same clients, in one process with the source of the
events, read both servers. In a round each watcher is sent one event, and the next round begins when all have read
theirs: so nothing piles up, and a round's duration is the capacity. The rounds of the two servers alternate. Then, for
each, rounds begin by the clock.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks import machine, nginx
from benchmarks.crowd import Crowd, get
from benchmarks.figures import Part
from benchmarks.sources import MARK, NchanSource, Source, ValkeySource, url_of
from tests.deployment import KEYS, Deployment

WATCHERS = (1250, 2500, 5000)
ROUNDS = 16
"""The same at every scale: what a replica keeps of a run grows with its first events."""
PACED_SECONDS = 4.0
PER_SECOND = 10_000
PATIENCE_SECONDS = 20.0
OWNER = "alice"


@dataclass
class Audience:
    """Watchers of one server, and what they have got of it."""

    crowd: Crowd
    source: Source
    processes: list[psutil.Process]
    resident: int  # before anybody came
    sent_at: list[float] = field(default_factory=list)
    got: list[int] = field(default_factory=list)
    delivered: int = 0

    def gather(self, paths: list[str], key: str = "") -> None:
        self.crowd.ask([get(path, key) for path in paths])
        self.got = [0] * len(paths)

    @property
    def memory(self) -> float:
        """KB of resident memory for each watcher."""
        return (machine.resident_bytes(self.processes) - self.resident) / 1000 / len(self.got)

    def send(self, prepared: bytes) -> None:
        self.sent_at.append(time.monotonic())
        self.source.send(prepared)

    def receive(self, seconds: float, arrivals: list[float]) -> None:
        """Read what comes within so long; notes how long each event took."""
        for watcher, data in self.crowd.read(seconds):
            if new := data.count(MARK):
                now, before = time.monotonic(), self.got[watcher]
                arrivals += [now - sent for sent in self.sent_at[before : before + new]]
                self.got[watcher] += new
                self.delivered += new

    @property
    def expected(self) -> int:
        return len(self.sent_at) * len(self.got)

    def receive_all(self, arrivals: list[float]) -> None:
        """Until everybody has got everything, or nothing comes any more."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.delivered < self.expected and time.monotonic() < deadline:
            self.receive(0.5, arrivals)


def measure(part: Part) -> None:
    if reason := nginx.missing():
        part.skip("nginx with nchan", reason)
    for one_run in (True, False):
        costs = [(watchers, *_at(part, watchers, one_run=one_run)) for watchers in WATCHERS]
        shape = "1 run × N" if one_run else "N runs × 1"
        part.growth(f"CPU of a delivered event, {shape}", "µs", [(n, cpu) for n, cpu, _ in costs])
        part.growth(f"memory of a watcher, {shape}", "KB", [(n, memory) for n, _, memory in costs])


def _at(part: Part, watchers: int, *, one_run: bool) -> tuple[float, float]:
    """Measure with so many; returns µs of the replica's CPU for an event, and KB of its memory for a watcher."""
    shape = f"1 run × {watchers}" if one_run else f"{watchers} runs × 1"
    runs = 1 if one_run else watchers
    with contextlib.ExitStack() as stack:
        peer = None if nginx.missing() else stack.enter_context(_nchan(watchers, runs))
        ours = stack.enter_context(_heartline(watchers, runs))
        silent = ours.memory
        audiences = [audience for audience in (peer, ours) if audience is not None]
        rounds = _in_turn(audiences)
        memories = [audience.memory for audience in audiences]
        paced = [_paced(audience) for audience in audiences]
        lost = ours.expected - ours.delivered
    names = ["nginx with nchan", "Heartline"][-len(audiences) :]
    limit = f"{{}}, {shape}: nginx with nchan" if peer else ""
    for i, name in enumerate(names):
        beside = limit if name == "Heartline" else ""
        rates = [watchers / seconds for seconds in rounds[i]]
        part.values(f"capacity, {shape}: {name}", "events/s", rates, beside.format("capacity"))
        rate, cost, arrivals = paced[i]
        aim = f"delivered at {PER_SECOND}/s"
        part.value(f"{aim}, {shape}: {name}", "events/s", rate, beside.format(aim))
        part.times(f"delay at {PER_SECOND}/s, {shape}: {name}", arrivals, beside.format(f"delay at {PER_SECOND}/s"))
        part.value(f"CPU of a delivered event, {shape}: {name}", "µs", cost, beside.format("CPU of a delivered event"))
        part.value(f"memory of a watcher, {shape}: {name}", "KB", memories[i], beside.format("memory of a watcher"))
    part.value(f"memory of a silent watcher, {shape}: Heartline", "KB", silent)
    part.value(f"lost, {shape}", "events", lost)
    return paced[-1][1], memories[-1]


@contextlib.contextmanager
def _heartline(watchers: int, runs: int) -> Iterator[Audience]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Deployment(Path(folder), workers=0, sandbox="off") as heartline,
        contextlib.closing(ValkeySource(url_of(heartline), runs, owner=OWNER)) as source,
        Crowd(_address(heartline.replicas[0].url)) as crowd,
    ):
        replica = machine.tree([heartline.replicas[0].process.pid])
        audience = Audience(crowd, source, replica, machine.resident_bytes(replica))
        audience.gather(source.paths * (watchers // runs), KEYS[OWNER])
        yield audience


@contextlib.contextmanager
def _nchan(watchers: int, runs: int) -> Iterator[Audience]:
    with (
        tempfile.TemporaryDirectory() as folder,
        nginx.serving(Path(folder)) as (process, address),
        contextlib.closing(NchanSource(address, runs)) as source,
        Crowd(address) as crowd,
    ):
        server = machine.tree([process.pid])
        audience = Audience(crowd, source, server, machine.resident_bytes(server))
        audience.gather(source.paths * (watchers // runs))
        yield audience


def _in_turn(audiences: list[Audience]) -> list[list[float]]:
    """The durations of each server's rounds."""
    durations: list[list[float]] = [[] for _ in audiences]
    for _ in range(ROUNDS):
        for audience, mine in zip(audiences, durations, strict=True):
            prepared = audience.source.prepare()
            audience.send(prepared)
            audience.receive_all([])
            mine.append(time.monotonic() - audience.sent_at[-1])
    return durations


def _paced(audience: Audience) -> tuple[float, float, list[float]]:
    """Delivered events a second, µs of the server's CPU for each, and how long each took, at so many a second."""
    watchers = len(audience.got)
    interval = watchers / PER_SECOND
    rounds = round(PACED_SECONDS / interval)
    before, cpu, arrivals = audience.delivered, machine.cpu_seconds(audience.processes), list[float]()
    begun = time.monotonic()
    for number in range(rounds):
        prepared = audience.source.prepare()
        while (left := begun + number * interval - time.monotonic()) > 0:
            audience.receive(left, arrivals)
        audience.send(prepared)
    audience.receive_all(arrivals)
    took = max(time.monotonic() - begun, rounds * interval)
    delivered = audience.delivered - before
    cost = (machine.cpu_seconds(audience.processes) - cpu) / delivered
    return delivered / took, 1e6 * cost, arrivals


def _address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)
