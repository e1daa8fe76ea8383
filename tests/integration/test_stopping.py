"""Stopping runs in every state, on a real Valkey."""

import json
import threading
import time
from collections.abc import Iterator

import pytest
from redis import Redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from core import keys
from core.clients import connect
from core.errors import AppendRefused, RunNotFound
from core.events import Cancelled, Completed, Started
from core.leases import Leases
from core.log import EventLog, Writer
from core.queue import RunQueue
from core.run import Message, Run, RunRequest, Status, new_id
from core.runs import RunStore
from core.stopping import Stopper


@pytest.fixture
def client(redis_url: str) -> Iterator["Redis"]:
    connected = connect(redis_url)
    yield connected
    connected.close()


@pytest.fixture
def stopper(client: "Redis") -> Stopper:
    return Stopper(EventLog(client, 1000), RunStore(client, 1000), RunQueue(client, 1000), Leases(client))


def queued(redis: "Redis") -> Run:
    run = Run(id=new_id(), owner="alice", profile="chat", model="chat", created_at=time.time(), detach=True)
    RunStore(redis, 1000).create(run, RunRequest(messages=(Message("user", "What?"),)))
    RunQueue(redis, 1000).put(run, 30)
    return run


def test_a_queued_run_has_ended_at_once(stopper: Stopper, redis: "Redis") -> None:
    run, other = queued(redis), queued(redis)
    assert stopper.cancel(run.id, "changed my mind").status is Status.CANCELLED
    assert [type(event) for event in EventLog(redis, 1000).read_all(run.id)] == [Cancelled]
    assert RunQueue(redis, 1000).waiting() == [other.id]
    assert Job.fetch(run.id, redis, serializer=JSONSerializer).get_status() is JobStatus.CANCELED
    with pytest.raises(AppendRefused):
        Writer(EventLog(redis, 1000), run.id).start("slot1")


def test_stopping_again_changes_nothing(stopper: Stopper, redis: "Redis") -> None:
    run = queued(redis)
    first = stopper.cancel(run.id, "once")
    assert stopper.cancel(run.id, "twice") == first
    assert EventLog(redis, 1000).length(run.id) == 1


def test_a_running_runs_worker_is_told_in_both_ways(stopper: Stopper, redis: "Redis") -> None:
    run, leases = queued(redis), Leases(redis)
    leases.take(run.id)
    Writer(EventLog(redis, 1000), run.id).start("slot1")
    with redis.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe("rq:pubsub:slot1")
        while channel.get_message(timeout=1) is not None:
            pass
        assert stopper.cancel(run.id, "enough").status is Status.RUNNING  # it is the worker who ends it
        message = channel.get_message(timeout=5)
    assert message is not None
    told = json.loads(message["data"])
    assert (told["command"], told["job_id"]) == ("stop-job", run.id)
    assert leases.renew([run.id]) == {run.id: "enough"}


def test_a_run_that_has_ended_stays_as_it_is(stopper: Stopper, redis: "Redis") -> None:
    run = queued(redis)
    writer = Writer(EventLog(redis, 1000), run.id)
    writer.start("slot1")
    writer.finish(Completed())
    assert stopper.cancel(run.id, "too late").status is Status.COMPLETED
    assert EventLog(redis, 1000).length(run.id) == 2
    assert not redis.exists(keys.stops())


def test_an_unknown_run_is_not_found_and_leaves_no_trace(stopper: Stopper, redis: "Redis") -> None:
    with pytest.raises(RunNotFound):
        stopper.cancel(new_id(), "who?")
    assert list(redis.scan_iter("*")) == []


def test_a_run_that_starts_at_the_same_moment_is_cancelled_or_told(stopper: Stopper, client: "Redis") -> None:
    cancelled = told = 0
    for _ in range(60):
        run, together, refused = queued(client), threading.Barrier(2), []

        def start(run: Run = run, together: threading.Barrier = together, refused: list[bool] = refused) -> None:
            Leases(client).take(run.id)
            writer = Writer(EventLog(client, 1000), run.id)
            together.wait(10)
            try:
                writer.start("slot1")
            except AppendRefused:
                refused.append(True)

        worker = threading.Thread(target=start)
        worker.start()
        together.wait(10)
        stopper.cancel(run.id, "now")
        worker.join(10)
        assert not worker.is_alive()
        found = [type(event) for event in EventLog(client, 1000).read_all(run.id)]
        order = Leases(client).renew([run.id])[run.id]
        if refused:
            cancelled += 1
            assert found == [Cancelled]
        else:
            told += 1
            assert found == [Started]
            assert order == "now"
    assert cancelled + told == 60
