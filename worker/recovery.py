"""What a worker does at its start for its predecessors on this host: ends what they left running, and tells
RQ that they are gone."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import psutil
from redis import Redis
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from core.leases import LEASE_SECONDS, Leases
from worker.process import MARK, OWNER, of_runs

logger = logging.getLogger(__name__)


def orphans() -> Iterator[tuple[psutil.Process, str]]:
    """The processes of runs whose worker is dead, and their runs' ids."""
    for process, environ in of_runs():
        with contextlib.suppress(psutil.Error):
            owner = environ.get(OWNER, "")
            if owner.isdigit() and not _was_alive(int(owner), process.create_time()):
                yield process, environ[MARK]


def sweep_orphans() -> int:
    """End every process of a run whose worker is dead; returns how many there were."""
    swept = 0
    for process, run_id in orphans():
        with contextlib.suppress(psutil.Error):
            process.kill()
            swept += 1
            logger.warning("orphan_killed run_id=%s pid=%d", run_id, process.pid)
    return swept


def end_own(worker_pid: int) -> None:
    """End every process of this worker's runs: it is about to go, and a slot has not come to an end."""
    for process, environ in of_runs():
        with contextlib.suppress(psutil.Error):
            if environ.get(OWNER) == str(worker_pid):
                process.kill()
                logger.warning("run_process_killed run_id=%s pid=%d", environ[MARK], process.pid)


def _was_alive(pid: int, then: float) -> bool:
    """Whether the process `pid` of today is the one of `then` (Unix seconds), and not a later one."""
    try:
        return psutil.Process(pid).create_time() <= then
    except psutil.Error:
        return False


def close_dead_slots(redis: "Redis", leases: Leases) -> int:
    """Unregister the slots of dead workers on this host and end their leases at once; returns how many.

    What the runs themselves are owed, the janitor does.
    """
    closed = 0
    for worker in SimpleWorker.all(redis, serializer=JSONSerializer):
        if worker.hostname != socket.gethostname() or _lives(worker.pid, worker.last_heartbeat):
            continue
        if run_id := worker.get_current_job_id():
            leases.end(run_id)
        worker.register_death()
        closed += 1
        logger.warning("dead_slot_closed slot=%s run_id=%s", worker.name, run_id)
    return closed


def _lives(pid: int | None, last_beat: datetime | None) -> bool:
    """In doubt it does: with a shared host name, its process may be in a container whose pids we do not see."""
    if pid is None or pid == os.getpid() or psutil.pid_exists(pid):
        return True
    return last_beat is not None and (datetime.now(UTC) - last_beat).total_seconds() < LEASE_SECONDS
