"""One CLI process: started, fed, read line by line, and stopped with everything it started.

Blocking reads, each in a thread of its own. Knows nothing of what the lines mean.
"""

import contextlib
import logging
import os
import queue
import signal
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

MAX_LINE_BYTES = 64 * 1024 * 1024
MAX_STDERR_BYTES = 16 * 1024
_INBOX_LINES = 256
_END, _WAKE = b"", b"\0"  # never lines: a line ends with a newline, or is the last one and not empty


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
        self._popen = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**environment, MARK: run_id, OWNER: str(os.getpid())},
            start_new_session=True,  # a Ctrl-C at the worker's terminal is the worker's to pass on
        )
        self._inbox: queue.Queue[bytes] = queue.Queue(_INBOX_LINES)
        self._stderr = bytearray()
        self._abandoned = threading.Event()
        self._outbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=target, args=args, name=f"{name}-{run_id[:8]}", daemon=True)
            for name, target, args in (
                ("stdin", self._write, (self._pipe("stdin"), stdin)),
                ("stdout", self._read, (self._pipe("stdout"),)),
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
        self._threads[-1].join(wait_seconds)
        return bytes(self._stderr).decode("utf-8", "replace").strip()

    def lines(self, timeout_seconds: float) -> list[bytes] | None:
        """What it printed: waits for a first line, then takes along what is already there.

        Empty after `timeout_seconds` or `wake`; None when its output has ended.
        """
        batch: list[bytes] = []
        with contextlib.suppress(queue.Empty):
            batch.append(self._inbox.get(timeout=max(timeout_seconds, 0)))
            while len(batch) < _INBOX_LINES and batch[-1] != _END:
                batch.append(self._inbox.get_nowait())
        lines = [line for line in batch if line not in (_END, _WAKE)]
        if _END not in batch:
            return lines
        self._inbox.put(_END)  # the end stays the end, however often it is asked for
        return lines or None

    def write(self, line: bytes) -> None:
        """Write a further line to its standard input, without waiting."""
        self._outbox.put(line)

    def wake(self) -> None:
        """Make a waiting `lines` return, from another thread."""
        with contextlib.suppress(queue.Full):
            self._inbox.put_nowait(_WAKE)

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
        """Resident bytes of it and what it has started."""
        total = 0
        with contextlib.suppress(psutil.Error):
            for process in (psutil.Process(self.pid), *descendants(self.pid)):
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
        self._abandoned.set()
        family = descendants(self.pid)
        with contextlib.suppress(queue.Empty):
            self._inbox.get_nowait()  # room for the reader, which may be waiting for it
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

    def _read(self, pipe: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError), pipe:
            while line := self._readline(pipe):
                self._deliver(line)
        self._deliver(_END)

    def _readline(self, pipe: IO[bytes]) -> bytes:
        """The next line; one beyond `MAX_LINE_BYTES` is skipped, so that it cannot fill the memory."""
        line = pipe.readline(MAX_LINE_BYTES)
        if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
            return line
        logger.warning("cli_line_skipped run_id=%s over_bytes=%d", self._run_id, MAX_LINE_BYTES)
        while line and not line.endswith(b"\n"):
            line = pipe.readline(MAX_LINE_BYTES)
        return b"\n"

    def _deliver(self, line: bytes) -> None:
        """Waits while the inbox is full, and the pipe behind it: that slows the CLI down, and loses nothing."""
        while not self._abandoned.is_set():
            try:
                self._inbox.put(line, timeout=0.5)
                return
            except queue.Full:
                continue

    def _read_stderr(self, pipe: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError), pipe:
            while chunk := os.read(pipe.fileno(), 8192):
                self._stderr += chunk
                del self._stderr[:-MAX_STDERR_BYTES]


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
    while clean_looks < 2:  # a process in the middle of its exec shows no environment: look twice
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
            if process.pid != os.getpid() and _lives(process) and MARK in (environ := process.environ()):
                yield process, environ
        except psutil.Error:
            continue


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
