"""The log: a run's ordered events in Redis, and the only way to write them.

Every write is one script, so one atomic round trip: it checks that the writer is still entitled and
has missed nothing, appends, publishes, and moves the run's status. A retried write is recognised by
its ids and changes nothing; a writer that lost its run is refused.
"""

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from redis import Redis
from redis.exceptions import NoScriptError

from core import events, keys
from core.errors import AppendRefused, LogLost, LogShort
from core.events import Answer, Event
from core.metrics import EVENTS_APPENDED
from core.run import TERMINAL, Status, may_become

logger = logging.getLogger(__name__)

TAIL_BYTES = 4 * 1024 * 1024
"""How much of a run its writer keeps, to give it again to a Redis that restarts without its last second."""

PAGE = 64
"""Events per read. With `MAX_TEXT_CHARACTERS` it bounds what one replay holds in memory."""

# A log is never trimmed, so its length is its last seq: O(1), and it tells a retry (seq <= length)
# from a hole (seq > length + 1) without reading an entry. The answer is the length, or why not and the length.
_APPEND = """
local log, run = KEYS[1], KEYS[2]
local channel, first, from, to, ttl = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local writer, n_fields = ARGV[6], tonumber(ARGV[7])
local payloads = 8 + n_fields
local length = redis.call('XLEN', log)
local fresh = 0
for i = payloads, #ARGV do
  local seq = first + i - payloads
  if seq <= length then
    local there = redis.call('XRANGE', log, seq .. '-0', seq .. '-0')
    if not there[1] or there[1][2][2] ~= ARGV[i] then return {'taken', length} end
  else
    fresh = fresh + 1
  end
end
if fresh == 0 then return length end
local status = redis.call('HGET', run, 'status')
if not status then return {'lost', length} end
if first > length + 1 then return {'hole', length} end
if writer ~= '' and redis.call('HGET', run, 'writer') ~= writer then return {'refused', length} end
if not string.find(from, ' ' .. status .. ' ', 1, true) then return {'refused', length} end
for i = payloads, #ARGV do
  local seq = first + i - payloads
  if seq > length then
    redis.call('XADD', log, seq .. '-0', 'e', ARGV[i])
    redis.call('PUBLISH', channel, ARGV[i])
  end
end
if to ~= status then redis.call('HSET', run, 'status', to) end
if n_fields > 0 then redis.call('HSET', run, unpack(ARGV, 8, 7 + n_fields)) end
if first == 1 then redis.call('EXPIRE', log, math.max(redis.call('TTL', run), 1)) end
if ttl > 0 then
  redis.call('EXPIRE', log, ttl)
  redis.call('EXPIRE', run, ttl)
end
return length + fresh
"""


