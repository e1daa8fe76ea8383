"""What Redis can suffer while streams run: paused, restarted, killed, emptied, full, its clients cut off.

With the fake CLI. Every test leaves a deployment that serves, and no process of a run.
"""

import json
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from core.leases import LEASE_SECONDS
from tests import sse
from tests.deployment import KEYS, Deployment, Part, chat, eventually
from tests.sse import Watcher

HEARTBEAT_SECONDS = 0.3
REFUSED_WITHIN_SECONDS = 10.0
"""How long a client may wait for the word that it cannot be served."""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("heartline"), heartbeat_seconds=HEARTBEAT_SECONDS) as running:
        yield running


@pytest.fixture
def heartline(deployment: Deployment) -> Iterator[Deployment]:
    """The deployment, which after the test must be as good as new."""
    yield deployment
    deployment.wait_until_ready()
    assert deployment.marked_processes() == []
    assert answer_of(deployment, "well?") == "well?"
    for part in deployment.parts:
        assert "Traceback" not in part.log.read_text(errors="replace"), part.log.read_text(errors="replace")


def command(**fields: object) -> str:
    """A prompt that the fake CLI obeys."""
    return json.dumps(fields)


def answer_of(heartline: Deployment, prompt: str) -> str:
    with heartline.http() as client:
        answer = client.post("/v1/chat/completions", json=chat(prompt))
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text


def valkey(heartline: Deployment) -> Part:
    return next(part for part in heartline.parts if part.name == "valkey")


@contextmanager
def paused(heartline: Deployment) -> Iterator[None]:
    """Redis does not answer, but its connections stay open."""
    process = valkey(heartline).process
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@contextmanager
def full(heartline: Deployment) -> Iterator[None]:
    """Redis answers, but takes no write."""
    heartline.redis.config_set("maxmemory", 1)
    try:
        yield
    finally:
        heartline.redis.config_set("maxmemory", 0)


class Chat:
    """A streamed chat, read by a thread."""

    def __init__(self, heartline: Deployment, prompt: str) -> None:
        self.frames: list[sse.Frame] = []
        self.run_id = ""
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._read, args=(heartline, prompt), daemon=True)
        self._thread.start()

    def _read(self, heartline: Deployment, prompt: str) -> None:
        try:
            with (
                heartline.http() as client,
                client.stream("POST", "/v1/chat/completions", json=chat(prompt, stream=True)) as answer,
            ):
                assert answer.status_code == 200
                self.run_id = answer.headers["X-Run-Id"]
                for frame in sse.of(answer):
                    self.frames.append(frame)
        except BaseException as error:
            self._failure = error

    @property
    def text(self) -> str:
        return sse.contents(list(self.frames))

    @property
    def heartbeats(self) -> int:
        return sum(frame.comment == "heartbeat" for frame in list(self.frames))

    @property
    def errors(self) -> list[str]:
        return [frame.json["error"]["code"] for frame in self.frames if frame.data and '"error"' in frame.data]

    def join(self) -> None:
        self._thread.join(40)
        assert not self._thread.is_alive(), f"the chat does not end: {self.frames[-3:]}"
        if self._failure is not None:
            raise self._failure
        assert self.frames[-1].data == "[DONE]"
        assert [frame.data for frame in self.frames].count("[DONE]") == 1


class Streams:
    """One run that two clients read, one native and one as a chat, and what both must have seen in the end."""

    def __init__(self, heartline: Deployment, words: int = 60, interval: float = 0.04) -> None:
        self._heartline = heartline
        self._words = words
        self.chat = Chat(heartline, command(text=[f"{number}," for number in range(words)], interval=interval))
        eventually(lambda: self.chat.run_id, what="the chat begins")
        self.native = Watcher(self.chat.run_id, KEYS["alice"])
        self.native.connect(heartline.replicas[0].url)
        eventually(lambda: self.native.cursor > 5 and self.chat.text, what="both streams run")

    def flow(self) -> None:
        """Return when both have moved on."""
        at, heard = self.native.cursor, len(self.chat.text)
        eventually(lambda: self.native.cursor > at + 3 and len(self.chat.text) > heard, what="the streams go on")

    def are_whole(self) -> None:
        self.chat.join()
        self.native.join()
        expected = "".join(f"{number}," for number in range(self._words))
        assert self.chat.text == expected
        assert self.chat.errors == []
        assert self.native.finished
        assert [event["seq"] for event in self.native.seen] == list(range(1, len(self.native.seen) + 1))
        assert self.native.seen == log_of(self._heartline, self.chat.run_id)  # what they saw is what there is
        assert self._heartline.run(self.chat.run_id)["status"] == "completed"
        assert self._heartline.run(self.chat.run_id)["answer"] == expected


def log_of(heartline: Deployment, run_id: str) -> list[dict[str, Any]]:
    with heartline.http() as client, client.stream("GET", f"/v1/runs/{run_id}/events") as answer:
        return [frame.json for frame in sse.of(answer) if frame.id]


def is_refused(heartline: Deployment) -> None:
    """New requests get an answer that a client understands, and soon; the process is well, but not ready."""
    with heartline.http(timeout=REFUSED_WITHIN_SECONDS) as client, ThreadPoolExecutor(5) as pool:
        ready = pool.submit(client.get, "/readyz")
        refused = [
            pool.submit(client.post, path, json=body, headers={"Idempotency-Key": f"{body}"})
            for path, body in (
                ("/v1/chat/completions", chat("now?", stream=True)),
                ("/v1/chat/completions", chat("now?")),
                ("/v1/runs", {"prompt": "now?"}),
            )
        ]
        assert client.get("/healthz").status_code == 200
        for answer in (one.result() for one in refused):
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["Retry-After"]) > 0
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            assert answer.json()["error"]["code"] == "unavailable"
            assert "Traceback" not in answer.text
        assert ready.result().status_code == 503


