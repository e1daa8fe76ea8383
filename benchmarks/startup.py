"""How long each process takes to be of use, and how much memory it holds then, beside a bare Python interpreter."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Protocol

import httpx

from benchmarks import machine
from benchmarks.figures import Part
from tests.caddy import Caddy
from tests.deployment import Deployment, eventually

ROUNDS = 4
BARE = "a bare Python"


def measure(part: Part) -> None:
    times: dict[str, list[float]] = {BARE: []}
    memory: dict[str, list[float]] = {BARE: []}

    def note(name: str, begun: float, pid: int) -> None:
        times.setdefault(name, []).append(time.perf_counter() - begun)
        memory.setdefault(name, []).append(machine.resident_bytes(machine.tree([pid])) / 1e6)

    for _ in range(ROUNDS):
        begun = time.perf_counter()
        with subprocess.Popen(
            [os.path.realpath(sys.executable), "-c", "print(flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as bare:
            assert bare.stdout is not None
            bare.stdout.readline()
            note(BARE, begun, bare.pid)
            bare.communicate(b"\n")
        with tempfile.TemporaryDirectory() as folder:
            _parts(Path(folder), note)
    for name, seconds in times.items():
        part.times(f"until it is ready: {name}", seconds, "" if name == BARE else f"until it is ready: {BARE}")
    for name, megabytes in memory.items():
        part.values(f"resident: {name}", "MB", megabytes, "" if name == BARE else f"resident: {BARE}")


class _Note(Protocol):
    """(name, begun, pid) of a process that is ready."""

    def __call__(self, name: str, begun: float, pid: int) -> None: ...


def _parts(folder: Path, note: _Note) -> None:
    begun = time.perf_counter()
    with Deployment(folder, replicas=0, workers=0) as heartline:
        note("Valkey", begun, heartline.valkey.process.pid)
        begun = time.perf_counter()
        replica = heartline.start_replica()
        eventually(lambda: _ready(replica.url, 0), what="the replica is ready")
        note("replica", begun, replica.process.pid)
        begun = time.perf_counter()
        worker = heartline.start_worker()
        eventually(lambda: _ready(replica.url, 1), what="the worker is ready")
        note("worker", begun, worker.process.pid)
        if shutil.which("caddy") is not None:
            begun = time.perf_counter()
            with Caddy(folder, [replica.url]) as caddy:
                assert caddy.process is not None
                note("Caddy", begun, caddy.process.pid)


def _ready(url: str, workers: int) -> bool:
    try:
        return int(httpx.get(f"{url}/readyz", timeout=5).json()["workers"]) >= workers
    except httpx.TransportError:
        return False
