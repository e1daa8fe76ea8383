"""The workers' slots, as RQ keeps them: which there are, and which run each performs."""

import re
from collections.abc import Sequence
from typing import cast

import msgspec
from redis import Redis
from rq import Worker
from rq.worker_registration import REDIS_WORKER_KEYS

_FIELDS = ("queues", "state", "current_job", "birth")
_NAME = re.compile(r"(?P<worker>.+)\.(?P<slot>(?:slot|task)\d+)(?:\.\d+)?")


class SlotState(msgspec.Struct, frozen=True, kw_only=True):
    """One slot. `run` is the run that it performs, or None; `lane` the line that it takes runs from."""

    name: str
    worker: str
    lane: str
    run: str | None


class SlotBook:
    """All slots that have given RQ a sign of life lately. Raises redis-py's errors when Redis is away."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    def all(self) -> list[SlotState]:
        """By worker and number. In two round trips, however many there are: RQ's own way takes several for each."""
        names = sorted(cast("set[bytes]", self._redis.smembers(REDIS_WORKER_KEYS)))
        with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hmget(name, *_FIELDS)
            rows = cast("list[list[bytes | None]]", pipe.execute())
        found = (_parse(name.decode(), row) for name, row in zip(names, rows, strict=True))
        return sorted((slot for slot in found if slot is not None), key=lambda slot: (slot.worker, _natural(slot.name)))


def _parse(key: str, row: Sequence[bytes | None]) -> SlotState | None:
    """None for one that has expired, and for what is no slot of ours."""
    queues, state, job, birth = (value.decode() if value else "" for value in row)
    named = _NAME.fullmatch(key.removeprefix(Worker.redis_worker_namespace_prefix))
    if not birth or named is None:
        return None
    run = job if state == "busy" and job else None
    return SlotState(name=named["slot"], worker=named["worker"], lane=queues, run=run)


def _natural(name: str) -> tuple[str, int]:
    """`slot2` comes before `slot10`."""
    return name.rstrip("0123456789"), int(re.sub(r"\D", "", name))
