"""What each owner's runs consumed, per day and profile.

A run is counted by whoever wrote its terminal event, right behind it and not together with it: a run's keys and a
day's may be on different nodes of a Redis Cluster, which forbids one script for both. So a process that dies just in
between leaves a run uncounted. None is ever counted twice, however often it is tried.
"""

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Any, cast

import msgspec
from redis import Redis
from redis.exceptions import RedisError

from core import keys, metrics
from core.errors import RunNotFound
from core.events import Terminal, Usage
from core.log import status_of
from core.run import Status
from core.runs import RunStore

logger = logging.getLogger(__name__)

RETRY_SECONDS = 2 * 86400
"""For so long it is known which runs were counted; later nobody tries again."""

_COUNT = """
if redis.call('SADD', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('EXPIRE', KEYS[2], ARGV[3])
for i = 4, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What some runs consumed together. The cost is in billionths of a US dollar, which add up exactly."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost_nanousd: int = 0

    @classmethod
    def of_run(cls, status: Status, usage: Usage) -> "Totals":
        return cls(
            completed=int(status is Status.COMPLETED),
            failed=int(status is Status.FAILED),
            cancelled=int(status is Status.CANCELLED),
            input_tokens=usage.input_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            output_tokens=usage.output_tokens,
            cost_nanousd=round(usage.cost_usd * 1e9),
        )

    @classmethod
    def sum(cls, totals: Iterable["Totals"]) -> "Totals":
        together = list(totals)
        return cls(**{name: sum(getattr(one, name) for one in together) for name in cls.__struct_fields__})

    @property
    def runs(self) -> int:
        return self.completed + self.failed + self.cancelled


class UsageBook:
    """All owners' usage."""

    def __init__(self, redis: "Redis", store: RunStore, ttl_seconds: int) -> None:
        """`ttl_seconds`: how long a day is kept after its last run."""
        self._redis = redis
        self._store = store
        self._ttl_seconds = ttl_seconds
        self._script = redis.register_script(_COUNT)

    def count(self, terminal: Terminal) -> None:
        """Count the run that has ended with this event, unless it is counted already, here and in the metrics. Its end
        must not fail for that: when Redis is away, or has forgotten the run, it stays uncounted."""
        try:
            run = self._store.get(terminal.run_id)
            day = datetime.fromtimestamp(terminal.at, UTC).date()
            status = status_of(terminal)
            if self._add(run.owner, day, run.profile, run.id, Totals.of_run(status, terminal.usage)):
                metrics.run_ended(run, status, terminal)
        except (RedisError, RunNotFound) as error:
            logger.warning("usage_not_counted run_id=%s error=%s", terminal.run_id, type(error).__name__)

    def of(self, owner: str, days: Sequence[date]) -> dict[date, dict[str, Totals]]:
        """For each of these days on which something has ended, the totals of each profile. Raises redis-py's
        errors when Redis is away."""
        with self._redis.pipeline(transaction=False) as pipe:
            for day in days:
                pipe.hgetall(keys.usage(owner, day.isoformat()))
            rows = cast("list[dict[bytes, bytes]]", pipe.execute())
        return {day: _by_profile(row) for day, row in zip(days, rows, strict=True) if row}

    def _add(self, owner: str, day: date, profile: str, run_id: str, totals: Totals) -> bool:
        """Whether the run was not counted before."""
        fields: list[Any] = []
        for name, number in msgspec.structs.asdict(totals).items():
            if number:
                fields += [f"{profile} {name}", number]
        counted = self._script(
            keys=[keys.usage(owner, day.isoformat()), keys.usage_counted(owner, day.isoformat())],
            args=[run_id, self._ttl_seconds, RETRY_SECONDS, *fields],
        )
        return bool(counted)


def _by_profile(row: dict[bytes, bytes]) -> dict[str, Totals]:
    """A profile's id has no blank in it. Numbers that this version does not know are left out."""
    found: dict[str, dict[str, int]] = {}
    for field, number in row.items():
        profile, _, name = field.decode().partition(" ")
        found.setdefault(profile, {})[name] = int(number)
    return {profile: msgspec.convert(numbers, Totals) for profile, numbers in sorted(found.items())}
