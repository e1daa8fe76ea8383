"""Stopping a run on request: from any process, for a run in any state."""

import logging

from core.errors import LogLost
from core.events import Cancelled
from core.leases import Leases
from core.log import EventLog, finish_from_outside
from core.queue import RunQueue
from core.run import Run, Status
from core.runs import RunStore

logger = logging.getLogger(__name__)


class Stopper:
    """Cancels runs. Raises redis-py's errors when Redis is away."""

    def __init__(self, log: EventLog, store: RunStore, queue: RunQueue, leases: Leases) -> None:
        self._log = log
        self._store = store
        self._queue = queue
        self._leases = leases

    def cancel(self, run_id: str, reason: str) -> Run:
        """See to it that the run ends as cancelled, if it has not ended yet; idempotent.

        A queued run has ended when this returns. A running one is stopped by its worker, at once when RQ's
        message arrives, else with the next renewal of its lease. Raises `RunNotFound`.
        """
        self._end_queued(run_id, reason)
        run = self._store.get(run_id)
        if run.status is Status.RUNNING:
            self._leases.request_stop(run_id, reason)
            if run.worker:
                self._queue.tell_worker_to_stop(run_id, run.worker)
            logger.info("run_stop_requested run_id=%s reason=%s", run_id, reason)
        return run

    def _end_queued(self, run_id: str, reason: str) -> None:
        try:
            ended = finish_from_outside(self._log, run_id, Cancelled(reason=reason), origins=[Status.QUEUED])
        except LogLost:
            return
        if ended:
            self._queue.remove(run_id)
            logger.info("run_cancelled_in_queue run_id=%s reason=%s", run_id, reason)
