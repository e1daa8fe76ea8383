"""The queue between API and workers: RQ, with JSON jobs that carry a run's id and nothing else."""

from typing import cast

from redis import Redis
from redis.client import Pipeline
from rq import Queue
from rq.command import send_command
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer

from core.leases import Leases
from core.run import Run

NAME = "heartline"
JOB = "worker.jobs.perform"
"""The job's dotted name: the API enqueues it by this string and never imports it."""

JOB_MARGIN_SECONDS = 60
"""RQ's own time limit lies this far behind the run's deadline: the supervisor ends runs, RQ never does."""

# A job that a worker has dequeued but not begun is in RQ's intermediate list: whoever takes it out, puts it back.
_PUT_BACK = """
redis.call('LREM', KEYS[2], 0, ARGV[1])
if not redis.call('LPOS', KEYS[1], ARGV[1]) then redis.call('LPUSH', KEYS[1], ARGV[1]) end
"""


class RunQueue:
    """Puts runs in line and takes them out. Raises redis-py's errors when Redis is away.

    A run in line has a lease, too, which whoever looks after the line renews: one that is neither in line nor
    with a worker has been lost between them, however that came about.
    """

    def __init__(self, redis: "Redis", result_ttl_seconds: int) -> None:
        self._redis = redis
        self._queue = Queue(NAME, connection=redis, serializer=JSONSerializer)
        self._ttl_seconds = result_ttl_seconds
        self._leases = Leases(redis)
        self._put_back = redis.register_script(_PUT_BACK)

    def put(self, run: Run, timeout_seconds: float) -> None:
        """Enqueue the run's one job, which has the run's id."""
        with self._redis.pipeline() as pipe:
            self.put_with(pipe, run, timeout_seconds)
            pipe.execute()

    def put_with(self, pipe: "Pipeline", run: Run, timeout_seconds: float) -> None:
        """The same, together with what will be in `pipe`: RQ wants to begin it."""
        self._queue.enqueue_call(
            JOB,
            args=(run.id,),
            job_id=run.id,
            timeout=int(timeout_seconds) + JOB_MARGIN_SECONDS,
            result_ttl=self._ttl_seconds,
            failure_ttl=self._ttl_seconds,
            description=f"run {run.id} · {run.profile} · {run.owner}",
            pipeline=pipe,
        )
        self._leases.take(run.id, pipe)

    def waiting(self) -> list[str]:
        """The ids of the runs in line, next one first."""
        return [run_id.decode() for run_id in cast("list[bytes]", self._redis.lrange(self._queue.key, 0, -1))]

    def length(self) -> int:
        """How many runs are in line."""
        return self._redis.llen(self._queue.key)

    def remove(self, run_id: str) -> None:
        """Take a run out of the line that will never start: its job counts as cancelled."""
        self._take_out(run_id)
        self._leases.release(run_id)
        if job := self._job(run_id):
            job.set_status(JobStatus.CANCELED)

    def put_back(self, run_id: str) -> bool:
        """Put a run at the head of the line that was taken out and never begun; False when its job is gone."""
        if (job := self._job(run_id)) is None:
            return False
        with self._redis.pipeline() as pipe:
            StartedJobRegistry(NAME, self._redis, serializer=JSONSerializer).remove_executions(job, pipe)
            FailedJobRegistry(NAME, self._redis, serializer=JSONSerializer).remove(job, pipeline=pipe)
            job.set_status(JobStatus.QUEUED, pipeline=pipe)
            self._leases.take(run_id, pipe)
            pipe.execute()
        self._put_back(keys=[self._queue.key, self._queue.intermediate_queue_key], args=[run_id])
        return True

    def vouch(self) -> None:
        """Renew the leases of all that are in line."""
        self._leases.renew(self.waiting())

    def close(self, run_id: str, reason: str) -> None:
        """Tell RQ that a run's job has failed, when no worker is left to tell."""
        self._take_out(run_id)
        job = self._job(run_id)
        if job is None or job.get_status() not in (JobStatus.STARTED, JobStatus.QUEUED):
            return
        started = StartedJobRegistry(NAME, self._redis, serializer=JSONSerializer)
        failed = FailedJobRegistry(NAME, self._redis, serializer=JSONSerializer)
        with self._redis.pipeline() as pipe:
            started.remove_executions(job, pipe)
            job.set_status(JobStatus.FAILED, pipeline=pipe)
            failed.add(job, ttl=self._ttl_seconds, exc_string=reason, pipeline=pipe)
            pipe.execute()

    def tell_worker_to_stop(self, run_id: str, slot: str) -> None:
        """RQ's own `stop-job`, as its dashboard sends it; it may get lost."""
        send_command(self._redis, slot, "stop-job", job_id=run_id)

    def _take_out(self, run_id: str) -> None:
        self._redis.lrem(self._queue.key, 0, run_id)
        self._redis.lrem(self._queue.intermediate_queue_key, 0, run_id)

    def _job(self, run_id: str) -> Job | None:
        try:
            return Job.fetch(run_id, self._redis, serializer=JSONSerializer)
        except NoSuchJobError:
            return None
