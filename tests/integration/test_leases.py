"""Leases on a real Valkey, whose clock they go by."""

import time

import pytest
from redis import Redis

from core import keys
from core.clients import AWAY
from core.leases import LEASE_SECONDS, RENEW_EVERY_SECONDS, Leases


@pytest.fixture
def leases(redis: "Redis") -> Leases:
    return Leases(redis)


def test_a_lease_that_was_just_taken_has_not_expired(leases: Leases, redis: "Redis") -> None:
    leases.take("one")
    assert leases.take_expired() == []
    till = redis.zscore(keys.leases(), "one")
    assert till is not None
    assert till - redis.time()[0] == pytest.approx(LEASE_SECONDS, abs=1)


def test_there_is_room_for_three_renewals_in_a_lease() -> None:
    assert LEASE_SECONDS > 3 * RENEW_EVERY_SECONDS


def test_a_lease_that_nobody_renews_expires(leases: Leases, redis: "Redis") -> None:
    leases.take("one")
    leases.take("two")
    redis.zincrby(keys.leases(), -LEASE_SECONDS - 2, "one")  # as if that time had passed
    assert leases.take_expired() == ["one"]


def test_renewing_even_late_keeps_it(leases: Leases, redis: "Redis") -> None:
    leases.take("one")
    redis.zincrby(keys.leases(), -LEASE_SECONDS - 2, "one")
    assert leases.renew(["one"]) == {"one": ""}
    assert leases.take_expired() == []


def test_renewing_tells_what_was_lost_and_what_should_stop(leases: Leases) -> None:
    for run_id in ("goes on", "should stop"):
        leases.take(run_id)
    leases.request_stop("should stop", "the user's wish")
    assert leases.renew(["goes on", "lost", "should stop"]) == {
        "goes on": "",
        "lost": None,
        "should stop": "the user's wish",
    }


def test_renewing_a_lost_lease_does_not_take_it_again(leases: Leases, redis: "Redis") -> None:
    leases.renew(["lost"])
    assert not redis.exists(keys.leases())


def test_renewing_nothing_tells_whether_anything_could_be_renewed(leases: Leases, redis: "Redis") -> None:
    assert leases.renew([]) == {}
    redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(AWAY):
            leases.renew([])
    finally:
        redis.config_set("maxmemory", 0)


def test_what_was_released_is_forgotten_with_its_order_to_stop(leases: Leases, redis: "Redis") -> None:
    leases.take("one")
    leases.request_stop("one", "why not")
    leases.release("one")
    leases.release("one")
    assert list(redis.scan_iter("heartline:*")) == []


def test_a_dead_workers_lease_ends_at_once_and_no_other_is_made(leases: Leases) -> None:
    leases.take("one")
    leases.end("one")
    leases.end("never taken")
    assert leases.take_expired() == ["one"]


def test_the_hosts_clock_plays_no_part(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    leases.take("one")
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert leases.take_expired() == []
