"""Replicas and workers that are told to stop, or killed, while clients read: who is told what, and who goes on.

With the fake CLI.
"""

import http.client
import json
import os
import signal
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from core.presence import PRESENT_SECONDS
from tests import sse
from tests.deployment import KEYS, Deployment, Part, chat, eventually
from tests.sse import Watcher
from worker.running import ABSENT_SECONDS

DRAIN_SECONDS = 4.0
ENDLESS = {"text": ["a"], "repeat": 2, "interval": 600, "child": 600}


@pytest.fixture(scope="module")
def heartline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(
        tmp_path_factory.mktemp("heartline"),
        replicas=1,
        heartbeat_seconds=0.3,
        drain_seconds=DRAIN_SECONDS,
        stop_grace_seconds=1,
        disconnect_grace_seconds=0.5,
    ) as deployment:
        yield deployment


def command(**fields: object) -> str:
    """A prompt that the fake CLI obeys."""
    return json.dumps(fields)


def words(count: int, interval: float) -> str:
    return command(text=[f"{number}," for number in range(count)], interval=interval)


class Request:
    """A chat over plain sockets, read by a thread: httpx would forgive what http.client does not."""

    def __init__(self, part: Part, prompt: str, *, stream: bool = True) -> None:
        self.lines: list[bytes] = []
        self.status = 0
        self.run_id = ""
        self.failure: BaseException | None = None
        self.ended_at = 0.0
        self._body = chat(prompt, stream=stream)
        self._thread = threading.Thread(target=self._read, args=(part.url,), daemon=True)
        self._thread.start()

    def _read(self, url: str) -> None:
        address = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=40)
        headers = {"Authorization": f"Bearer {KEYS['alice']}", "Content-Type": "application/json"}
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(self._body), headers)
            response = connection.getresponse()
            self.status, self.run_id = response.status, response.headers["X-Run-Id"]
            self.lines.extend(response)  # raises IncompleteRead when it is cut off
        except BaseException as error:
            self.failure = error
        finally:
            self.ended_at = time.monotonic()
            connection.close()

    def join(self) -> "Request":
        self._thread.join(40)
        assert not self._thread.is_alive(), "the request does not end"
        assert self.failure is None, repr(self.failure)
        return self

    @property
    def frames(self) -> list[sse.Frame]:
        return list(sse.frames(line.decode().rstrip("\n") for line in self.lines))

    @property
    def errors(self) -> list[str]:
        return [frame.json["error"]["code"] for frame in self.frames if frame.data and '"error"' in frame.data]

    @property
    def done(self) -> bool:
        return self.frames[-1].data == "[DONE]"


