"""The one job: perform(run_id). And the one kind of RQ job that a slot will run.

Whoever can write to Redis must not be able to run code: nothing that a job names is imported.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from rq.job import Job

from core.errors import ModelNotFound, RunNotFound
from core.events import Failed
from core.log import EventLog, Writer, finish_from_outside
from core.profiles import Profiles
from core.queue import JOB
from core.runs import RunStore
from worker.supervisor import Stop, Supervisor, Task


class Slot:
    """What a slot's thread works with; `stop` belongs to the run that it performs at the moment."""

    def __init__(self, name: str, store: RunStore, log: EventLog, profiles: Profiles, supervisor: Supervisor) -> None:
        self.name = name
        self.store = store
        self.log = log
        self.profiles = profiles
        self.supervisor = supervisor
        self.stop: Stop | None = None


slot: ContextVar[Slot] = ContextVar("slot")
"""The slot of the current thread."""


def perform(run_id: str) -> str | None:
    """Answer the run's request; returns how it ended. A run that has expired meanwhile is no error."""
    here = slot.get()
    try:
        run, request = here.store.get(run_id), here.store.request(run_id)
    except RunNotFound:
        return "expired"
    here.stop = Stop()
    try:
        task = Task(run, request, here.profiles.get(run.profile))
        here.supervisor.perform(task, Writer(here.log, run_id), here.name, here.stop)
    except ModelNotFound as error:
        finish_from_outside(here.log, run_id, Failed(code="unknown_profile", message=str(error)))
    finally:
        here.stop = None
    return here.store.get(run_id).status.value


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
