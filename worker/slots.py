"""All slots of a worker process: started, kept up with what they owe, drained."""

import contextlib
import functools
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping

from redis import Redis

from core.clients import AWAY, connect
from core.events import Failed
from core.janitor import Janitor
from core.leases import RENEW_EVERY_SECONDS, Leases
from core.liveness import Liveness
from core.log import EventLog
from core.metrics import expect, label_of
from core.nodes import Nodes
from core.presence import Presence
from core.profiles import Profiles
from core.queue import RunQueue
from core.run import Lane
from core.runs import RunStore
from core.sentences import sentence
from core.settings import Settings
from core.taking_turns import TakingTurns
from core.usage import UsageBook
from worker import jobs
from worker.clis import Clis
from worker.metrics import SLOTS, SLOTS_BUSY
from worker.recovery import close_dead_slots, end_own, sweep_orphans
from worker.running import RunningRuns
from worker.sandbox import NO_SANDBOX, Sandbox
from worker.slot import SlotThread, SlotWorker
from worker.starter import Starter
from worker.supervisor import Supervisor
from worker.warm import WarmPool
from worker.workspace import Workspaces

logger = logging.getLogger(__name__)

CONNECTION_RETRIES = 60  # with one second at most between them: a run outlives an outage of a minute
RQ_RETRIES = 20  # RQ's own bookkeeping should tell of a run's end, too, but may not hold up a worker's
SWEEP_EVERY_SECONDS = 600

SIGNAL_SECONDS = 1.0
"""Python handles a signal in the main thread, when that moves next: one that the kernel gives to another thread does
not wake it (seen once: a SIGTERM that nothing came of)."""


