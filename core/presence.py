"""Presence: which replicas serve a watcher of a run that should end with its last watcher."""

from collections.abc import Iterable
from typing import cast

from redis import Redis
from redis.client import Pipeline

from core import keys

PRESENT_SECONDS = 12
"""How long a replica's word counts: that long after a replica was killed, its clients count as gone."""

RENEW_EVERY_SECONDS = 4

_ENTER = """
redis.call('ZADD', KEYS[1], redis.call('TIME')[1] + ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[1] * 2)
"""
_COUNT = """
if ARGV[1] ~= '' then redis.call('ZREM', KEYS[1], ARGV[1]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. redis.call('TIME')[1])
return redis.call('ZCARD', KEYS[1])
"""


class Presence:
    """Counts replicas, not clients. Raises redis-py's errors when Redis is away."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._enter = redis.register_script(_ENTER)
        self._count = redis.register_script(_COUNT)

    def enter(self, run_ids: Iterable[str], replica: str) -> None:
        """Say (again) that `replica` has watchers of these runs."""
        with self._redis.pipeline(transaction=False) as pipe:
            for run_id in run_ids:
                self._enter(keys=[keys.watchers(run_id)], args=[PRESENT_SECONDS, replica], client=pipe)
            pipe.execute()

    def enter_with(self, pipe: "Pipeline", run_id: str, replica: str) -> None:
        """The same, for one run, together with what else is in `pipe`."""
        pipe.eval(_ENTER, 1, keys.watchers(run_id), PRESENT_SECONDS, replica)

    def leave(self, run_id: str, replica: str) -> int:
        """Say that `replica` has none any more; returns how many other replicas have."""
        return cast(int, self._count(keys=[keys.watchers(run_id)], args=[replica]))

    def count(self, run_ids: Iterable[str]) -> list[int]:
        """For each run, how many replicas have watchers."""
        with self._redis.pipeline(transaction=False) as pipe:
            for run_id in run_ids:
                self._count(keys=[keys.watchers(run_id)], args=[""], client=pipe)
            return cast("list[int]", pipe.execute())

    def count_with(self, pipe: "Pipeline", run_id: str) -> None:
        """The same, for one run: an answer of `pipe`."""
        pipe.eval(_COUNT, 1, keys.watchers(run_id), "")
