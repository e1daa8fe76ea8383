"""A property: whatever appends, connections, drops, resumes and broken channels come in whatever order, on a
real Valkey and real replicas, every client that comes back has its own run's events, all, in order, once."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from core import events
from core.clients import connect
from core.log import EventLog, Writer
from core.run import Message, Run, RunRequest, new_id
from core.runs import RunStore
from tests.deployment import KEYS, Deployment
from tests.sse import Watcher

RUNS, WATCHERS, REPLICAS = 2, 3, 2

STEP = st.one_of(
    st.tuples(st.just("append"), st.integers(0, RUNS - 1), st.integers(1, 80)),
    st.tuples(st.just("connect"), st.integers(0, WATCHERS - 1), st.integers(0, REPLICAS - 1)),
    st.tuples(st.just("cut"), st.integers(0, WATCHERS - 1), st.just(0)),
    st.tuples(st.just("break channels"), st.just(0), st.just(0)),
    st.tuples(st.just("pause"), st.just(0), st.integers(1, 20)),
    st.tuples(st.just("finish"), st.integers(0, RUNS - 1), st.just(0)),
)


@pytest.fixture(scope="module")
def heartline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("heartline")
    with Deployment(folder, replicas=REPLICAS, workers=0, heartbeat_seconds=0.2) as deployment:
        yield deployment


class Scene:
    """Some runs that the test itself writes, and some clients that watch them."""

    def __init__(self, heartline: Deployment) -> None:
        self._heartline = heartline
        redis = connect(heartline.environment["HEARTLINE_REDIS_URL"])
        self.log = EventLog(redis, 300)
        self._runs = [
            Run(id=new_id(), owner="alice", profile="chat", model="chat", created_at=time.time(), detach=True)
            for _ in range(RUNS)
        ]
        self._writers = []
        for run in self._runs:
            RunStore(redis, 300).create(run, RunRequest(messages=(Message("user", "?"),)))
            writer = Writer(self.log, run.id)
            writer.start("the test")
            self._writers.append(writer)
        self._finished: set[int] = set()
        self.watchers = [Watcher(self._runs[i % RUNS].id, KEYS["alice"]) for i in range(WATCHERS)]

    def do(self, what: str, which: int, how: int) -> None:
        match what:
            case "append" if which not in self._finished:
                for number in range(how):
                    self._writers[which].append([events.Text(text=f"{self._runs[which].id}:{number}")])
            case "connect":
                self.watchers[which].connect(self._heartline.replicas[how].url)
            case "cut":
                self.watchers[which].cut()
            case "break channels":
                self._heartline.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            case "pause":
                time.sleep(how / 1000)  # lets the others run on; nothing depends on for how long
            case "finish" if which not in self._finished:
                self._finished.add(which)
                self._writers[which].finish(events.Completed())

    def end(self) -> None:
        for which in range(RUNS):
            self.do("finish", which, 0)
        for number, watcher in enumerate(self.watchers):
            watcher.connect(self._heartline.replicas[number % REPLICAS].url)
            watcher.join()
            if not watcher.finished:  # it was cut off just before the end
                watcher.connect(self._heartline.replicas[0].url)
                watcher.join()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate],  # not shrunk: each example is a race of its own
    database=None,
)
@given(steps=st.lists(STEP, min_size=5, max_size=40))
def test_no_client_misses_repeats_or_mixes_events(heartline: Deployment, steps: list[tuple[str, int, int]]) -> None:
    scene = Scene(heartline)
    for step in steps:
        scene.do(*step)
    scene.end()
    for watcher in scene.watchers:
        written = [event.seq for event in scene.log.read_all(watcher.run_id)]
        assert [event["seq"] for event in watcher.seen] == written
        assert {event["run_id"] for event in watcher.seen} == {watcher.run_id}
        texts = [event["text"] for event in watcher.seen if event["type"] == "text"]
        assert all(text.startswith(watcher.run_id) for text in texts)
        assert watcher.finished
