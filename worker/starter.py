"""Starting the CLI: for one run, or ahead of time for whichever run it fits."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from core.profiles import Profile
from core.run import Run, RunRequest, new_id
from worker import command
from worker.answer_file import AnswerFile
from worker.process import Process
from worker.sandbox import NO_SANDBOX, Sandbox, login
from worker.sessions import discard
from worker.workspace import Workspaces

logger = logging.getLogger(__name__)

READY_SECONDS = 30.0


Identity = tuple[int, ...]
"""Tells a file from another one, and from itself before it was written again; empty for one that is not there."""


class NotReady(Exception):
    """A CLI that was started ahead of time does not answer."""


@dataclass(frozen=True)
class Work:
    """What is to be performed, and how."""

    run: Run
    request: RunRequest
    profile: Profile


@dataclass(frozen=True)
class Setup:
    """What a CLI fixes at its start, beside its folders: it can perform the runs that need just this.

    `program` tells one installed version from the next. Environment, flags and limits are the profile's.
    """

    profile: Profile = field(hash=False)
    system: str = ""
    effort: str | None = None
    lasting: bool = False  # it keeps its session

    @classmethod
    def of(cls, work: Work) -> "Setup":
        """What the run needs."""
        asked = work.request
        return cls(work.profile, asked.system, asked.effort, lasting=work.run.place is not None)

    @property
    def request(self) -> RunRequest:
        """A request that asks for all of this, and nothing yet."""
        return RunRequest(messages=(), system=self.system, effort=self.effort)


@dataclass(eq=False)
class StartedCli:
    """A CLI's process and what it was given. It performs one run at a time."""

    id: str  # names its session and its folders
    setup: Setup
    process: Process
    workspace: Path
    folder: Identity  # the workspace's, whatever its path is now
    cwd: str  # the workspace's path as the CLI knows it
    config: Path  # the folder in which it keeps its session
    installed: tuple[Identity, Identity]  # what was installed when it started: the CLI, and the operator's login
    answer_file: AnswerFile | None = None
    owner: str = ""
    answered: str = ""  # the id of the run that it performed last
    cost_usd: float = 0.0  # of all that it performed
    since: float = 0.0  # when it began to wait, on the pool's clock
    waited: bool = False  # it was not started for the run that it performs


class Starter:
    """Starts CLIs and clears up behind them. Shared by all slots of a worker."""

    def __init__(
        self, claude_bin: str, workspaces: Workspaces, environ: Mapping[str, str], sandbox: Sandbox = NO_SANDBOX
    ) -> None:
        self._claude_bin = claude_bin
        self._workspaces = workspaces
        self._environ = environ
        self._sandbox = sandbox

    def for_run(self, work: Work, workspace: Path, session: Path | None) -> StartedCli:
        """A CLI for this run, which goes on from `session`; it has been asked. Raises `OSError` or
        `ConfigurationError`."""
        declared = work.profile.answer_file
        answer_file = AnswerFile(workspace, declared, work.run.id) if declared else None
        setup = Setup.of(work)
        return self._start(work.run.id, work.request, setup, workspace, session=session, answer_file=answer_file)

    def ahead(self, setup: Setup) -> StartedCli:
        """A CLI that is up and waits to be asked, in a workspace of its own.

        Raises `OSError`, `ConfigurationError` or `NotReady`.
        """
        cli_id = new_id()
        cli = self._start(cli_id, setup.request, setup, self._workspaces.spare(cli_id))
        if self.answers(cli, READY_SECONDS):
            return cli
        self.end(cli, 0)
        self.remove(cli)
        raise NotReady(f"exit code {cli.process.returncode}")

    def answers(self, cli: StartedCli, seconds: float) -> bool:
        """Whether it lives, says so within `seconds`, and says nothing else."""
        cli.process.write(command.ARE_YOU_THERE)
        match cli.process.lines(seconds):
            case [line]:
                return b'"control_response"' in line
            case _:
                return False

    def end(self, cli: StartedCli, grace_seconds: float, patience_seconds: float = 0) -> None:
        """End it with all that it started; its folders stay until `remove`."""
        cli.process.close(grace_seconds, patience_seconds)

    def remove(self, cli: StartedCli) -> None:
        """Remove what is left of a CLI that has ended."""
        try:
            if cli.setup.lasting:
                discard(cli.id, cli.config)
        except OSError as error:
            logger.warning("session_not_removed cli=%s error=%s", cli.id, error)
        self._workspaces.remove(cli.id)

    def is_fit(self, cli: StartedCli) -> bool:
        """Whether a CLI that waits can be asked: it lives, has nothing more to say, its workspace is still there, and
        neither another version nor another login has come meanwhile."""
        unchanged = (
            identity(cli.workspace)[:2] == cli.folder[:2] and self._installed(cli.setup.profile) == cli.installed
        )
        return unchanged and cli.process.is_quiet()

    def workspace_paths(self, cli: StartedCli) -> set[str]:
        """The paths of its workspace as the CLI may know it: where it began, and where it is since it moved in."""
        return {cli.cwd, self._sandbox.cwd(cli.workspace)}

    def is_alone(self, cli: StartedCli) -> bool:
        """Whether nothing is left of what it has started."""
        return cli.process.is_alone(self._sandbox.layers)

    def _start(
        self,
        cli_id: str,
        request: RunRequest,
        setup: Setup,
        workspace: Path,
        *,
        session: Path | None = None,
        answer_file: AnswerFile | None = None,
    ) -> StartedCli:
        try:
            private = self._workspaces.private(cli_id)
            folder, installed = identity(workspace), self._installed(setup.profile)
            prepared = command.prepare(
                cli_id,
                request,
                setup.profile,
                self._claude_bin,
                private,
                self._environ,
                answer_file=answer_file,
                session=session,
                lasting=setup.lasting,
                seen_at=self._sandbox.inside(private),
                denied_tools=self._sandbox.denied_tools,
            )
            confined = self._sandbox.wrap(prepared, workspace=workspace, private=private, profile=setup.profile)
            config = self._sandbox.config(private, confined.environment)
            cwd = self._sandbox.cwd(workspace)
            process = Process(
                confined.argv,
                stdin=confined.stdin,
                cwd=workspace,
                environment=confined.environment,
                run_id=cli_id,
                farewell=confined.farewell,
            )
        except BaseException:
            self._workspaces.remove(cli_id)
            raise
        return StartedCli(cli_id, setup, process, workspace, folder, cwd, config, installed, answer_file)

    def _installed(self, profile: Profile) -> tuple[Identity, Identity]:
        if profile.runner == "diagnostic":
            return (), ()
        return identity(self._claude_bin), identity(login(self._environ))


def identity(path: str | Path) -> Identity:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
