"""Which replicas are alive, and what they say about themselves: each signs a list in Redis every few seconds."""

from typing import cast

import msgspec
from redis import Redis

from core import keys

SIGN_EVERY_SECONDS = 2
DEAD_AFTER_SECONDS = 10

# The server's clock, so that hosts with different clocks agree.
_SIGN = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. (now - tonumber(ARGV[3])))) do
  redis.call('ZREM', KEYS[1], dead)
  redis.call('HDEL', KEYS[2], dead)
end
redis.call('EXPIRE', KEYS[1], ARGV[3] * 2)
redis.call('EXPIRE', KEYS[2], ARGV[3] * 2)
"""
_ALIVE = """
local now = tonumber(redis.call('TIME')[1])
local found = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now - tonumber(ARGV[1]), '+inf')) do
  found[#found + 1] = redis.call('HGET', KEYS[2], name) or nil
end
return found
"""


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """A replica as it describes itself; `address` is what it listens on, `since` Unix time in seconds."""

    name: str
    host: str
    address: str
    since: float
    watchers: int = 0
    draining: bool = False


class Replicas:
    """The list of live replicas. Raises redis-py's errors when Redis is away."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._sign = redis.register_script(_SIGN)
        self._alive = redis.register_script(_ALIVE)

    def sign(self, replica: Replica) -> None:
        """Say that this replica is alive now."""
        self._sign(
            keys=[keys.replicas(), keys.replicas_said()],
            args=[replica.name, msgspec.json.encode(replica), DEAD_AFTER_SECONDS],
        )

    def leave(self, name: str) -> None:
        """Say that this replica serves nobody any more."""
        with self._redis.pipeline() as pipe:
            pipe.zrem(keys.replicas(), name)
            pipe.hdel(keys.replicas_said(), name)
            pipe.execute()

    def alive(self) -> list[Replica]:
        """Those that have signed within `DEAD_AFTER_SECONDS`, by address."""
        found = cast(
            "list[bytes]", self._alive(keys=[keys.replicas(), keys.replicas_said()], args=[DEAD_AFTER_SECONDS])
        )
        return sorted((msgspec.json.decode(said, type=Replica) for said in found), key=lambda one: one.address)
