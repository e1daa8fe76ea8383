"""Stop means stop: clients that leave, the cancel endpoint, dead workers, limits. With the fake CLI."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from core import keys
from core.run import Lane
from tests import sse
from tests.deployment import KEYS, Deployment, chat, eventually
from tests.sse import Watcher

LONG = json.dumps({"text": ["begun "], "repeat": 2, "interval": 600, "child": 600})


@pytest.fixture(scope="module")
def heartline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(
        tmp_path_factory.mktemp("heartline"), replicas=2, worker_slots=2, disconnect_grace_seconds=0.5
    ) as deployment:
        yield deployment


@contextlib.contextmanager
def streaming(heartline: Deployment, prompt: str, replica: int = 0, **headers: str) -> Iterator[httpx.Response]:
    """A streamed chat, closed at the end of the block however far it was read."""
    with (
        heartline.http(replica=replica) as client,
        client.stream("POST", "/v1/chat/completions", json=chat(prompt, stream=True), headers=headers) as answer,
    ):
        yield answer


def run_of(answer: httpx.Response) -> str:
    return str(answer.headers["X-Run-Id"])


def status(heartline: Deployment, run_id: str) -> str:
    return str(heartline.run(run_id)["status"])


def until_text(answer: httpx.Response) -> Iterator[sse.Frame]:
    """Reads up to the first text; the stream is open for as long as what is returned is kept."""
    frames = sse.of(answer)
    next(frame for frame in frames if sse.contents([frame]))
    return frames


def ended(heartline: Deployment, run_id: str, as_status: str, seconds: float = 10) -> None:
    eventually(lambda: status(heartline, run_id) == as_status, seconds, f"{run_id} {as_status}")


def test_a_client_that_leaves_in_mid_answer_ends_the_run(heartline: Deployment) -> None:
    with streaming(heartline, LONG) as answer:
        until_text(answer)
        assert heartline.marked_now()
    ended(heartline, run_of(answer), "cancelled")
    assert heartline.marked_processes() == []


def test_a_client_that_leaves_at_once_ends_the_run(heartline: Deployment) -> None:
    with streaming(heartline, LONG) as answer:
        pass
    ended(heartline, run_of(answer), "cancelled")
    assert heartline.marked_processes() == []


def test_a_client_that_waits_for_the_whole_and_leaves_ends_the_run(heartline: Deployment) -> None:
    with heartline.http(timeout=1.0) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json=chat(LONG))
    with heartline.http() as client:
        run_id = client.get("/v1/runs?limit=1").json()["data"][0]["id"]
    ended(heartline, run_id, "cancelled")
    assert heartline.marked_processes() == []


def test_a_client_that_leaves_while_its_run_waits_keeps_it_from_starting(heartline: Deployment) -> None:
    with streaming(heartline, LONG) as first, streaming(heartline, LONG) as second:
        kept = [until_text(first), until_text(second)]
        with streaming(heartline, LONG) as waiting:
            pass
        ended(heartline, run_of(waiting), "cancelled")
        assert heartline.run(run_of(waiting))["started_at"] is None
        job = Job.fetch(run_of(waiting), heartline.redis, serializer=JSONSerializer)
        assert job.get_status() == "canceled"
        assert status(heartline, run_of(first)) == status(heartline, run_of(second)) == "running"
        assert len(kept) == 2
    ended(heartline, run_of(first), "cancelled")
    ended(heartline, run_of(second), "cancelled")


def test_a_run_goes_on_while_somebody_still_watches_it_elsewhere(heartline: Deployment) -> None:
    prompt = json.dumps({"text": ["a"], "repeat": 30, "interval": 0.1})
    with streaming(heartline, prompt, replica=0) as answer:
        kept = until_text(answer)
        watcher = Watcher(run_of(answer), KEYS["alice"])
        watcher.connect(heartline.replicas[1].url)
        eventually(lambda: watcher.cursor > 1)
        del kept
    watcher.join()
    assert watcher.seen[-1]["type"] == "completed"


def test_a_detached_run_goes_on_alone(heartline: Deployment) -> None:
    prompt = json.dumps({"text": ["a"], "repeat": 20, "interval": 0.1})
    with streaming(heartline, prompt, **{"X-Heartline-Detach": "true"}) as answer:
        until_text(answer)
    ended(heartline, run_of(answer), "completed")
    assert heartline.run(run_of(answer))["answer"] == "a" * 20


def test_a_native_run_is_detached_unless_it_asks_otherwise(heartline: Deployment) -> None:
    with heartline.http() as client:
        kept = client.post("/v1/runs", json={"prompt": LONG}).json()
        bound = client.post("/v1/runs", json={"prompt": LONG, "detach": False}).json()
        assert (kept["detach"], bound["detach"]) == (True, False)
        with client.stream("GET", f"/v1/runs/{bound['id']}/events") as events:
            next(frame for frame in sse.of(events) if frame.event == "text")
        ended(heartline, bound["id"], "cancelled")
        assert status(heartline, kept["id"]) == "running"
        client.post(f"/v1/runs/{kept['id']}/cancel")
    ended(heartline, kept["id"], "cancelled")


def test_cancel_works_from_any_replica_and_is_idempotent(heartline: Deployment) -> None:
    with heartline.http(replica=0) as first, heartline.http(replica=1) as second:
        run_id = first.post("/v1/runs", json={"prompt": LONG}).json()["id"]
        watcher = Watcher(run_id, KEYS["alice"])
        watcher.connect(heartline.replicas[0].url)
        eventually(lambda: any(event["type"] == "text" for event in watcher.seen))
        answers = [second.post(f"/v1/runs/{run_id}/cancel") for _ in range(3)]
        watcher.join()
        assert watcher.seen[-1]["type"] == "cancelled"
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert second.post(f"/v1/runs/{run_id}/cancel").json()["status"] == "cancelled"
        job = Job.fetch(run_id, heartline.redis, serializer=JSONSerializer)
        eventually(lambda: job.get_status(refresh=True) == "stopped")
    assert heartline.marked_processes() == []


def test_nobody_cancels_anothers_run(heartline: Deployment) -> None:
    with heartline.http() as alice, heartline.http("bob") as bob:
        run_id = alice.post("/v1/runs", json={"prompt": LONG}).json()["id"]
        assert bob.post(f"/v1/runs/{run_id}/cancel").status_code == 404
        eventually(lambda: status(heartline, run_id) == "running")
        alice.post(f"/v1/runs/{run_id}/cancel")
    ended(heartline, run_id, "cancelled")


def test_a_finished_run_stays_as_it_is_when_it_is_cancelled(heartline: Deployment) -> None:
    with heartline.http() as client:
        run_id = client.post("/v1/runs", json={"prompt": "hello"}).json()["id"]
        ended(heartline, run_id, "completed")
        assert client.post(f"/v1/runs/{run_id}/cancel").json()["status"] == "completed"


# --- idempotency and limits -----------------------------------------------------------------------


def test_the_same_idempotency_key_attaches_to_the_same_run(heartline: Deployment) -> None:
    headers = {"Idempotency-Key": "once-please"}
    with heartline.http(replica=0) as first, heartline.http(replica=1) as second:
        one = first.post("/v1/chat/completions", json=chat("only once"), headers=headers)
        two = second.post("/v1/chat/completions", json=chat("only once"), headers=headers)
        native = [second.post("/v1/runs", json={"prompt": "hi"}, headers={"Idempotency-Key": "n"}) for _ in range(2)]
        other = first.post("/v1/chat/completions", json=chat("something else"), headers=headers)
    assert one.headers["X-Run-Id"] == two.headers["X-Run-Id"]
    assert one.json() == two.json()
    assert [answer.status_code for answer in native] == [201, 200]
    assert native[0].json()["id"] == native[1].json()["id"]
    assert other.status_code == 422
    assert other.json()["error"]["code"] == "idempotency_key_reused"
    with heartline.http("bob") as bob:
        theirs = bob.post("/v1/chat/completions", json=chat("only once"), headers=headers)
    assert theirs.headers["X-Run-Id"] != one.headers["X-Run-Id"]


def test_too_many_waiting_runs_are_refused_with_a_sentence(tmp_path: Path) -> None:
    with (
        Deployment(tmp_path, worker_slots=1, max_queued_runs=3, max_queued_runs_per_key=2) as heartline,
        heartline.http("alice") as alice,
        heartline.http("bob") as bob,
    ):
        running = alice.post("/v1/runs", json={"prompt": LONG}).json()["id"]
        eventually(lambda: status(heartline, running) == "running")
        waiting = [alice.post("/v1/runs", json={"prompt": LONG}).json()["id"] for _ in range(2)]
        own = alice.post("/v1/runs", json={"prompt": LONG})
        assert own.status_code == 429
        assert int(own.headers["Retry-After"]) > 0
        assert "2 of your runs" in own.json()["error"]["message"]
        waiting.append(bob.post("/v1/runs", json={"prompt": LONG}).json()["id"])
        for client in (alice, bob):
            assert client.post("/v1/chat/completions", json=chat("hi")).status_code == 429
        for run_id in (running, *waiting):
            (bob if run_id == waiting[-1] else alice).post(f"/v1/runs/{run_id}/cancel")
        ended(heartline, running, "cancelled")
        assert alice.post("/v1/chat/completions", json=chat("hi")).status_code == 200


# --- deadlines ------------------------------------------------------------------------------------


def code_of(heartline: Deployment, prompt: str) -> str:
    with streaming(heartline, prompt) as answer:
        found = list(sse.of(answer))
    error: dict[str, str] = next(frame.json["error"] for frame in found if frame.data and '"error"' in frame.data)
    assert found[-1].data == "[DONE]"
    return error["code"]


def test_silence_and_slow_tools_end_a_run_with_their_own_code(tmp_path: Path) -> None:
    with Deployment(tmp_path, stall_timeout_seconds=1, tool_timeout_seconds=2, heartbeat_seconds=0.5) as heartline:
        assert code_of(heartline, json.dumps({"text": ["a", "b"], "interval": 60})) == "stalled"
        tool = {"name": "Bash", "input": {"command": "x"}, "output": "y", "seconds": 60}
        assert code_of(heartline, json.dumps({"tool": tool})) == "tool_timeout"
        tool["seconds"] = 1.5  # longer than silence may be: but a tool runs
        with streaming(heartline, json.dumps({"tool": tool, "text": ["done"]})) as answer:
            assert sse.contents(sse.of(answer)) == "done"
        retry = '{"type":"system","subtype":"api_retry","attempt":1,"max_retries":9,"retry_delay_ms":60000}'
        with streaming(heartline, json.dumps({"raw": [retry], "text": ["a", "b"], "interval": 1.6})) as answer:
            assert sse.contents(sse.of(answer)) != ""
        assert heartline.marked_processes() == []


def test_a_run_that_nobody_begins_ends_with_a_sentence(tmp_path: Path) -> None:
    with Deployment(tmp_path, workers=0, queue_timeout_seconds=1, language="de") as heartline:
        with streaming(heartline, "anyone?") as answer:
            found = list(sse.of(answer))
        error = next(frame.json["error"] for frame in found if frame.data and '"error"' in frame.data)
        assert error["code"] == "queue_timeout"
        assert "beschäftigt" in error["message"]
        eventually(lambda: Queue(Lane.RUNS.value, connection=heartline.redis).count == 0)


# --- workers that die -----------------------------------------------------------------------------


def test_a_killed_worker_is_told_to_its_clients_and_swept_by_the_next(tmp_path: Path) -> None:
    with Deployment(tmp_path, replicas=2) as heartline:
        with heartline.http() as client:
            run_id = client.post("/v1/runs", json={"prompt": LONG}).json()["id"]
        watcher = Watcher(run_id, KEYS["alice"])
        watcher.connect(heartline.replicas[1].url)
        eventually(lambda: any(event["type"] == "text" for event in watcher.seen))
        assert heartline.marked_now()
        heartline.workers[0].process.kill()
        killed_at = time.monotonic()
        watcher.join()
        assert time.monotonic() - killed_at < 15
        assert watcher.seen[-1]["code"] == "worker_lost"
        assert [event["seq"] for event in watcher.seen] == list(range(1, len(watcher.seen) + 1))
        job = Job.fetch(run_id, heartline.redis, serializer=JSONSerializer)
        eventually(lambda: job.get_status(refresh=True) == "failed")
        started = Queue(Lane.RUNS.value, connection=heartline.redis, serializer=JSONSerializer).started_job_registry
        assert started.get_job_ids() == []
        heartline.workers[0].process.wait()
        heartline.parts.remove(heartline.workers[0])
        heartline.start_worker()
        heartline.wait_until_ready()
        assert heartline.marked_processes() == []
        with streaming(heartline, "alive again?") as answer:
            assert sse.contents(sse.of(answer)) == "alive again?"


def test_a_run_whose_worker_died_before_it_began_is_put_back_in_line(tmp_path: Path) -> None:
    with Deployment(tmp_path, workers=0) as heartline:
        with heartline.http() as client:
            taken = client.post("/v1/runs", json={"prompt": "dequeued, never begun"}).json()["id"]
            leased = client.post("/v1/runs", json={"prompt": "leased, never begun"}).json()["id"]
        line = Queue(Lane.RUNS.value, connection=heartline.redis)
        heartline.redis.lmove(line.key, line.intermediate_queue_key, "LEFT", "RIGHT")
        heartline.redis.lrem(line.key, 1, leased)
        heartline.redis.zadd(keys.leases(), {leased: time.time() - 100})
        heartline.start_worker()
        for run_id in (taken, leased):
            ended(heartline, run_id, "completed", seconds=30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_zombie_and_no_orphan_of_a_worker_remains(tmp_path: Path, number: signal.Signals) -> None:
    with Deployment(tmp_path, drain_seconds=2, stop_grace_seconds=1) as heartline:
        with heartline.http() as client:
            client.post("/v1/runs", json={"prompt": LONG})
            eventually(heartline.marked_now)
        worker = heartline.workers[0]
        worker.stop(number)
        heartline.parts.remove(worker)
        heartline.start_worker()
        heartline.wait_until_ready()
        assert heartline.marked_processes() == []
        assert not os.path.exists(f"/proc/{worker.process.pid}")


def test_many_clients_that_leave_at_once_leave_nothing(heartline: Deployment) -> None:
    def one() -> None:
        with streaming(heartline, LONG):
            pass

    threads = [threading.Thread(target=one) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with heartline.http() as client:
        listed = client.get("/v1/runs?limit=12").json()["data"]
    for run in listed:
        ended(heartline, run["id"], "cancelled", seconds=20)
    assert heartline.marked_processes() == []
