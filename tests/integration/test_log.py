"""The log on a real Valkey: one writer, no hole, nothing twice, one ending."""

import threading
import time

import pytest
from redis import Redis

from core import events, keys
from core.errors import AppendRefused, LogLost, RunNotFound
from core.events import Cancelled, Completed, Failed, Started, Text
from core.leases import Leases
from core.log import PAGE, EventLog, Writer, finish_from_outside
from core.run import Message, Run, RunRequest, Status, new_id
from core.runs import RunStore


@pytest.fixture
def store(redis: "Redis") -> RunStore:
    return RunStore(redis, ttl_seconds=1000)


@pytest.fixture
def log(redis: "Redis") -> EventLog:
    return EventLog(redis, ttl_seconds=100)


@pytest.fixture
def run(store: RunStore) -> Run:
    return queued(store)


def queued(store: RunStore, owner: str = "alice", at: float | None = None) -> Run:
    run = Run(id=new_id(), owner=owner, profile="chat", model="chat", created_at=at or time.time(), detach=True)
    store.create(run, RunRequest(messages=(Message("user", "What?"),), system="Be brief."))
    return run


def texts(log: EventLog, run: Run) -> list[str]:
    return [event.text for event in log.read_all(run.id) if isinstance(event, Text)]


def test_a_run_is_what_was_stored(store: RunStore, run: Run) -> None:
    assert store.get(run.id, "alice") == run
    assert store.request(run.id).prompt == (Message("user", "What?"),)


def test_another_owners_run_does_not_exist(store: RunStore, run: Run) -> None:
    with pytest.raises(RunNotFound):
        store.get(run.id, "bob")
    with pytest.raises(RunNotFound):
        store.get(new_id(), "alice")


def test_an_owners_runs_are_listed_newest_first_and_by_pages(store: RunStore) -> None:
    now = time.time()
    runs = [queued(store, at=now + i) for i in range(5)]
    queued(store, owner="bob")
    newest = store.of("alice", limit=2)
    assert [run.id for run in newest] == [runs[4].id, runs[3].id]
    assert [run.id for run in store.of("alice", limit=9, before=newest[-1].created_at)] == [
        runs[2].id,
        runs[1].id,
        runs[0].id,
    ]


def test_a_run_goes_from_queued_to_its_end(store: RunStore, log: EventLog, run: Run) -> None:
    writer = Writer(log, run.id)
    writer.start("slot1")
    assert store.get(run.id).status is Status.RUNNING
    writer.append([Text(text="a"), Text(text="b")])
    writer.finish(Completed())
    assert [event.seq for event in log.read_all(run.id)] == [1, 2, 3]
    assert texts(log, run) == ["ab"]
    ended = store.get(run.id)
    assert ended.status is Status.COMPLETED
    assert ended.worker == "slot1"
    assert ended.started_at is not None
    assert ended.ended_at is not None


def test_the_same_append_again_changes_nothing_and_publishes_nothing(log: EventLog, run: Run, redis: "Redis") -> None:
    writer = Writer(log, run.id)
    writer.start("slot1")
    payload = [events.encode(Text(text="once", run_id=run.id, seq=2, at=1.0))]
    with redis.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(keys.channel(run.id))
        while channel.get_message(timeout=1) is not None:
            pass
        for _ in range(3):  # what redis-py does when the reply got lost
            log.append(run.id, 2, payload)
        messages = [channel.get_message(timeout=1), channel.get_message(timeout=0.05)]
    assert texts(log, run) == ["once"]
    assert messages[0] is not None
    assert messages[0]["data"] == payload[0]
    assert messages[1] is None


def test_a_retried_ending_is_no_error(log: EventLog, run: Run) -> None:
    log.append(run.id, 1, [events.encode(Started(worker="w", run_id=run.id, seq=1))])
    ending = [events.encode(Completed(run_id=run.id, seq=2))]
    log.append(run.id, 2, ending, status=Status.COMPLETED)
    log.append(run.id, 2, ending, status=Status.COMPLETED)
    assert log.length(run.id) == 2


def test_a_run_is_taken_once(log: EventLog, run: Run) -> None:
    Writer(log, run.id).start("slot1")
    with pytest.raises(AppendRefused):
        Writer(log, run.id).start("slot2")


