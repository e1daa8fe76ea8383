"""The runs in Redis: creating, finding and listing them. Their events and endings belong to `core.log`."""

import time
from collections.abc import Callable, Sequence
from typing import cast

import msgspec
from redis import Redis
from redis.client import Pipeline

from core import keys, logs
from core.errors import IdempotencyConflict, RunNotFound
from core.run import Lane, Place, Run, RunRequest, Status

_RECORD = ("record", "status", "started_at", "ended_at", "worker")


class _Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """What of a run never changes after its creation."""

    owner: str
    profile: str
    model: str
    created_at: float
    detach: bool = False
    lane: Lane = Lane.RUNS
    place: Place | None = None
    trace_id: str = ""


class RunStore:
    """Runs by id and by owner. Raises redis-py's errors when Redis is away."""

    def __init__(self, redis: "Redis", ttl_seconds: int, clock: Callable[[], float] = time.time) -> None:
        """`ttl_seconds`: how long an unfinished run may stay unnoticed, and a finished one readable."""
        self._redis = redis
        self._ttl_seconds = ttl_seconds
        self._clock = clock

    def create(self, run: Run, request: RunRequest) -> None:
        """Store a queued run. It is visible to its owner from here on."""
        with self._redis.pipeline() as pipe:
            self.create_with(pipe, run, request)
            pipe.execute()

    def create_with(self, pipe: "Pipeline", run: Run, request: RunRequest, fingerprint: str = "") -> None:
        """The same, together with what else is in `pipe`; `fingerprint` tells `made_before` of what it was made."""
        record = _Record(
            run.owner, run.profile, run.model, run.created_at, run.detach, run.lane, run.place, run.trace_id
        )
        logs.remember_trace(run.id, run.trace_id)
        mapping = {
            "record": msgspec.json.encode(record),
            "request": msgspec.json.encode(request),
            "status": run.status.value,
            "fingerprint": fingerprint,
        }
        index = keys.owner_runs(run.owner)
        pipe.hset(keys.run(run.id), mapping=mapping)  # type: ignore[arg-type]
        pipe.expire(keys.run(run.id), self._ttl_seconds)
        pipe.zadd(index, {run.id: run.created_at})
        pipe.sadd(keys.owner_waiting(run.owner, run.lane), run.id)
        pipe.expire(keys.owner_waiting(run.owner, run.lane), self._ttl_seconds)
        pipe.zremrangebyscore(index, "-inf", self._clock() - self._ttl_seconds)
        pipe.expire(index, self._ttl_seconds)

    def waiting_with(self, pipe: "Pipeline", owner: str, lane: Lane) -> None:
        """How many of an owner's runs are queued in this lane, or were not long ago: an answer of `pipe`."""
        pipe.scard(keys.owner_waiting(owner, lane))

    def waiting(self, owner: str, lane: Lane) -> int:
        """How many of an owner's runs are queued in this lane, to the run."""
        index = keys.owner_waiting(owner, lane)
        ids = [member.decode() for member in cast("set[bytes]", self._redis.smembers(index))]
        statuses = self._statuses(ids)
        started = [run_id for run_id, status in statuses.items() if status is not Status.QUEUED]
        if started:
            self._redis.srem(index, *started)
        return len(ids) - len(started)

    def _statuses(self, run_ids: Sequence[str]) -> dict[str, Status | None]:
        with self._redis.pipeline(transaction=False) as pipe:
            for run_id in run_ids:
                pipe.hget(keys.run(run_id), "status")
            found = cast("list[bytes | None]", pipe.execute())
        return {
            run_id: Status(status.decode()) if status else None for run_id, status in zip(run_ids, found, strict=True)
        }

    def created(self, run_ids: Sequence[str]) -> dict[str, float]:
        """When each of these runs was created; those that Redis does not know are left out."""
        with self._redis.pipeline(transaction=False) as pipe:
            for run_id in run_ids:
                pipe.hget(keys.run(run_id), "record")
            rows = cast("list[bytes | None]", pipe.execute())
        return {
            run_id: msgspec.json.decode(row, type=_Record).created_at
            for run_id, row in zip(run_ids, rows, strict=True)
            if row is not None
        }

    def put_back_once(self, run_id: str) -> bool:
        """Whether this is the first time that the run is put back in line."""
        return self._redis.hincrby(keys.run(run_id), "put_back", 1) == 1

    def made_before(self, run: Run, fingerprint: str) -> Run | None:
        """The run that has this one's id already, because it was made with the same `Idempotency-Key`.

        Raises `IdempotencyConflict` when it was made of another request.
        """
        known = cast("bytes | None", self._redis.hget(keys.run(run.id), "fingerprint"))
        if known is None:
            return None
        if known.decode() != fingerprint:
            raise IdempotencyConflict(param="Idempotency-Key")
        return self.get(run.id, run.owner)

    def get(self, run_id: str, owner: str | None = None) -> Run:
        """The run; with `owner`, only if it is theirs. Raises `RunNotFound`."""
        run = self._parse(run_id, cast("list[bytes | None]", self._redis.hmget(keys.run(run_id), _RECORD)))
        if run is None or (owner is not None and run.owner != owner):
            raise RunNotFound
        return run

    def request(self, run_id: str) -> RunRequest:
        """What the run was asked. Raises `RunNotFound`."""
        data = cast("bytes | None", self._redis.hget(keys.run(run_id), "request"))
        if data is None:
            raise RunNotFound
        return msgspec.json.decode(data, type=RunRequest)

    def asked_with(self, pipe: "Pipeline", run_id: str) -> None:
        """The run and what it was asked: an answer of `pipe`, which `asked` reads."""
        pipe.hmget(keys.run(run_id), (*_RECORD, "request"))

    def asked(self, run_id: str, answer: "list[bytes | None]") -> tuple[Run, RunRequest]:
        """What `asked_with` was answered. Raises `RunNotFound`."""
        *row, request = answer
        run = self._parse(run_id, row)
        if run is None or request is None:
            raise RunNotFound
        return run, msgspec.json.decode(request, type=RunRequest)

    def of(self, owner: str, limit: int, before: float | None = None) -> list[Run]:
        """An owner's newest runs, newest first; `before` (Unix seconds) pages back in time."""
        top = "+inf" if before is None else f"({before!r}"
        ids = cast("list[bytes]", self._redis.zrevrangebyscore(keys.owner_runs(owner), top, "-inf", start=0, num=limit))
        return self.known([run_id.decode() for run_id in ids])

    def known(self, run_ids: Sequence[str]) -> list[Run]:
        """These runs, in this order; those that Redis does not know are left out."""
        with self._redis.pipeline(transaction=False) as pipe:
            for run_id in run_ids:
                pipe.hmget(keys.run(run_id), _RECORD)
            rows = pipe.execute()
        found = (self._parse(run_id, row) for run_id, row in zip(run_ids, rows, strict=True))
        return [run for run in found if run is not None]

    @staticmethod
    def _parse(run_id: str, row: "list[bytes | None]") -> Run | None:
        data, status, started_at, ended_at, worker = row
        if data is None or status is None:
            return None
        record = msgspec.json.decode(data, type=_Record)
        logs.remember_trace(run_id, record.trace_id)
        return Run(
            id=run_id,
            owner=record.owner,
            profile=record.profile,
            model=record.model,
            created_at=record.created_at,
            detach=record.detach,
            place=record.place,
            lane=record.lane,
            trace_id=record.trace_id,
            status=Status(status.decode()),
            started_at=float(started_at) if started_at else None,
            ended_at=float(ended_at) if ended_at else None,
            worker=worker.decode() if worker else None,
        )
