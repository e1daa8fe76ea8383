"""`python -m app`: one API replica, a gunicorn gevent process, configured by environment only."""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import logging
import math
import os
import sys
from typing import Any

from gunicorn.app.base import BaseApplication

from app import create_app, services
from core import settings
from core.errors import ConfigurationError
from core.logs import configure
from core.settings import Settings

CONNECTIONS = 20_000


class Replica(BaseApplication):  # type: ignore[misc]
    """gunicorn with one gevent worker; more replicas, not more workers, serve more clients."""

    def __init__(self, loaded: Settings) -> None:
        self._settings = loaded
        super().__init__()

    def load_config(self) -> None:
        options: dict[str, Any] = {
            "bind": self._settings.bind,
            "worker_class": "gevent",
            "workers": 1,
            "worker_connections": CONNECTIONS,
            "max_requests": 0,  # a worker that recycles itself would cut its streams
            "timeout": 0,
            "graceful_timeout": math.ceil(self._settings.drain_seconds),
            "keepalive": 75,  # longer than a proxy keeps an idle connection, so that the proxy closes first
            "control_socket_disable": True,
            "forwarder_headers": "",  # a client's SCRIPT_NAME header is not the server's variable
            "loglevel": "warning",
            "proc_name": "heartline-app",
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Runs in the worker process: clients and greenlets are made after the fork."""
        built = services.build(self._settings)
        built.hub.start()
        return create_app(built)


def main() -> int:
    try:
        loaded = settings.load(os.environ)
        if not loaded.redis_url:
            raise ConfigurationError(
                "HEARTLINE_REDIS_URL is not set: the API alone needs a Redis ('make run' starts one by itself)"
            )
        services.build(loaded)  # a wrong setting ends it here, with one line, not in gunicorn's worker
    except ConfigurationError as error:
        print(f"heartline: {error}", file=sys.stderr)
        return 2
    configure(loaded.log_level)
    logging.getLogger(__name__).info("app_starting bind=%s", loaded.bind)
    Replica(loaded).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
