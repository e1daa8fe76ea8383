"""What it costs the whole stack that watchers are there and nothing happens: Valkey, a replica, a worker, Caddy.

Each watches a run of its own that would end with it, so heartbeats and presence are in it. The time measured is that of
two heartbeats, however they fall.
"""

import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import psutil

from benchmarks import machine
from benchmarks.crowd import Crowd, get
from benchmarks.figures import Part
from benchmarks.sources import ValkeySource, url_of
from tests.caddy import Caddy
from tests.deployment import KEYS, Deployment

WATCHERS = (250, 500, 1000)
HEARTBEAT_SECONDS = 15
SECONDS = 2 * HEARTBEAT_SECONDS
OWNER = "alice"


def measure(part: Part) -> None:
    if shutil.which("caddy") is None:
        part.skip("everything", "there is no caddy on PATH")
        return
    with (
        tempfile.TemporaryDirectory() as name,
        Deployment(Path(name), heartbeat_seconds=HEARTBEAT_SECONDS) as heartline,
        Caddy(Path(name), [heartline.replicas[0].url]) as caddy,
        closing(ValkeySource(url_of(heartline), WATCHERS[-1], owner=OWNER, detach=False)) as source,
        Crowd(("127.0.0.1", int(caddy.url.rpartition(":")[2]))) as crowd,
    ):
        assert caddy.process is not None
        parts = {one.name: machine.tree([one.process.pid]) for one in heartline.parts}
        parts["caddy"] = machine.tree([caddy.process.pid])
        machine.wait_until_quiet(process.pid for process in _all(parts))
        nobody = "nobody: the stack"
        base = _measured(part, "nobody", parts, crowd)
        costs = []
        for watchers in WATCHERS:
            crowd.ask([get(path, KEYS[OWNER]) for path in source.paths[len(crowd) : watchers]])
            used = _measured(part, f"{watchers} silent watchers", parts, crowd, nobody)
            costs.append((watchers, 10_000 * (used - base) / watchers))
    part.growth("CPU of a silent watcher", "µs a second", costs)


def _measured(part: Part, who: str, parts: dict[str, list[psutil.Process]], crowd: Crowd, limit: str = "") -> float:
    """The share of a core that the stack uses, in per cent."""
    before = {name: machine.cpu_seconds(processes) for name, processes in parts.items()}
    begun = time.monotonic()
    while (left := begun + SECONDS - time.monotonic()) > 0:
        for _ in crowd.read(left):
            pass  # heartbeats
    took = time.monotonic() - begun
    shares = {name: 100 * (machine.cpu_seconds(processes) - before[name]) / took for name, processes in parts.items()}
    part.value(f"{who}: the stack", "% of a core", sum(shares.values()), limit)
    for name, share in shares.items():
        part.value(f"{who}: {name}", "% of a core", share, f"nobody: {name}" if limit else "")
    return sum(shares.values())


def _all(parts: dict[str, list[psutil.Process]]) -> Iterable[psutil.Process]:
    return (process for processes in parts.values() for process in processes)
