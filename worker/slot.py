"""One slot: a thread that runs one RQ worker after the other.

RQ has no thread worker; what `SimpleWorker` takes for granted about being a process's only one is
undone here (seen with RQ 2.12).
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.exceptions import DequeueTimeout
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.timeouts import JobTimeoutException, TimerDeathPenalty
from rq.worker import WorkerStatus

from core.clients import AWAY, connect
from core.events import Cancelled, Failed
from core.leases import Leases
from core.metrics import label_of
from core.run import Lane
from worker import jobs
from worker.metrics import SLOTS_BUSY

logger = logging.getLogger(__name__)

WORKER_TTL_SECONDS = 16  # RQ's dequeue blocks for this long less 15, that is one second: a stop waits for it
HEARTBEAT_TTL_SECONDS = 30
MAINTAIN_EVERY_SECONDS = 30


class SlotWorker(SimpleWorker):
    """An RQ worker that lives in a thread and serves one lane: only from a single queue does RQ take a job in one
    step that no crash can lose."""

    job_class = jobs.RunJob

    def __init__(self, slot: jobs.Slot, lane: Lane, redis_url: str, retries: int) -> None:
        # TimerDeathPenalty patches the exception class that it is given: each slot has its own.
        timeout = type("SlotTimeout", (JobTimeoutException,), {})

        class SlotDeathPenalty(TimerDeathPenalty):
            def __init__(self, seconds: float, exception: Any = None, **kwargs: Any) -> None:
                super().__init__(seconds, timeout, **kwargs)

        self.death_penalty_class = SlotDeathPenalty
        self.slot = slot
        self._lane = label_of(lane)
        self.current: Job | None = None
        self._connected_anew = threading.Event()
        redis = connect(redis_url, retries=retries, on_connect=self._connected_anew.set)
        super().__init__(
            [Queue(lane.value, connection=redis, serializer=JSONSerializer, job_class=jobs.RunJob)],
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
        stop, job = self.slot.stop, self.current
        if stop is None or job is None or self._stopped_job_id not in (None, job.id):
            return  # the one that was meant has just ended
        stop.request(Cancelled(reason=self._why_stop(job.id)))

    def _why_stop(self, run_id: str) -> str:
        """Our API says why before it sends RQ's command; RQ's own tools only send it."""
        with contextlib.suppress(*AWAY):
            if reason := Leases(self.connection).stop_reason(run_id):
                return reason
        return "its job was stopped in RQ"

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
            with SLOTS_BUSY.labels(self._lane).track_inprogress():
                return super().perform_job(job, queue)
        finally:
            self.current = None
            self.slot.end_turn()

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
            if found:
                self._settle()
            if found and self._stop_requested:
                self._put_back(*found, at_front=True)
            elif found and not self.slot.take_turn(found[0].id):
                self._put_back(*found, at_front=False)
            elif found:
                found[0].redis_server_version = self.get_redis_server_version()
                return found
        return None

    def _settle(self) -> None:
        """A Redis that has restarted, or was replaced, may have lost its last second, and with it who has which
        run: before one is begun that may be somebody's, he gets the time to say so. No connection outlives its
        server: as long as none was made, it is the same one."""
        if not self._connected_anew.is_set():
            return
        self._connected_anew.clear()  # before asking: what is connected meanwhile is asked the next time
        time.sleep(self.slot.running.unsettled_seconds(self.connection.info("server")["run_id"]))

    def _put_back(self, job: Job, queue: Queue, *, at_front: bool) -> None:
        with self.connection.pipeline() as pipe:
            pipe.lrem(queue.intermediate_queue_key, 1, job.id)
            queue.push_job_id(job.id, pipeline=pipe, at_front=at_front)
            pipe.execute()


class SlotThread:
    """One slot: a thread that runs RQ workers one after the other until it is told to stop.

    The thread itself ends when all runs have ended, in any slot: bubblewrap ends a CLI with the thread that has
    started it, and a CLI that is kept performs its next run in another slot.
    """

    def __init__(self, name: str, make: Callable[[str], SlotWorker], all_over: threading.Event) -> None:
        self._name = name
        self._make = make
        self._all_over = all_over
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self.worker: SlotWorker | None = None
        threading.Thread(target=self._live, name=name, daemon=True).start()

    @property
    def busy(self) -> bool:
        return self.worker is not None and self.worker.current is not None

    @property
    def stopped(self) -> bool:
        """Whether it has ended its last run."""
        return self._stopped.is_set()

    def finish_soon(self) -> None:
        self._stopping.set()
        if self.worker is not None:
            self.worker.finish_soon()

    def stop_run(self, ending: Failed | Cancelled) -> None:
        worker = self.worker
        if worker is not None and (stop := worker.slot.stop) is not None:
            stop.request(ending)

    def join(self, seconds: float) -> None:
        """Wait for that."""
        self._stopped.wait(seconds)

    def _live(self) -> None:
        try:
            self._run()
        finally:
            self._stopped.set()
            self._all_over.wait()

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
            if self.worker is not None:
                self.worker.slot.end_turn()
            self._stopping.wait(1.0)
