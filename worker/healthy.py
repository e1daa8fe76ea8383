"""`python -m worker.healthy`: whether a worker on this host has signed in Redis lately; a container's health check."""

import os
import socket
import sys

from core import settings
from core.clients import AWAY, connect
from core.errors import ConfigurationError
from core.liveness import Liveness


def main() -> int:
    try:
        loaded = settings.load(os.environ)
    except ConfigurationError as error:
        print(f"heartline: {error}", file=sys.stderr)
        return 2
    redis = connect(loaded.redis_url, retries=0, timeout_seconds=3)
    try:
        alive = [name for name in Liveness(redis).names() if name.startswith(f"{socket.gethostname()}.")]
    except AWAY as error:
        print(f"heartline: Redis is away: {type(error).__name__}", file=sys.stderr)
        return 1
    finally:
        redis.close()
    print(*alive or ["no worker on this host is alive"])
    return 0 if alive else 1


if __name__ == "__main__":
    sys.exit(main())