class Slots:
    """All slots of this worker process."""

    def __init__(
        self,
        settings: Settings,
        profiles: Profiles,
        claude_bin: str,
        environ: Mapping[str, str],
        sandbox: Sandbox = NO_SANDBOX,
    ) -> None:
        self._settings = settings
        self._sandbox = sandbox
        self._profiles = profiles
        self._redis = connect(settings.redis_url)
        self._liveness = Liveness(self._redis)
        self._leases = Leases(self._redis)
        self._running = RunningRuns(self._leases, Presence(self._redis))
        log, store = _runs_of(self._redis, settings)
        self._janitor = Janitor(settings, log, store, RunQueue(self._redis, settings.log_ttl_seconds), self._leases)
        self._workspaces = Workspaces(
            settings.state, settings.workspace_ttl_seconds, settings.workspaces_max_bytes, settings.log_ttl_seconds
        )
        starter = Starter(claude_bin, self._workspaces, environ, sandbox)
        self._pool = WarmPool(
            starter,
            profiles,
            limit=settings.warm_processes,
            max_bytes=settings.warm_memory_bytes,
            idle_seconds=settings.warm_seconds,
            grace_seconds=settings.stop_grace_seconds,
        )
        self._clis = Clis(starter, self._pool, self._workspaces, settings.stop_grace_seconds)
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._done = threading.Event()
        # Not host and pid alone: in a container that restarts they are the same again, and RQ refuses the name.
        self.name = f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(2)}"
        self._threads: list[SlotThread] = []

    def run(self) -> None:
        """Work until `stop`, then drain: running runs may finish, what is left is ended."""
        sweep_orphans()
        with contextlib.suppress(*AWAY):
            close_dead_slots(self._redis, self._leases)
            self._meet_redis()
        self._workspaces.sweep()
        expect(profile.id for profile in self._profiles.profiles)
        self._threads = [
            *self._start(Lane.RUNS, "slot", self._settings.worker_slots),
            *self._start(Lane.TASKS, "task", self._settings.task_slots if self._profiles.task else 0),
        ]
        self._pool.start()
        confined = self._sandbox.describe()
        logger.info("worker_started worker=%s slots=%d sandbox=%s", self.name, len(self._threads), confined)
        duties = threading.Thread(target=self._do_duties, name=f"{self.name}.duties")
        duties.start()
        threading.Thread(target=self._keep_swept, name=f"{self.name}.sweep", daemon=True).start()
        while not self._stopping.wait(SIGNAL_SECONDS):
            pass
        self._drain()
        self._done.set()
        duties.join()

    def stop(self) -> None:
        """Ask `run` to drain and return; asked again, it waits for no run. Callable from a signal handler."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    def _meet_redis(self) -> None:
        server = self._redis.info("server")
        others = self._liveness.count()
        self._running.meet(server["run_id"], server["uptime_in_seconds"] if others else float("inf"))

    def _start(self, lane: Lane, kind: str, count: int) -> list[SlotThread]:
        make = functools.partial(self._make_worker, lane)
        SLOTS.labels(label_of(lane)).set(count)
        SLOTS_BUSY.labels(label_of(lane)).set(0)
        return [SlotThread(f"{self.name}.{kind}{number}", make, self._done) for number in range(1, count + 1)]

    def _make_worker(self, lane: Lane, name: str) -> SlotWorker:
        settings = self._settings
        redis = connect(settings.redis_url, retries=CONNECTION_RETRIES, connections=8, kernel_waits=True)
        log, store = _runs_of(redis, settings, holding=True)
        slot = jobs.Slot(
            name=name,
            redis=redis,
            store=store,
            log=log,
            profiles=self._profiles,
            presence=Presence(redis),
            running=self._running,
            workspaces=self._workspaces,
            taking_turns=TakingTurns(redis),
            supervisor=Supervisor(settings, self._clis, self._workspaces, Nodes(redis, settings.workspace_ttl_seconds)),
        )
        return SlotWorker(slot, lane, settings.redis_url, RQ_RETRIES)

    def _do_duties(self) -> None:
        """Until the last run has ended, draining included: what is owed to the runs, and to everybody."""
        while not self._done.is_set():
            try:
                self._keep_alive()
            except Exception:  # whatever it was: without this thread, every run's lease would end
                logger.exception("duties_failed worker=%s", self.name)
            self._done.wait(RENEW_EVERY_SECONDS)
        self._keep_alive()  # the last runs' ends are confirmed, too

    def _keep_swept(self) -> None:
        """In a thread of its own: to remove a large folder takes longer than a lease lasts."""
        while not self._stopping.wait(SWEEP_EVERY_SECONDS):
            self._workspaces.sweep()

    def _keep_alive(self) -> None:
        try:
            if not self._stopping.is_set():
                self._liveness.sign(self.name)
            self._running.tick()
            for thread in self._threads:
                if thread.busy and thread.worker is not None:
                    thread.worker.beat()
        except AWAY as error:
            logger.warning("worker_redis_away worker=%s error=%r", self.name, error)
        self._janitor.tidy()

    def _drain(self) -> None:
        self._pool.close()
        with contextlib.suppress(*AWAY):
            self._liveness.leave(self.name)
        for thread in self._threads:
            thread.finish_soon()
        busy = sum(thread.busy for thread in self._threads)
        logger.info("worker_draining worker=%s busy=%d seconds=%g", self.name, busy, self._settings.drain_seconds)
        deadline = time.monotonic() + self._settings.drain_seconds - self._settings.stop_grace_seconds
        while time.monotonic() < deadline and any(thread.busy for thread in self._threads):
            if self._hurry.wait(0.05):
                break
        ending = Failed(code="worker_shutdown", message=sentence(self._settings.language, "worker_shutdown"))
        deadline = time.monotonic() + 2 * self._settings.stop_grace_seconds
        while time.monotonic() < deadline and not all(thread.stopped for thread in self._threads):
            for thread in self._threads:
                thread.stop_run(ending)  # again and again: one may just be about to begin
                thread.join(0.05)
        waiting_ended = self._pool.join(2 * self._settings.stop_grace_seconds)
        left = sum(not thread.stopped for thread in self._threads)
        if left or not waiting_ended:
            end_own(os.getpid())
        logger.info("worker_stopped worker=%s left=%d", self.name, left)


def _runs_of(redis: "Redis", settings: Settings, *, holding: bool = False) -> tuple[EventLog, RunStore]:
    """The runs as one client of Redis reaches them. Those that it ends are counted. `holding`: the log has a
    connection of its own, where each event would else ask the pool for one, which looks at it before it gives it out.
    """
    store = RunStore(redis, settings.unfinished_ttl_seconds)
    usage = UsageBook(redis, store, settings.usage_ttl_seconds)
    return EventLog(redis.client() if holding else redis, settings.log_ttl_seconds, usage.count), store
