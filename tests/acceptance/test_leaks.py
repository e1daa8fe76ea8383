"""After many runs of every kind, a worker and a replica hold what they held after the first few."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests import sse
from tests.deployment import Deployment, chat, eventually, eventually_none

RUNS = 60
AT_ONCE = 4
SLACK = 6
"""A pool's connection more or less, as the runs happen to meet; what leaks, leaks with every run."""


def command(**fields: object) -> str:
    """A prompt that the fake CLI obeys."""
    return json.dumps(fields)


def streamed(heartline: Deployment, prompt: str) -> list[sse.Frame]:
    with (
        heartline.http() as client,
        client.stream("POST", "/v1/chat/completions", json=chat(prompt, stream=True)) as answer,
    ):
        return list(sse.of(answer))


def completed(heartline: Deployment) -> None:
    assert sse.contents(streamed(heartline, command(text=["all ", "is ", "well"]))) == "all is well"


def completed_with_a_child(heartline: Deployment) -> None:
    assert sse.contents(streamed(heartline, command(text=["done"], child=600))) == "done"


def failed(heartline: Deployment) -> None:
    found = streamed(heartline, command(text=["half"], no_result=True, exit=3, stderr_bytes=100_000))
    assert any(frame.data and "no_result" in frame.data for frame in found)


def whole(heartline: Deployment) -> None:
    with heartline.http() as client:
        assert client.post("/v1/chat/completions", json=chat("in one piece")).status_code == 200


def left(heartline: Deployment) -> None:
    """The client goes in the middle, with a command of a tool still running."""
    with (
        heartline.http() as client,
        client.stream(
            "POST",
            "/v1/chat/completions",
            json=chat(command(text=["a"], repeat=2, interval=600, child=600), stream=True),
        ) as answer,
    ):
        run_id = answer.headers["X-Run-Id"]
        next(frame for frame in sse.of(answer) if frame.data and '"a"' in frame.data)
    eventually(lambda: heartline.run(run_id)["status"] == "cancelled")


KINDS: list[Callable[[Deployment], None]] = [completed, completed_with_a_child, failed, whole, left]


def perform(heartline: Deployment, count: int) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(KINDS[number % len(KINDS)], heartline) for number in range(count)]:
            done.result()


def is_zombie(process: psutil.Process) -> bool:
    """Also of one that is just being reaped."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


class Held:
    """What a process, and gunicorn's worker below it, holds."""

    def __init__(self, pid: int) -> None:
        parent = psutil.Process(pid)
        self._processes = [parent, *(child for child in parent.children(recursive=True) if not is_zombie(child))]

    def counts(self) -> dict[str, int]:
        found = [process for parent in self._processes for process in parent.children(recursive=True)]
        return {
            "descriptors": sum(process.num_fds() for process in self._processes),
            "threads": sum(process.num_threads() for process in self._processes),
            "children": len({process.pid for process in found}),
            "zombies": sum(is_zombie(process) for process in found),
        }

    def more_than(self, before: dict[str, int]) -> list[str]:
        now = self.counts()
        return [
            f"{name}: {before[name]}, now {count}"
            for name, count in now.items()
            if count > before[name] + (SLACK if name == "descriptors" else 0)
        ]


@pytest.mark.parametrize("sandbox", ["auto", "off"])
def test_sixty_runs_leave_nothing_in_a_worker_and_a_replica(tmp_path: Path, sandbox: str) -> None:
    with Deployment(tmp_path, worker_slots=AT_ONCE, disconnect_grace_seconds=0.2, sandbox=sandbox) as heartline:
        perform(heartline, 3 * len(KINDS))
        assert heartline.marked_processes() == []
        parts = [Held(part.process.pid) for part in (*heartline.workers, *heartline.replicas)]
        assert eventually_none(lambda: [str(part) for part in parts if part.counts()["zombies"]]) == []
        first = [part.counts() for part in parts]
        clients = heartline.redis.info("clients")["connected_clients"]
        perform(heartline, RUNS)
        for part, counts in zip(parts, first, strict=True):
            assert eventually_none(lambda part=part, counts=counts: part.more_than(counts)) == []  # type: ignore[misc]
        assert heartline.redis.info("clients")["connected_clients"] <= clients + SLACK
        assert heartline.marked_processes() == []

        def left_over() -> list[str]:
            folders = [*tmp_path.glob("state/runs/*"), *tmp_path.glob("state/workspaces/*/files/*")]
            kept = heartline.redis.scan_iter("heartline:*")
            lasting = [key for key in kept if heartline.redis.ttl(key) < 0 and key != b"heartline:workers"]
            watched = list(heartline.redis.scan_iter("heartline:*:watchers"))
            return [str(thing) for thing in (*folders, *lasting, *watched)]

        assert eventually_none(left_over) == []
        assert not heartline.redis.exists("rq:queue:heartline")
