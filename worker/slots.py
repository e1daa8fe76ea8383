"""Slots: threads that each run one RQ worker, and the supervisor that keeps them going.

RQ has no thread worker; what `SimpleWorker` takes for granted about being a process's only one is
undone here (seen with RQ 2.12).
"""

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.exceptions import DequeueTimeout
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.timeouts import JobTimeoutException, TimerDeathPenalty
from rq.worker import WorkerStatus

from core import queue
from core.clients import AWAY, connect
from core.events import Cancelled, Failed
from core.janitor import Janitor
from core.leases import RENEW_EVERY_SECONDS, Leases
from core.liveness import Liveness
from core.log import EventLog
from core.presence import Presence
from core.profiles import Profiles
from core.queue import RunQueue
from core.runs import RunStore
from core.sentences import sentence
from core.settings import Settings
from worker import jobs
from worker.recovery import close_dead_slots, sweep_orphans
from worker.running import RunningRuns
from worker.sandbox import NO_SANDBOX, Sandbox
from worker.supervisor import Supervisor
from worker.workspace import Workspaces

logger = logging.getLogger(__name__)

WORKER_TTL_SECONDS = 16  # RQ's dequeue blocks for this long less 15, that is one second: a stop waits for it
HEARTBEAT_TTL_SECONDS = 30
MAINTAIN_EVERY_SECONDS = 30
CONNECTION_RETRIES = 60  # with one second at most between them: a run outlives an outage of a minute
SWEEP_EVERY_SECONDS = 600


class SlotWorker(SimpleWorker):
    """An RQ worker that lives in a thread."""

    job_class = jobs.RunJob

    def __init__(self, slot: jobs.Slot, redis: Any) -> None:
        # TimerDeathPenalty patches the exception class that it is given: each slot has its own.
        timeout = type("SlotTimeout", (JobTimeoutException,), {})

        class SlotDeathPenalty(TimerDeathPenalty):
            def __init__(self, seconds: float, exception: Any = None, **kwargs: Any) -> None:
                super().__init__(seconds, timeout, **kwargs)

        self.death_penalty_class = SlotDeathPenalty
        self.slot = slot
        self.current: Job | None = None
        super().__init__(
            [Queue(queue.NAME, connection=redis, serializer=JSONSerializer, job_class=jobs.RunJob)],
            name=slot.name,
            connection=redis,
            job_class=jobs.RunJob,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL_SECONDS,
            maintenance_interval=MAINTAIN_EVERY_SECONDS,
        )

    def _install_signal_handlers(self) -> None:
        """None: signals are the main thread's."""

    def handle_payload(self, message: Any) -> None:
        """RQ's remote commands, less `shutdown`, which would end all slots by a signal."""
        if b'"shutdown"' not in message.get("data", b""):
            super().handle_payload(message)

    def kill_horse(self, sig: Any = None) -> None:
        """RQ's `stop-job` and `kill-horse`: stop the run, there is no horse."""
        if (stop := self.slot.stop) is not None:
            stop.request(Cancelled(reason="stopped in the queue's dashboard"))

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """RQ's traceback is for jobs that broke; a run that failed in an orderly way has its line in our log."""
        ended = exc_info[1]
        if not isinstance(ended, jobs.RunEnded):
            super().handle_exception(job, *exc_info)
        elif ended.cancelled:
            self._stopped_job_id = job.id  # RQ asks this next, and counts the job as stopped

    def get_heartbeat_ttl(self, job: Job) -> int:
        """How long RQ counts a job as running without a beat: RQ's own answer is the job's whole time limit."""
        return HEARTBEAT_TTL_SECONDS

    @property
    def horse_pid(self) -> int:
        return 1 if self.slot.stop is not None else 0

    def finish_soon(self) -> None:
        """Take no further job."""
        self._stop_requested = True

    def beat(self) -> None:
        """Keep the registries' entries of the current job alive; from another thread."""
        job = self.current
        if job is not None and self.execution is not None:
            with contextlib.suppress(AttributeError):  # it ended just now
                self.maintain_heartbeats(job)

    def perform_job(self, job: Job, queue: Queue) -> bool:
        self.current = job
        try:
            return super().perform_job(job, queue)
        finally:
            self.current = None

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """RQ's own waits for a signal to end it, and gives a job out even when it was told to stop."""
        self.set_state(WorkerStatus.IDLE)
        while not self._stop_requested:
            try:
                self.heartbeat()
                if self.should_run_maintenance_tasks:
                    self.run_maintenance_tasks()
                found = self.queue_class.dequeue_any(
                    self.queues,
                    timeout,
                    connection=self.connection,
                    job_class=self.job_class,
                    serializer=self.serializer,
                    death_penalty_class=self.death_penalty_class,
                )
            except DequeueTimeout:
                continue
            except AWAY as error:
                logger.warning("slot_redis_away slot=%s error=%s", self.name, type(error).__name__)
                time.sleep(1)
                continue
            if found and self._stop_requested:
                self._put_back(*found)
            elif found:
                found[0].redis_server_version = self.get_redis_server_version()
                return found
        return None

    def _put_back(self, job: Job, queue: Queue) -> None:
        with self.connection.pipeline() as pipe:
            pipe.lrem(queue.intermediate_queue_key, 1, job.id)
            queue.push_job_id(job.id, pipeline=pipe, at_front=True)
            pipe.execute()


