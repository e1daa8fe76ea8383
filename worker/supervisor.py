"""One run from start to end: its process, its deadlines, its limits, how it ends.

The one place that decides a run's ending; whatever happens in here, the run gets its terminal event
(or, with Redis gone for good, the janitor's).
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from core import events
from core.errors import AppendRefused, ConfigurationError, LogLost
from core.events import Cancelled, Completed, Event, Failed, Terminal
from core.log import Writer
from core.nodes import Nodes
from core.profiles import Profile
from core.run import Run, RunRequest
from core.settings import Settings
from worker import command
from worker.answer_file import AnswerFile
from worker.claude import Result, Translator
from worker.deadlines import Deadlines
from worker.endings import Endings, code_of
from worker.metrics import QUEUE_SECONDS, Measures
from worker.process import Process
from worker.sandbox import NO_SANDBOX, Sandbox
from worker.sessions import Sessions, discard
from worker.workspace import Folders, Workspaces

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
class Work:
    """What a supervisor is given."""

    run: Run
    request: RunRequest
    profile: Profile


@dataclass(frozen=True)
class _Given:
    """What a run was given to work with; `config` is where its CLI keeps its session, `measures` began with it."""

    folders: Folders
    answer_file: AnswerFile | None
    config: Path
    measures: Measures


class Supervisor:
    """Performs runs, one at a time, for one slot."""

    def __init__(
        self,
        settings: Settings,
        claude_bin: str,
        workspaces: Workspaces,
        nodes: Nodes,
        environ: Mapping[str, str],
        sandbox: Sandbox = NO_SANDBOX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._claude_bin = claude_bin
        self._workspaces = workspaces
        self._nodes = nodes
        self._environ = environ
        self._sandbox = sandbox
        self._clock = clock
        self._endings = Endings(settings.language)

    def perform(self, work: Work, writer: Writer, worker: str, stop: Stop) -> Terminal | None:
        """Take the run and bring it to its end, which is returned: None when it was not, or no more, ours.

        Raises redis-py's errors when Redis is away for long.
        """
        run_id = work.run.id
        try:
            writer.start(worker)
            QUEUE_SECONDS.labels(work.run.profile).observe(max(0.0, time.time() - work.run.created_at))
            logger.info("run_started run_id=%s profile=%s worker=%s", run_id, work.profile.id, worker)
            try:
                ending = self._run(work, writer, stop)
            finally:
                self._workspaces.close(work.run)
        except (AppendRefused, LogLost) as error:
            logger.warning("run_not_ours run_id=%s error=%s", run_id, error)
            return None
        except Exception as error:
            logger.exception("run_crashed run_id=%s", run_id)
            writer.finish(self._endings.failed("internal", reason=type(error).__name__))
            raise
        logger.info("run_ended run_id=%s ending=%s", run_id, code_of(ending))
        return ending

    def _run(self, work: Work, writer: Writer, stop: Stop) -> Terminal:
        try:
            process, given = self._start(work)
        except (OSError, ConfigurationError) as error:
            logger.error("cli_not_started run_id=%s error=%s", work.run.id, error)
            reason = error.strerror if isinstance(error, OSError) else str(error)
            ending: Terminal = self._endings.failed("cli_missing", reason=f"{reason}.")
            writer.finish(ending)
            return ending
        patience = 0.0
        try:
            with stop.waking(process.wake):
                ending = self._follow(work, process, writer, stop, given)
            if isinstance(ending, Completed):
                patience = RESULT_GRACE_SECONDS
                self._nodes.file(work.run, work.request, writer.answer.text)  # first: who has read the end may ask on
            writer.finish(ending)
        finally:
            process.close(self._settings.stop_grace_seconds, patience)
            _put_away(work.run.id, given, keep=patience > 0)
        return ending

    def _start(self, work: Work) -> tuple[Process, _Given]:
        """Raises `OSError` or `ConfigurationError`."""
        run, profile = work.run, work.profile
        folders = self._workspaces.open(run, profile.directory)
        declared = profile.answer_file
        answer_file = AnswerFile(folders.workspace, declared, run.id) if declared else None
        prepared = command.prepare(
            run.id,
            work.request,
            profile,
            self._claude_bin,
            folders.private,
            self._environ,
            answer_file=answer_file,
            session=_session(run, folders.sessions),
            lasting=folders.sessions is not None,
            seen_at=self._sandbox.inside(folders.private),
            denied_tools=self._sandbox.denied_tools,
        )
        confined = self._sandbox.wrap(prepared, workspace=folders.workspace, private=folders.private, profile=profile)
        process = Process(
            confined.argv,
            stdin=confined.stdin,
            cwd=folders.workspace,
            environment=confined.environment,
            run_id=run.id,
            farewell=confined.farewell,
        )
        config = self._sandbox.config(folders.private, confined.environment)
        return process, _Given(folders, answer_file, config, Measures(run))

    def _follow(self, work: Work, process: Process, writer: Writer, stop: Stop, given: _Given) -> Terminal:
        """Relay the process's lines until something ends the run; says what, and what was consumed."""
        translator = Translator(work.run.id, self._settings.max_tool_output_bytes)
        ending = self._translate(work, process, writer, stop, given, translator)
        return ending if translator.result else msgspec.structs.replace(ending, usage=translator.spent)

    def _translate(
        self,
        work: Work,
        process: Process,
        writer: Writer,
        stop: Stop,
        given: _Given,
        translator: Translator,
    ) -> Terminal:
        deadlines = self._deadlines(work.profile)
        aside = given.answer_file is not None or bool(work.request.schema)  # the answer is not what the model says
        while True:
            lines = process.lines(deadlines.left(self._clock()))
            new = [event for line in lines or () for event in translator.feed(line)]
            if lines:
                deadlines.heard(new, self._clock())
            said = _thinking_aloud(new) if aside else new
            writer.append(said)
            given.measures.see(said)
            if translator.result is not None:
                return self._conclude(translator.result, work, writer, given)
            if lines is None:
                process.wait(RESULT_GRACE_SECONDS)
                return self._endings.without_result(process.returncode, process.stderr(RESULT_GRACE_SECONDS))
            if stop.ending is not None:
                return stop.ending
            if (overdue := deadlines.overdue(self._clock())) is not None:
                return self._endings.overdue(overdue)
            if translator.answer_bytes > self._settings.max_answer_bytes:
                return self._endings.answer_too_long(self._settings.max_answer_bytes)

    def _conclude(self, result: Result, work: Work, writer: Writer, given: _Given) -> Terminal:
        ending = self._endings.of_result(result, work.profile)
        if not isinstance(ending, Completed):
            return ending
        if work.request.schema:
            answer = result.structured
            if not answer:
                return self._endings.failed("no_structured_answer", result.usage)
            if len(answer.encode()) > self._settings.max_answer_bytes:  # half of it would be no JSON
                return self._endings.answer_too_long(self._settings.max_answer_bytes, result.usage)
        elif given.answer_file is not None:
            answer = given.answer_file.read(self._settings.max_answer_bytes) or result.text
            if not answer:
                return self._endings.failed("no_answer_file", result.usage)
        else:
            return ending
        whole = [events.Text(text=answer)]
        writer.append(whole)
        given.measures.see(whole)
        return ending

    def _deadlines(self, profile: Profile) -> Deadlines:
        return Deadlines(
            self._clock(),
            run_seconds=profile.run_timeout_seconds or self._settings.run_timeout_seconds,
            stall_seconds=self._settings.stall_timeout_seconds,
            tool_seconds=self._settings.tool_timeout_seconds,
        )


def _session(run: Run, sessions: Sessions | None) -> Path | None:
    """The session that the run goes on from, if it is to, and if it is here."""
    if sessions is None or run.place is None or run.place.parent is None:
        return None
    session = sessions.of(run.place.parent)
    if session is None:
        logger.warning("session_not_here run_id=%s parent=%s", run.id, run.place.parent)
    return session


def _put_away(run_id: str, given: _Given, *, keep: bool) -> None:
    """Keep the session of a run that completed, and remove what else its CLI has left."""
    if given.folders.sessions is None:
        return
    try:
        if keep:
            given.folders.sessions.keep(run_id, given.config)
        discard(run_id, given.config)
    except OSError as error:  # the next turn gets the history instead
        logger.warning("session_not_kept run_id=%s error=%s", run_id, error)


def _thinking_aloud(new: list[Event]) -> list[Event]:
    """With an answer file or a schema, what the model says on the way is no part of the answer."""
    spoken: list[Event] = []
    for event in new:
        match event:
            case events.Text():
                spoken.append(events.Reasoning(text=event.text))
            case events.Retracted():
                pass
            case _:
                spoken.append(event)
    return spoken
