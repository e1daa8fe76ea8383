"""Starting the CLI: for one run, or ahead of time for whichever run it fits."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from core.profiles import Profile
from core.run import Run, RunRequest, new_id
from worker import command
from worker.answer_file import AnswerFile
from worker.process import Process
from worker.sandbox import NO_SANDBOX, Sandbox
from worker.sessions import discard
from worker.workspace import Workspaces

READY_SECONDS = 30.0


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
    schema: str = ""
    lasting: bool = False  # it keeps its session

    @classmethod
    def of(cls, work: Work) -> "Setup":
        """What the run needs."""
        asked = work.request
        return cls(work.profile, asked.system, asked.effort, asked.schema, lasting=work.run.place is not None)

    @property
    def request(self) -> RunRequest:
        """A request that asks for all of this, and nothing yet."""
        return RunRequest(messages=(), system=self.system, effort=self.effort, schema=self.schema)


@dataclass(eq=False)
class StartedCli:
    """A CLI's process and what it was given. It performs one run at a time."""

    id: str  # names its session and its folders
    setup: Setup
    process: Process
    workspace: Path
    config: Path  # the folder in which it keeps its session
    place: os.stat_result  # the workspace's, whatever its path is now
    program: os.stat_result  # the CLI's own: another version has another
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
        """A CLI that is up and waits to be asked, in a workspace of its own or its profile's.

        Raises `OSError`, `ConfigurationError` or `NotReady`.
        """
        cli_id, directory = new_id(), setup.profile.directory
        workspace = Path(directory) if directory else self._workspaces.spare(cli_id)
        cli = self._start(cli_id, setup.request, setup, workspace)
        if self.answers(cli, READY_SECONDS):
            return cli
        self.end(cli, 0)
        self.remove(cli)
        raise NotReady(f"exit code {cli.process.returncode}: {cli.process.stderr(0)[-300:]}")

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
        """Remove what is left of a CLI that has ended. Raises `OSError`."""
        try:
            if cli.setup.lasting:
                discard(cli.id, cli.config)
        finally:
            self._workspaces.remove(cli.id)

    def is_fit(self, cli: StartedCli) -> bool:
        """Whether a CLI that waits can be asked: it lives, has nothing more to say, its workspace is still there, and
        no other version has been installed meanwhile."""
        try:
            there = os.path.samestat(cli.place, os.stat(cli.workspace))
            latest = os.path.samestat(cli.program, self._program())
        except OSError:
            return False
        return there and latest and cli.process.is_quiet()

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
        private = self._workspaces.private(cli_id)
        try:
            program = self._program(setup.profile)
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
        config = self._sandbox.config(private, confined.environment)
        return StartedCli(cli_id, setup, process, workspace, config, os.stat(workspace), program, answer_file)

    def _program(self, profile: Profile | None = None) -> os.stat_result:
        diagnostic = profile is not None and profile.runner == "diagnostic"
        return os.stat(sys.executable if diagnostic else self._claude_bin)