def test_a_pause_of_seconds_is_filled_with_heartbeats_and_costs_nothing(heartline: Deployment) -> None:
    streams = Streams(heartline)
    with paused(heartline):
        begun, before = time.monotonic(), streams.chat.heartbeats
        eventually(lambda: time.monotonic() > begun + 3 and streams.chat.heartbeats > before + 1)
    streams.are_whole()


def test_a_pause_longer_than_a_lease_loses_no_worker_and_refuses_new_chats(heartline: Deployment) -> None:
    streams = Streams(heartline)
    with paused(heartline):
        begun = time.monotonic()
        is_refused(heartline)
        before = streams.chat.heartbeats
        eventually(lambda: time.monotonic() > begun + LEASE_SECONDS + 2 and streams.chat.heartbeats > before + 1)
    streams.are_whole()


def test_an_orderly_restart_costs_nothing(heartline: Deployment) -> None:
    streams = Streams(heartline)
    heartline.restart_valkey()
    streams.are_whole()


def test_while_redis_is_down_new_chats_are_refused_and_streams_wait(heartline: Deployment) -> None:
    streams = Streams(heartline)
    valkey(heartline).stop()
    is_refused(heartline)
    before = streams.chat.heartbeats
    eventually(lambda: streams.chat.heartbeats > before + 1)
    heartline.restart_valkey()
    streams.are_whole()


@pytest.mark.parametrize("lost_bytes", [0, 5_000])
def test_a_killed_redis_is_given_again_what_it_lost(heartline: Deployment, lost_bytes: int) -> None:
    """What it had not written to its disk is gone: the end of its append-only file, up to a second of it."""
    streams = Streams(heartline)
    eventually(lambda: streams.native.cursor > 30)
    process = valkey(heartline).process
    process.kill()
    process.wait()
    (journal,) = (heartline.folder / "state" / "valkey" / "appendonlydir").glob("*.incr.aof")
    with journal.open("r+b") as file:
        file.truncate(journal.stat().st_size - lost_bytes)
    heartline.restart_valkey()
    streams.are_whole()
    if lost_bytes:
        assert any("log_restored" in worker.log.read_text() for worker in heartline.workers)


def test_an_ending_that_redis_lost_is_given_again(heartline: Deployment) -> None:
    streams = Streams(heartline, words=30)
    eventually(lambda: streams.native.finished)
    process = valkey(heartline).process
    process.kill()
    process.wait()
    (journal,) = (heartline.folder / "state" / "valkey" / "appendonlydir").glob("*.incr.aof")
    with journal.open("r+b") as file:
        file.truncate(journal.stat().st_size - 4_000)
    heartline.restart_valkey()
    eventually(lambda: heartline.run(streams.chat.run_id)["status"] == "completed")
    streams.are_whole()


def test_an_emptied_redis_is_one_clear_error_and_the_end(heartline: Deployment) -> None:
    talking = Streams(heartline, words=1000)
    silent = Chat(heartline, command(text=["a", "b"], interval=600, child=600))
    eventually(lambda: silent.text)
    assert heartline.marked_now()
    heartline.redis.flushall()
    for lost in (talking.chat, silent):
        lost.join()
        assert lost.errors == ["log_lost"]
    talking.native.join()
    assert not talking.native.finished
    assert heartline.marked_processes() == []  # the CLIs have been stopped
    eventually(lambda: heartline.redis.zcard("heartline:leases") == 0)


def test_a_redis_that_is_full_for_longer_than_a_lease_loses_nothing(heartline: Deployment) -> None:
    streams = Streams(heartline)
    with full(heartline):
        begun, before = time.monotonic(), streams.chat.heartbeats
        is_refused(heartline)
        eventually(lambda: time.monotonic() > begun + LEASE_SECONDS + 2 and streams.chat.heartbeats > before + 5)
    streams.are_whole()


def test_clients_that_redis_cuts_off_come_back(heartline: Deployment) -> None:
    streams = Streams(heartline)
    for _ in range(3):
        assert heartline.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") > 0
        streams.are_whole()


def test_a_request_that_was_refused_can_be_sent_again_with_its_key(heartline: Deployment) -> None:
    headers = {"Idempotency-Key": "again and again"}
    with heartline.http(timeout=REFUSED_WITHIN_SECONDS) as client:
        with full(heartline):
            assert client.post("/v1/runs", json={"prompt": "hello"}, headers=headers).status_code == 503
        heartline.wait_until_ready()
        answer = client.post("/v1/runs", json={"prompt": "hello"}, headers=headers)
        assert answer.status_code == 201, answer.text
        run_id = answer.json()["id"]
        eventually(lambda: heartline.run(run_id)["status"] == "completed")
        listed = client.get("/v1/runs", params={"limit": 100}).json()["data"]
        assert not [run for run in listed if run["status"] == "queued"]


def test_no_refused_request_has_left_a_run(heartline: Deployment) -> None:
    assert not heartline.redis.exists("rq:queue:heartline")
    with heartline.http() as client:
        listed: list[httpx.Response] = client.get("/v1/runs", params={"limit": 100}).json()["data"]
    assert {run["status"] for run in listed} <= {"completed"}
