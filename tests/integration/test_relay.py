"""What a relay does when Redis has lost the end of a log, or the replica what has just come."""

import time

import pytest
from redis import Redis

from app.dialects.native import NativeStream
from app.hub import Hub
from app.relay import Relay
from core import events, keys
from core.log import EventLog, Writer, finish_from_outside
from core.queue import RunQueue
from core.run import Message, Run, RunRequest, new_id
from core.runs import RunStore
from core.taking_turns import TakingTurns


def started(redis: "Redis", log: EventLog) -> tuple[Run, Writer]:
    run = Run(id=new_id(), owner="alice", profile="chat", model="chat", created_at=time.time(), detach=True)
    RunStore(redis, 100).create(run, RunRequest(messages=(Message("user", "?"),)))
    writer = Writer(log, run.id)
    writer.start("slot1")
    return run, writer


def test_what_others_have_pushed_out_before_it_was_read_comes_from_the_log_at_once(
    redis: "Redis", redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.hub.RECENT_BYTES", 1)
    log, hub = EventLog(redis, 100), Hub(redis_url)
    both = [started(redis, log), started(redis, log)]
    relay = Relay(hub, log, RunQueue(redis, 100), TakingTurns(redis), heartbeat_seconds=0.5)
    streams = [relay.stream(run, NativeStream()) for run, _ in both]
    for stream in streams:
        assert b'"type":"started"' in next(filter(lambda chunk: b"data:" in chunk, stream))
    for run, writer in both:
        hub._dispatch([b"subscribe", keys.channel(run.id).encode(), 1])
        writer.append([events.Text(text="at once")])
    for stream in streams:
        assert b"at once" in next(stream)
    for run, writer in both:
        writer.append([events.Text(text="and again")])
        hub._dispatch([b"message", keys.channel(run.id).encode(), log.read(run.id)[-1]])
    for stream in streams:
        assert b"and again" in next(stream)


def test_a_run_that_ended_before_what_the_client_has_read_is_lost_for_it(redis: "Redis", redis_url: str) -> None:
    log = EventLog(redis, 100)
    run, writer = started(redis, log)
    writer.append([events.Text(text="one")])
    writer.append([events.Reasoning(text="two")])
    relay = Relay(Hub(redis_url), log, RunQueue(redis, 100), TakingTurns(redis), heartbeat_seconds=0.01)
    stream = relay.stream(run, NativeStream(), after=3)
    assert next(stream) == b"retry: 500\n: resumed\n\n"
    assert next(stream) == b": heartbeat\n\n"
    kept = log.read(run.id)[:2]  # the last second is gone, and its worker with it
    redis.delete(keys.log(run.id))
    for seq, data in enumerate(kept, start=1):
        redis.xadd(keys.log(run.id), {"e": data}, id=f"{seq}-0")
    assert finish_from_outside(log, run.id, events.Failed(code="worker_lost", message="gone"))
    assert next(filter(lambda chunk: b"heartbeat" not in chunk, stream)).startswith(b"event: lost\n")
    assert list(stream) == []
