"""The runs that this worker works on, and what it owes them every few seconds: their leases renewed, orders to
stop obeyed, their clients' absence noticed, and what Redis may have lost of them given again."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from core.clients import AWAY
from core.errors import AppendRefused, LogLost, LogShort
from core.events import Cancelled, Failed
from core.leases import RENEW_EVERY_SECONDS, Leases
from core.log import Writer
from core.presence import PRESENT_SECONDS, Presence
from core.run import Run
from worker.supervisor import Stop

logger = logging.getLogger(__name__)

SETTLE_SECONDS = 2 * RENEW_EVERY_SECONDS
"""How long a Redis that has restarted is given to hear of every running run: two rounds of every worker."""

ABSENT_SECONDS = PRESENT_SECONDS / 2
"""For so long a run must be seen without a watcher, over which a Redis that was away gets its word back."""

CONFIRM_SECONDS = 5
"""For so long after its end a run is looked at again: Redis may restart without its last second."""

CLIENT_GONE = "the client has gone"


LOST = Failed(code="worker_lost", message="This run belongs to another worker now.")
"""Why a run stops that is not ours any more: it has its terminal event, or will get it from somebody else."""


@dataclass
class _Running:
    run: Run
    stop: Stop
    writer: Writer
    absent_since: float | None = None


class RunningRuns:
    """Shared by all slots of a worker; `tick` is its main thread's."""

    def __init__(self, leases: Leases, presence: Presence, clock: Callable[[], float] = time.monotonic) -> None:
        self._leases = leases
        self._presence = presence
        self._clock = clock
        self._lock = threading.Lock()
        self._running: dict[str, _Running] = {}
        self._ended: list[tuple[float, Writer]] = []
        self._server: str | None = None
        self._server_since = float("-inf")

    def meet(self, server: str, up_seconds: float) -> None:
        """The first word with a Redis (its `run_id`) that has other workers: it may just have restarted."""
        with self._lock:
            self._server, self._server_since = server, self._clock() - up_seconds

    def unsettled_seconds(self, server: str) -> float:
        """For how long no run should be begun on this Redis (its `run_id`): it is another than before, and may
        not have heard yet who has which run."""
        with self._lock:
            if self._server != server:
                self._server_since = self._clock()
            self._server = server
            return max(0.0, self._server_since + SETTLE_SECONDS - self._clock())

    @contextmanager
    def working_on(self, run: Run, stop: Stop, writer: Writer) -> Iterator[None]:
        """Answer for the run while this lasts. When it breaks off with an error, the lease is left to end.

        A run that is in line twice can come here twice: it is the first one's.
        """
        mine = _Running(run, stop, writer)
        self._leases.take(run.id)
        with self._lock:
            self._running.setdefault(run.id, mine)
        try:
            yield
        finally:
            with self._lock:
                if self._running.get(run.id) is mine:
                    del self._running[run.id]
        with self._lock:
            self._ended.append((self._clock(), writer))
        if writer.seq:  # it was ours; one that another worker has taken is his to answer for
            self._leases.release(run.id)

    def tick(self) -> None:
        """Raises redis-py's errors when Redis is away."""
        with self._lock:
            running = dict(self._running)
        for run_id, order in self._leases.renew(list(running)).items():
            if order is None:
                running[run_id].stop.request(LOST)
            elif order:
                running[run_id].stop.request(Cancelled(reason=order))
        self._confirm_running(list(running.values()))
        self._stop_unwatched([one for one in running.values() if not one.run.detach])
        self._confirm_ended()

    def _confirm_running(self, running: list[_Running]) -> None:
        """A Redis that restarts without its last second may have forgotten that a run was taken: it is told
        before somebody else takes it (see `SETTLE_SECONDS`)."""
        for one in running:
            try:
                one.writer.confirm()
            except (AppendRefused, LogLost, LogShort) as error:
                logger.warning("run_not_confirmed run_id=%s error=%s", one.run.id, error)
                one.stop.request(LOST)

    def _stop_unwatched(self, running: list[_Running]) -> None:
        counts = self._presence.count(one.run.id for one in running) if running else []
        for one, count in zip(running, counts, strict=True):
            if count:
                one.absent_since = None
            elif one.absent_since is None:
                one.absent_since = self._clock()
            elif self._clock() - one.absent_since >= ABSENT_SECONDS:
                one.stop.request(Cancelled(reason=CLIENT_GONE))

    def _confirm_ended(self) -> None:
        with self._lock:
            ended, self._ended = self._ended, []
        for ended_at, writer in ended:
            try:
                writer.confirm()
            except (AppendRefused, LogLost, LogShort) as error:
                logger.warning("run_not_confirmed run_id=%s error=%s", writer.run_id, error)
                continue
            except AWAY:
                pass  # asked again at the next tick
            if self._clock() - ended_at < CONFIRM_SECONDS:
                with self._lock:
                    self._ended.append((ended_at, writer))
