"""The real CLI in the middle of a tool that takes minutes: however it is stopped, nothing of it is left."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from rq.command import send_stop_job_command
from rq.serializers import JSONSerializer

from tests import sse
from tests.deployment import KEYS, Deployment, chat, eventually
from tests.doubles.anthropic_api import ScriptedApi, Text, ToolUse, Turn
from tests.sse import Watcher
from worker.process import marked

PROMPT = "take your time"
SLEEP = "4242"  # seconds: a number that finds the tool's process


@pytest.fixture(scope="module")
def api() -> Iterator[ScriptedApi]:
    with ScriptedApi() as scripted:
        command = f"setsid nohup sleep {SLEEP} > /dev/null 2>&1 & true && sleep {SLEEP}"
        scripted.script(PROMPT, Turn(Text("Wait."), ToolUse("Bash", {"command": command})))
        yield scripted


def sleeping() -> list[int]:
    """The tool's processes, by what they were told: also those that have lost every mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cmdline()[-2:] == ["sleep", SLEEP]:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def leave(heartline: Deployment, watcher: Watcher) -> None:
    watcher.cut()


def cancel(heartline: Deployment, watcher: Watcher) -> None:
    with heartline.http() as client:
        assert client.post(f"/v1/runs/{watcher.run_id}/cancel").status_code == 200


def stop_job(heartline: Deployment, watcher: Watcher) -> None:
    send_stop_job_command(heartline.redis, watcher.run_id, serializer=JSONSerializer)


def terminate_worker(heartline: Deployment, watcher: Watcher) -> None:
    heartline.workers[0].process.send_signal(signal.SIGTERM)
    heartline.workers[0].process.send_signal(signal.SIGTERM)


def kill_worker(heartline: Deployment, watcher: Watcher) -> None:
    """The next worker on the host sweeps what has no kernel to end it with its parent."""
    heartline.workers[0].stop(signal.SIGKILL)
    heartline.parts.remove(heartline.workers[0])
    heartline.start_worker()


@pytest.mark.parametrize(("sandbox", "warm"), [("auto", 0), ("auto", 2), ("off", 2)])
@pytest.mark.parametrize(
    ("stop", "ending"),
    [
        (leave, "cancelled"),
        (cancel, "cancelled"),
        (stop_job, "cancelled"),
        (terminate_worker, "worker_shutdown"),
        (kill_worker, "worker_lost"),
    ],
)
def test_nothing_is_left_of_a_long_tool(
    tmp_path: Path,
    claude_bin: str,
    api: ScriptedApi,
    stop: Callable[[Deployment, Watcher], None],
    ending: str,
    sandbox: str,
    warm: int,
) -> None:
    with Deployment(
        tmp_path,
        claude_bin=claude_bin,
        environment={"ANTHROPIC_BASE_URL": api.base_url},
        sandbox=sandbox,
        warm_processes=warm,
        disconnect_grace_seconds=0.5,
        stop_grace_seconds=1,
    ) as heartline:
        if warm:
            eventually(lambda: heartline.waiting("spare") == warm)
        with heartline.http() as client:
            body = {"prompt": PROMPT, "model": "agent", "detach": False}
            run_id = client.post("/v1/runs", json=body).json()["id"]
        watcher = Watcher(run_id, KEYS["alice"])
        watcher.connect(heartline.replicas[0].url)
        eventually(lambda: len(sleeping()) == 2, what="the tool and its daemon run")
        cli_id, how = heartline.cli_of(run_id)
        assert how == ("spare" if warm else "cold")
        stop(heartline, watcher)
        eventually(lambda: not sleeping(), seconds=15, what="the tool and its daemon are gone")
        eventually(lambda: not list(marked(cli_id)), seconds=15, what="and so is the CLI")
        if stop is not leave:
            watcher.join()
        run = eventually(lambda: (found := heartline.run(run_id))["ended_at"] and found)
        assert (run["error"] or {"code": run["status"]})["code"] == ending
        assert run["answer"] == "Wait."


def test_a_chat_stopped_in_mid_tool_leaves_nothing(tmp_path: Path, claude_bin: str, api: ScriptedApi) -> None:
    environment = {"ANTHROPIC_BASE_URL": api.base_url}
    with Deployment(tmp_path, claude_bin=claude_bin, environment=environment) as heartline, heartline.http() as client:
        body = chat(PROMPT, model="agent", stream=True)
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            frames = sse.of(answer)
            next(frame for frame in frames if sse.contents([frame]))
            eventually(lambda: len(sleeping()) == 2)
        eventually(lambda: not sleeping(), seconds=15)
        assert heartline.marked_processes() == []
