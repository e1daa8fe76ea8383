"""The janitor on a real Valkey, with its clocks in the test's hand."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis
from rq import Queue, SimpleWorker
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from core import keys
from core.clients import connect
from core.errors import AppendRefused
from core.events import Completed, Failed, Started, Text
from core.janitor import TIDY_EVERY_SECONDS, Janitor
from core.leases import LEASE_SECONDS, Leases
from core.log import EventLog, Writer
from core.queue import RunQueue
from core.run import Lane, Message, Run, RunRequest, Status, new_id
from core.runs import RunStore
from core.settings import Settings


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class World:
    """Heartline's state in Redis, without any process, and janitors of it."""

    def __init__(self, redis: "Redis") -> None:
        self.redis = redis
        self.settings = Settings(queue_timeout_seconds=100)
        self.log = EventLog(redis, 1000)
        self.store = RunStore(redis, 1000)
        self.queue = RunQueue(redis, 1000)
        self.leases = Leases(redis)
        self.rq = Queue(Lane.RUNS.value, connection=redis, serializer=JSONSerializer)

    def janitor(self, clock: Clock, now: Callable[[], float] = time.time, redis: "Redis | None" = None) -> Janitor:
        here = redis or self.redis
        return Janitor(
            self.settings,
            EventLog(here, 1000),
            RunStore(here, 1000),
            RunQueue(here, 1000),
            Leases(here),
            clock,
            now,
        )

    def queued(self) -> Run:
        run = Run(id=new_id(), owner="alice", profile="chat", model="chat", created_at=time.time(), detach=True)
        self.store.create(run, RunRequest(messages=(Message("user", "What?"),)))
        self.queue.put(run, 30)
        return run

    def dequeued(self) -> Run:
        """Taken out of the line by a worker that has done nothing else yet."""
        run = self.queued()
        assert self.redis.lmove(self.rq.key, self.rq.intermediate_queue_key, "LEFT", "RIGHT") == run.id.encode()
        return run

    def begun(self) -> Run:
        """Told to RQ and leased, but without its first event."""
        run = self.dequeued()
        worker = SimpleWorker([self.rq], name=f"slot-{run.id}", connection=self.redis, serializer=JSONSerializer)
        worker.prepare_execution(self.job(run))
        worker.prepare_job_execution(self.job(run), remove_from_intermediate_queue=True)
        self.leases.take(run.id)
        return run

    def running(self) -> tuple[Run, Writer]:
        run = self.begun()
        writer = Writer(self.log, run.id)
        writer.start("slot1")
        return run, writer

    def job(self, run: Run) -> Job:
        return Job.fetch(run.id, self.redis, serializer=JSONSerializer)

    def status(self, run: Run) -> Status:
        return self.store.get(run.id).status

    def ending(self, run: Run) -> str:
        last = self.log.last(run.id)
        return last.code if isinstance(last, Failed) else type(last).__name__


@pytest.fixture
def world(redis: "Redis") -> World:
    return World(redis)


def watch_for(janitor: Janitor, clock: Clock, seconds: float) -> None:
    """Tidy at the usual pace for so long."""
    till = clock.now + seconds
    janitor.tidy()
    while clock.now < till:
        clock.now += TIDY_EVERY_SECONDS
        janitor.tidy()


def test_a_run_with_a_lease_is_left_alone(world: World) -> None:
    clock = Clock()
    run, writer = world.running()
    watch_for(world.janitor(clock), clock, 3 * LEASE_SECONDS)
    writer.append([Text(text="still mine")])
    writer.finish(Completed())
    assert world.status(run) is Status.COMPLETED


def test_a_run_whose_lease_has_ended_has_lost_its_worker_once(world: World) -> None:
    clock = Clock()
    run, writer = world.running()
    world.leases.end(run.id)
    watch_for(world.janitor(clock), clock, 3 * LEASE_SECONDS)
    watch_for(world.janitor(clock), clock, 3 * LEASE_SECONDS)
    assert world.status(run) is Status.FAILED
    assert [type(event) for event in world.log.read_all(run.id)] == [Started, Failed]
    assert world.ending(run) == "worker_lost"
    with pytest.raises(AppendRefused):
        writer.append([Text(text="a ghost speaks")])
    assert not world.redis.exists(keys.leases())