class SlotThread:
    """One slot: a thread that runs RQ workers one after the other until it is told to stop."""

    def __init__(self, name: str, make: Callable[[str], SlotWorker]) -> None:
        self._name = name
        self._make = make
        self._stopping = threading.Event()
        self.worker: SlotWorker | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        return self.worker is not None and self.worker.current is not None

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def finish_soon(self) -> None:
        self._stopping.set()
        if self.worker is not None:
            self.worker.finish_soon()

    def stop_run(self, ending: Failed | Cancelled) -> None:
        worker = self.worker
        if worker is not None and (stop := worker.slot.stop) is not None:
            stop.request(ending)

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _run(self) -> None:
        """RQ ends its loop on almost any Redis error: begin a new one."""
        attempt = 0
        while not self._stopping.is_set():
            attempt += 1
            try:
                self.worker = self._make(f"{self._name}.{attempt}" if attempt > 1 else self._name)
                jobs.slot.set(self.worker.slot)
                self.worker.work(logging_level="WARNING")
            except (RedisError, OSError) as error:
                logger.warning("slot_interrupted slot=%s error=%r", self._name, error)
            except Exception:
                logger.exception("slot_crashed slot=%s", self._name)
            self._stopping.wait(1.0)


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
        self._claude_bin = claude_bin
        self._environ = environ
        self._redis = connect(settings.redis_url)
        self._liveness = Liveness(self._redis)
        self._leases = Leases(self._redis)
        self._running = RunningRuns(self._leases, Presence(self._redis))
        self._janitor = Janitor(
            settings,
            EventLog(self._redis, settings.log_ttl_seconds),
            RunStore(self._redis, settings.unfinished_ttl_seconds),
            RunQueue(self._redis, settings.log_ttl_seconds),
            self._leases,
        )
        self._workspaces = Workspaces(settings.state, settings.log_ttl_seconds)
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
        self._workspaces.sweep()
        self._threads = [
            SlotThread(f"{self.name}.slot{number}", self._make_worker)
            for number in range(1, self._settings.worker_slots + 1)
        ]
        confined = self._sandbox.describe()
        logger.info("worker_started worker=%s slots=%d sandbox=%s", self.name, len(self._threads), confined)
        duties = threading.Thread(target=self._do_duties, name=f"{self.name}.duties")
        duties.start()
        self._stopping.wait()
        self._drain()
        self._done.set()
        duties.join()

    def stop(self) -> None:
        """Ask `run` to drain and return; asked again, it waits for no run. Callable from a signal handler."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    def _make_worker(self, name: str) -> SlotWorker:
        settings = self._settings
        redis = connect(settings.redis_url, retries=CONNECTION_RETRIES, connections=8)
        slot = jobs.Slot(
            name=name,
            store=RunStore(redis, settings.unfinished_ttl_seconds),
            log=EventLog(redis, settings.log_ttl_seconds),
            profiles=self._profiles,
            presence=Presence(redis),
            running=self._running,
            supervisor=Supervisor(settings, self._claude_bin, self._workspaces, self._environ, self._sandbox),
        )
        return SlotWorker(slot, connect(settings.redis_url))

    def _do_duties(self) -> None:
        """Until the last run has ended, draining included: what is owed to the runs, and to everybody."""
        swept_at = time.monotonic()
        while not self._done.is_set():
            self._keep_alive()
            if time.monotonic() - swept_at > SWEEP_EVERY_SECONDS:
                self._workspaces.sweep()
                swept_at = time.monotonic()
            self._done.wait(RENEW_EVERY_SECONDS)
        self._keep_alive()  # the last runs' ends are confirmed, too

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
        for thread in self._threads:
            thread.stop_run(ending)
        deadline = time.monotonic() + 2 * self._settings.stop_grace_seconds
        for thread in self._threads:
            thread.join(max(0, deadline - time.monotonic()))
        left = [thread for thread in self._threads if thread.alive]
        logger.info("worker_stopped worker=%s left=%d", self.name, len(left))