class EventLog:
    """Reads and appends the events of any run. Raises redis-py's errors when Redis is away."""

    def __init__(
        self, redis: "Redis", ttl_seconds: int, on_end: Callable[[events.Terminal], None] = lambda _: None
    ) -> None:
        """`on_end` is told the terminal event of each run that is ended through this log, again when it is
        appended again. It must not raise."""
        self._redis = redis
        self._ttl_seconds = ttl_seconds
        self._on_end = on_end
        self._script = redis.register_script(_APPEND)

    def read(self, run_id: str, after: int = 0, count: int = PAGE) -> list[bytes]:
        """The encoded events behind seq `after`, oldest first, at most `count`."""
        entries = self._redis.xrange(keys.log(run_id), min=f"({after}-0", max="+", count=count)
        return [fields[b"e"] for _, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", entries)]

    def read_all(self, run_id: str, after: int = 0) -> Iterable[events.AnyEvent | events.Unrecognised]:
        """Every event behind `after`, decoded, page by page."""
        while page := self.read(run_id, after):
            for data in page:
                event = events.decode(data)
                after = event.seq
                yield event

    def last(self, run_id: str) -> events.AnyEvent | events.Unrecognised | None:
        """The newest event, or None while there is none."""
        entries = self._redis.xrevrange(keys.log(run_id), count=1)
        newest = cast("list[tuple[bytes, dict[bytes, bytes]]]", entries)
        return events.decode(newest[0][1][b"e"]) if newest else None

    def newest(self, run_id: str) -> tuple[events.AnyEvent | events.Unrecognised | None, bool]:
        """The same, and whether Redis still knows the run, in one round trip."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.xrevrange(keys.log(run_id), count=1)
            pipe.exists(keys.run(run_id))
            newest, known = pipe.execute()
        return (events.decode(newest[0][1][b"e"]) if newest else None), bool(known)

    def length(self, run_id: str) -> int:
        """How many events there are, which is also the last one's seq."""
        return self._redis.xlen(keys.log(run_id))

    def append(
        self,
        run_id: str,
        first_seq: int,
        payloads: Sequence[bytes],
        *,
        status: Status = Status.RUNNING,
        fields: dict[str, str] | None = None,
        origins: Sequence[Status] | None = None,
        writer: str = "",
    ) -> None:
        """Append encoded events with the seqs `first_seq`, `first_seq + 1` …, and move the run to `status`.

        All or nothing, and idempotent: the same call again changes nothing. `origins` narrows the statuses
        that the run may come from; `writer` is who the run's record must name. Raises `AppendRefused` when it
        is otherwise, or when another writer took one of the seqs; `LogShort` when events before `first_seq` are
        missing; `LogLost` when the run is.
        """
        if origins is None:
            origins = [Status.RUNNING] if status is Status.RUNNING and first_seq > 1 else may_become(status)
        flat = [part for pair in (fields or {}).items() for part in pair]
        ttl = self._ttl_seconds if status in TERMINAL else 0
        answer = self._call(
            [keys.log(run_id), keys.run(run_id)],
            [
                keys.channel(run_id),
                first_seq,
                f" {' '.join(origins)} ",
                status,
                ttl,
                writer,
                len(flat),
                *flat,
                *payloads,
            ],
        )
        if not isinstance(answer, int):
            self._refuse(run_id, first_seq, *answer)
        if status in TERMINAL and isinstance(terminal := events.decode(payloads[-1]), events.Terminal):
            self._on_end(terminal)

    def _call(self, names: list[str], arguments: list[str | int | bytes]) -> Any:
        """What the script answers. Through redis-py's own object for it only when the server does not know it: that
        takes a tenth longer."""
        try:
            return self._redis.execute_command("EVALSHA", self._script.sha, len(names), *names, *arguments)
        except NoScriptError:
            return self._script(keys=names, args=arguments)

    @staticmethod
    def _refuse(run_id: str, first_seq: int, code: bytes, length: int) -> NoReturn:
        if code in (b"refused", b"taken"):
            raise AppendRefused(f"run {run_id}: event {first_seq} refused at length {length} ({code.decode()})")
        if code == b"lost":
            raise LogLost(f"run {run_id}: Redis does not know it")
        raise LogShort(f"run {run_id}: event {first_seq} has no place in a log of length {length}", length)


@dataclass(frozen=True)
class _Batch:
    """One append as it was made, so that it can be made again."""

    first_seq: int
    payloads: tuple[bytes, ...]
    status: Status
    fields: dict[str, str]

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.payloads) - 1


