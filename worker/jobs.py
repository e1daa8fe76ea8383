"""The one job: perform(run_id). And the one kind of RQ job that a slot will run.

Whoever can write to Redis must not be able to run code: nothing that a job names is imported.
"""

import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from redis import Redis
from rq.job import Job

from core.errors import ModelNotFound, RunNotFound
from core.events import Cancelled, Completed, Failed
from core.log import EventLog, Writer, finish_from_outside
from core.presence import Presence
from core.profiles import Profiles
from core.queue import JOB
from core.run import Run, RunRequest, Status
from core.runs import RunStore
from core.taking_turns import TakingTurns
from worker.endings import code_of
from worker.running import ABSENT_SECONDS, CLIENT_GONE, RunningRuns
from worker.starter import Work
from worker.supervisor import Stop, Supervisor
from worker.turns import Turn
from worker.workspace import Workspaces

LOOK_SECONDS = 0.5

TURN_SECONDS = 0.25
"""For so long a slot waits for a run's turn before it lets others go first: the run goes to the end of the line."""

TURN_LOOK_SECONDS = 0.01


@dataclass
class Slot:
    """What a slot's thread works with; `stop` and `turn` belong to the run that it performs at the moment."""

    name: str
    redis: "Redis"
    store: RunStore
    log: EventLog
    profiles: Profiles
    presence: Presence
    running: RunningRuns
    workspaces: Workspaces
    taking_turns: TakingTurns
    supervisor: Supervisor
    stop: Stop | None = None
    turn: Turn | None = None

    def take_turn(self, run_id: str) -> bool:
        """Get the run its turn in its workspace; False when another run works there, now and for `TURN_SECONDS`."""
        self.end_turn()  # of a run that RQ has dropped
        try:
            run = self.store.get(run_id)
            directory = self.profiles.get(run.profile).directory
        except (RunNotFound, ModelNotFound):
            return True  # there will be nothing to work on
        deadline = time.monotonic() + TURN_SECONDS
        while (turn := self.workspaces.turn(run, directory)) is None:
            if time.monotonic() > deadline:
                self.taking_turns.add(run_id)
                return False
            time.sleep(TURN_LOOK_SECONDS)
        self.turn = turn
        return True

    def look(self, run_id: str) -> tuple[Run, RunRequest, bool]:
        """The run whose turn it is now, what it was asked, and whether somebody watches it. Raises `RunNotFound`."""
        with self.redis.pipeline(transaction=False) as pipe:
            self.taking_turns.remove_with(pipe, run_id)
            self.store.asked_with(pipe, run_id)
            self.presence.count_with(pipe, run_id)
            _, asked, watching = pipe.execute()
        return *self.store.asked(run_id, asked), watching > 0

    def end_turn(self) -> None:
        turn, self.turn = self.turn, None
        if turn is not None:
            turn.release()


slot: ContextVar[Slot] = ContextVar("slot")
"""The slot of the current thread."""


class RunEnded(Exception):
    """The run has ended without an answer: so RQ counts its job as failed, or as stopped."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.cancelled = code == "cancelled"


def perform(run_id: str) -> str:
    """Answer the run's request; returns how it ended.

    Raises `RunEnded` when that was not with an answer. A run that has expired meanwhile is no error.
    """
    here = slot.get()
    try:
        run, request, watched = here.look(run_id)
    except RunNotFound:
        return "expired"
    if run.ended:
        return "ended before it began"
    if not (run.detach or watched):
        _cancel_if_nobody_comes(here, run)
    try:
        work = Work(run, request, here.profiles.get(run.profile))
    except ModelNotFound as error:
        finish_from_outside(here.log, run_id, Failed(code="unknown_profile", message=str(error)))
        raise RunEnded("unknown_profile") from None
    writer, here.stop = Writer(here.log, run_id), Stop()
    try:
        with here.running.working_on(run, here.stop, writer):
            ending = here.supervisor.perform(work, writer, here.name, here.stop)
    finally:
        here.stop = None
    if ending is None:
        return "not ours"
    if not isinstance(ending, Completed):
        raise RunEnded(code_of(ending))
    return "completed"


def _cancel_if_nobody_comes(here: Slot, run: Run) -> None:
    """A run whose last watcher left while it was queued is not begun; also when the replica, which would have
    cancelled it, died with its clients. Raises `RunEnded`."""
    for _ in range(int(ABSENT_SECONDS / LOOK_SECONDS)):
        time.sleep(LOOK_SECONDS)  # a replica's word may just be about to come back, with a Redis that was away
        if any(here.presence.count([run.id])):
            return
    finish_from_outside(here.log, run.id, Cancelled(reason=CLIENT_GONE), origins=[Status.QUEUED])
    raise RunEnded("cancelled")


ALLOWED: dict[str, Callable[..., Any]] = {JOB: perform}


class RunJob(Job):
    """An RQ job whose function is looked up in `ALLOWED`, and which has neither callbacks nor webhooks."""

    def perform(self) -> Any:
        """Raises `PermissionError` for a function that is not allowed."""
        function = ALLOWED.get(self.func_name or "")
        if function is None or self.instance is not None:
            raise PermissionError(f"job {self.id}: the function {self.func_name!r} is not allowed")
        return function(*self.args, **self.kwargs)

    @property
    def success_callback(self) -> None:
        return None

    @property
    def failure_callback(self) -> None:
        return None

    @property
    def stopped_callback(self) -> None:
        return None

    def send_webhooks(self, status: Any, *, exc_string: str | None = None) -> None:
        """None: a URL in Redis is not a reason to send a request."""
