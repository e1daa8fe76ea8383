"""One CLI process: started, fed, read line by line, and stopped with everything it started.

Who wants its lines reads them from the pipe himself: a thread between would be woken up, and would have to be waited
for, with each of them. What is written to it, and what it complains of, has a thread each. Knows nothing of what the
lines mean.
"""

import contextlib
import logging
import os
import queue
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

logger = logging.getLogger(__name__)

MARK = "HEARTLINE_RUN_ID"
"""The environment variable that a run's processes inherit: by it they are found when their parent is gone."""

OWNER = "HEARTLINE_WORKER_PID"
"""And the one that tells whose they are: a later worker ends those of a dead one."""

EXEC_SECONDS = 0.005
"""So much later is looked for leftovers a second time: a process in the middle of its exec shows no environment."""

MAX_LINE_BYTES = 64 * 1024 * 1024
MAX_STDERR_BYTES = 16 * 1024
_READ_BYTES = 64 * 1024  # what a pipe holds: one read takes along all that is there
_END = b""


class Process:
    """A running CLI. Lines come from `lines()`; `close()` must be called in the end."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes,
        cwd: Path,
        environment: Mapping[str, str],
        run_id: str,
        farewell: bytes = b"",
    ) -> None:
        """Start it and write `stdin`, which stays open until `finish_input`. Raises `OSError`.

        Its processes carry `run_id` as their mark. `farewell` is what to write to it, if anything, so that it stops.
        """
        self._run_id = run_id
        self._farewell = farewell
        with contextlib.ExitStack() as unless_started:
            self._woken, self._waker = map(unless_started.enter_context, socket.socketpair())
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd,
                env={**environment, MARK: run_id, OWNER: str(os.getpid())},
                start_new_session=True,  # a Ctrl-C at the worker's terminal is the worker's to pass on
            )
            unless_started.pop_all()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._stdout = self._pipe("stdout")
        self._lines = Lines(run_id)
        self._poll = select.poll()
        for readable in (self._stdout, self._woken):
            self._poll.register(readable, select.POLLIN)
        self._tree: list[psutil.Process] = []
        self._stderr = bytearray()
        self._closing = threading.Lock()
        self._abandoned = False
        self._outbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=target, args=args, name=f"{name}-{run_id[:8]}", daemon=True)
            for name, target, args in (
                ("stdin", self._write, (self._pipe("stdin"), stdin)),
                ("stderr", self._read_stderr, (self._pipe("stderr"),)),
            )
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._popen.poll()

    def stderr(self, wait_seconds: float) -> str:
        """The end of what it wrote to standard error; waits for that to be over, but not for long."""
        self._threads[1].join(wait_seconds)
        return bytes(self._stderr).decode("utf-8", "replace").strip()

    def lines(self, timeout_seconds: float) -> list[bytes] | None:
        """What it printed: waits for it, and takes along all that is there. One thread asks.

        While nobody does, its pipe fills up: that slows it down, and loses nothing. Empty after `timeout_seconds` or
        `wake`; None when its output has ended.
        """
        if self._abandoned:
            return None
        deadline = time.monotonic() + max(timeout_seconds, 0)
        while ready := self._poll.poll(1000 * max(deadline - time.monotonic(), 0)):
            if any(descriptor == self._stdout.fileno() for descriptor, _ in ready):
                if not (data := os.read(self._stdout.fileno(), _READ_BYTES)):
                    return self._lines.end() or None
                if lines := self._lines.feed(data):
                    return lines
            else:
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(_READ_BYTES)
                break
        return []

    def write(self, line: bytes) -> None:
        """Write a further line to its standard input, without waiting."""
        self._outbox.put(line)

    def wake(self) -> None:
        """Make a waiting `lines` return, from another thread."""
        with contextlib.suppress(OSError):  # it is awake already, or it is over
            self._waker.send(b"!")

    def finish_input(self) -> None:
        """Close its standard input: no further turn will come."""
        self._outbox.put(_END)

    def is_quiet(self) -> bool:
        """Whether it lives and has printed nothing that was not read. Takes what it has printed."""
        return self.lines(0) == [] and self.returncode is None

    def is_alone(self, layers: int) -> bool:
        """Whether nothing that it started is left; `layers` is how many processes lie around the CLI itself."""
        family = descendants(self.pid)
        known = {self.pid, *(process.pid for process in family)}
        return len(family) == layers and all(process.pid in known for process in marked(self._run_id))

    def memory(self) -> int:
        """Resident bytes of it and what it had started when this was first asked."""
        with contextlib.suppress(psutil.Error):
            self._tree = self._tree or [psutil.Process(self.pid), *descendants(self.pid)]
        total = 0
        for process in self._tree:
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    def wait(self, seconds: float) -> bool:
        """Whether it has exited within `seconds`."""
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self, grace_seconds: float, patience_seconds: float = 0) -> None:
        """End it and all that it started, and release what was held.

        It may exit by itself for `patience_seconds`, is then asked to, in ever plainer words, and killed
        after `grace_seconds`.
        """
        with self._closing:
            if not self._abandoned:  # from here on what it prints is nobody's, but must not hold it up
                self._abandoned = True
                self._threads.append(
                    threading.Thread(target=self._drain, name=f"stdout-{self._run_id[:8]}", daemon=True)
                )
                self._threads[-1].start()
        family = descendants(self.pid)
        if self._farewell and not patience_seconds:
            self._outbox.put(self._farewell)
            patience_seconds = 0.4 * grace_seconds
            grace_seconds -= patience_seconds
        self.finish_input()
        if not self.wait(patience_seconds):
            self._end(grace_seconds)
        sweep(self._run_id, grace_seconds, family)
        for thread in self._threads:
            thread.join(grace_seconds)
            if thread.is_alive():  # somebody whom no sweep finds holds the pipe; the thread ends with him
                logger.warning("cli_pipe_held run_id=%s thread=%s", self._run_id, thread.name)

    def _end(self, grace_seconds: float) -> None:
        steps = (
            (signal.SIGINT, 0.7 * grace_seconds),
            (signal.SIGTERM, 0.3 * grace_seconds),
            (signal.SIGKILL, grace_seconds),
        )
        for number, seconds in steps:
            self._signal(number)
            if self.wait(seconds):
                return

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(number)

    def _pipe(self, name: str) -> IO[bytes]:
        pipe: IO[bytes] = getattr(self._popen, name)
        return pipe

    # --- the threads ------------------------------------------------------------------------------

    def _write(self, pipe: IO[bytes], data: bytes) -> None:
        """A prompt can be larger than a pipe: written from here, it blocks nobody."""
        with contextlib.suppress(OSError, ValueError):  # it may have died without reading
            pipe.write(data)
            pipe.flush()
            while line := self._outbox.get():
                pipe.write(line)
                pipe.flush()
        with contextlib.suppress(OSError, ValueError):
            pipe.close()

    def _drain(self) -> None:
        with contextlib.suppress(OSError, ValueError), self._stdout, self._woken, self._waker:
            while os.read(self._stdout.fileno(), _READ_BYTES):
                pass

    def _read_stderr(self, pipe: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError), pipe:
            while chunk := os.read(pipe.fileno(), 8192):
                self._stderr += chunk
                del self._stderr[:-MAX_STDERR_BYTES]


class Lines:
    """Makes lines of what is read, byte by byte if need be. One beyond `MAX_LINE_BYTES` is left out, so that it cannot
    fill the memory."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._pieces: list[bytes] = []  # of the line that has no end yet
        self._bytes = 0
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now."""
        *ended, begun = data.split(b"\n")
        lines = []
        for piece in ended:
            self._keep(piece)
            lines.append(self._take() + b"\n")
        self._keep(begun)
        return lines

    def end(self) -> list[bytes]:
        """The last line, when it has no newline; none otherwise, and when asked again."""
        skipped = b"\n" if self._skipping else b""
        return [line] if (line := self._take() or skipped) else []

    def _keep(self, piece: bytes) -> None:
        self._bytes += len(piece)
        if self._bytes < MAX_LINE_BYTES:
            self._pieces.append(piece)
        elif not self._skipping:
            self._skipping = True
            self._pieces = []
            logger.warning("cli_line_skipped run_id=%s over_bytes=%d", self._run_id, MAX_LINE_BYTES)

    def _take(self) -> bytes:
        line = b"".join(self._pieces)
        self._pieces = []
        self._bytes, self._skipping = 0, False
        return line


def descendants(pid: int) -> list[psutil.Process]:
    """What the process has started and not let go of; none when it is gone itself."""
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    return found


def sweep(run_id: str, grace_seconds: float, family: Sequence[psutil.Process] = ()) -> int:
    """End every process that carries the run's mark, whoever its parent is now; returns how many there were.

    The CLI runs tools in sessions of their own: no process group and no parent leads to them (seen with
    CLI 2.1), but they inherit its environment. `family` is ended as well: macOS does not show the environment of
    its own programs.
    """
    deadline, found, clean_looks = time.monotonic() + grace_seconds, 0, 0
    while clean_looks < 2:
        if clean_looks:
            time.sleep(EXEC_SECONDS)
        left = [*marked(run_id), *filter(_lives, family)]
        clean_looks = 0 if left else clean_looks + 1
        found = max(found, len(left))
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=0.2)
        if left and time.monotonic() > deadline:
            logger.error("sweep_incomplete run_id=%s left=%d", run_id, len(left))
            break
    return found


def marked(run_id: str) -> Iterable[psutil.Process]:
    """The living processes of this run."""
    return (process for process, environ in of_runs() if environ[MARK] == run_id)


def of_runs() -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """The living processes of any run, and what they have in their environment; never this process itself."""
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or not _is_marked(process):
                continue
            if MARK in (environ := process.environ()) and _lives(process):
                yield process, environ
        except psutil.Error:
            continue


def _is_marked(process: psutil.Process) -> bool:
    """For a moment, at least. Every run's end looks at every process of the host: psutil's ways would take the time
    of the worker's other runs for it, so on Linux the environment is read as it is."""
    if not psutil.LINUX:
        return MARK in process.environ()
    try:
        with open(f"/proc/{process.pid}/environ", "rb", buffering=0) as file:
            return f"{MARK}=".encode() in file.read()
    except OSError:
        return False


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
