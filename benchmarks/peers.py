"""Two other servers that put the CLI behind OpenAI's API, as `make bench` has installed them below `.bench`.

Each runs on the same CLI, by a `PATH` with that `claude` first, and on the same scripted API, in a home of its own.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks import machine
from benchmarks.results import PROJECT
from tests.deployment import eventually, free_port

INSTALLED = PROJECT / ".bench"


@dataclass(frozen=True)
class Peer:
    """One of them: where its program is, how it is started with a port, and the model to ask for."""

    name: str
    program: str
    arguments: tuple[str, ...]
    model: str
    health: str

    @property
    def path(self) -> Path:
        return INSTALLED / self.name / self.program

    def missing(self) -> str:
        """Why it cannot be measured, or nothing."""
        if self.path.exists():
            return ""
        log = INSTALLED / f"{self.name}.log"
        said = " ".join(log.read_text(errors="replace").split())[-200:] if log.exists() else ""
        return f"could not be installed: {said}" if said else "is not installed: `make bench` does that"

    @contextlib.contextmanager
    def serving(self, folder: Path, claude_bin: str, environment: Mapping[str, str]) -> Iterator[tuple[str, int]]:
        """Its base URL and its process, while the block lasts. Raises `AssertionError` if it does not start."""
        port = free_port()
        home = folder / self.name
        (home / "bin").mkdir(parents=True)
        (home / "bin" / "claude").symlink_to(Path(claude_bin).resolve())
        own = {
            **environment,
            "HOME": str(home),
            "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
            "CLAUDEGATE_CLI_PATH": str(home / "bin" / "claude"),  # it would use one that its SDK brings
            "IS_SANDBOX": "1",  # the CLI refuses to skip permissions for root without it
        }
        with (home / "log").open("wb") as output:
            process = subprocess.Popen(
                [str(self.path), *(argument.format(port=port) for argument in self.arguments)],
                cwd=home,
                env=own,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            eventually(lambda: _answers(process, f"http://127.0.0.1:{port}{self.health}"), what=f"{self.name} answers")
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            _end(process)


PEERS = (
    Peer(
        name="claude-max-api-proxy",
        program="node_modules/.bin/claude-max-api",
        arguments=("{port}",),
        model="sonnet",
        health="/health",
    ),
    Peer(
        name="claude-code-openai",
        program="bin/claudegate",
        arguments=("serve", "--port", "{port}"),
        model="sonnet",
        health="/v1/models",
    ),
)


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    assert process.poll() is None, "it has ended at its start"
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """With the CLIs that it keeps."""
    everything = machine.tree([process.pid])
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    for left in everything:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    process.wait()