def test_rqs_registries_are_told(world: World) -> None:
    clock = Clock()
    run, _ = world.running()
    assert world.rq.started_job_registry.get_job_ids(cleanup=False) == [run.id]
    world.leases.end(run.id)
    watch_for(world.janitor(clock), clock, LEASE_SECONDS)
    assert world.rq.started_job_registry.get_job_ids(cleanup=False) == []
    assert world.rq.failed_job_registry.get_job_ids(cleanup=False) == [run.id]
    assert world.job(run).get_status() is JobStatus.FAILED


def test_a_run_that_ended_just_before_stays_as_it_is(world: World) -> None:
    clock = Clock()
    run, writer = world.running()
    writer.finish(Completed())  # and its worker died before it gave the lease back
    world.leases.end(run.id)
    watch_for(world.janitor(clock), clock, LEASE_SECONDS)
    assert world.status(run) is Status.COMPLETED
    assert world.log.length(run.id) == 2
    assert world.leases.take_expired() == []


def test_a_run_that_was_never_begun_goes_back_in_line_once(world: World) -> None:
    clock = Clock()
    run = world.begun()
    other = world.queued()
    world.leases.end(run.id)
    janitor = world.janitor(clock)
    watch_for(janitor, clock, LEASE_SECONDS)
    assert world.status(run) is Status.QUEUED
    assert world.queue.waiting() == [run.id, other.id]  # at the head: it has waited before
    assert world.rq.started_job_registry.get_job_ids(cleanup=False) == []
    assert world.job(run).get_status() is JobStatus.QUEUED

    world.redis.lrem(world.rq.key, 0, run.id)
    world.leases.take(run.id)
    world.leases.end(run.id)
    watch_for(janitor, clock, LEASE_SECONDS)
    assert world.ending(run) == "worker_lost"
    assert world.queue.waiting() == [other.id]


def test_a_run_that_waits_for_too_long_fails_and_leaves_the_line(world: World) -> None:
    clock, now = Clock(), Clock(time.time())
    run = world.queued()
    janitor = world.janitor(clock, now)
    now.now += world.settings.queue_timeout_seconds - 1
    janitor.tidy()
    assert world.status(run) is Status.QUEUED
    now.now += 2
    janitor.tidy()
    janitor.tidy()
    assert world.ending(run) == "queue_timeout"
    assert world.log.length(run.id) == 1
    assert world.queue.waiting() == []


def test_a_run_that_begins_while_it_is_found_overdue_keeps_its_lease(world: World) -> None:
    clock, now = Clock(), Clock(time.time())
    run = world.queued()
    writer = Writer(world.log, run.id)
    writer.start("slot1")  # and its id is still in the janitor's hand
    now.now += 10 * world.settings.queue_timeout_seconds
    world.janitor(clock, now).tidy()
    assert world.leases.renew([run.id]) == {run.id: ""}
    assert world.job(run).get_status() is JobStatus.QUEUED
    writer.finish(Completed())
    assert world.status(run) is Status.COMPLETED


def test_waiting_limits_only_those_who_wait(world: World) -> None:
    clock, now = Clock(), Clock(time.time())
    run, writer = world.running()
    now.now += 10 * world.settings.queue_timeout_seconds
    watch_for(world.janitor(clock, now), clock, 10)
    writer.finish(Completed())
    assert world.status(run) is Status.COMPLETED


def test_a_run_that_is_stuck_between_line_and_worker_goes_back_once(world: World) -> None:
    clock = Clock()
    run = world.dequeued()
    janitor = world.janitor(clock)
    watch_for(janitor, clock, 2 * LEASE_SECONDS)
    assert world.queue.waiting() == []  # it may only be on its way: its lease has not ended
    world.leases.end(run.id)
    watch_for(janitor, clock, TIDY_EVERY_SECONDS)
    assert world.queue.waiting() == [run.id]
    assert world.redis.llen(world.rq.intermediate_queue_key) == 0

    world.redis.lmove(world.rq.key, world.rq.intermediate_queue_key, "LEFT", "RIGHT")
    world.leases.end(run.id)
    watch_for(janitor, clock, TIDY_EVERY_SECONDS)
    assert world.ending(run) == "worker_lost"
    assert world.queue.waiting() == []
    assert world.redis.llen(world.rq.intermediate_queue_key) == 0


