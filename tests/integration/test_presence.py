"""Presence on a real Valkey, and what a worker makes of its absence."""

import time

import pytest
from redis import Redis

from core import keys
from core.events import Cancelled, Failed
from core.leases import Leases
from core.log import EventLog, Writer
from core.presence import PRESENT_SECONDS, RENEW_EVERY_SECONDS, Presence
from core.run import Message, Run, RunRequest, new_id
from core.runs import RunStore
from worker.running import ABSENT_SECONDS, CLIENT_GONE, SETTLE_SECONDS, RunningRuns
from worker.supervisor import Stop


@pytest.fixture
def presence(redis: "Redis") -> Presence:
    return Presence(redis)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_run_has_as_many_watching_replicas_as_entered(presence: Presence) -> None:
    presence.enter(["one", "two"], "replica a")
    presence.enter(["one"], "replica b")
    presence.enter(["one"], "replica b")
    assert presence.count(["one", "two", "three"]) == [2, 1, 0]


def test_leaving_tells_how_many_others_are_left(presence: Presence) -> None:
    presence.enter(["one"], "replica a")
    presence.enter(["one"], "replica b")
    assert presence.leave("one", "replica a") == 1
    assert presence.leave("one", "replica a") == 1
    assert presence.leave("one", "replica b") == 0
    assert presence.leave("never watched", "replica b") == 0


def test_the_word_of_a_replica_that_was_killed_ends_by_itself(presence: Presence, redis: "Redis") -> None:
    presence.enter(["one"], "killed")
    presence.enter(["one"], "alive")
    redis.zincrby(keys.watchers("one"), -PRESENT_SECONDS - 2, "killed")  # as if that time had passed
    assert presence.count(["one"]) == [1]
    assert presence.leave("one", "alive") == 0


def test_a_word_lasts_for_two_missed_renewals() -> None:
    assert PRESENT_SECONDS >= 3 * RENEW_EVERY_SECONDS


def test_nothing_is_left_behind(presence: Presence, redis: "Redis") -> None:
    presence.enter(["one"], "replica a")
    assert 0 < redis.ttl(keys.watchers("one")) <= 2 * PRESENT_SECONDS
    presence.leave("one", "replica a")
    assert list(redis.scan_iter("heartline:*")) == []


def test_of_no_runs_there_is_nothing_to_say(presence: Presence) -> None:
    presence.enter([], "replica a")
    assert presence.count([]) == []


# --- the worker's side ----------------------------------------------------------------------------


def a_run(redis: "Redis", *, detach: bool) -> Run:
    run = Run(id=new_id(), owner="alice", profile="chat", model="chat", created_at=time.time(), detach=detach)
    RunStore(redis, 1000).create(run, RunRequest(messages=(Message("user", "What?"),)))
    return run


def test_a_run_is_stopped_when_nobody_has_watched_it_for_a_while(redis: "Redis", presence: Presence) -> None:
    clock, stop, run = Clock(), Stop(), a_run(redis, detach=False)
    running = RunningRuns(Leases(redis), presence, clock)
    presence.enter([run.id], "replica a")
    with running.working_on(run, stop, Writer(EventLog(redis, 100), run.id)):
        running.tick()
        clock.now = 100
        running.tick()
        assert stop.ending is None
        presence.leave(run.id, "replica a")
        running.tick()
        clock.now += ABSENT_SECONDS - 1
        running.tick()
        assert stop.ending is None
        clock.now += 1
        running.tick()
        assert stop.ending == Cancelled(reason=CLIENT_GONE)


def test_a_watcher_who_comes_back_in_time_saves_the_run(redis: "Redis", presence: Presence) -> None:
    clock, stop, run = Clock(), Stop(), a_run(redis, detach=False)
    running = RunningRuns(Leases(redis), presence, clock)
    with running.working_on(run, stop, Writer(EventLog(redis, 100), run.id)):
        running.tick()
        clock.now += ABSENT_SECONDS - 1
        presence.enter([run.id], "replica b")
        running.tick()
        presence.leave(run.id, "replica b")
        clock.now += ABSENT_SECONDS - 1
        running.tick()
        assert stop.ending is None


