"""What is counted by those who end runs and relay them, on a real Valkey."""

import time

import pytest
from prometheus_client import REGISTRY
from redis import Redis

from app.client import Client
from app.dialects.native import NativeStream
from app.hub import Entry, Feed
from app.relay import Relay
from core import events
from core.events import Completed, Failed, Text, Usage
from core.log import EventLog, Writer, finish_from_outside
from core.queue import RunQueue
from core.run import Message, Run, RunRequest, Status, new_id
from core.runs import RunStore
from core.taking_turns import TakingTurns
from core.usage import UsageBook


class Counted:
    """By how much a number has grown since this was made."""

    def __init__(self, name: str, **labels: str) -> None:
        self._name, self._labels = name, labels
        self._before = self._now()

    def _now(self) -> float:
        return REGISTRY.get_sample_value(self._name, self._labels) or 0.0

    @property
    def grown(self) -> float:
        return self._now() - self._before


class StillFeed(Feed):
    """A feed to whose readers time passes only while they wait."""

    passed = 0.0

    def signal(self) -> "StillFeed":  # type: ignore[override]
        return self

    def wait(self, seconds: float) -> bool:
        self.passed += seconds
        return False


class StillHub:
    """A hub whose channel says only what the test says."""

    def __init__(self, run: Run) -> None:
        self.feed = StillFeed(run.id)

    def enter(self, run_id: str) -> Feed:
        return self.feed

    def leave(self, feed: Feed) -> None:
        pass


@pytest.fixture
def run(redis: "Redis") -> Run:
    made = Run(id=new_id(), owner="alice", profile=new_id(), model="chat", created_at=time.time(), detach=True)
    RunStore(redis, 100).create(made, RunRequest(messages=(Message("user", "?"),)))
    return made


@pytest.fixture
def log(redis: "Redis") -> EventLog:
    return EventLog(redis, 100, UsageBook(redis, RunStore(redis, 100), 86400).count)


def test_a_run_is_counted_once_however_often_it_is_ended(run: Run, log: EventLog) -> None:
    completed = Counted("heartline_runs_ended_total", profile=run.profile, outcome="completed", code="")
    lost = Counted("heartline_runs_ended_total", profile=run.profile, outcome="failed", code="worker_lost")
    tokens = Counted("heartline_tokens_total", profile=run.profile, kind="output")
    appended = Counted("heartline_events_appended_total")
    writer = Writer(log, run.id)
    writer.start("slot1")
    writer.append([Text(text="a"), Text(text="b")])  # one event
    writer.finish(Completed(usage=Usage(output_tokens=7)))
    log.append(run.id, writer.seq, log.read(run.id)[-1:], status=Status.COMPLETED)  # as redis-py repeats it
    assert not finish_from_outside(log, run.id, Failed(code="worker_lost", message="x"))
    assert (completed.grown, lost.grown, tokens.grown, appended.grown) == (1, 0, 7, 3)


def test_what_the_channel_did_not_bring_is_counted_by_its_cause(redis: "Redis", run: Run, log: EventLog) -> None:
    gaps = {cause: Counted("heartline_gaps_healed_total", cause=cause) for cause in ("resubscribed", "hole", "asked")}
    heartbeats, lag = Counted("heartline_heartbeats_total"), Counted("heartline_log_lag_seconds_count")
    resumes, ended = Counted("heartline_resumes_total"), Counted("heartline_streams_ended_total", how="completed")
    hub, client, writer = StillHub(run), Client(), Writer(log, run.id)
    relay = Relay(hub, log, RunQueue(redis, 100), TakingTurns(redis), 15, clock=lambda: hub.feed.passed)  # type: ignore[arg-type]
    writer.start("slot1")
    writer.append([Text(text="read before")])
    writer.append([events.Reasoning(text="replayed")])
    hub.feed.confirm()
    stream = relay.stream(run, NativeStream(), after=2, client=client)

    def told() -> dict[str, float]:
        return {cause: counted.grown for cause, counted in gaps.items()}

    next(stream)
    assert b"replayed" in next(stream)
    assert (told(), lag.grown) == ({"resubscribed": 0, "hole": 0, "asked": 0}, 0)
    writer.append([Text(text="missed")])
    hub.feed.confirm()
    assert b"missed" in next(stream)
    assert told() == {"resubscribed": 1, "hole": 0, "asked": 0}
    writer.append([events.Reasoning(text="unheard")])
    writer.append([Text(text="heard")])
    hub.feed.publish(Entry(log.read(run.id)[-1]))
    assert b"unheard" in next(stream)
    assert told() == {"resubscribed": 1, "hole": 1, "asked": 0}
    assert next(stream) == b": heartbeat\n\n"
    writer.append([Text(text="heard while asking")])
    hub.feed.publish(Entry(log.read(run.id)[-1]))
    assert b"heard while asking" in next(stream)
    assert told() == {"resubscribed": 1, "hole": 1, "asked": 0}
    assert next(stream) == b": heartbeat\n\n"
    writer.finish(Completed())
    assert next(stream) == b": heartbeat\n\n"
    assert b"completed" in next(stream)
    assert list(stream) == []
    assert told() == {"resubscribed": 1, "hole": 1, "asked": 1}
    assert (heartbeats.grown, lag.grown, resumes.grown, ended.grown) == (3, 4, 1, 1)
    assert (client.events, client.ended) == (6, "completed")


@pytest.mark.parametrize("how", ["client_gone", "error"])
def test_a_stream_that_breaks_off_is_counted_so(redis: "Redis", run: Run, log: EventLog, how: str) -> None:
    ended, client = Counted("heartline_streams_ended_total", how=how), Client()
    relay = Relay(StillHub(run), log, RunQueue(redis, 100), TakingTurns(redis), 15)  # type: ignore[arg-type]
    stream = relay.stream(run, NativeStream(), client=client)
    next(stream)
    Writer(log, run.id).start("slot1")
    next(stream)
    if how == "error":
        with pytest.raises(RuntimeError, match="a mistake"):
            stream.throw(RuntimeError("a mistake"))  # type: ignore[attr-defined]
    else:
        stream.close()  # type: ignore[attr-defined]
    assert (ended.grown, client.ended, client.events) == (1, how, 1)
