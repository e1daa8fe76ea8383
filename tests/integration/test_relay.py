"""What a relay does when Redis has lost the end of a log."""

import time

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


def test_a_run_that_ended_before_what_the_client_has_read_is_lost_for_it(redis: "Redis", redis_url: str) -> None:
    run = Run(id=new_id(), owner="alice", profile="chat", model="chat", created_at=time.time(), detach=True)
    log = EventLog(redis, 100)
    RunStore(redis, 100).create(run, RunRequest(messages=(Message("user", "?"),)))
    writer = Writer(log, run.id)
    writer.start("slot1")
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
