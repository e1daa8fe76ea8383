"""Heartline as real processes on loopback, for acceptance tests: a Valkey, replicas, workers.

Everything is in one folder and on free ports, nothing is the machine's; leaving the `with` block proves
that no process is left.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
import openai
import psutil
from redis import Redis

from stack.valkey import EmbeddedValkey
from tests.metrics import Seen
from worker.process import MARK

PROJECT = Path(__file__).resolve().parent.parent
FAKE_CLAUDE = PROJECT / "tests" / "doubles" / "fake_claude.py"
MODELS = PROJECT / "tests" / "models.yaml"
KEYS = {"alice": "key-of-alice-0123456789", "bob": "key-of-bob-0123456789ab"}
DEPLOYMENT = "LC_DEPLOYMENT"
"""Names a deployment's processes; LC_ because that is handed on to a run, whose HOME may be the sandbox's."""

T = TypeVar("T")


def eventually(look: Callable[[], T], seconds: float = 20.0, what: str = "") -> T:
    """What `look` returns as soon as it is truthy. Fails after `seconds`: a bound, not an expectation."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or look}")
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Part:
    """One process and where its output goes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    url: str = ""

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 40.0) -> int:
        """Signal it and wait; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)


class Deployment:
    """`with Deployment(tmp_path, claude_bin=...) as heartline: …`"""

    def __init__(
        self,
        folder: Path,
        *,
        claude_bin: str | Path = FAKE_CLAUDE,
        replicas: int = 1,
        workers: int = 1,
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        """`settings` are Heartline's, by their field names; `environment` is what else the parts see."""
        self.folder = folder
        self._counts = (replicas, workers)
        self.parts: list[Part] = []
        home = folder / "home"
        home.mkdir()
        self._valkey = EmbeddedValkey(folder / "state")
        given = {
            "redis_url": self._valkey.url,
            "state_dir": folder / "state",
            "models_file": MODELS,
            "claude_bin": claude_bin,
            "api_keys": ",".join(f"{name}:{key}" for name, key in KEYS.items()),
            "stop_grace_seconds": 2,
            "drain_seconds": 5,
            "warm_processes": 0,  # so that a test sees no process but its runs'
            **settings,
        }
        self.warm = given["warm_processes"] != 0
        # No variable of the machine's but PATH: no test may reach a real account.
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            DEPLOYMENT: str(folder),
            "PYTHONPATH": str(PROJECT),
            "PYTHONWARNINGS": "ignore",
            "ANTHROPIC_BASE_URL": "http://127.0.0.1:9",  # the discard port: nobody is there
            "ANTHROPIC_API_KEY": "no-real-key",
            **(environment or {}),
            **{f"HEARTLINE_{name.upper()}": str(value) for name, value in given.items()},
        }

    def __enter__(self) -> "Deployment":
        try:
            self.parts.append(Part("valkey", self._valkey.start(), self.folder / "state/valkey/valkey.log"))
            self.redis = Redis.from_url(self._valkey.url)
            for _ in range(self._counts[1]):
                self.start_worker()
            for _ in range(self._counts[0]):
                self.start_replica()
            self.wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        marked = self.marked_processes() if error is None else []
        self.close()
        if error is not None:
            self._print_logs()
        else:
            marked += self.marked_processes()
            assert not marked, f"left behind by runs: {marked}"

    def close(self) -> None:
        for part in sorted(self.parts, key=lambda part: ["worker", "app", "valkey"].index(part.name)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                part.stop()
            if part.process.poll() is None:
                part.process.kill()
                part.process.wait()
        if hasattr(self, "redis"):
            self.redis.close()

    # --- the parts --------------------------------------------------------------------------------

    def start_worker(self, **settings: object) -> Part:
        if not self.warm:
            return self._spawn("worker", settings)
        metrics = f"127.0.0.1:{free_port()}"
        part = self._spawn("worker", {"worker_metrics_bind": metrics, **settings})
        part.url = f"http://{metrics}"
        return part

    def start_replica(self, **settings: object) -> Part:
        port = free_port()
        part = self._spawn("app", {"bind": f"127.0.0.1:{port}", **settings})
        part.url = f"http://127.0.0.1:{port}"
        return part

    def restart_valkey(self) -> None:
        """Stop the server in an orderly way and start it again on its data."""
        self.valkey.stop()
        self.start_again(self.valkey)

    def start_again(self, part: Part) -> None:
        """Start a part that has ended, as it was: a replica on its port, the server on its data."""
        if part is self.valkey:
            part.process = self._valkey.start()
        else:
            part.process = self._start(part.name, part.environment, part.log)

    @property
    def valkey(self) -> Part:
        return next(part for part in self.parts if part.name == "valkey")

    @property
    def replicas(self) -> list[Part]:
        return [part for part in self.parts if part.name == "app"]

    @property
    def workers(self) -> list[Part]:
        return [part for part in self.parts if part.name == "worker"]

    def _spawn(self, name: str, settings: Mapping[str, object]) -> Part:
        log = self.folder / f"{name}{len(self.parts)}.log"
        environment = {
            **self.environment,
            **{f"HEARTLINE_{key.upper()}": str(value) for key, value in settings.items()},
        }
        self.parts.append(Part(name, self._start(name, environment, log), log, environment))
        return self.parts[-1]

    def _start(self, name: str, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", name],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        for part in self.replicas:
            eventually(lambda part=part: self._ready(part), what=f"{part.url} is ready")  # type: ignore[misc]

    def _ready(self, part: Part) -> bool:
        assert all(p.process.poll() is None for p in self.parts), "a part has died"
        try:
            answer = httpx.get(f"{part.url}/readyz", timeout=5)
        except httpx.TransportError:
            return False
        found: int = answer.json()["workers"]
        return found >= len(self.workers)

    def _print_logs(self) -> None:
        for part in self.parts:
            print(f"--- {part.name} {part.url}\n{part.log.read_text(errors='replace')[-5000:]}")

    # --- its users --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def http(self, owner: str = "alice", replica: int = 0, timeout: float = 60) -> Iterator[httpx.Client]:
        """Raw HTTP with an owner's key, to one replica."""
        headers = {"Authorization": f"Bearer {KEYS[owner]}"} if owner else {}
        with httpx.Client(base_url=self.replicas[replica].url, headers=headers, timeout=timeout) as client:
            yield client

    @contextlib.contextmanager
    def openai(self, owner: str = "alice", replica: int = 0) -> Iterator[openai.OpenAI]:
        """The official client."""
        base_url = f"{self.replicas[replica].url}/v1"
        with openai.OpenAI(base_url=base_url, api_key=KEYS[owner], timeout=60, max_retries=0) as client:
            yield client

    def run(self, run_id: str, owner: str = "alice") -> dict[str, Any]:
        """`GET /v1/runs/<run_id>`."""
        with self.http(owner) as client:
            answer = client.get(f"/v1/runs/{run_id}")
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
            return found

    def waiting(self, kind: str) -> int:
        """How many CLIs wait in the first worker, `spare` or `kept`."""
        return int(Seen.at(self.workers[0].url)("heartline_warm_processes", kind=kind))

    def cli_of(self, run_id: str) -> tuple[str, str]:
        """The id of the CLI that performs the run, and how it came to it: cold, spare or kept."""
        logs = "".join(part.log.read_text(errors="replace") for part in self.workers)
        cli_id, how = re.findall(rf"cli_taken run_id={run_id} cli=(\w+) how=(\w+)", logs)[-1]
        return cli_id, how

    def marked_processes(self) -> list[str]:
        """The processes of this deployment's runs that do not end. CLIs that wait are no run's."""
        return eventually_none(lambda: [] if len(self._marks()) == self._all_waiting() else self.marked_now())

    def marked_now(self) -> list[str]:
        """The processes that are alive of this deployment's runs, and of CLIs that wait."""
        return [process for processes in self._marks().values() for process in processes]

    def _marks(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                environ = process.environ()
                if MARK in environ and environ.get(DEPLOYMENT) == str(self.folder):
                    found.setdefault(environ[MARK], []).append(f"{process.pid} {process.name()}")
        return found

    def _all_waiting(self) -> int:
        """How many CLIs wait in all workers that are alive."""
        seen = []
        for part in self.workers:
            with contextlib.suppress(httpx.TransportError):
                if part.url:
                    seen.append(Seen.at(part.url))
        return int(sum(one("heartline_warm_processes", kind=kind) for one in seen for kind in ("spare", "kept")))


def eventually_none(look: Callable[[], list[str]], seconds: float = 10.0) -> list[str]:
    """What `look` still returns after `seconds`, or nothing as soon as it returns nothing."""
    deadline = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def chat(prompt: str, **fields: Any) -> dict[str, Any]:
    """A chat request's body with one user message."""
    return {"messages": [{"role": "user", "content": prompt}], **fields}
