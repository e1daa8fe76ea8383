"""Which workers are alive: each signs a list in Redis every few seconds."""

from typing import cast

from redis import Redis

from core import keys

DEAD_AFTER_SECONDS = 10

# The server's clock, so that hosts with different clocks agree.
_SIGN = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. (now - tonumber(ARGV[2])))
"""
# Adding nothing is a write, all the same: a Redis that is full, or read-only, refuses it.
_COUNT = """
redis.call('ZADD', KEYS[1], 'XX', 0, '')
local now = tonumber(redis.call('TIME')[1])
return redis.call('ZCOUNT', KEYS[1], now - tonumber(ARGV[1]), '+inf')
"""


class Liveness:
    """The list of live workers. Raises redis-py's errors when Redis is away."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._sign = redis.register_script(_SIGN)
        self._count = redis.register_script(_COUNT)

    def sign(self, worker: str) -> None:
        """Say that `worker` is alive now."""
        self._sign(keys=[keys.workers()], args=[worker, DEAD_AFTER_SECONDS])

    def leave(self, worker: str) -> None:
        """Say that `worker` takes no more jobs."""
        self._redis.zrem(keys.workers(), worker)

    def count(self) -> int:
        """How many workers have signed within `DEAD_AFTER_SECONDS`. Raises also when Redis takes no writes: no
        worker could sign, and none can work."""
        return cast(int, self._count(keys=[keys.workers()], args=[DEAD_AFTER_SECONDS]))

    def names(self) -> list[str]:
        """Those workers, by name: their host's, then their own (see `worker.slots`)."""
        now = self._redis.time()[0]
        found = cast("list[bytes]", self._redis.zrangebyscore(keys.workers(), now - DEAD_AFTER_SECONDS, "+inf"))
        return [name.decode() for name in found]