class Writer:
    """One run's only writer: it owns `seq`, and its name is in the run's record. One thread appends, others may
    `confirm`.

    It keeps the last appends: a Redis that restarts without its last second gets them again, with the same ids.
    """

    def __init__(self, log: EventLog, run_id: str, clock: Callable[[], float] = time.time) -> None:
        self.run_id = run_id
        self.seq = 0
        self.answer = Answer()
        self._name = uuid.uuid4().hex
        self._log = log
        self._clock = clock
        self._tail: deque[_Batch] = deque()
        self._tail_bytes = 0
        self._appending = threading.Lock()

    def start(self, worker: str) -> None:
        """Take the run: queued becomes running. Raises `AppendRefused` when somebody was faster."""
        now = self._clock()
        fields = {"worker": worker, "writer": self._name, "started_at": repr(now)}
        self._append([events.Started(worker=worker)], now, Status.RUNNING, fields)

    def append(self, new: Iterable[Event]) -> None:
        """Append events in one round trip, neighbouring text joined; nothing happens for none."""
        if batch := events.compact(new):
            self._append(batch, self._clock(), Status.RUNNING, {})
            for event in batch:
                self.answer.add(event)

    def finish(self, terminal: events.Terminal) -> None:
        """Write the run's last event and its final status, as one."""
        now = self._clock()
        self._append([terminal], now, status_of(terminal), {"ended_at": repr(now)})

    def confirm(self) -> None:
        """Make sure that all that was appended is there; what Redis has lost meanwhile is appended again.

        Does nothing while an append is under way: that one will notice. Raises `AppendRefused` or `LogLost` when
        it is not possible.
        """
        if not self._appending.acquire(blocking=False):
            return
        try:
            length = self._log.length(self.run_id)
            if length < self.seq:
                self._restore(length)
        finally:
            self._appending.release()

    def _append(self, batch: Sequence[Event], now: float, status: Status, fields: dict[str, str]) -> None:
        first = self.seq + 1
        payloads = tuple(
            events.encode(events.stamp(event, self.run_id, first + i, now)) for i, event in enumerate(batch)
        )
        made = _Batch(first, payloads, status, fields)
        with self._appending:
            try:
                self._send(made)
            except LogShort as short:
                self._restore(short.length)
                self._send(made)
            self.seq = made.last_seq
            self._remember(made)
        EVENTS_APPENDED.inc(len(payloads))

    def _send(self, batch: _Batch) -> None:
        self._log.append(
            self.run_id,
            batch.first_seq,
            batch.payloads,
            status=batch.status,
            fields=batch.fields or None,
            writer=self._name if batch.first_seq > 1 else "",
        )

    def _remember(self, batch: _Batch) -> None:
        self._tail.append(batch)
        self._tail_bytes += sum(map(len, batch.payloads))
        while self._tail_bytes > TAIL_BYTES and len(self._tail) > 1:
            self._tail_bytes -= sum(map(len, self._tail.popleft().payloads))

    def _restore(self, length: int) -> None:
        """Append again what comes behind `length`. Raises `LogLost` when the tail does not reach back so far."""
        missing = [batch for batch in self._tail if batch.last_seq > length]
        if not missing or missing[0].first_seq > length + 1:
            raise LogLost(f"run {self.run_id}: Redis has lost more than its writer remembers")
        logger.warning("log_restored run_id=%s from=%d to=%d", self.run_id, length, self.seq)
        for batch in missing:
            self._send(batch)


def status_of(terminal: events.Terminal) -> Status:
    """The run status that a terminal event stands for."""
    match terminal:
        case events.Completed():
            return Status.COMPLETED
        case events.Failed():
            return Status.FAILED
        case events.Cancelled():
            return Status.CANCELLED


def finish_from_outside(
    log: EventLog,
    run_id: str,
    terminal: events.Terminal,
    origins: Sequence[Status] | None = None,
    clock: Callable[[], float] = time.time,
) -> bool:
    """End a run without being its writer: takes the next seq, whatever it is, and thereby fences the writer.

    Returns whether this call ended it: False when it had already ended, or was in none of `origins`.
    Raises `LogLost` for a run that Redis does not know.
    """
    while True:
        seq, now = log.length(run_id) + 1, clock()
        payload = events.encode(events.stamp(terminal, run_id, seq, now))
        try:
            log.append(
                run_id, seq, [payload], status=status_of(terminal), fields={"ended_at": repr(now)}, origins=origins
            )
            EVENTS_APPENDED.inc()
            return True
        except LogShort:
            continue
        except AppendRefused:
            if log.length(run_id) < seq or isinstance(log.last(run_id), events.Terminal):
                return False  # not refused for a seq that somebody else took, but for the run's status
