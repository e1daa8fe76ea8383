"""The time from a CLI's write of an event to the client's read of it, beside the same writes into a bare pipe and into
a bare socket.

As many fake CLIs as runs; each writes 20 events a second, with the moment of the writing in each. They begin together,
when all are up, but not in step, and end one after the other: so the ends of runs are in it, as work that events of
other runs wait for, but not a crowd of ends, which no agents make. One reader with one selector reads them all, in
each of the three ways.
"""

import contextlib
import json
import os
import re
import resource
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from benchmarks import machine, metronome
from benchmarks.crowd import Crowd, post
from benchmarks.figures import Part
from tests.caddy import Caddy
from tests.deployment import KEYS, Deployment, chat
from worker.command import user_line

RUNS = (1, 50, 100, 200)
GROWTH = RUNS[1:]
ROUNDS = 2
PER_SECOND = 20
BEATS = 60
"""Of the run that ends first."""
MORE_BEATS = 40
"""Of the run that ends last; the others' ends are in between, at equal distances."""
MOMENT = re.compile(rb"@(\d+\.\d+)@")
UP = metronome.UP.encode()
PATIENCE_SECONDS = 60.0

Sources = Iterator[tuple[int, bytes]]


def measure(part: Part) -> None:
    if shutil.which("caddy") is None:
        part.skip("everything", "there is no caddy on PATH")
        return
    costs = [(runs, _at(part, runs)) for runs in RUNS]
    part.growth("CPU of an event: the stack", "µs", [cost for cost in costs if cost[0] in GROWTH])


def _at(part: Part, runs: int) -> float:
    """Measure with so many runs; returns the stack's CPU time for an event, in µs."""
    pipe, wire, ours = Measured(), Measured(), Measured()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = metronome_in(folder)
        with (
            Deployment(
                folder, claude_bin=program, worker_slots=runs, max_queued_runs_per_key=1000, sandbox="off"
            ) as heartline,
            Caddy(folder, [heartline.replicas[0].url]) as caddy,
        ):
            for number in range(ROUNDS):
                band = Band(folder / f"gate{number}", runs)
                _bare(program, band, pipe, through_socket=False)
                _bare(program, band, wire, through_socket=True)
                _behind(heartline, caddy, band, ours)
    at = "1 run" if runs == 1 else f"{runs} runs"
    names = [f"{at}: {way}" for way in ("bare pipe", "bare socket", "Heartline behind Caddy")]
    part.times(names[0], pipe.seconds)
    part.times(names[1], wire.seconds, names[0])
    part.times(names[2], ours.seconds, names[1])
    part.value(f"{at}: lost", "events", ROUNDS * _all_beats(runs) - len(ours.seconds))
    generator = f"{at}: CPU of an event, the fake CLI"
    part.value(generator, "µs", pipe.cost)
    measurable = generator if pipe.cost else ""  # a single run's may be less than the kernel's tick
    part.value(f"{at}: CPU of an event, the stack", "µs", ours.cost, measurable)
    return ours.cost


def _beats(number: int, runs: int) -> int:
    """How many events the run of this number writes."""
    return BEATS + MORE_BEATS * number // runs


def _all_beats(runs: int) -> int:
    return sum(_beats(number, runs) for number in range(runs))


