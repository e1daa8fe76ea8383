"""What a starting worker does for dead ones on its host: with real processes and a real Valkey."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from redis import Redis
from rq import SimpleWorker
from rq.serializers import JSONSerializer
from rq.utils import utcformat

from core.leases import LEASE_SECONDS, Leases
from core.run import new_id
from tests.deployment import eventually
from worker.process import MARK, OWNER
from worker.recovery import close_dead_slots, sweep_orphans


@pytest.fixture
def dead_pid() -> int:
    """Of a process that was there and is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


class Sleepers:
    """Processes that carry a run's mark, each in a session of its own."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, owner: str | None, run_id: str | None = None) -> subprocess.Popen[bytes]:
        marks = {MARK: run_id or new_id()} | ({} if owner is None else {OWNER: owner})
        process = subprocess.Popen(["sleep", "600"], env={**os.environ, **marks}, start_new_session=True)
        self.started.append(process)
        eventually(lambda: MARK in psutil.Process(process.pid).environ(), what="its exec is over")
        return process


@pytest.fixture
def sleepers() -> Iterator[Sleepers]:
    found = Sleepers()
    yield found
    for process in found.started:
        process.kill()
        process.wait()


def test_what_a_dead_worker_left_running_is_killed(sleepers: Sleepers, dead_pid: int) -> None:
    orphans = [sleepers.start(str(dead_pid)) for _ in range(3)]
    assert sweep_orphans() >= 3
    for orphan in orphans:
        assert orphan.wait(10) < 0


def test_what_belongs_to_a_living_worker_stays(sleepers: Sleepers) -> None:
    mine = sleepers.start(str(os.getpid()))
    sweep_orphans()
    assert mine.poll() is None


@pytest.mark.parametrize("owner", ["", "nobody", "-1", None])
def test_a_mark_without_an_owner_is_somebody_elses(sleepers: Sleepers, owner: str | None) -> None:
    stranger = sleepers.start(owner)
    sweep_orphans()
    assert stranger.poll() is None


def test_a_pid_that_a_younger_process_has_now_is_no_owner() -> None:
    script = f"read pid; {MARK}={new_id()} {OWNER}=$pid exec sleep 600"
    orphan = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, text=True, start_new_session=True)
    born = psutil.Process(orphan.pid).create_time()
    eventually(lambda: time.time() > born + 0.1)  # the kernel counts births in hundredths of a second
    with subprocess.Popen(["sleep", "600"]) as younger:
        assert orphan.stdin is not None
        with orphan.stdin as stdin:
            stdin.write(f"{younger.pid}\n")
        eventually(lambda: psutil.Process(orphan.pid).name() == "sleep")
        sweep_orphans()
        assert orphan.wait(10) < 0
        younger.kill()


def slot(redis: "Redis", name: str, pid: int, silent_for: float, host: str | None = None) -> SimpleWorker:
    """A slot as RQ knows it, that has last been heard of so long ago."""
    worker = SimpleWorker(["heartline"], name=name, connection=redis, serializer=JSONSerializer)
    worker.register_birth()
    heard = {"pid": str(pid), "last_heartbeat": utcformat(datetime.now(UTC) - timedelta(seconds=silent_for))}
    redis.hset(worker.key, mapping=heard | ({} if host is None else {"hostname": host}))
    return worker


def names(redis: "Redis") -> list[str]:
    return sorted(worker.name for worker in SimpleWorker.all(redis, serializer=JSONSerializer))


def test_a_dead_workers_slots_are_closed_and_its_lease_ends(redis: "Redis", dead_pid: int) -> None:
    dead, leases, run_id = slot(redis, "dead", dead_pid, 60), Leases(redis), new_id()
    dead.set_current_job_id(run_id)
    slot(redis, "idle", dead_pid, 60)
    leases.take(run_id)
    assert close_dead_slots(redis, leases) == 2
    assert names(redis) == []
    assert leases.take_expired() == [run_id]
    assert close_dead_slots(redis, leases) == 0


def test_a_living_workers_slots_stay(redis: "Redis") -> None:
    living, leases, run_id = slot(redis, "living", os.getppid(), 60), Leases(redis), new_id()
    living.set_current_job_id(run_id)
    slot(redis, "mine", os.getpid(), 60)
    leases.take(run_id)
    assert close_dead_slots(redis, leases) == 0
    assert names(redis) == ["living", "mine"]
    assert leases.take_expired() == []


def test_another_hosts_slots_are_not_ours_to_judge(redis: "Redis", dead_pid: int) -> None:
    slot(redis, "elsewhere", dead_pid, 3600, host="elsewhere")
    assert close_dead_slots(redis, Leases(redis)) == 0
    assert names(redis) == ["elsewhere"]


def test_a_slot_that_was_heard_of_just_now_may_be_in_a_container(redis: "Redis", dead_pid: int) -> None:
    slot(redis, "contained", dead_pid, LEASE_SECONDS / 2)
    assert close_dead_slots(redis, Leases(redis)) == 0
    assert names(redis) == ["contained"]
