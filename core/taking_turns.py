"""Runs in line that wait for another one in their workspace, so that their clients can be told."""

from typing import cast

from redis import Redis
from redis.client import Pipeline

from core import keys

TTL_SECONDS = 3600


class TakingTurns:
    """The set of such runs. Raises redis-py's errors when Redis is away."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    def add(self, run_id: str) -> None:
        with self._redis.pipeline() as pipe:
            pipe.sadd(keys.taking_turns(), run_id)
            pipe.expire(keys.taking_turns(), TTL_SECONDS)
            pipe.execute()

    def remove_with(self, pipe: "Pipeline", run_id: str) -> None:
        """It waits no longer, once `pipe` is executed."""
        pipe.srem(keys.taking_turns(), run_id)

    def all(self) -> set[str]:
        members = cast("set[bytes]", self._redis.smembers(keys.taking_turns()))
        return {member.decode() for member in members}
