"""CLIs that wait on their standard input, so that a run need not wait for one to start.

*Spares* have performed nothing yet and wait for the first run of a new conversation; which kinds there are follows
what is asked for. *Kept* ones have just answered and wait for the next turn of their conversation. Each is handed
out once, and only to a run that needs just what it was started with.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable

from core.errors import ConfigurationError
from core.profiles import Profile, Profiles
from core.run import Run
from worker.demand import Demand
from worker.metrics import WARM
from worker.starter import NotReady, Setup, StartedCli, Starter

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
CALM_SECONDS = 0.5
"""For so long after a run was given its CLI no spare is started: the run has use for the processor."""

HURRY_SECONDS = 2.0
"""After so long one is started anyway, however many runs come."""

RETRY_SECONDS = 10.0
"""After a spare that could not be started: twice as long each time, up to `MAX_RETRY_SECONDS`."""

MAX_RETRY_SECONDS = 300.0
USUAL_BYTES = 200 << 20
"""What one more is taken to occupy (seen with 2.1.329: 160 to 190 MB)."""

TASK_WEIGHT = 0.5
"""What a task counts beside a run that somebody waits for."""


class WarmPool:
    """At most `limit` CLIs that wait; no more than half of them are kept ones. One thread of its own starts and ends
    them. It lives until the last run has ended: bubblewrap ends a CLI with the thread that has started it."""

    def __init__(
        self,
        starter: Starter,
        profiles: Profiles,
        *,
        limit: int,
        max_bytes: int,
        idle_seconds: float,
        grace_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._starter = starter
        self._limit = limit
        self._most_kept = limit // 2
        self._max_bytes = max_bytes
        self._idle_seconds = idle_seconds
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._demand = Demand(_expected(profiles))
        self._spares: list[StartedCli] = []
        self._kept: dict[str, StartedCli] = {}  # by conversation, the one that answered last at the end
        self._leaving: list[StartedCli] = []
        self._performing = 0  # how many may be kept when their runs have ended
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._over = False
        self._given_at = float("-inf")
        self._short_since: float | None = None
        self._failed: dict[Setup, tuple[float, float]] = {}  # which did not start: when to try again, and the pause
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to keep spares; nothing happens with a limit of 0."""
        if self._limit:
            self._thread = threading.Thread(target=self._live, name="warm", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End all that wait; none will be kept any more. Returns at once, and those that perform go on."""
        with self._lock:
            self._closed.set()
        self._wake.set()

    def join(self, seconds: float) -> bool:
        """The last run has ended: wait until all that were closed have, too. Returns whether they have."""
        self._over = True
        self._wake.set()
        if self._thread is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    # --- for the slots ----------------------------------------------------------------------------

    def asked(self, setup: Setup, *, is_task: bool) -> None:
        """There is a run for which a spare of this kind would do."""
        with self._lock:
            self._demand.add(setup, TASK_WEIGHT if is_task else 1.0, self._clock())

    def spare(self, setup: Setup) -> StartedCli | None:
        """One that is up and was started with just this; None when there is none. It is the caller's now."""
        with self._lock:
            for cli in [cli for cli in self._spares if cli.setup == setup]:
                self._spares.remove(cli)
                if self._starter.is_fit(cli):
                    self._given_out()
                    return cli
                self._leaving.append(cli)
        return None

    def put_back(self, cli: StartedCli) -> None:
        """A spare that was of no use after all, and has not been asked anything."""
        with self._lock:
            (self._leaving if self._closed.is_set() else self._spares).append(cli)
            self._count()

    def next_turn(self, run: Run, setup: Setup) -> StartedCli | None:
        """The one that performed the run's parent, and nothing since. It is the caller's now."""
        if run.place is None or run.place.parent is None:
            return None
        with self._lock:
            cli = self._kept.get(run.place.conversation)
            if cli is None or (cli.answered, cli.owner) != (run.place.parent, run.owner):
                return None
            del self._kept[run.place.conversation]
            if cli.setup == setup and self._starter.is_fit(cli):
                self._given_out()
                return cli
            self._leaving.append(cli)
            self._wake.set()
        return None

    def begin(self) -> None:
        """A run begins whose CLI may be kept when it has ended: room is left for it, until `done`."""
        with self._lock:
            self._performing += 1

    def done(self) -> None:
        """Such a run has ended."""
        with self._lock:
            self._performing -= 1
        self._wake.set()

    @property
    def keeps_any(self) -> bool:
        return not self._closed.is_set() and self._most_kept > 0

    def keep(self, cli: StartedCli, run: Run) -> bool:
        """Take one that has just performed `run`, for the next turn; False when it does not: it stays the caller's."""
        if run.place is None:
            return False
        with self._lock:
            if not self.keeps_any:
                return False
            if (older := self._kept.pop(run.place.conversation, None)) is not None:
                self._leaving.append(older)
            cli.owner, cli.answered, cli.since = run.owner, run.id, self._clock()
            self._kept[run.place.conversation] = cli
            while len(self._kept) > self._most_kept:
                self._leaving.append(self._kept.pop(next(iter(self._kept))))
            self._count()
        self._wake.set()
        return True

    def _given_out(self) -> None:
        self._count()
        self._given_at = self._clock()
        self._wake.set()

    # --- its own thread ---------------------------------------------------------------------------

    def _live(self) -> None:
        while not self._over:
            self._wake.clear()
            try:
                pause = self.tend()
            except Exception:  # whatever it was: without this thread nothing that waits would ever end
                logger.exception("warm_pool_failed")
                pause = LOOK_SECONDS
            if self._wake.wait(pause):
                self._closed.wait(CALM_SECONDS)  # who was just given a CLI needs the processor, and Python's lock
        self.tend()

    def tend(self) -> float:
        """End what should wait no longer and start at most one spare; returns after how many seconds to do so again.
        Its own thread's."""
        self._retire()
        self._end_leaving()
        return LOOK_SECONDS if self._closed.is_set() else self._start_one()

    def _retire(self) -> None:
        """Decide which have waited for long enough, or are of no use."""
        sizes = self._sizes()
        with self._lock:
            now = self._clock()
            wanted = [] if self._closed.is_set() else self._wanted(now)
            stay = []
            for cli in self._spares:
                if cli.setup in wanted and self._may_wait(cli, now):
                    wanted.remove(cli.setup)
                    stay.append(cli)
                else:
                    self._leaving.append(cli)
            self._spares = stay
            for conversation, cli in list(self._kept.items()):
                if self._closed.is_set() or not self._may_wait(cli, now):
                    self._leaving.append(self._kept.pop(conversation))
            while self._occupied(sizes) > self._max_bytes:
                self._leaving.append(self._spares.pop() if self._spares else self._kept.pop(next(iter(self._kept))))
            self._count()

    def _wanted(self, now: float) -> list[Setup]:
        """The spares that there should be, the most wanted first."""
        kept = min(len(self._kept) + self._performing, self._most_kept)
        return self._demand.shares(self._limit - kept, now)

    def _sizes(self) -> dict[str, int]:
        """What each that waits occupies. Not under the lock: a slot should not have to wait for it."""
        with self._lock:
            waiting = [*self._spares, *self._kept.values()]
        return {cli.id: cli.process.memory() for cli in waiting}

    def _occupied(self, sizes: dict[str, int]) -> int:
        return sum(sizes.get(cli.id, USUAL_BYTES) for cli in (*self._spares, *self._kept.values()))

    def _may_wait(self, cli: StartedCli, now: float) -> bool:
        return now - cli.since < self._idle_seconds and self._starter.is_fit(cli)

    def _end_leaving(self) -> None:
        while True:
            with self._lock:
                if not self._leaving:
                    return
                cli = self._leaving.pop()
            self._starter.end(cli, self._grace_seconds)
            self._starter.remove(cli)

    def _start_one(self) -> float:
        """Start the spare that is missed most, if it is time; returns after how many seconds to look again."""
        sizes = self._sizes()
        with self._lock:
            now = self._clock()
            missing = self._missing(now)
            if missing is None or self._occupied(sizes) + USUAL_BYTES > self._max_bytes:
                self._short_since = None
                return LOOK_SECONDS
            if self._short_since is None:
                self._short_since = now
            due = min(self._given_at + CALM_SECONDS, self._short_since + HURRY_SECONDS)
            if (wait := due - now) > 0:
                return wait
            self._short_since = None
        try:
            cli = self._starter.ahead(missing)
        except (OSError, ConfigurationError, NotReady) as error:
            logger.warning("spare_not_started profile=%s error=%s", missing.profile.id, error)
            _, pause = self._failed.get(missing, (0.0, RETRY_SECONDS / 2))
            pause = min(2 * pause, MAX_RETRY_SECONDS)
            self._failed[missing] = (self._clock() + pause, pause)
            return 0.0
        self._failed.pop(missing, None)
        with self._lock:
            cli.since = self._clock()
            self._spares.append(cli)
            self._count()
        return 0.0

    def _missing(self, now: float) -> Setup | None:
        have = [cli.setup for cli in self._spares]
        self._failed = {kind: failed for kind, failed in self._failed.items() if now < failed[0] + MAX_RETRY_SECONDS}
        for setup in self._wanted(now):
            if setup in have:
                have.remove(setup)
            elif now >= self._failed.get(setup, (now, 0.0))[0]:
                return setup
        return None

    def _count(self) -> None:
        WARM.labels("spare").set(len(self._spares))
        WARM.labels("kept").set(len(self._kept))


def _expected(profiles: Profiles) -> Iterable[tuple[Setup, float]]:
    """The kinds that may be asked for: each profile's plainest."""
    for profile in profiles.profiles:
        if can_wait(profile):
            is_task = profiles.is_task(profile.id)
            yield Setup(profile, lasting=not is_task), TASK_WEIGHT if is_task else 1.0


def can_wait(profile: Profile) -> bool:
    """Whether a CLI of this profile may be started before its run is known, or kept after it. Not where the run's own
    answer file is part of what it is told; nor in a directory of the profile's, which others change meanwhile: a CLI
    reads the state of a repository when it starts."""
    return profile.runner == "claude" and profile.answer_file is None and profile.directory is None
