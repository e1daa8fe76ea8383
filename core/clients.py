"""How Heartline connects to Redis: one place for timeouts, retries and pool sizes."""

import socket
import struct
from collections.abc import Callable
from typing import Any

from redis import BlockingConnectionPool, Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ClusterDownError, NoScriptError, OutOfMemoryError, ReadOnlyError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from core.metrics import REDIS_RETRIES

_RETRIED = (RedisConnectionError, RedisTimeoutError, ReadOnlyError, OutOfMemoryError, ClusterDownError)

AWAY = (*_RETRIED, NoScriptError)
"""What redis-py raises when the server cannot be reached or cannot take a write, which passes: it loads its
data (a ConnectionError), is full, has just become a replica in a failover, or has restarted while a pipeline with
a script was on its way (a script alone is loaded again by redis-py)."""


class CountedBackoff(ExponentialBackoff):
    """Asked for a pause by redis-py whenever an attempt has failed and another one follows."""

    def compute(self, failures: int) -> float:
        REDIS_RETRIES.inc()
        return super().compute(failures)


def connect(
    url: str,
    *,
    retries: int = 3,
    connections: int = 32,
    timeout_seconds: float = 5.0,
    wait_seconds: float = 30.0,
    kernel_waits: bool = False,
    on_connect: Callable[[], None] | None = None,
) -> "Redis":
    """A client with a pool that waits (`wait_seconds`) when it is exhausted instead of failing (redis-py's
    default pool raises at 100). Commands are retried with back-off: all of ours are idempotent.

    What a burst has opened stays open: `connections` is what a process may come to hold. With `kernel_waits` the
    kernel keeps the time limit: where Python does, it asks whether it may read before it reads, each time. Not
    for gevent, whose sockets never wait. `on_connect` is called, in whatever thread it is, for each connection that is
    made, again and again: behind it may be another server.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=wait_seconds,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        health_check_interval=30,
        redis_connect_func=_greeting(timeout_seconds if kernel_waits else None, on_connect),
        retry=Retry(CountedBackoff(cap=1.0, base=0.05), retries),
        retry_on_error=list(_RETRIED),
    )
    return Redis(connection_pool=pool)


def _greeting(kernel_seconds: float | None, on_connect: Callable[[], None] | None) -> Callable[[Any], None]:
    """What redis-py is to do with a connection that it has just made."""

    def greet(connection: Any) -> None:
        # No PING before the greeting: where it fails, redis-py would connect anew from within this function, for ever.
        connection.on_connect_check_health(check_health=False)
        if kernel_seconds is not None:
            _let_the_kernel_wait(connection._sock, kernel_seconds)
        if on_connect is not None:
            on_connect()

    return greet


def _let_the_kernel_wait(connected: socket.socket, seconds: float) -> None:
    """A wait that is over is then an `EAGAIN`, of which redis-py makes its ConnectionError."""
    connected.settimeout(None)
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))  # a struct timeval
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
