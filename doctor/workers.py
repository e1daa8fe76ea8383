"""The workers: whether any is alive, and whether their slots keep up."""

from collections.abc import Iterator

from rq import SimpleWorker
from rq.serializers import JSONSerializer
from rq.worker import WorkerStatus

from core.liveness import DEAD_AFTER_SECONDS, Liveness
from core.queue import RunQueue
from core.run import Lane
from doctor.case import Case
from doctor.finding import Finding, failed, ok, warning


def check_alive(case: Case) -> Iterator[Finding]:
    count = Liveness(case.server).count()
    if not count:
        yield failed(
            "worker",
            f"No worker has given a sign of life for {DEAD_AFTER_SECONDS} s: runs wait and are not begun.",
            "Start one with 'python -m worker' ('make run' starts everything), with the same HEARTLINE_REDIS_URL; "
            "if one should be running, its log says why it is not.",
        )
    else:
        yield ok("worker", f"{count} alive.", workers=count)


def check_slots(case: Case) -> Iterator[Finding]:
    slots = SimpleWorker.all(case.server, serializer=JSONSerializer)
    queue = RunQueue(case.server, case.settings.log_ttl_seconds)
    lanes = [Lane.RUNS, *([Lane.TASKS] if case.profiles and case.profiles.task else [])]
    for lane, setting in zip(lanes, ("HEARTLINE_WORKER_SLOTS", "HEARTLINE_TASK_SLOTS"), strict=False):
        states = [slot.get_state() for slot in slots if lane.value in slot.queue_names()]
        busy, waiting = states.count(WorkerStatus.BUSY), queue.length(lane)
        kind = "runs" if lane is Lane.RUNS else "tasks"
        said = f"{len(states)} for {kind}, {busy} of them at work; {waiting} in line."
        if not states:
            yield failed("slots", said, "Restart the workers; their log says why their slots ended.")
        elif waiting and busy == len(states):
            yield warning("slots", said, f"Raise {setting}, or start another worker.", waiting=waiting, busy=busy)
        else:
            yield ok("slots", said, slots=len(states), busy=busy, waiting=waiting)
