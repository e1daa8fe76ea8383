"""Leases: who has a run, the line or a worker, must say every few seconds that it still does.

A lease that ends says that its worker is gone, or cannot reach Redis, which for the run is the same; or that the
run got lost between the line and a worker.
"""

from collections.abc import Sequence
from typing import cast

from redis import Redis
from redis.client import Pipeline

from core import keys

LEASE_SECONDS = 8
RENEW_EVERY_SECONDS = 2

# All by the server's clock, so that hosts with different clocks agree.
_TAKE = """
redis.call('ZADD', KEYS[1], redis.call('TIME')[1] + ARGV[1], ARGV[2])
"""
# Adding nothing is a write, all the same: a Redis that is full refuses it, whether there is a lease to renew or not.
_RENEW = """
redis.call('ZADD', KEYS[1], 'XX', 0, '')
local till = redis.call('TIME')[1] + ARGV[1]
local orders = {}
for i = 2, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    redis.call('ZADD', KEYS[1], till, ARGV[i])
    orders[i - 1] = redis.call('HGET', KEYS[2], ARGV[i]) or ''
  else
    orders[i - 1] = false
  end
end
return orders
"""
_TAKE_EXPIRED = """
local now = redis.call('TIME')[1]
local expired = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. now)
for _, run_id in ipairs(expired) do redis.call('ZADD', KEYS[1], now + ARGV[1], run_id) end
return expired
"""


class Leases:
    """All leases. Raises redis-py's errors when Redis is away."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._take = redis.register_script(_TAKE)
        self._renew = redis.register_script(_RENEW)
        self._take_expired = redis.register_script(_TAKE_EXPIRED)

    def take(self, run_id: str, pipe: "Pipeline | None" = None) -> None:
        """From now on somebody answers for this run; with `pipe`, when that is executed."""
        if pipe is None:
            self._take(keys=[keys.leases()], args=[LEASE_SECONDS, run_id])
        else:  # as text: for a registered script, redis-py asks first whether the server has it
            pipe.eval(_TAKE, 1, keys.leases(), LEASE_SECONDS, run_id)

    def renew(self, run_ids: Sequence[str]) -> dict[str, str | None]:
        """Go on answering for these; tells for each why it should stop, '' to go on, None when it was lost.

        Raises when Redis takes no writes, for none as well: then nobody can renew anything.
        """
        orders = self._renew(keys=[keys.leases(), keys.stops()], args=[LEASE_SECONDS, *run_ids])
        found = cast("list[bytes | None]", orders)
        return {run_id: None if order is None else order.decode() for run_id, order in zip(run_ids, found, strict=True)}

    def release(self, run_id: str) -> None:
        """The run has ended: nobody need answer for it, nor stop it."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.zrem(keys.leases(), run_id)
            pipe.hdel(keys.stops(), run_id)
            pipe.execute()

    def end(self, run_id: str) -> None:
        """The run's worker is known to be dead: do not wait for the lease to end by itself."""
        self._redis.zadd(keys.leases(), {run_id: 0}, xx=True)

    def request_stop(self, run_id: str, reason: str) -> None:
        """Have the run's worker stop it, at its next renewal at the latest."""
        self._redis.hset(keys.stops(), run_id, reason)

    def stop_reason(self, run_id: str) -> str | None:
        """Why somebody has requested that the run stop, or None when nobody has."""
        reason = cast("bytes | None", self._redis.hget(keys.stops(), run_id))
        return None if reason is None else reason.decode()

    def all(self) -> list[str]:
        """The runs that somebody answers for: all that have not ended."""
        return [run_id.decode() for run_id in cast("list[bytes]", self._redis.zrange(keys.leases(), 0, -1))]

    def take_expired(self) -> list[str]:
        """Take the runs whose lease has ended: of many who ask, one gets each of them, and now answers for it."""
        found = cast("list[bytes]", self._take_expired(keys=[keys.leases()], args=[LEASE_SECONDS]))
        return [run_id.decode() for run_id in found]
