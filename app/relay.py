"""The relay: one client's stream of one run — replay, follow, heartbeat.

The order that loses nothing: subscribe, wait for the confirmation, replay the log from the cursor, then
follow the feed. Whenever something may have been missed (a gap in the numbers, a repeated confirmation,
a heartbeat), the log is read again. A watcher holds a cursor and never a queue: a slow client costs
nothing and loses nothing.
"""

import logging
import random
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, ParamSpec, TypeVar, cast

import gevent
from gevent import Timeout
from gevent.event import Event as Signal

from app.client import Client
from app.dialects import Dialect
from app.drain import Drain
from app.hub import Entry, Feed, Hub
from app.metrics import GAPS_HEALED, HEARTBEATS, LOG_LAG, RESUMES, STREAMS_ENDED
from core import events
from core.clients import AWAY
from core.log import PAGE, EventLog
from core.queue import RunQueue
from core.run import Lane, Run, Status
from core.taking_turns import TakingTurns

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
PLACE_EVERY_SECONDS = 1.0
READ_AGAIN = -1
STEPS = 64
"""In so many steps a heartbeat's time is counted: watchers that are due in the same one wake together. Alone, each
would wake a process that sleeps, and find nothing of what it needs in the processor's caches."""
CHUNK_BYTES = 64 * 1024
"""About how much is written at a time: a client that is slow to take it has the replica hold so much, and no more."""
TAKING_TURNS = 0
ANSWER_SECONDS = 1.0
"""For so long a stream waits for an answer of Redis before it counts as away: heartbeats do not wait for more."""


P = ParamSpec("P")
R = TypeVar("R")