class Measured:
    """What one way has given: how long each event took, and what CPU time all of them took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu = 0.0

    @property
    def cost(self) -> float:
        """µs of CPU time for an event."""
        return 1e6 * self.cpu / max(1, len(self.seconds))


class Band:
    """So many metronomes: their prompts, the gate that they wait at, and the reading of what they write."""

    def __init__(self, gate: Path, runs: int) -> None:
        os.mkfifo(gate)
        self.gate = gate
        self.runs = runs
        self._heard = [b""] * runs
        self._up: set[int] = set()

    def prompt(self, number: int) -> str:
        offset = number / self.runs / PER_SECOND
        beat = {"offset": offset, "interval": 1 / PER_SECOND, "beats": _beats(number, self.runs)}
        return json.dumps({"gate": str(self.gate), **beat})

    def play(self, read: Callable[[float], Sources], measured: Measured, cpu: Callable[[], float]) -> None:
        """Open the gate when all are up, and read them to their last beat, or until nothing comes any more."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(self._up) < self.runs:
            assert time.monotonic() < deadline, f"{self.runs - len(self._up)} fake CLIs are not up"
            for number, data in read(0.5):
                self.hear(number, data)
        expected = len(measured.seconds) + _all_beats(self.runs)
        before, silent = cpu(), 0
        opened = os.open(self.gate, os.O_WRONLY)
        try:
            while len(measured.seconds) < expected and silent < 10:
                silent += 1
                for number, data in read(0.5):
                    silent, now = 0, time.monotonic()
                    self._heard[number] = _taken(self._heard[number] + data, now, measured.seconds)
        finally:
            os.close(opened)
        measured.cpu += cpu() - before
        self._heard, self._up = [b""] * self.runs, set()

    def hear(self, number: int, data: bytes) -> None:
        """What one of them says before the gate is open."""
        self._heard[number] += data
        if UP in self._heard[number]:
            self._up.add(number)


def _taken(text: bytes, now: float, seconds: list[float]) -> bytes:
    """Notes each moment in `text`; returns what may be the beginning of one."""
    end = 0
    for found in MOMENT.finditer(text):
        seconds.append(now - float(found[1]))
        end = found.end()
    return text[end:][-64:]


def metronome_in(folder: Path) -> Path:
    """The metronome as a program. Its interpreter starts without the site packages, and by no other program's way."""
    program = folder / "metronome"
    interpreter = os.path.realpath(sys.executable)
    program.write_text(f"#!{interpreter} -IS\n{Path(metronome.__file__).read_text()}")
    program.chmod(0o755)
    return program


def _bare(program: Path, band: Band, measured: Measured, *, through_socket: bool) -> None:
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        processes = []
        for number in range(band.runs):
            ours, theirs = _tcp() if through_socket else _pipe()
            stack.callback(os.close, ours)
            process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=theirs)
            processes.append(process)
            stack.enter_context(process)
            os.close(theirs)
            selector.register(ours, selectors.EVENT_READ, number)
            assert process.stdin is not None
            process.stdin.write(user_line(band.prompt(number)))
            process.stdin.flush()

        def read(seconds: float) -> Sources:
            for key, _ in selector.select(seconds):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                yield key.data, data

        pids = [process.pid for process in processes]

        def cpu() -> float:
            ended = resource.getrusage(resource.RUSAGE_CHILDREN)
            return ended.ru_utime + ended.ru_stime + machine.cpu_seconds(machine.tree(pids))

        band.play(read, measured, cpu)


def _pipe() -> tuple[int, int]:
    return os.pipe()


def _tcp() -> tuple[int, int]:
    """Both ends of a connection over loopback, as descriptors."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours.detach(), theirs.detach()


def _behind(heartline: Deployment, caddy: Caddy, band: Band, measured: Measured) -> None:
    assert caddy.process is not None
    own = machine.tree([caddy.process.pid, *(part.process.pid for part in heartline.parts if part.name != "worker")])
    own += [psutil.Process(part.process.pid) for part in heartline.workers]  # its children are the fake CLIs
    with Crowd(("127.0.0.1", int(caddy.url.rpartition(":")[2]))) as crowd:
        bodies = [chat(band.prompt(number), model="chat", stream=True) for number in range(band.runs)]
        requests = [post("/v1/chat/completions", json.dumps(body).encode(), KEYS["alice"]) for body in bodies]
        crowd.ask(requests, at_once=20, hear=band.hear)
        band.play(crowd.read, measured, lambda: machine.cpu_seconds(own))
        _until_ended(heartline)


def _until_ended(heartline: Deployment) -> None:
    """Until no run is left: the next way must not be measured beside this one's ending."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while heartline.marked_now() and time.monotonic() < deadline:
        time.sleep(0.1)
