"""Usage, on a real Valkey: every run is counted once, by whoever ended it, for its owner, day and profile."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from threading import Barrier

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from core import events, keys
from core.clients import connect
from core.errors import AppendRefused
from core.events import Cancelled, Completed, Failed, Text, Usage
from core.log import EventLog, Writer, finish_from_outside, status_of
from core.run import Message, Run, RunRequest, Status, new_id
from core.runs import RunStore
from core.usage import RETRY_SECONDS, Totals, UsageBook

TTL_SECONDS = 100_000
USED = Usage(input_tokens=100, cached_input_tokens=60, output_tokens=7, cost_usd=0.1, turns=2)


class World:
    """Runs whose ends are counted."""

    def __init__(self, redis: "Redis") -> None:
        self.redis = redis
        self.store = RunStore(redis, 1000)
        self.book = UsageBook(redis, self.store, TTL_SECONDS)
        self.log = EventLog(redis, 1000, self.book.count)

    def run(self, owner: str = "alice", profile: str = "chat") -> Run:
        run = Run(id=new_id(), owner=owner, profile=profile, model="anything", created_at=time.time())
        self.store.create(run, RunRequest(messages=(Message("user", "What?"),)))
        return run

    def running(self, owner: str = "alice", profile: str = "chat") -> Writer:
        writer = Writer(self.log, self.run(owner, profile).id)
        writer.start("slot1")
        return writer

    def today(self, owner: str = "alice") -> dict[str, Totals]:
        """Also when midnight passes in mid-test."""
        day = datetime.now(UTC).date()
        found = self.book.of(owner, [day - timedelta(days=1), day])
        profiles = {name for totals in found.values() for name in totals}
        return {name: Totals.sum(totals[name] for totals in found.values() if name in totals) for name in profiles}


@pytest.fixture
def world(redis: "Redis") -> World:
    return World(redis)


def test_what_a_run_consumed_is_counted_for_its_owner_and_profile(world: World) -> None:
    for owner, profile in (("alice", "chat"), ("alice", "agent:v1/x"), ("alice", "chat"), ("bob", "chat")):
        writer = world.running(owner, profile)
        writer.append([Text(text="hello")])
        writer.finish(Completed(usage=USED))
    once = Totals(completed=1, input_tokens=100, cached_input_tokens=60, output_tokens=7, cost_nanousd=100_000_000)
    assert world.today("bob") == {"chat": once}
    assert world.today("alice") == {"chat": Totals.sum([once, once]), "agent:v1/x": once}
    assert world.today("carol") == {}


def test_failed_and_cancelled_runs_are_counted_with_what_they_consumed(world: World) -> None:
    world.running().finish(Failed(code="max_turns", message="x", usage=USED))
    world.running().finish(Cancelled(reason="x", usage=USED))
    finish_from_outside(world.log, world.run().id, Cancelled(reason="gone"), origins=[Status.QUEUED])
    finish_from_outside(world.log, world.running().run_id, Failed(code="worker_lost", message="x"))
    found = world.today()["chat"]
    assert (found.completed, found.failed, found.cancelled, found.runs) == (0, 2, 2, 4)
    assert (found.input_tokens, found.cost_nanousd) == (200, 200_000_000)


def test_an_end_that_is_written_again_is_not_counted_again(world: World) -> None:
    writer = world.running()
    writer.finish(Completed(usage=USED))
    last = world.log.last(writer.run_id)
    assert isinstance(last, Completed)
    world.log.append(writer.run_id, last.seq, [events.encode(last)], status=status_of(last))  # a retry
    world.book.count(last)
    assert world.today()["chat"].runs == 1


def test_an_end_that_redis_has_lost_is_counted_once_when_it_is_given_again(world: World) -> None:
    writer = world.running()
    writer.finish(Completed(usage=USED))
    world.redis.delete(keys.log(writer.run_id))
    world.redis.hset(keys.run(writer.run_id), "status", "queued")
    writer.confirm()
    assert isinstance(world.log.last(writer.run_id), Completed)
    assert world.today()["chat"].runs == 1


def test_who_is_too_late_to_end_a_run_counts_nothing(world: World) -> None:
    writer = world.running()
    assert finish_from_outside(world.log, writer.run_id, Failed(code="worker_lost", message="x"))
    with pytest.raises(AppendRefused):
        writer.finish(Completed(usage=USED))
    assert not finish_from_outside(world.log, writer.run_id, Cancelled(reason="x"))
    assert world.today() == {"chat": Totals(failed=1)}


def test_of_many_that_end_the_same_runs_each_is_counted_once(world: World, redis_url: str) -> None:
    runs, together = [world.run() for _ in range(20)], Barrier(6)

    def one(_: int) -> None:
        client = connect(redis_url)
        here = World(client)
        for run in runs:
            together.wait(20)
            finish_from_outside(here.log, run.id, Cancelled(reason="x"))
        client.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one, range(6)))
    assert world.today() == {"chat": Totals(cancelled=20)}


def test_a_run_counts_for_the_day_of_its_end(world: World) -> None:
    run = world.run()
    at = datetime(2026, 3, 31, 23, 59, 59, tzinfo=UTC).timestamp()
    world.book.count(Completed(run_id=run.id, seq=2, at=at, usage=USED))
    days = [date(2026, 3, 30), date(2026, 3, 31), date(2026, 4, 1)]
    assert list(world.book.of("alice", days)) == [date(2026, 3, 31)]


def test_many_small_costs_add_up_exactly(world: World) -> None:
    for _ in range(30):
        world.running().finish(Completed(usage=Usage(cost_usd=0.0001)))
    assert world.today()["chat"].cost_nanousd == 3_000_000


def test_a_days_usage_and_its_guard_expire(world: World) -> None:
    world.book.count(Completed(run_id=world.run().id, seq=2, at=0.0))
    assert TTL_SECONDS - 60 <= world.redis.ttl(keys.usage("alice", "1970-01-01")) <= TTL_SECONDS
    assert RETRY_SECONDS - 60 <= world.redis.ttl(keys.usage_counted("alice", "1970-01-01")) <= RETRY_SECONDS


def test_a_run_ends_also_when_it_cannot_be_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> Run:
        raise RedisConnectionError

    writer = world.running()
    monkeypatch.setattr(world.store, "get", away)
    writer.finish(Completed(usage=USED))
    assert isinstance(world.log.last(writer.run_id), Completed)
    assert world.today() == {}


def test_a_number_of_a_later_version_is_left_out(world: World) -> None:
    world.book.count(Completed(run_id=world.run().id, seq=2, at=0.0))
    world.redis.hset(keys.usage("alice", "1970-01-01"), "chat thinking_tokens", 5)
    assert world.book.of("alice", [date(1970, 1, 1)]) == {date(1970, 1, 1): {"chat": Totals(completed=1)}}
