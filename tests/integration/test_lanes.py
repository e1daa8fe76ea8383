"""Two lanes on a real Valkey: what is done to a run by its id is done in its lane, and nothing in the other."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.registry import FailedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer

from app.attendance import Attendance
from app.intake import Intake
from app.relay import Places
from core import profiles
from core.errors import TooManyRuns
from core.janitor import TIDY_EVERY_SECONDS, Janitor
from core.leases import LEASE_SECONDS, Leases
from core.log import EventLog
from core.nodes import Nodes
from core.presence import Presence
from core.profiles import Profiles
from core.queue import RunQueue
from core.run import Lane, Message, Run, RunRequest, Status, new_id
from core.runs import RunStore
from core.settings import Settings
from core.stopping import Stopper
from core.taking_turns import TakingTurns
from tests.deployment import FAKE_CLAUDE, eventually
from worker.slots import Slots

MODELS = """
defaults: {absent: agent, task: small}
profiles:
  - {id: agent, model: sonnet, allowed_tools: [Bash]}
  - {id: small, model: haiku, tools: []}
"""
LONG = json.dumps({"text": ["x"], "interval": 60, "repeat": 2})
LANES = pytest.mark.parametrize("lane", Lane)


@pytest.fixture
def known(tmp_path: Path) -> Profiles:
    path = tmp_path / "models.yaml"
    path.write_text(MODELS)
    return profiles.load(path)


def submit(redis: "Redis", lane: Lane, prompt: str = "What?") -> Run:
    profile = "small" if lane is Lane.TASKS else "agent"
    run = Run(id=new_id(), owner="alice", profile=profile, model="x", created_at=time.time(), detach=True, lane=lane)
    RunStore(redis, 1000).create(run, RunRequest(messages=(Message("user", prompt),)))
    RunQueue(redis, 1000).put(run, 30)
    return run


def line(redis: "Redis", lane: Lane) -> Queue:
    return Queue(lane.value, connection=redis, serializer=JSONSerializer)


def job(redis: "Redis", run: Run) -> Job:
    return Job.fetch(run.id, redis, serializer=JSONSerializer)


def begun(redis: "Redis", run: Run) -> Run:
    """Taken by a slot that RQ knows of, and that has done nothing else yet."""
    rq = line(redis, run.lane)
    assert redis.lmove(rq.key, rq.intermediate_queue_key, "LEFT", "RIGHT") == run.id.encode()
    worker = SimpleWorker([rq], name=f"slot-{run.id}", connection=redis, serializer=JSONSerializer)
    worker.prepare_execution(job(redis, run))
    worker.prepare_job_execution(job(redis, run), remove_from_intermediate_queue=True)
    return run


def test_a_run_waits_in_its_own_lane(redis: "Redis") -> None:
    queue = RunQueue(redis, 1000)
    run, task, second = (submit(redis, lane) for lane in (Lane.RUNS, Lane.TASKS, Lane.RUNS))
    assert queue.waiting(Lane.RUNS) == [run.id, second.id]
    assert queue.waiting(Lane.TASKS) == [task.id]
    assert queue.waiting() == [run.id, second.id, task.id]
    assert (queue.length(Lane.RUNS), queue.length(Lane.TASKS)) == (2, 1)
    assert RunStore(redis, 1000).get(task.id).lane is Lane.TASKS


def test_a_place_counts_within_the_lane(redis: "Redis") -> None:
    runs = [submit(redis, lane) for lane in (Lane.RUNS, Lane.RUNS, Lane.TASKS, Lane.TASKS)]
    places = Places(RunQueue(redis, 1000), TakingTurns(redis), time.monotonic)
    assert [places.of(run.id) for run in runs] == [1, 2, 1, 2]


@LANES
def test_a_run_is_removed_from_its_lane(redis: "Redis", lane: Lane) -> None:
    run, others = submit(redis, lane), [submit(redis, other) for other in Lane]
    RunQueue(redis, 1000).remove(run.id)
    assert RunQueue(redis, 1000).waiting() == [other.id for other in others]
    assert job(redis, run).get_status() == "canceled"


@LANES
def test_a_run_whose_job_is_gone_is_removed_all_the_same(redis: "Redis", lane: Lane) -> None:
    run = submit(redis, lane)
    redis.delete(Job.key_for(run.id))
    RunQueue(redis, 1000).remove(run.id)
    assert RunQueue(redis, 1000).waiting() == []


@LANES
def test_a_run_is_put_back_at_the_head_of_its_lane(redis: "Redis", lane: Lane) -> None:
    run = submit(redis, lane)
    begun(redis, run)
    others = [submit(redis, other) for other in Lane]
    assert RunQueue(redis, 1000).put_back(run.id)
    mine = next(other for other in others if other.lane is lane)
    assert RunQueue(redis, 1000).waiting(lane) == [run.id, mine.id]
    assert len(RunQueue(redis, 1000).waiting()) == 3
    assert StartedJobRegistry(queue=line(redis, lane)).get_job_ids(cleanup=False) == []
    assert job(redis, run).get_status() == "queued"


@LANES
def test_a_closed_run_has_failed_in_its_lane(redis: "Redis", lane: Lane) -> None:
    run = begun(redis, submit(redis, lane))
    RunQueue(redis, 1000).close(run.id, "worker_lost")
    assert StartedJobRegistry(queue=line(redis, lane)).get_job_ids(cleanup=False) == []
    failed = {other: FailedJobRegistry(queue=line(redis, other)).get_job_ids(cleanup=False) for other in Lane}
    assert failed == {other: [run.id] if other is lane else [] for other in Lane}


@LANES
def test_the_janitor_looks_after_each_lane(redis: "Redis", lane: Lane) -> None:
    log, store, queue, leases = EventLog(redis, 1000), RunStore(redis, 1000), RunQueue(redis, 1000), Leases(redis)
    settings, passed = Settings(queue_timeout_seconds=100), [0.0]
    janitor = Janitor(settings, log, store, queue, leases, lambda: passed[0], lambda: time.time() + passed[0])
    lost, waits = begun(redis, submit(redis, lane)), submit(redis, lane)
    for run in (lost, waits):
        leases.end(run.id)
    for passed[0] in range(0, LEASE_SECONDS + 2, TIDY_EVERY_SECONDS):
        janitor.tidy()
    assert queue.waiting() == queue.waiting(lane) == [lost.id, waits.id]  # put back; and vouched for
    passed[0] = 200.0
    janitor.tidy()
    assert queue.waiting() == []
    assert {store.get(run.id).status for run in (lost, waits)} == {Status.FAILED}


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{"max_queued_runs": 1}, {"max_queued_runs_per_key": 1}])
def test_a_full_lane_refuses_nothing_of_the_other(redis: "Redis", known: Profiles, limits: dict[str, int]) -> None:
    store, queue = RunStore(redis, 1000), RunQueue(redis, 1000)
    attendance = Attendance(Presence(redis), Stopper(EventLog(redis, 1000), store, queue, Leases(redis)), 3)
    intake = Intake(Settings(**limits), known, redis, store, Nodes(redis, 1000), queue, attendance)  # type: ignore[arg-type]
    request = RunRequest(messages=(Message("user", "What?"),))

    def ask(task: bool) -> Run:
        return intake.submit("alice", "agent", request, detach=True, task=task)[0]

    for task in (False, True):
        run = ask(task)
        assert (run.profile, run.lane) == (("small", Lane.TASKS) if task else ("agent", Lane.RUNS))
        assert run.model == "agent"
        with pytest.raises(TooManyRuns):
            ask(task)


# --- slots ----------------------------------------------------------------------------------------


@pytest.fixture
def slots(redis_url: str, tmp_path: Path, known: Profiles) -> Iterator[Slots]:
    settings = Settings(
        redis_url=redis_url,
        state_dir=str(tmp_path),
        worker_slots=1,
        task_slots=1,
        stop_grace_seconds=2,
        drain_seconds=3,
    )
    running = Slots(settings, known, str(FAKE_CLAUDE), {"PATH": "/usr/bin:/bin"})
    thread = threading.Thread(target=running.run)
    thread.start()
    yield running
    running.stop()
    running.stop()
    thread.join(30)
    assert not thread.is_alive()


@LANES
def test_a_lane_goes_on_while_the_other_is_held_up(slots: Slots, redis: "Redis", lane: Lane) -> None:
    other = next(one for one in Lane if one is not lane)
    store = RunStore(redis, 1000)
    held, waiting = submit(redis, other, LONG), submit(redis, other, LONG)
    eventually(lambda: store.get(held.id).status is Status.RUNNING)
    run = submit(redis, lane)
    eventually(lambda: store.get(run.id).status is Status.COMPLETED)
    assert store.get(held.id).status is Status.RUNNING
    assert store.get(waiting.id).status is Status.QUEUED


def test_each_slot_listens_to_one_queue(slots: Slots, redis: "Redis") -> None:
    workers = eventually(
        lambda: (found := SimpleWorker.all(redis, serializer=JSONSerializer)) and len(found) == 2 and found
    )
    assert sorted(worker.queue_names() for worker in workers) == [[Lane.RUNS.value], [Lane.TASKS.value]]
