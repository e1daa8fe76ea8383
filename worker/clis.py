"""Which CLI performs a run, and what becomes of it afterwards."""

import logging
import time
from collections.abc import Collection
from pathlib import Path

from core.run import Lane, Run
from worker import command
from worker.metrics import CLIS
from worker.sessions import Sessions
from worker.starter import Setup, StartedCli, Starter, Work
from worker.warm import WarmPool, can_wait
from worker.workspace import Workspaces

logger = logging.getLogger(__name__)

RESULT_GRACE_SECONDS = 2.0
"""How long a CLI may take to exit after its `result`: some versions hang there (claude-code#25629)."""

SESSION_SECONDS = 0.5
"""How long one may take to write its session; then it is ended, which makes it write."""

ANSWER_SECONDS = 1.0
"""How long one may take to say that it is ready for more."""


class Clis:
    """Gives each run its CLI: one that waits when there is one that fits, else one that is started now. The run
    cannot tell which."""

    def __init__(self, starter: Starter, pool: WarmPool, workspaces: Workspaces, grace_seconds: float) -> None:
        self._starter = starter
        self._pool = pool
        self._workspaces = workspaces
        self._grace_seconds = grace_seconds

    def take(self, work: Work, *, may_have_waited: bool = True) -> StartedCli:
        """A CLI that has been asked what the run asks. Raises `OSError` or `ConfigurationError`."""
        workspace = self._workspaces.open(work.run, work.profile.directory)
        session = _session(work.run, self._workspaces.sessions(work.run))
        if not may_have_waited or (cli := self._waiting(work, session)) is None:
            cli = self._starter.for_run(work, workspace, session)
        if self._may_stay(work):
            self._pool.begin()
        how = "cold" if not cli.waited else "kept" if cli.answered else "spare"
        CLIS.labels(how).inc()
        logger.info("cli_taken run_id=%s cli=%s how=%s", work.run.id, cli.id, how)
        return cli

    def _waiting(self, work: Work, session: Path | None) -> StartedCli | None:
        if not can_wait(work.profile) or work.request.schema:
            return None
        setup = Setup.of(work)
        cli = self._pool.next_turn(work.run, setup)
        if cli is None and session is None and not work.request.history:
            self._pool.asked(setup, is_task=work.run.lane is Lane.TASKS)
            cli = self._spare(work, setup)
        if cli is not None:
            cli.waited = True
            self._workspaces.touch(cli.id)
            cli.process.write(command.question(work.request))
        return cli

    def _spare(self, work: Work, setup: Setup) -> StartedCli | None:
        """One that waits for a first run, moved into the run's workspace, if that is still empty."""
        cli = self._pool.spare(setup)
        if cli is None or work.run.place is None:
            return cli
        if (workspace := self._workspaces.move_in(cli.id, work.run)) is None:
            self._pool.put_back(cli)
            return None
        cli.workspace = workspace
        return cli

    def give_back(self, cli: StartedCli, work: Work, *, completed: bool, last_entry: str = "") -> None:
        """The run has ended: the CLI waits for the next turn, or ends with all that it has started.

        `completed`: with an answer, which the CLI's session holds up to the entry `last_entry`.
        """
        stays = False
        try:
            stays = completed and self._may_stay(work) and self._stays(cli, work.run, last_entry)
        finally:
            try:
                if not stays:
                    self._end(cli, work.run, completed=completed)
            finally:
                if self._may_stay(work):
                    self._pool.done()

    def _may_stay(self, work: Work) -> bool:
        """Whether the CLI of such a run may wait for the next turn. Not where it counts on: a budget is for one run."""
        for_one_run = work.profile.max_budget_usd is not None or bool(work.request.schema)
        return self._pool.keeps_any and work.run.place is not None and can_wait(work.profile) and not for_one_run

    def _stays(self, cli: StartedCli, run: Run, last_entry: str) -> bool:
        """Whether it was kept. Not one that has left something running, nor one that went to another folder: where
        the next command begins must not depend on who performs it."""
        sessions = self._workspaces.sessions(run)
        paths = self._starter.workspace_paths(cli)
        if sessions is None or not self._starter.is_alone(cli) or not _copied(sessions, run.id, cli, last_entry, paths):
            return False
        self._workspaces.touch(cli.id)
        return self._starter.answers(cli, ANSWER_SECONDS) and self._pool.keep(cli, run)

    def _end(self, cli: StartedCli, run: Run, *, completed: bool) -> None:
        self._starter.end(cli, self._grace_seconds, RESULT_GRACE_SECONDS if completed else 0)
        try:
            if completed and (sessions := self._workspaces.sessions(run)) is not None:
                sessions.keep(run.id, cli.id, cli.config)
        except OSError as error:  # the next turn gets the history instead
            logger.warning("session_not_kept run_id=%s error=%s", run.id, error)
        finally:
            self._starter.remove(cli)


def _copied(sessions: Sessions, run_id: str, cli: StartedCli, last_entry: str, paths: Collection[str]) -> bool:
    deadline = time.monotonic() + SESSION_SECONDS
    try:
        while not sessions.copy(run_id, cli.id, cli.config, last_entry, paths):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
    except OSError as error:
        logger.warning("session_not_copied run_id=%s error=%s", run_id, error)
        return False
    return True


def _session(run: Run, sessions: Sessions | None) -> Path | None:
    """The session that the run goes on from, if it is to, and if it is here."""
    if sessions is None or run.place is None or run.place.parent is None:
        return None
    session = sessions.of(run.place.parent)
    if session is None:
        logger.warning("session_not_here run_id=%s parent=%s", run.id, run.place.parent)
    return session
