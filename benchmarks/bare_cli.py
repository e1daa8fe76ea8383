"""The bare CLI on a pipe: the limit of everything that stands in front of it. Same flags as Heartline's, no sandbox."""

import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from core import profiles
from core.run import Message, RunRequest, new_id
from worker import command

MODELS = Path(__file__).with_name("models.yaml")
DELTA = b'"text_delta"'
RESULT = b'"type":"result"'


class BareCli:
    """One process of it, which waits for messages on standard input."""

    def __init__(self, claude_bin: str, environment: Mapping[str, str], folder: Path, after: "BareCli | None" = None):
        """With `after`, it goes on from the session of another one, which has ended."""
        self._environment = environment
        self._session_id = new_id()
        self.workspace: Path = after.workspace if after else Path(tempfile.mkdtemp(dir=folder))
        request = RunRequest(messages=(Message("user", "?"),))
        profile = profiles.load(MODELS).get("chat")
        prepared = command.prepare(
            self._session_id,
            request,
            profile,
            claude_bin,
            self.workspace,
            environment,
            session=after.session if after else None,
            lasting=True,
        )
        self._process = subprocess.Popen(
            prepared.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=prepared.environment,
            cwd=self.workspace,
        )

    def close(self) -> None:
        """Let it end, as it does when its standard input does; does nothing twice."""
        if self._process.poll() is None:
            self._process.communicate()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def session(self) -> Path:
        """The file of its session."""
        home = Path(self._environment["HOME"])
        return next(home.glob(f".claude/projects/*/{UUID(self._session_id)}.jsonl"))

    def ask(self, prompt: str) -> float:
        """Write a message and read to the end of its answer; returns when the first delta came."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command.user_line(prompt))
        self._process.stdin.flush()
        first = 0.0
        for line in self._process.stdout:
            if not first and DELTA in line:
                first = time.perf_counter()
            if RESULT in line.replace(b" ", b""):
                break
        assert first, "the CLI has said nothing"
        return first