def is_ready(part: Part) -> bool:
    try:
        return httpx.get(f"{part.url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def submit(heartline: Deployment, prompt: str, **fields: object) -> str:
    with heartline.http() as client:
        answer = client.post("/v1/runs", json={"prompt": prompt, **fields})
        assert answer.status_code == 201, answer.text
        run_id: str = answer.json()["id"]
        return run_id


def has_ended_as(heartline: Deployment, run_id: str, status: str) -> bool:
    found: str = heartline.run(run_id)["status"]
    assert found in ("queued", "running", status)
    return found == status


def kill(part: Part) -> None:
    """The whole replica, gunicorn's master and its worker, at once."""
    os.killpg(part.process.pid, signal.SIGKILL)
    part.process.wait()


def test_a_replica_that_is_told_to_stop_cuts_nobody(heartline: Deployment) -> None:
    leaving = heartline.start_replica()
    heartline.wait_until_ready()
    long_run = submit(heartline, words(150, 0.05))
    native = Watcher(long_run, KEYS["alice"])
    native.connect(leaving.url)
    short = Request(leaving, words(30, 0.05))
    whole = Request(leaving, words(30, 0.05), stream=False)
    endless = Request(leaving, command(**ENDLESS))
    eventually(lambda: native.cursor > 3 and endless.run_id and short.lines)
    eventually(lambda: len(heartline.redis.zrange("heartline:leases", 0, -1)) == 4, what="all four run")

    leaving.process.send_signal(signal.SIGTERM)
    eventually(lambda: not is_ready(leaving), seconds=2, what="it is not ready any more")
    native.join()
    assert not native.finished  # it ended in an orderly way, and early
    parted_at = native.cursor
    native.connect(heartline.replicas[0].url)

    assert short.join().done
    assert sse.contents(short.frames) == "".join(f"{number}," for number in range(30))
    answer = json.loads(b"".join(whole.join().lines))
    assert answer["choices"][0]["message"]["content"] == "".join(f"{number}," for number in range(30))
    assert endless.join().errors == ["replica_shutdown"]
    assert endless.done
    assert leaving.process.wait(DRAIN_SECONDS + 4) == 0

    native.join()
    assert native.finished
    assert native.cursor > parted_at
    assert [event["seq"] for event in native.seen] == list(range(1, len(native.seen) + 1))
    text = "".join(event["text"] for event in native.seen if event["type"] == "text")
    assert text == "".join(f"{number}," for number in range(150))
    # The replica has taken leave of Redis, too: nobody waits until its word expires.
    eventually(lambda: has_ended_as(heartline, endless.run_id, "cancelled"), PRESENT_SECONDS + 4, "nobody reads it")
    assert heartline.marked_processes() == []
    heartline.parts.remove(leaving)


def test_a_second_signal_is_quicker(heartline: Deployment) -> None:
    leaving = heartline.start_replica(drain_seconds=60)
    heartline.wait_until_ready()
    streamed = Request(leaving, command(**ENDLESS))
    whole = Request(leaving, command(**ENDLESS), stream=False)
    watched = submit(heartline, command(text=["a"], repeat=2, interval=600))
    native = Watcher(watched, KEYS["alice"])
    native.connect(leaving.url)
    eventually(lambda: native.cursor and streamed.lines and whole.lines)
    leaving.process.send_signal(signal.SIGTERM)
    eventually(lambda: not is_ready(leaving), seconds=2)
    leaving.process.send_signal(signal.SIGTERM)
    assert leaving.process.wait(10) == 0
    assert streamed.join().errors == ["replica_shutdown"]
    assert streamed.done
    assert json.loads(b"".join(whole.join().lines))["error"]["code"] == "replica_shutdown"
    native.join()
    heartline.parts.remove(leaving)
    with heartline.http() as client:
        for run_id in (streamed.run_id, whole.run_id, watched):
            client.post(f"/v1/runs/{run_id}/cancel")
            eventually(lambda run_id=run_id: has_ended_as(heartline, run_id, "cancelled"))  # type: ignore[misc]
    assert heartline.marked_processes() == []


def test_a_killed_replicas_chat_is_cancelled_and_its_detached_run_goes_on(heartline: Deployment) -> None:
    dying = heartline.start_replica()
    heartline.wait_until_ready()
    lonely = Request(dying, command(**ENDLESS))
    detached = submit(heartline, words(55, 0.4))
    native = Watcher(detached, KEYS["alice"])
    native.connect(dying.url)
    shared = submit(heartline, words(55, 0.4), detach=False)
    watchers = [Watcher(shared, KEYS["alice"]) for _ in range(2)]
    watchers[0].connect(dying.url)
    watchers[1].connect(heartline.replicas[0].url)
    eventually(lambda: native.cursor and lonely.run_id and all(watcher.cursor for watcher in watchers))
    kill(dying)
    heartline.parts.remove(dying)
    for cut in (native, watchers[0]):
        cut.cut()
        cut.failure = None
    seconds = PRESENT_SECONDS + ABSENT_SECONDS + 10
    eventually(lambda: has_ended_as(heartline, lonely.run_id, "cancelled"), seconds, "nobody reads it")
    eventually(lambda: len(heartline.marked_now()) <= 2, what="its processes are gone")
    eventually(lambda: has_ended_as(heartline, detached, "completed"))
    watchers[1].join()
    assert has_ended_as(heartline, shared, "completed")  # somebody still read it, elsewhere
    native.connect(heartline.replicas[0].url)
    native.join()
    assert native.finished
    assert [event["seq"] for event in native.seen] == list(range(1, len(native.seen) + 1))


def test_a_worker_that_is_told_to_stop_finishes_what_it_can_and_leaves_the_rest(tmp_path: Path) -> None:
    with Deployment(tmp_path, worker_slots=2, drain_seconds=5, stop_grace_seconds=1) as heartline:
        leaving = heartline.workers[0]
        short, endless = submit(heartline, words(30, 0.05)), submit(heartline, command(**ENDLESS))
        eventually(lambda: all(heartline.run(run_id)["status"] == "running" for run_id in (short, endless)))
        leaving.process.send_signal(signal.SIGTERM)
        eventually(lambda: not is_ready(heartline.replicas[0]), what="no worker takes jobs any more")
        waiting = submit(heartline, "who takes me?")
        eventually(lambda: has_ended_as(heartline, short, "completed"))
        assert heartline.run(endless)["status"] == "running"  # it has the time that there is
        assert leaving.process.wait(20) == 0
        assert heartline.run(endless)["error"]["code"] == "worker_shutdown"
        assert heartline.run(waiting)["status"] == "queued"
        assert heartline.marked_processes() == []
        heartline.parts.remove(leaving)
        heartline.start_worker()
        eventually(lambda: has_ended_as(heartline, waiting, "completed"))
        assert heartline.run(waiting)["answer"] == "who takes me?"


def test_a_workers_second_signal_is_quicker(tmp_path: Path) -> None:
    with Deployment(tmp_path, drain_seconds=60, stop_grace_seconds=1) as heartline:
        endless = submit(heartline, command(**ENDLESS))
        eventually(lambda: heartline.run(endless)["status"] == "running")
        worker = heartline.workers[0].process
        worker.send_signal(signal.SIGTERM)
        eventually(lambda: not is_ready(heartline.replicas[0]))
        assert worker.poll() is None
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(10) == 0
        assert heartline.run(endless)["error"]["code"] == "worker_shutdown"
        assert heartline.marked_processes() == []
