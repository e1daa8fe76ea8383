"""One run from start to end: its process, its deadline, its limits, how it ends.

The one place that decides a run's ending; whatever happens in here, the run gets its terminal event
(or, with Redis gone for good, a line in the log).
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import AppendRefused, ConfigurationError, LogLost
from core.events import Cancelled, Completed, Failed, Terminal, Usage
from core.log import Writer
from core.profiles import Profile
from core.run import Run, RunRequest
from core.sentences import sentence
from core.settings import Settings
from worker import command
from worker.claude import Result, Translator
from worker.process import Process
from worker.sandbox import NO_SANDBOX, Sandbox
from worker.workspace import Workspaces

logger = logging.getLogger(__name__)

RESULT_GRACE_SECONDS = 2.0
"""How long a CLI may take to exit after its `result`: some versions hang there (claude-code#25629)."""


class Stop:
    """A request to end a run early, from any thread. The first reason wins."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wake: Callable[[], None] | None = None
        self.ending: Failed | Cancelled | None = None

    def request(self, ending: Failed | Cancelled) -> None:
        with self._lock:
            self.ending = self.ending or ending
            if self._wake:
                self._wake()

    @contextlib.contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """While this lasts, a request calls `wake`."""
        with self._lock:
            self._wake = wake
            if self.ending:
                wake()
        try:
            yield
        finally:
            with self._lock:
                self._wake = None


@dataclass(frozen=True)
class Task:
    """What a supervisor is given."""

    run: Run
    request: RunRequest
    profile: Profile


class Supervisor:
    """Performs runs, one at a time, for one slot."""

    def __init__(
        self,
        settings: Settings,
        claude_bin: str,
        workspaces: Workspaces,
        environ: Mapping[str, str],
        sandbox: Sandbox = NO_SANDBOX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._claude_bin = claude_bin
        self._workspaces = workspaces
        self._environ = environ
        self._sandbox = sandbox
        self._clock = clock

    def perform(self, task: Task, writer: Writer, worker: str, stop: Stop) -> None:
        """Take the run and bring it to its end. Raises redis-py's errors when Redis is away for long."""
        run_id = task.run.id
        try:
            writer.start(worker)
        except AppendRefused:
            logger.info("run_not_taken run_id=%s", run_id)
            return
        logger.info("run_started run_id=%s profile=%s worker=%s", run_id, task.profile.id, worker)
        try:
            ending = self._run(task, writer, stop)
        except (AppendRefused, LogLost) as error:
            logger.warning("run_lost run_id=%s error=%s", run_id, error)
        except Exception as error:
            logger.exception("run_crashed run_id=%s", run_id)
            reason = type(error).__name__
            writer.finish(self._failed("internal", "internal", reason=reason))
            raise
        else:
            logger.info("run_ended run_id=%s ending=%s", run_id, ending)

    def _run(self, task: Task, writer: Writer, stop: Stop) -> str:
        workspace, private = self._workspaces.open(task.run.id)
        try:
            try:
                process = self._start(task, workspace, private)
            except (OSError, ConfigurationError) as error:
                logger.error("cli_not_started run_id=%s error=%s", task.run.id, error)
                reason = error.strerror if isinstance(error, OSError) else str(error)
                return self._end(writer, self._failed("cli_missing", "cli_missing", reason=f"{reason}."))
            patience = 0.0
            try:
                with stop.waking(process.wake):
                    ending = self._follow(task, process, writer, stop)
                if isinstance(ending, Completed):
                    patience = RESULT_GRACE_SECONDS
                return self._end(writer, ending)
            finally:
                process.close(self._settings.stop_grace_seconds, patience)
        finally:
            self._workspaces.close(task.run.id)

    def _start(self, task: Task, workspace: Path, private: Path) -> Process:
        """Raises `OSError`, and `ConfigurationError` for a variable that the profile needs."""
        prepared = command.prepare(
            task.run.id,
            task.request,
            task.profile,
            self._claude_bin,
            private,
            self._environ,
            seen_at=self._sandbox.inside(private),
            denied_tools=self._sandbox.denied_tools,
        )
        confined = self._sandbox.wrap(prepared, workspace=workspace, private=private, profile=task.profile)
        return Process(
            confined.argv,
            stdin=confined.stdin,
            cwd=workspace,
            environment=confined.environment,
            run_id=task.run.id,
            farewell=confined.farewell,
        )

    def _end(self, writer: Writer, ending: Terminal) -> str:
        writer.finish(ending)
        return ending.code if isinstance(ending, Failed) else type(ending).__name__.lower()

    def _follow(self, task: Task, process: Process, writer: Writer, stop: Stop) -> Terminal:
        """Relay the process's lines until something ends the run; says what."""
        translator = Translator(task.run.id, self._settings.max_tool_output_bytes)
        limit = task.profile.run_timeout_seconds or self._settings.run_timeout_seconds
        deadline = self._clock() + limit
        while True:
            lines = process.lines(deadline - self._clock())
            new = [event for line in lines or () for event in translator.feed(line)]
            writer.append(new)
            if translator.result is not None:
                return self._ending(translator.result, task.profile)
            if lines is None:
                return self._no_result(process)
            if stop.ending is not None:
                return stop.ending
            if self._clock() >= deadline:
                return self._failed("timeout", "timeout", seconds=round(limit))
            if translator.answer_bytes > self._settings.max_answer_bytes:
                megabytes = self._settings.max_answer_bytes / 1e6
                return self._failed("answer_too_long", "too_long", megabytes=f"{megabytes:.2g}")

    def _ending(self, result: Result, profile: Profile) -> Terminal:
        if not result.is_error:
            return Completed(stop_reason=result.stop_reason, usage=result.usage)
        if result.kind == "error_max_turns":
            return self._failed("max_turns", "max_turns", result.usage, turns=profile.max_turns or result.usage.turns)
        return self._failed("cli_error", "cli_failed", result.usage, reason=result.reason)

    def _no_result(self, process: Process) -> Failed:
        """Its output has ended without a `result`."""
        process.wait(RESULT_GRACE_SECONDS)
        code = process.returncode or 0
        reason = f"exit code {code}" if code > 0 else f"signal {-code}" if code < 0 else "no result"
        if last := process.stderr(RESULT_GRACE_SECONDS).splitlines()[-1:]:
            reason += f": {last[0][:500]}"
        return self._failed("no_result", "no_result", reason=reason)

    def _failed(self, code: str, key: str, usage: Usage | None = None, **values: object) -> Failed:
        return Failed(code=code, message=sentence(self._settings.language, key, **values), usage=usage or Usage())
