"""The janitor: ends what nobody else is left to end. Every replica and worker has one; they do not disturb each
other: a run whose lease has ended goes to one of them, and a run ends once whoever ends it."""

import logging
import time
from collections.abc import Callable

from core.clients import AWAY
from core.errors import LogLost, RunNotFound
from core.events import Failed
from core.leases import LEASE_SECONDS, Leases
from core.log import EventLog, finish_from_outside
from core.metrics import RUNS_PUT_BACK
from core.queue import RunQueue
from core.run import Status
from core.runs import RunStore
from core.sentences import sentence
from core.settings import Settings

logger = logging.getLogger(__name__)

TIDY_EVERY_SECONDS = 2


class Janitor:
    """Looks at everything every `TIDY_EVERY_SECONDS`, in a handful of round trips."""

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        store: RunStore,
        queue: RunQueue,
        leases: Leases,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._log = log
        self._store = store
        self._queue = queue
        self._leases = leases
        self._clock = clock
        self._now = now
        self._tidied_at = float("-inf")
        self._reachable_since = float("-inf")

    def tidy(self) -> None:
        """One round. While Redis is away there is nothing to do."""
        try:
            begun = self._clock()
            if begun - self._tidied_at > 2 * TIDY_EVERY_SECONDS:
                self._reachable_since = begun
            self._queue.vouch()
            if self._clock() - begun > TIDY_EVERY_SECONDS:
                self._reachable_since = self._clock()
            self._end_lost()
            self._end_overdue()
            took_long = self._clock() - begun > TIDY_EVERY_SECONDS
            self._tidied_at = float("-inf") if took_long else self._clock()
        except AWAY as error:
            self._tidied_at = float("-inf")
            logger.warning("janitor_redis_away error=%s", type(error).__name__)

    def _end_lost(self) -> None:
        """Runs whose lease nobody has renewed; those that have not begun get another chance. After an outage of
        Redis the workers get the time to renew: it was not their fault."""
        if self._clock() - self._reachable_since < LEASE_SECONDS:
            return
        for run_id in self._leases.take_expired():
            if not self._put_back(run_id):
                self._end(run_id, "worker_lost", sentence(self._settings.language, "worker_lost"))
                self._queue.close(run_id, "worker_lost")
                self._leases.release(run_id)

    def _end_overdue(self) -> None:
        """Runs that have waited for too long."""
        limit = self._settings.queue_timeout_seconds
        for run_id, created_at in self._store.created(self._queue.waiting()).items():
            if self._now() - created_at > limit:
                message = sentence(self._settings.language, "queue_timeout", seconds=round(limit))
                if self._end(run_id, "queue_timeout", message, origins=[Status.QUEUED]):
                    self._queue.close(run_id, "queue_timeout")
                    self._leases.release(run_id)

    def _put_back(self, run_id: str) -> bool:
        """Whether the run has not begun, and goes back in line: that happens once."""
        try:
            run = self._store.get(run_id)
        except RunNotFound:
            return False
        if run.status is not Status.QUEUED or not self._store.put_back_once(run_id):
            return False
        if not self._queue.put_back(run_id):
            return False
        RUNS_PUT_BACK.inc()
        logger.warning("run_put_back run_id=%s", run_id)
        return True

    def _end(self, run_id: str, code: str, message: str, origins: list[Status] | None = None) -> bool:
        """Whether this ended the run: not when it had ended already, or was in none of `origins`."""
        try:
            ended = finish_from_outside(self._log, run_id, Failed(code=code, message=message), origins=origins)
        except LogLost:
            logger.warning("run_forgotten run_id=%s code=%s", run_id, code)
            return True
        if ended:
            logger.warning("run_ended_by_janitor run_id=%s code=%s", run_id, code)
        return ended
