"""RQ as Heartline uses it: thread slots, JSON jobs, and nothing that a job names is imported."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from redis import Redis
from rq import Queue
from rq.command import send_shutdown_command, send_stop_job_command
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import SimpleWorker

from core import profiles
from core.clients import connect
from core.events import Failed
from core.liveness import Liveness
from core.log import EventLog
from core.queue import RunQueue
from core.run import Lane, Message, Run, RunRequest, Status, new_id
from core.runs import RunStore
from core.settings import Settings
from tests.deployment import FAKE_CLAUDE, MODELS, eventually
from worker.slot import SlotWorker
from worker.slots import Slots


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return Settings(redis_url=redis_url, state_dir=str(tmp_path), worker_slots=2, stop_grace_seconds=2, drain_seconds=3)


@pytest.fixture
def slots(settings: Settings) -> Iterator[Slots]:
    running = Slots(settings, profiles.load(MODELS), str(FAKE_CLAUDE), {"PATH": "/usr/bin:/bin"})
    thread = threading.Thread(target=running.run)
    thread.start()
    yield running
    running.stop()
    running.stop()
    thread.join(30)
    assert not thread.is_alive()


def submit(redis: "Redis", prompt: str) -> Run:
    run = Run(id=new_id(), owner="alice", profile="chat", model="chat", created_at=time.time(), detach=True)
    RunStore(redis, 1000).create(run, RunRequest(messages=(Message("user", prompt),)))
    RunQueue(redis, 1000).put(run, 30)
    return run


def status(redis: "Redis", run: Run) -> Status:
    return RunStore(redis, 1000).get(run.id).status


def test_each_slot_is_a_worker_in_rqs_registry_with_its_job(slots: Slots, redis: "Redis") -> None:
    run = submit(redis, json.dumps({"text": ["x"], "interval": 60, "repeat": 2}))
    eventually(lambda: status(redis, run) is Status.RUNNING)
    eventually(lambda: len(SimpleWorker.all(redis, serializer=JSONSerializer)) == 2)
    workers = SimpleWorker.all(redis, serializer=JSONSerializer)
    assert [worker.get_current_job_id() for worker in workers if worker.get_current_job_id()] == [run.id]
    line = Queue(Lane.RUNS.value, connection=redis, serializer=JSONSerializer)
    assert line.started_job_registry.get_job_ids() == [run.id]
    job = Job.fetch(run.id, redis, serializer=JSONSerializer)
    assert job.description == f"run {run.id} · chat · alice"
    assert b"pickle" not in redis.hget(job.key, "data")


def test_a_stopped_job_ends_its_run_as_cancelled(slots: Slots, redis: "Redis") -> None:
    run = submit(redis, json.dumps({"text": ["x"], "interval": 60, "repeat": 2}))
    eventually(lambda: status(redis, run) is Status.RUNNING)
    send_stop_job_command(redis, run.id, serializer=JSONSerializer)
    eventually(lambda: status(redis, run) is Status.CANCELLED)


def test_rqs_shutdown_command_ends_no_slot(slots: Slots, redis: "Redis") -> None:
    names = eventually(lambda: [worker.name for worker in SimpleWorker.all(redis, serializer=JSONSerializer)])
    send_shutdown_command(redis, names[0])
    run = submit(redis, "still there?")
    eventually(lambda: status(redis, run) is Status.COMPLETED)


@pytest.mark.parametrize("function", ["os.system", "worker.jobs.ALLOWED", "subprocess.call", "builtins.eval"])
def test_a_job_that_names_another_function_does_not_run_it(
    slots: Slots, redis: "Redis", tmp_path: Path, function: str
) -> None:
    trace = tmp_path / "executed"
    foreign = Queue(Lane.RUNS.value, connection=redis, serializer=JSONSerializer)
    job = foreign.enqueue_call(function, args=(f"touch {trace}",), on_success=None)
    eventually(lambda: job.get_status(refresh=True) == "failed")
    assert not trace.exists()
    assert "not allowed" in str(job.latest_result().exc_string)


def test_a_jobs_callbacks_are_never_imported(slots: Slots, redis: "Redis", tmp_path: Path) -> None:
    trace = tmp_path / "imported"
    (tmp_path / "planted.py").write_text(f"open({str(trace)!r}, 'w')\ndef call(*a): pass\n")
    run = submit(redis, "hello")
    redis.hset(Job.key_for(run.id), mapping={"success_callback_name": "planted.call", "failure_callback_name": "x.y"})
    eventually(lambda: status(redis, run) is Status.COMPLETED)
    job = Job.fetch(run.id, redis, serializer=JSONSerializer)
    eventually(lambda: job.get_status(refresh=True) == "finished")
    assert not trace.exists()


def test_a_pickled_job_is_refused_and_hurts_nobody(slots: Slots, redis: "Redis") -> None:
    pickled = Queue(Lane.RUNS.value, connection=redis).enqueue_call("os.getcwd")
    run = submit(redis, "after the poison")
    eventually(lambda: status(redis, run) is Status.COMPLETED)
    eventually(lambda: pickled.get_status(refresh=True) == "failed")


def test_a_run_that_expired_in_the_queue_is_no_error(slots: Slots, redis: "Redis") -> None:
    run = Run(id=new_id(), owner="alice", profile="chat", model="chat", created_at=time.time(), detach=True)
    RunQueue(redis, 1000).put(run, 30)
    job = Job.fetch(run.id, redis, serializer=JSONSerializer)
    eventually(lambda: job.get_status(refresh=True) == "finished")


def test_a_stopping_worker_ends_its_runs_with_a_sentence(settings: Settings, redis: "Redis") -> None:
    slots = Slots(settings, profiles.load(MODELS), str(FAKE_CLAUDE), {"PATH": "/usr/bin:/bin"})
    thread = threading.Thread(target=slots.run)
    thread.start()
    run = submit(redis, json.dumps({"text": ["x"], "interval": 60, "repeat": 2}))
    eventually(lambda: status(redis, run) is Status.RUNNING)
    waiting = [submit(redis, json.dumps({"text": ["x"], "interval": 60, "repeat": 2})) for _ in range(3)]
    slots.stop()
    slots.stop()
    thread.join(30)
    assert not thread.is_alive()
    ending = EventLog(redis, 1000).last(run.id)
    assert isinstance(ending, Failed)
    assert ending.code == "worker_shutdown"
    untouched = [waiter for waiter in waiting if status(redis, waiter) is Status.QUEUED]
    assert len(untouched) >= 2
    assert set(RunQueue(redis, 1000).waiting()) == {waiter.id for waiter in untouched}
    assert Liveness(redis).count() == 0


def test_the_queue_tells_the_order(redis: "Redis") -> None:
    runs = [submit(redis, "wait") for _ in range(3)]
    assert RunQueue(redis, 1000).waiting() == [run.id for run in runs]


def test_a_connection_tells_each_time_that_it_is_made(redis_url: str) -> None:
    made: list[str] = []
    client = connect(redis_url, on_connect=lambda: made.append("anew"))
    client.ping()
    client.ping()
    assert made == ["anew"]
    client.connection_pool.disconnect()
    client.ping()
    assert made == ["anew", "anew"]
    client.close()


def test_a_slot_asks_which_server_it_has_after_each_new_connection_and_not_for_each_job(
    redis_url: str, redis: "Redis"
) -> None:
    asked: list[str] = []
    slot = SimpleNamespace(
        name="slot1", running=SimpleNamespace(unsettled_seconds=lambda server: asked.append(server) or 0)
    )
    worker = SlotWorker(cast(Any, slot), Lane.RUNS, redis_url, 1)
    worker._settle()
    worker._settle()
    assert asked == [redis.info("server")["run_id"]]
    worker.connection.connection_pool.disconnect()  # as when the server restarts
    worker.connection.ping()
    worker._settle()
    assert len(asked) == 2
