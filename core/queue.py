"""The queue between API and workers: RQ, with JSON jobs that carry a run's id and nothing else.

It has lanes, each a queue of RQ's. A run's lane is told by its record when it is put in line, and by its job
from then on.
"""

from typing import cast

from redis import Redis
from redis.client import Pipeline
from rq import Queue
from rq.command import send_command
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer

from core import keys
from core.leases import Leases
from core.run import Lane, Run

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
        self._lanes = {lane: Queue(lane.value, connection=redis, serializer=JSONSerializer) for lane in Lane}
        self._ttl_seconds = result_ttl_seconds
        self._leases = Leases(redis)
        self._put_back = redis.register_script(_PUT_BACK)

    def put(self, run: Run, timeout_seconds: float) -> None:
        """Enqueue the run's one job, which has the run's id, in the run's lane."""
        with self._redis.pipeline() as pipe:
            self.put_with(pipe, run, timeout_seconds)
            pipe.execute()

    def put_with(self, pipe: "Pipeline", run: Run, timeout_seconds: float) -> None:
        """The same, together with what will be in `pipe`: RQ wants to begin it."""
        self._lanes[run.lane].enqueue_call(
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

    def waiting(self, *lanes: Lane) -> list[str]:
        """The ids of the runs in line, in these lanes or in all; of each lane the next one first."""
        with self._redis.pipeline(transaction=False) as pipe:
            for lane in lanes or Lane:
                pipe.lrange(self._lanes[lane].key, 0, -1)
            found = cast("list[list[bytes]]", pipe.execute())
        return [run_id.decode() for line in found for run_id in line]

    def length(self, lane: Lane) -> int:
        """How many runs are in line."""
        return self._redis.llen(self._lanes[lane].key)

    def length_with(self, pipe: "Pipeline", lane: Lane) -> None:
        """The same: an answer of `pipe`."""
        pipe.llen(self._lanes[lane].key)

    def newest_failed(self, at_most: int) -> list[str]:
        """The runs whose jobs have failed or were stopped, the newest first; `at_most` of each lane."""
        with self._redis.pipeline(transaction=False) as pipe:
            for line in self._lanes.values():
                registry = FailedJobRegistry(queue=line)
                pipe.zrevrange(registry.key, 0, at_most - 1, withscores=True)
            found = cast("list[list[tuple[bytes, float]]]", pipe.execute())
        newest = sorted((pair for of_lane in found for pair in of_lane), key=lambda pair: -pair[1])
        return [run_id.decode() for run_id, _ in newest]

    def remove(self, run_id: str) -> None:
        """Take a run out of the line that will never start: its job counts as cancelled."""
        self._take_out(run_id)
        self._leases.release(run_id)
        if job := self._job(run_id):
            job.set_status(JobStatus.CANCELED)

    def put_back(self, run_id: str) -> bool:
        """Put a run at the head of its lane that was taken out and never begun; False when its job is gone."""
        if (job := self._job(run_id)) is None:
            return False
        line = self._line_of(job)
        with self._redis.pipeline() as pipe:
            StartedJobRegistry(queue=line).remove_executions(job, pipe)
            FailedJobRegistry(queue=line).remove(job, pipeline=pipe)
            job.set_status(JobStatus.QUEUED, pipeline=pipe)
            self._leases.take(run_id, pipe)
            pipe.execute()
        self._put_back(keys=[line.key, line.intermediate_queue_key], args=[run_id])
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
        line = self._line_of(job)
        with self._redis.pipeline() as pipe:
            StartedJobRegistry(queue=line).remove_executions(job, pipe)
            job.set_status(JobStatus.FAILED, pipeline=pipe)
            FailedJobRegistry(queue=line).add(job, ttl=self._ttl_seconds, exc_string=reason, pipeline=pipe)
            pipe.execute()

    def tell_worker_to_stop(self, run_id: str, slot: str) -> None:
        """RQ's own `stop-job`, as its dashboard sends it; it may get lost."""
        send_command(self._redis, slot, "stop-job", job_id=run_id)

    def _take_out(self, run_id: str) -> None:
        """Of all lanes: its job, which tells its own, may be gone."""
        with self._redis.pipeline(transaction=False) as pipe:
            for line in self._lanes.values():
                pipe.lrem(line.key, 0, run_id)
                pipe.lrem(line.intermediate_queue_key, 0, run_id)
            pipe.srem(keys.taking_turns(), run_id)
            pipe.execute()

    def _line_of(self, job: Job) -> Queue:
        return self._lanes[Lane(job.origin)]

    def _job(self, run_id: str) -> Job | None:
        try:
            return Job.fetch(run_id, self._redis, serializer=JSONSerializer)
        except NoSuchJobError:
            return None