def test_whoever_ends_a_run_fences_its_writer(log: EventLog, run: Run) -> None:
    writer = Writer(log, run.id)
    writer.start("slot1")
    assert finish_from_outside(log, run.id, Failed(code="worker_lost", message="gone"))
    with pytest.raises(AppendRefused):
        writer.append([Text(text="a ghost speaks")])
    with pytest.raises(AppendRefused):
        writer.finish(Completed())
    assert isinstance(log.last(run.id), Failed)


def test_of_many_that_end_a_run_one_does(log: EventLog, run: Run) -> None:
    writer, ended = Writer(log, run.id), []
    writer.start("slot1")

    def end() -> None:
        if finish_from_outside(log, run.id, Cancelled(reason="test")):
            ended.append(1)

    threads = [threading.Thread(target=end) for _ in range(8)]
    for thread in threads:
        thread.start()
    appended = 0
    try:
        for _ in range(200):
            writer.append([Text(text="x")])
            appended += 1
    except AppendRefused:
        pass
    for thread in threads:
        thread.join()
    found = list(log.read_all(run.id))
    assert ended == [1]
    assert [event.seq for event in found] == list(range(1, len(found) + 1))
    assert [event for event in found if isinstance(event, events.Terminal)] == [found[-1]]
    assert len(found) == appended + 2


def test_of_two_writers_on_a_redis_that_forgot_the_first_only_one_goes_on(
    log: EventLog, run: Run, redis: "Redis"
) -> None:
    first, second = Writer(log, run.id), Writer(log, run.id)
    first.start("slot1")
    redis.delete(keys.log(run.id))  # its last second is gone: the run is queued again, and taken again
    redis.hset(keys.run(run.id), "status", Status.QUEUED)
    redis.hdel(keys.run(run.id), "writer")
    second.start("slot2")
    with pytest.raises(AppendRefused):
        first.append([Text(text="fits by its number")])
    second.append([Text(text="mine")])
    assert texts(log, run) == ["mine"]


def test_a_queued_run_can_be_cancelled_and_is_then_never_started(log: EventLog, run: Run) -> None:
    assert finish_from_outside(log, run.id, Cancelled(reason="test"))
    with pytest.raises(AppendRefused):
        Writer(log, run.id).start("slot1")


def test_an_append_behind_a_hole_is_refused(log: EventLog, run: Run) -> None:
    writer = Writer(log, run.id)
    writer.start("slot1")
    writer.seq = 5
    with pytest.raises(LogLost):
        writer.append([Text(text="too far")])
    assert log.length(run.id) == 1


def test_an_append_to_a_run_that_redis_forgot_is_refused(log: EventLog, run: Run, redis: "Redis") -> None:
    writer = Writer(log, run.id)
    writer.start("slot1")
    redis.flushall()
    with pytest.raises(LogLost):
        writer.append([Text(text="for nobody")])
    assert not redis.exists(keys.log(run.id))


def test_everything_of_a_run_expires(store: RunStore, log: EventLog, run: Run, redis: "Redis") -> None:
    writer = Writer(log, run.id)
    writer.start("slot1")
    unfinished = [redis.ttl(key) for key in redis.scan_iter("heartline:*")]
    writer.finish(Completed())
    finished = [redis.ttl(key) for key in (keys.run(run.id), keys.log(run.id))]
    assert all(900 < ttl <= 1000 for ttl in unfinished)
    assert all(0 < ttl <= 100 for ttl in finished)


def test_a_long_log_is_read_page_by_page(log: EventLog, run: Run) -> None:
    writer = Writer(log, run.id)
    writer.start("slot1")
    for number in range(PAGE * 2 + 3):
        writer.append([Text(text=f"{number},")])
    assert len(log.read(run.id)) == PAGE
    assert "".join(texts(log, run)) == "".join(f"{number}," for number in range(PAGE * 2 + 3))


def test_of_many_that_look_for_ended_leases_one_gets_each(redis: "Redis") -> None:
    leases = Leases(redis)
    leases.take("a")
    leases.take("b")
    leases.end("a")
    assert [leases.take_expired(), leases.take_expired()] == [["a"], []]


def test_a_server_that_has_forgotten_the_script_is_taught_it_again(log: EventLog, run: Run, redis: "Redis") -> None:
    writer = Writer(log, run.id)
    writer.start("slot1")
    redis.script_flush()
    writer.append([Text(text="blue")])
    assert texts(log, run) == ["blue"]
