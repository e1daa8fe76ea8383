"""One run from start to end: its process, its deadlines, its limits, how it ends.

The one place that decides a run's ending; whatever happens in here, the run gets its terminal event
(or, with Redis gone for good, the janitor's).
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

import msgspec

from core import events
from core.errors import AppendRefused, ConfigurationError, LogLost
from core.events import Cancelled, Completed, Event, Failed, Terminal
from core.log import Writer
from core.nodes import Nodes
from core.profiles import Profile
from core.settings import Settings
from worker.claude import Result, Translator, from_init
from worker.clis import RESULT_GRACE_SECONDS, Clis
from worker.deadlines import Deadlines
from worker.endings import Endings, code_of
from worker.metrics import QUEUE_SECONDS, Measures
from worker.starter import StartedCli, Work
from worker.workspace import Workspaces

logger = logging.getLogger(__name__)


INIT_SECONDS = 10.0
"""How long a CLI that had waited may take to begin: it was up, so it takes milliseconds."""


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


class Supervisor:
    """Performs runs, one at a time, for one slot."""

    def __init__(
        self,
        settings: Settings,
        clis: Clis,
        workspaces: Workspaces,
        nodes: Nodes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._clis = clis
        self._workspaces = workspaces
        self._nodes = nodes
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
        ending = self._answer(work, writer, stop, may_have_waited=True)
        while ending is None:
            logger.warning("waiting_cli_dead run_id=%s", work.run.id)
            ending = self._answer(work, writer, stop, may_have_waited=False)
        return ending

    def _answer(self, work: Work, writer: Writer, stop: Stop, *, may_have_waited: bool) -> Terminal | None:
        """None when a CLI that had waited was dead, or deaf, before it said a word: nothing has been done yet."""
        try:
            cli = self._clis.take(work, may_have_waited=may_have_waited)
        except (OSError, ConfigurationError) as error:
            logger.error("cli_not_started run_id=%s error=%s", work.run.id, error)
            reason = error.strerror if isinstance(error, OSError) else str(error)
            failed = self._endings.failed("cli_missing", reason=f"{reason}.")
            writer.finish(failed)
            return failed
        translator = Translator(work.run.id, self._settings.max_tool_output_bytes, cli.cost_usd)
        completed = False
        try:
            with stop.waking(cli.process.wake):
                ending = self._follow(work, cli, translator, writer, stop)
            if ending is None:
                return None
            if isinstance(ending, Completed):
                self._nodes.file(work.run, work.request, writer.answer.text)  # first: who has read the end may ask on
            writer.finish(ending)
            completed = isinstance(ending, Completed)
        finally:
            cli.cost_usd = translator.cost_after
            self._clis.give_back(cli, work, completed=completed, last_entry=translator.last_entry)
        return ending

    def _follow(
        self, work: Work, cli: StartedCli, translator: Translator, writer: Writer, stop: Stop
    ) -> Terminal | None:
        """Relay the CLI's lines until something ends the run; says what, and what was consumed."""
        measures = Measures(work.run, cold=not cli.waited)
        ending = self._translate(work, cli, translator, writer, stop, measures)
        if ending is None or translator.result:
            return ending
        return msgspec.structs.replace(ending, usage=translator.spent)

    def _translate(
        self,
        work: Work,
        cli: StartedCli,
        translator: Translator,
        writer: Writer,
        stop: Stop,
        measures: Measures,
    ) -> Terminal | None:
        process, deadlines, heard = cli.process, self._deadlines(work.profile), False
        aside = cli.answer_file is not None or bool(work.request.schema)  # the answer is not what the model says
        while True:
            patience = deadlines.left(self._clock())
            if cli.waited and not heard:
                lines = process.lines(min(patience, INIT_SECONDS))
                if not lines and stop.ending is None and deadlines.overdue(self._clock()) is None:
                    return None
                lines = lines and from_init(lines)
            else:
                lines = process.lines(patience)
            new = [event for line in lines or () for event in translator.feed(line)]
            if lines:
                heard = True
                deadlines.heard(new, self._clock())
            said = _thinking_aloud(new) if aside else new
            writer.append(said)
            measures.see(said)
            if translator.result is not None:
                return self._conclude(translator.result, work, cli, writer, measures)
            if lines is None:
                process.wait(RESULT_GRACE_SECONDS)
                return self._endings.without_result(process.returncode, process.stderr(RESULT_GRACE_SECONDS))
            if stop.ending is not None:
                return stop.ending
            if (overdue := deadlines.overdue(self._clock())) is not None:
                return self._endings.overdue(overdue)
            if translator.answer_bytes > self._settings.max_answer_bytes:
                return self._endings.answer_too_long(self._settings.max_answer_bytes)

    def _conclude(self, result: Result, work: Work, cli: StartedCli, writer: Writer, measures: Measures) -> Terminal:
        ending = self._endings.of_result(result, work.profile)
        if not isinstance(ending, Completed):
            return ending
        if work.request.schema:
            answer = result.structured
            if not answer:
                return self._endings.failed("no_structured_answer", result.usage)
            if len(answer.encode()) > self._settings.max_answer_bytes:  # half of it would be no JSON
                return self._endings.answer_too_long(self._settings.max_answer_bytes, result.usage)
        elif cli.answer_file is not None:
            answer = cli.answer_file.read(self._settings.max_answer_bytes) or result.text
            if not answer:
                return self._endings.failed("no_answer_file", result.usage)
        else:
            return ending
        whole = [events.Text(text=answer)]
        writer.append(whole)
        measures.see(whole)
        return ending

    def _deadlines(self, profile: Profile) -> Deadlines:
        return Deadlines(
            self._clock(),
            run_seconds=profile.run_timeout_seconds or self._settings.run_timeout_seconds,
            stall_seconds=self._settings.stall_timeout_seconds,
            tool_seconds=self._settings.tool_timeout_seconds,
        )


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
