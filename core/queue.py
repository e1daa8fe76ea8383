"""The queue between API and workers: RQ, with JSON jobs that carry a run's id and nothing else."""

from typing import cast

from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from core.run import Run

NAME = "heartline"
JOB = "worker.jobs.perform"
"""The job's dotted name: the API enqueues it by this string and never imports it."""

JOB_MARGIN_SECONDS = 60
"""RQ's own time limit lies this far behind the run's deadline: the supervisor ends runs, RQ never does."""


class RunQueue:
    """Puts runs in line and tells their place. Raises redis-py's errors when Redis is away."""

    def __init__(self, redis: "Redis", result_ttl_seconds: int) -> None:
        self._redis = redis
        self._queue = Queue(NAME, connection=redis, serializer=JSONSerializer)
        self._ttl_seconds = result_ttl_seconds

    def put(self, run: Run, timeout_seconds: float) -> None:
        """Enqueue the run's one job, which has the run's id."""
        self._queue.enqueue_call(
            JOB,
            args=(run.id,),
            job_id=run.id,
            timeout=int(timeout_seconds) + JOB_MARGIN_SECONDS,
            result_ttl=self._ttl_seconds,
            failure_ttl=self._ttl_seconds,
            description=f"run {run.id} · {run.profile} · {run.owner}",
        )

    def waiting(self) -> list[str]:
        """The ids of the runs in line, next one first."""
        return [run_id.decode() for run_id in cast("list[bytes]", self._redis.lrange(self._queue.key, 0, -1))]
