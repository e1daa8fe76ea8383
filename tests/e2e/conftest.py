"""The whole way of a question: Open WebUI, Caddy, two replicas, a worker, the real CLI, a scripted model."""

import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import caddy
from tests.caddy import Caddy
from tests.conftest import skip_unless_ci
from tests.deployment import DEPLOYMENT, KEYS, Deployment, eventually
from tests.doubles.anthropic_api import ScriptedApi, Text, Turn
from tests.e2e import openwebui
from tests.e2e.openwebui import Connection, OpenWebUI
from worker.process import MARK

Json = dict[str, Any]

SLOTS = 2
TASKS = {
    "Generate a concise title summarizing the chat history.": '{"title": "Six times seven"}',
    "Generate 1-3 broad tags categorizing the main themes of the chat history": '{"tags": ["Arithmetic", "Numbers"]}',
    "Predict 3-5 useful messages this user might naturally send next": '{"follow_ups": ["And seven times?"]}',
}
"""What Open WebUI's tasks begin with, and the answers. Longer than the tests' markers, so that they win."""


@dataclass
class Stage:
    """Everything that is up, and what was up before the test."""

    api: ScriptedApi
    heartline: Deployment
    web: OpenWebUI
    seen: set[str] = field(default_factory=set)

    def all_runs(self, owner: str = "alice") -> list[Json]:
        """The latest runs of a key, the newest first."""
        with self.heartline.http(owner) as client:
            found: list[Json] = client.get("/v1/runs", params={"limit": 100}).json()["data"]
            return found

    def runs(self, profile: str, owner: str = "alice") -> list[Json]:
        """This test's runs of a profile, the oldest first."""
        new = [run for run in self.all_runs(owner) if run["id"] not in self.seen and run["profile"] == profile]
        return [self.heartline.run(run["id"], owner) for run in reversed(new)]

    def run(self, profile: str = "agent") -> Json:
        """This test's only run of a profile."""
        found = self.runs(profile)
        assert len(found) == 1, found
        return found[0]

    def cancel_all(self) -> None:
        for owner in KEYS:
            with self.heartline.http(owner) as client:
                for run in self.all_runs(owner):
                    if run["ended_at"] is None:
                        client.post(f"/v1/runs/{run['id']}/cancel")

    def asked(self, marker: str) -> list[Json]:
        """What the model was shown in its last request for `marker`: the turns, each with a list of blocks."""
        return [
            {**message, "content": _blocks(message["content"])}
            for message in self.api.requests_for(marker)[-1].body["messages"]
            if message["role"] in ("user", "assistant")
        ]

    def processes(self, run_id: str) -> list[psutil.Process]:
        """What is alive of the CLI that performs a run, and of what that has started."""
        mark, found = self.heartline.cli_of(run_id)[0], []
        for process in psutil.process_iter():
            try:
                environ = process.environ()
                if environ.get(MARK) == mark and environ.get(DEPLOYMENT) == str(self.heartline.folder):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def kill_cli(self, run_id: str) -> None:
        """End the CLI of a run as the kernel does when memory is short: the CLI, not what confines it."""
        about = [process for process in self.processes(run_id) if "stream-json" in process.cmdline()]
        max(about, key=lambda process: process.create_time()).kill()


def _blocks(content: str | list[Json]) -> list[Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def sleeping(seconds: str) -> list[psutil.Process]:
    """The `sleep`s that a tool was told to sleep so long: a number that finds them whatever they have lost."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cmdline() == ["sleep", seconds]:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wake(seconds: str) -> None:
    """Let the command behind such a `sleep` go on; of this signal no shell writes a word."""
    for process in eventually(lambda: sleeping(seconds)):
        process.send_signal(signal.SIGPIPE)


@pytest.fixture(scope="session")
def _stage(tmp_path_factory: pytest.TempPathFactory, claude_bin: str) -> Iterator[Stage]:
    caddy.program()
    if not openwebui.program().exists():
        skip_unless_ci(f"no Open WebUI at {openwebui.program()}: say `make e2e`")
    folder = tmp_path_factory.mktemp("e2e")
    for name in ("heartline", "caddy", "web"):
        (folder / name).mkdir()
    with (
        ScriptedApi() as api,
        Deployment(
            folder / "heartline",
            claude_bin=claude_bin,
            replicas=2,
            environment={"ANTHROPIC_BASE_URL": api.base_url, "CLAUDE_CODE_MAX_RETRIES": "1"},
            models_file=Path(__file__).parent / "models.yaml",
            worker_slots=SLOTS,
            warm_processes=4,
            disconnect_grace_seconds=1,
        ) as heartline,
        Caddy(folder / "caddy", [replica.url for replica in heartline.replicas]) as proxy,
        OpenWebUI(
            folder / "web",
            Connection(f"{proxy.url}/v1", KEYS["alice"]),
            Connection(f"{proxy.url}/v1", KEYS["bob"], headers={}, prefix="plain"),
        ) as web,
    ):
        for beginning, answer in TASKS.items():
            api.script(beginning, Turn(Text(answer)))
        yield Stage(api, heartline, web)


@pytest.fixture
def stage(_stage: Stage) -> Iterator[Stage]:
    """The stage with nothing going on, before and after."""
    _stage.seen = {run["id"] for owner in KEYS for run in _stage.all_runs(owner)}
    yield _stage
    left = _stage.heartline.marked_processes()
    _stage.cancel_all()  # so that one failure does not make others
    assert left == []


@pytest.fixture(scope="session")
def chromium() -> str:
    """The machine's Chromium."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        skip_unless_ci("no Chromium on PATH (Debian: apt-get install chromium)")
    return str(found)
