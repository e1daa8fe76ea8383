"""Which replicas and which slots there are, on a real Valkey."""

import pytest
from redis import Redis

from core import keys
from core.replicas import DEAD_AFTER_SECONDS, Replica, Replicas
from core.slots import SlotBook, SlotState


def replica(name: str, **fields: int) -> Replica:
    return Replica(name=name, host="host", address=f"127.0.0.1:{name}", since=1.0, **fields)


def test_those_that_have_signed_are_alive_as_they_said_last(redis: "Redis") -> None:
    replicas = Replicas(redis)
    replicas.sign(replica("2"))
    replicas.sign(replica("1"))
    replicas.sign(replica("2", watchers=7))
    assert replicas.alive() == [replica("1"), replica("2", watchers=7)]


def test_one_that_has_left_is_gone(redis: "Redis") -> None:
    replicas = Replicas(redis)
    replicas.sign(replica("1"))
    replicas.leave("1")
    assert replicas.alive() == []
    assert redis.keys() == []


def test_one_that_has_been_silent_is_dead_and_forgotten_with_the_next_sign(redis: "Redis") -> None:
    replicas = Replicas(redis)
    replicas.sign(replica("1"))
    now: tuple[int, int] = redis.time()  # type: ignore[assignment]
    redis.zadd(keys.replicas(), {"1": now[0] - DEAD_AFTER_SECONDS - 1})
    assert replicas.alive() == []
    replicas.sign(replica("2"))
    assert redis.hkeys(keys.replicas_said()) == [b"2"]
    assert all(0 < redis.ttl(key) <= 2 * DEAD_AFTER_SECONDS for key in (keys.replicas(), keys.replicas_said()))


@pytest.mark.parametrize(
    ("name", "worker", "slot"),
    [
        ("host.12.ab34.slot2", "host.12.ab34", "slot2"),
        ("host.example.org.12.ab34.task1", "host.example.org.12.ab34", "task1"),
        ("host.12.ab34.slot2.3", "host.12.ab34", "slot2"),  # the third RQ worker of that slot
    ],
)
def test_a_slot_is_known_by_its_name(redis: "Redis", name: str, worker: str, slot: str) -> None:
    register(redis, name, state="idle")
    assert SlotBook(redis).all() == [SlotState(name=slot, worker=worker, lane="heartline", run=None)]


def test_slots_are_listed_in_order_with_what_they_do(redis: "Redis") -> None:
    register(redis, "host.1.a.slot10", state="busy", current_job="the-run")
    register(redis, "host.1.a.slot2", state="idle", current_job="the-last-one")
    redis.sadd("rq:workers", "rq:worker:host.1.a.slot3")  # it has expired
    register(redis, "somebody-elses", state="idle")
    assert [(slot.name, slot.run) for slot in SlotBook(redis).all()] == [("slot2", None), ("slot10", "the-run")]


def register(redis: "Redis", name: str, **fields: str) -> None:
    """As RQ does it."""
    redis.sadd("rq:workers", f"rq:worker:{name}")
    redis.hset(f"rq:worker:{name}", mapping={"birth": "2026-01-01T00:00:00Z", "queues": "heartline", **fields})