def ask(question: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What Redis answers. Raises one of `AWAY`, or gevent's `Timeout` when it takes too long.

    It is asked in a greenlet of its own, because a greenlet keeps its stack as large as it has ever been: redis-py
    calls deep, and a stream that has called it once would hold that for as long as it lasts (4 to 8 KB, measured).
    """
    asked = gevent.spawn(_answer, question, *args, **kwargs)
    try:
        answer = asked.get(timeout=ANSWER_SECONDS)
    finally:
        asked.kill(block=False)
    if isinstance(answer, Exception):
        raise answer
    return cast(R, answer)


def _answer(question: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Its errors are returned: gevent would print each that ends a greenlet."""
    try:
        return question(*args, **kwargs)
    except Exception as error:
        return error


class Relay:
    """Makes streams. One per process."""

    def __init__(
        self,
        hub: Hub,
        log: EventLog,
        queue: RunQueue,
        taking_turns: TakingTurns,
        heartbeat_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.log = log
        self.places = Places(queue, taking_turns, clock)
        self.heartbeat_seconds = heartbeat_seconds
        self.drain = Drain(clock)
        self.clock = clock
        self._hub = hub

    def stream(self, run: Run, dialect: Dialect, after: int = 0, client: Client | None = None) -> Iterator[bytes]:
        """The client's bytes, from behind seq `after` to the run's terminal event, or to the client's leaving.

        Never silent for longer than the heartbeat. Closing the iterator ends the watch.
        """
        client = client or Client()
        client.ended = "client_gone"  # so it stays when this is closed from outside
        if after:
            RESUMES.inc()
        try:
            if opening := dialect.opening(resumed=after > 0):
                yield opening
            feed = self._hub.enter(run.id)
            try:
                with client.calling(feed.wake):
                    client.ended = yield from Watch(self, run, feed, dialect, client, after).chunks()
            finally:
                self._hub.leave(feed)
        except Exception:
            client.ended = "error"
            raise
        finally:
            STREAMS_ENDED.labels(client.ended).inc()


class Watch:
    """One client's reading of one run: a cursor, and when the client last got a byte."""

    __slots__ = (
        "_away", "_client", "_confirmations", "_cursor", "_dialect", "_feed", "_lot", "_page", "_place", "_relay",
        "_replaying", "_run", "_written_at",
    )  # fmt: skip

    def __init__(self, relay: Relay, run: Run, feed: Feed, dialect: Dialect, client: Client, cursor: int) -> None:
        self._relay = relay
        self._run = run
        self._feed = feed
        self._dialect = dialect
        self._client = client
        self._cursor = cursor
        self._written_at = relay.clock()
        self._confirmations = 0  # how many of the feed's the log has been read for; READ_AGAIN: read it anyway
        self._away = False  # whether Redis was, when last asked
        self._replaying = True  # until the log has been read to its end once
        self._page = PAGE  # how many events the log is read for at a time: fewer where they are large
        self._place: int | None = None  # in the queue, as the client was told
        self._lot = random.random()  # noqa: S311

    def chunks(self) -> Generator[bytes, None, str]:
        """Returns how it ended, in one word."""
        while not self._client.gone:
            signal = self._feed.signal()
            replaying = self._replaying
            if entries := self._next():
                newest = entries[-1].event
                self._cursor = newest.seq
                self._client.events += len(entries)
                if not replaying:
                    LOG_LAG.observe(max(0.0, time.time() - newest.at))
                data = b"".join([entry.rendered(self._dialect) for entry in entries])
                ended, anything = isinstance(newest, events.Terminal), True
                del entries, newest  # a client that is slow to take the bytes holds these and nothing else
                yield from self._write(data)
                del data
                if ended:
                    return "completed"
            else:
                anything = False
            if self._relay.drain.is_over_for(self._dialect, self._lot):
                yield from self._write(self._dialect.farewell())
                return "drained"
            if self._relay.clock() >= self._heartbeat_at():
                if self._log_is_gone():
                    yield from self._write(self._dialect.lost())
                    return "lost"
                yield from self._write(self._dialect.heartbeat())
                HEARTBEATS.inc()
            elif not anything:
                yield from self._write(self._queued())
                self._wait(signal)
        return "client_gone"

    def _write(self, data: bytes) -> Iterator[bytes]:
        if data:
            yield data
            self._written_at = self._relay.clock()

    def _heartbeat_at(self) -> float:
        """When the client must have got something: at the end of the last step within the heartbeat's time."""
        step = self._relay.heartbeat_seconds / STEPS
        return (self._written_at + self._relay.heartbeat_seconds) // step * step

    def _next(self) -> list[Entry]:
        """What comes behind the cursor: from the feed when it is sure to have it, else from the log."""
        known = self._feed.after(self._cursor)
        if known is not None and self._feed.confirmations == self._confirmations:
            return fitting(known)
        confirmations = self._feed.confirmations  # of now: one that comes while the log is read counts
        entries = self._replay()
        if not self._replaying and len(entries) > len(known or ()):
            asked = self._confirmations == READ_AGAIN
            GAPS_HEALED.labels("hole" if known is None else "asked" if asked else "resubscribed").inc()
        fit = fitting(entries)
        more = len(entries) == self._page or len(fit) < len(entries)
        self._page = min(PAGE, 2 * len(fit)) if fit else PAGE
        if not self._away:
            self._replaying = more
        self._confirmations = READ_AGAIN if self._away or more else confirmations
        return fit

    def _replay(self) -> list[Entry]:
        try:
            entries = [Entry(data) for data in ask(self._relay.log.read, self._run.id, self._cursor, self._page)]
        except (*AWAY, Timeout) as error:
            logger.warning("relay_redis_away run_id=%s error=%s", self._run.id, type(error).__name__)
            entries, self._away = [], True
        else:
            self._away = False
        return entries

    def _log_is_gone(self) -> bool:
        """Whether Redis has lost the run, or the run has ended before what this client has read of it. Only Redis
        can say so: while it is away, nothing is lost yet. When it has not, and has more than the client, or does not
        answer, the log is read again."""
        confirmations, self._confirmations = self._confirmations, READ_AGAIN
        try:
            last, known = ask(self._relay.log.newest, self._run.id)
        except (*AWAY, Timeout):
            return False
        if isinstance(last, events.Terminal):
            return last.seq <= self._cursor
        if not self._away and (last.seq if last else 0) == self._cursor:
            self._confirmations = confirmations
        return not known

    @property
    def _waiting(self) -> bool:
        return self._cursor == 0 and self._run.status is Status.QUEUED

    def _queued(self) -> bytes:
        """The run's place in the queue, when it waits there and has moved."""
        place = self._relay.places.of(self._run.id) if self._waiting and not self._away else None
        if place is None or place == self._place:
            return b""
        self._place = place
        return self._dialect.taking_turns() if place == TAKING_TURNS else self._dialect.queued(place)

    def _wait(self, signal: Signal) -> None:
        """Until the feed moves, or something else is due."""
        pause = self._heartbeat_at() - self._relay.clock()
        if self._waiting:
            pause = min(pause, PLACE_EVERY_SECONDS)
        if self._away or not self._feed.live:
            pause = min(pause, RETRY_SECONDS)
        if not signal.wait(pause) and not self._feed.live:
            self._confirmations = READ_AGAIN  # the channel is down: poll the log until it is back


def fitting(entries: list[Entry]) -> list[Entry]:
    """The first of them, as many as are written at a time; at least one, if there is any."""
    size = 0
    for number, entry in enumerate(entries):
        size += len(entry.data)
        if size > CHUNK_BYTES and number:
            return entries[:number]
    return entries


class Places:
    """Each waiting run's place in its lane of the queue, asked for once per interval however many wait."""

    def __init__(self, queue: RunQueue, taking_turns: TakingTurns, clock: Callable[[], float]) -> None:
        self._queue = queue
        self._taking_turns = taking_turns
        self._clock = clock
        self._asked_at = float("-inf")
        self._places: dict[str, int] = {}

    def of(self, run_id: str) -> int | None:
        """1 for the next run to start, `TAKING_TURNS` for one whose workspace another run is working in; None when
        it is not in line, or Redis is away."""
        if self._clock() - self._asked_at >= PLACE_EVERY_SECONDS:
            self._asked_at = self._clock()
            try:
                lines = [ask(self._queue.waiting, lane) for lane in Lane]
                taking_turns = ask(self._taking_turns.all)
                places = {waiting: i for line in lines for i, waiting in enumerate(line, start=1)}
                self._places = {**places, **dict.fromkeys(taking_turns, TAKING_TURNS)}
            except (*AWAY, Timeout):
                self._places = {}
        return self._places.get(run_id)
