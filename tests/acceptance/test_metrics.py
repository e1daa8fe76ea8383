"""Metrics and logs of real processes: after known traffic the numbers are exact, and each line of log can be read."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.deployment import KEYS, Deployment, Part, chat, eventually, free_port
from tests.doubles.anthropic_api import ApiError, Gate, ScriptedApi, Text, ToolUse, Turn
from tests.metrics import Seen

TOKEN = "the-token-of-prometheus"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACED = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
SAID = (
    "PROMPT-ONE",
    "PROMPT-TWO",
    "PROMPT-THREE",
    "PROMPT-FOUR",
    "ANSWER-ONE",
    "ANSWER-THREE",
    "ANSWER-FOUR",
    "REASON-TWO",
)
"""What users and the model say: no line of log may have it."""


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with ScriptedApi() as scripted:
        yield scripted


@pytest.fixture
def heartline(folder: Path, claude_bin: str, api: ScriptedApi) -> Iterator[Deployment]:
    with Deployment(
        folder,
        claude_bin=claude_bin,
        replicas=2,
        workers=0,
        environment={"ANTHROPIC_BASE_URL": api.base_url, "CLAUDE_CODE_MAX_RETRIES": "1"},
        heartbeat_seconds=0.3,
        disconnect_grace_seconds=0.1,
        metrics_token=TOKEN,
        log_format="json",
        log_level="DEBUG",
    ) as running:
        for _ in range(2):
            running.start_worker(worker_metrics_bind=f"127.0.0.1:{free_port()}")
        running.wait_until_ready()
        yield running


class Everything:
    """The numbers of all processes, added up."""

    def __init__(self, heartline: Deployment) -> None:
        self.replicas = [Seen.at(f"{part.url}/metrics", TOKEN) for part in heartline.replicas]
        addresses = [part.environment["HEARTLINE_WORKER_METRICS_BIND"] for part in heartline.workers]
        self.workers = [Seen.at(f"http://{address}/metrics") for address in addresses]

    def sum(self, name: str, **labels: str) -> float:
        return sum(seen.sum(name, **labels) for seen in (*self.replicas, *self.workers))


@dataclass
class Traffic:
    """What was sent and read."""

    runs: list[str] = field(default_factory=list)
    heard: bytes = b""

    def read(self, answer: httpx.Response, until: bytes = b"") -> None:
        """To the end, or until the answer has had these bytes."""
        assert answer.status_code == 200
        seen = b""
        for chunk in answer.iter_raw():
            self.heard += chunk
            seen += chunk
            if until and until in seen:
                return
        assert not until, seen


def completed(heartline: Deployment, api: ScriptedApi, traffic: Traffic) -> None:
    """A chat with a tool, then a second reading of it that begins in the middle, on the other replica."""
    tool = ToolUse("Bash", {"command": "true", "description": "Do nothing"})
    api.script("PROMPT-ONE", Turn(tool), Turn(Text("ANSWER-ONE")))
    body = chat("PROMPT-ONE", model="agent", stream=True)
    with heartline.http() as client, client.stream("POST", "/v1/chat/completions", json=body, headers=TRACED) as answer:
        traffic.read(answer)
        traffic.runs.append(answer.headers["X-Run-Id"])
    with (
        heartline.http(replica=1) as client,
        client.stream("GET", f"/v1/runs/{traffic.runs[-1]}/events", headers={"Last-Event-ID": "2"}) as answer,
    ):
        traffic.read(answer)


def failed(heartline: Deployment, api: ScriptedApi, traffic: Traffic) -> None:
    api.script("PROMPT-TWO", Turn(ApiError(400, "REASON-TWO")))
    body = chat("PROMPT-TWO", model="chat", stream=True)
    with heartline.http() as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
        traffic.read(answer)
        traffic.runs.append(answer.headers["X-Run-Id"])


def cancelled(heartline: Deployment, api: ScriptedApi, traffic: Traffic) -> None:
    """By its owner, while it is watched on the other replica and has been silent for a heartbeat."""
    gate = threading.Event()
    api.script("PROMPT-THREE", Turn(Text("ANSWER-THREE"), Gate(gate)))
    with heartline.http(replica=1) as client:
        made = client.post("/v1/runs", json={"prompt": "PROMPT-THREE", "model": "chat"}, headers=TRACED)
        traffic.runs.append(made.json()["id"])
        with client.stream("GET", f"/v1/runs/{traffic.runs[-1]}/events") as answer:
            chunks = answer.iter_raw()
            mine = b""
            while b"ANSWER-THREE" not in mine or not mine.endswith(b": heartbeat\n\n"):
                mine += next(chunks)
            now = Everything(heartline)
            assert [seen("heartline_watchers") for seen in now.replicas] == [0, 1]
            assert now.sum("heartline_slots_busy") == 1
            client.post(f"/v1/runs/{traffic.runs[-1]}/cancel")
            traffic.heard += mine + b"".join(chunks)
    gate.set()


def left(heartline: Deployment, api: ScriptedApi, traffic: Traffic) -> None:
    """A chat whose client goes in the middle of the answer."""
    gate = threading.Event()
    api.script("PROMPT-FOUR", Turn(Text("ANSWER-FOUR"), Gate(gate)))
    body = chat("PROMPT-FOUR", model="chat", stream=True)
    with heartline.http() as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
        traffic.runs.append(answer.headers["X-Run-Id"])
        traffic.read(answer, until=b"ANSWER-FOUR")
    eventually(lambda: heartline.run(traffic.runs[-1])["status"] == "cancelled")
    gate.set()


def lines(part: Part) -> list[dict[str, Any]]:
    """The log, each line an object."""
    found = [json.loads(line) for line in part.log.read_text(encoding="utf-8").splitlines()]
    assert all({"ts", "level", "logger", "message"} <= line.keys() for line in found)
    return found


def test_after_known_traffic_the_numbers_are_exact(heartline: Deployment, api: ScriptedApi) -> None:
    traffic = Traffic()
    for scene in (completed, failed, cancelled, left):
        scene(heartline, api, traffic)
    eventually(lambda: Everything(heartline).sum("heartline_slots_busy") == 0)
    now = Everything(heartline)

    ended = "heartline_runs_ended_total"
    assert now.sum(ended) == 4
    assert now.sum(ended, profile="agent", outcome="completed", code="") == 1
    assert now.sum(ended, profile="chat", outcome="failed", code="cli_error") == 1
    assert now.sum(ended, profile="chat", outcome="cancelled", code="") == 2
    assert now.sum("heartline_runs_queued_total", profile="chat") == 3
    assert now.sum("heartline_runs_queued_total", profile="agent") == 1

    with heartline.http() as client:
        totals = client.get("/v1/usage").json()["totals"]
    for kind in ("input", "cached_input", "output"):
        assert now.sum("heartline_tokens_total", kind=kind) == totals[f"{kind}_tokens"]
    assert now.sum("heartline_tokens_total", profile="agent", kind="input") == 20
    assert now.sum("heartline_tokens_total", profile="agent", kind="output") == 14
    assert now.sum("heartline_cost_usd_total") == pytest.approx(totals["cost_usd"])

    appended = sum(heartline.run(run_id)["last_seq"] for run_id in traffic.runs)
    assert now.sum("heartline_events_appended_total") == appended
    for name in ("queue", "first_event"):
        assert now.sum(f"heartline_{name}_seconds_count") == 4
    assert now.sum("heartline_first_text_seconds_count") == 3
    assert now.sum("heartline_cli_start_seconds_count") == 4
    assert now.sum("heartline_run_seconds_count", outcome="cancelled") == 2
    assert now.sum("heartline_tool_seconds_count") == now.sum("heartline_tool_seconds_count", tool="Bash") == 1

    assert now.sum("heartline_watchers") == 0
    streams = "heartline_streams_ended_total"
    assert (now.sum(streams, how="completed"), now.sum(streams, how="client_gone"), now.sum(streams)) == (4, 1, 5)
    assert now.sum("heartline_resumes_total") == 1
    assert now.sum("heartline_resets_total") == 0
    assert now.sum("heartline_heartbeats_total") >= traffic.heard.count(b": heartbeat\n\n") >= 1
    assert now.sum("heartline_log_lag_seconds_count") > 0

    assert now.sum("heartline_slots", lane="runs") == 2 * 4
    for seen in now.replicas:
        assert (seen("heartline_workers"), seen("heartline_redis_up")) == (2, 1)
        assert seen("heartline_queue_length", lane="runs") == 0
    chats = {"method": "POST", "route": "/v1/chat/completions"}
    assert now.sum("heartline_http_requests_total", **chats) == 3
    assert now.sum("heartline_http_requests_total", **chats, status="200") == 3


def test_every_line_of_log_is_json_names_run_and_trace_and_repeats_nobody(
    heartline: Deployment, api: ScriptedApi
) -> None:
    traffic = Traffic()
    for scene in (completed, failed, cancelled, left):
        scene(heartline, api, traffic)
    with heartline.http() as client:
        client.get("/v1/models?secret=IN-THE-QUERY")
    for part in (*heartline.replicas, *heartline.workers):
        part.stop()
    of_api = [line for part in heartline.replicas for line in lines(part)]
    of_workers = [line for part in heartline.workers for line in lines(part)]
    everything = "".join(part.log.read_text() for part in (*heartline.replicas, *heartline.workers))
    for word in (*SAID, "IN-THE-QUERY", TOKEN, *KEYS.values()):
        assert word not in everything

    for run_id, traced in zip(traffic.runs, (True, False, True, False), strict=True):
        told = [line for line in (*of_api, *of_workers) if line.get("run_id") == run_id]
        assert {"run_queued", "run_started", "run_ended", "request_ended"} <= {line["message"] for line in told}
        assert {line.get("trace_id") for line in told} == {TRACE if traced else None}

    requests = [line for line in of_api if line["message"] == "request_ended"]
    (gone,) = [line for line in requests if line.get("ended") == "client_gone"]
    assert (gone["route"], gone["owner"], gone["run_id"]) == ("/v1/chat/completions", "alice", traffic.runs[3])
    assert gone["bytes"] >= len("ANSWER-FOUR")
    (resumed,) = [line for line in requests if line.get("run_id") == traffic.runs[0] and line["method"] == "GET"]
    assert (resumed["route"], resumed["ended"]) == ("/v1/runs/<run_id>/events", "completed")


def test_a_stream_that_a_replica_sends_elsewhere_is_logged_as_drained(heartline: Deployment, api: ScriptedApi) -> None:
    gate = threading.Event()
    api.script("PROMPT-THREE", Turn(Text("ANSWER-THREE"), Gate(gate)))
    with heartline.http() as client:
        run_id = client.post("/v1/runs", json={"prompt": "PROMPT-THREE", "model": "chat"}).json()["id"]
        with client.stream("GET", f"/v1/runs/{run_id}/events") as answer:
            chunks = answer.iter_raw()
            next(chunk for chunk in chunks if b"ANSWER-THREE" in chunk)
            heartline.replicas[0].process.terminate()
            list(chunks)
    heartline.replicas[0].stop()
    gate.set()
    (line,) = [line for line in lines(heartline.replicas[0]) if line.get("ended")]
    assert (line["ended"], line["run_id"], line["status"]) == ("drained", run_id, 200)
    assert line["events"] >= 3
    heartline.parts.remove(heartline.replicas[0])
    eventually(lambda: heartline.run(run_id)["status"] == "completed")


def test_metrics_are_not_for_everybody(heartline: Deployment) -> None:
    guarded, open_one = heartline.replicas[0], heartline.start_replica(metrics_token="")
    off = heartline.start_replica(metrics="off")
    heartline.wait_until_ready()

    def status(part: Part, **headers: str) -> int:
        return httpx.get(f"{part.url}/metrics", headers=headers).status_code

    def key(text: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {text}"}

    assert status(guarded) == status(guarded, **key(KEYS["alice"])) == status(guarded, **key("wrong")) == 401
    assert status(guarded, **key(TOKEN)) == 200
    assert status(open_one) == status(open_one, **key(KEYS["alice"])) == 200
    proxied = {"X-Forwarded-For": "127.0.0.1"}
    assert status(open_one, **proxied) == status(open_one, **proxied, **key(TOKEN)) == 401
    assert status(open_one, **proxied, **key(KEYS["bob"])) == 200
    assert status(off, **key(TOKEN)) == 404


def test_a_worker_listens_nowhere_unless_it_is_told_to(folder: Path) -> None:
    with Deployment(folder) as running:
        found = psutil.Process(running.workers[0].process.pid).net_connections("inet")
        assert [connection for connection in found if connection.status == psutil.CONN_LISTEN] == []