def test_a_detached_run_needs_no_watcher(redis: "Redis", presence: Presence) -> None:
    clock, stop, run = Clock(), Stop(), a_run(redis, detach=True)
    running = RunningRuns(Leases(redis), presence, clock)
    with running.working_on(run, stop, Writer(EventLog(redis, 100), run.id)):
        for clock.now in (0, 100, 200):
            running.tick()
        assert stop.ending is None


def test_an_order_to_stop_arrives_with_the_next_renewal(redis: "Redis", presence: Presence) -> None:
    stop, run = Stop(), a_run(redis, detach=True)
    running, leases = RunningRuns(Leases(redis), presence), Leases(redis)
    with running.working_on(run, stop, Writer(EventLog(redis, 100), run.id)):
        leases.request_stop(run.id, "somebody's wish")
        running.tick()
        assert stop.ending == Cancelled(reason="somebody's wish")


def test_a_worker_whose_lease_somebody_ended_stops_its_run(redis: "Redis", presence: Presence) -> None:
    stop, run = Stop(), a_run(redis, detach=True)
    running, leases = RunningRuns(Leases(redis), presence), Leases(redis)
    with running.working_on(run, stop, Writer(EventLog(redis, 100), run.id)):
        leases.release(run.id)
        running.tick()
        assert isinstance(stop.ending, Failed)
        assert stop.ending.code == "worker_lost"


def test_a_run_that_has_ended_is_nobodys_to_answer_for(redis: "Redis", presence: Presence) -> None:
    run = a_run(redis, detach=True)
    writer = Writer(EventLog(redis, 100), run.id)
    with RunningRuns(Leases(redis), presence).working_on(run, Stop(), writer):
        writer.start("slot1")
    assert not redis.exists(keys.leases())


def test_a_run_that_broke_off_keeps_its_lease_until_it_ends(redis: "Redis", presence: Presence) -> None:
    run = a_run(redis, detach=True)
    running = RunningRuns(Leases(redis), presence)

    def break_off() -> None:
        with running.working_on(run, Stop(), Writer(EventLog(redis, 100), run.id)):
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk"):
        break_off()
    running.tick()
    Leases(redis).end(run.id)
    running.tick()
    assert Leases(redis).take_expired() == [run.id]  # not renewed: the janitor may have it


def test_on_a_redis_that_has_restarted_nothing_is_begun_for_a_while(redis: "Redis") -> None:
    now = [100.0]
    running = RunningRuns(Leases(redis), Presence(redis), lambda: now[0])
    running.meet("first", up_seconds=1000)
    assert running.unsettled_seconds("first") == 0
    now[0] += 10
    assert running.unsettled_seconds("first") == 0
    assert running.unsettled_seconds("second") == SETTLE_SECONDS
    now[0] += 1
    assert running.unsettled_seconds("second") == SETTLE_SECONDS - 1  # for every slot the same
    now[0] += SETTLE_SECONDS
    assert running.unsettled_seconds("second") == 0


def test_a_worker_that_starts_behind_its_redis_waits_for_the_older_ones(redis: "Redis") -> None:
    running = RunningRuns(Leases(redis), Presence(redis), lambda: 100.0)
    running.meet("first", up_seconds=1)
    assert running.unsettled_seconds("first") == SETTLE_SECONDS - 1


def test_a_worker_that_has_found_no_redis_at_its_start_waits_once_there_is_one(redis: "Redis") -> None:
    assert RunningRuns(Leases(redis), Presence(redis), lambda: 100.0).unsettled_seconds("first") == SETTLE_SECONDS


def test_a_run_that_comes_twice_is_the_first_ones(redis: "Redis") -> None:
    leases, log = Leases(redis), EventLog(redis, 100)
    run = Run(id=new_id(), owner="alice", profile="chat", model="chat", created_at=1.0, detach=True)
    running = RunningRuns(leases, Presence(redis))
    with running.working_on(run, Stop(), Writer(log, run.id)):
        with running.working_on(run, Stop(), Writer(log, run.id)):  # in line twice, and not begun here
            pass
        leases.end(run.id)
        running.tick()
        assert leases.take_expired() == []