def test_a_run_that_waits_in_line_is_vouched_for(world: World) -> None:
    clock = Clock()
    run = world.queued()
    world.leases.end(run.id)  # nobody has looked after the line for a while
    watch_for(world.janitor(clock), clock, 3 * LEASE_SECONDS)
    assert world.leases.take_expired() == []
    assert world.queue.waiting() == [run.id]
    assert world.status(run) is Status.QUEUED


def test_after_an_outage_the_workers_get_the_time_to_renew(world: World) -> None:
    clock = Clock()
    run, _ = world.running()
    janitor = world.janitor(clock)
    watch_for(janitor, clock, 3 * LEASE_SECONDS)
    world.leases.end(run.id)  # while Redis was away, nobody could renew
    clock.now += 60
    watch_for(janitor, clock, LEASE_SECONDS - TIDY_EVERY_SECONDS)
    assert world.status(run) is Status.RUNNING
    world.leases.renew([run.id])
    watch_for(janitor, clock, 3 * LEASE_SECONDS)
    assert world.status(run) is Status.RUNNING


def test_after_an_outage_a_worker_gets_the_time_to_begin_what_it_took(world: World) -> None:
    clock = Clock()
    run = world.dequeued()
    janitor = world.janitor(clock)
    janitor.tidy()
    world.leases.end(run.id)
    clock.now += 60
    janitor.tidy()
    assert world.queue.waiting() == []
    watch_for(janitor, clock, LEASE_SECONDS)
    assert world.queue.waiting() == [run.id]


def test_a_full_redis_is_an_outage(world: World) -> None:
    """It answers, but no worker could have renewed its lease."""
    clock = Clock()
    run, _ = world.running()
    janitor = world.janitor(clock)
    watch_for(janitor, clock, 3 * LEASE_SECONDS)
    world.redis.config_set("maxmemory", 1)
    try:
        watch_for(janitor, clock, TIDY_EVERY_SECONDS)
    finally:
        world.redis.config_set("maxmemory", 0)
    world.leases.end(run.id)
    clock.now += TIDY_EVERY_SECONDS
    janitor.tidy()
    assert world.status(run) is Status.RUNNING
    watch_for(janitor, clock, LEASE_SECONDS)
    assert world.ending(run) == "worker_lost"


def test_a_run_that_redis_forgot_is_forgotten(world: World) -> None:
    clock = Clock()
    world.leases.take(new_id())
    (forgotten,) = world.redis.zrange(keys.leases(), 0, -1)
    world.leases.end(forgotten.decode())
    watch_for(world.janitor(clock), clock, 2 * LEASE_SECONDS)
    assert world.leases.take_expired() == []


def test_many_janitors_at_once_end_a_run_once(world: World) -> None:
    lost = [world.running()[0] for _ in range(10)]
    stuck = [world.dequeued() for _ in range(10)]
    for run in (*lost, *stuck):
        world.leases.end(run.id)
    together = threading.Barrier(4)

    def tidy() -> None:
        clock = Clock()
        client = connect("unix://" + world.redis.get_connection_kwargs()["path"])
        janitor = world.janitor(clock, redis=client)
        for _ in range(8):
            together.wait(20)
            janitor.tidy()
            clock.now += TIDY_EVERY_SECONDS
        client.close()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(tidy) for _ in range(4)]:
            done.result()
    for run in lost:
        assert [type(event) for event in world.log.read_all(run.id)] == [Started, Failed]
        assert world.job(run).get_status() is JobStatus.FAILED
    assert sorted(world.queue.waiting()) == sorted(run.id for run in stuck)
    assert all(world.status(run) is Status.QUEUED for run in stuck)
