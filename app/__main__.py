"""`python -m app`: one API replica, a gunicorn gevent process, configured by environment only.

`python -m app doctor` is `python -m doctor`.
"""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import contextlib
import logging
import math
import os
import resource
import signal
import sys
from types import FrameType
from typing import Any

import gevent
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.workers.ggevent import GeventWorker

from app import create_app, services
from app.announcer import Announcer
from core import collector, settings
from core.errors import ConfigurationError
from core.janitor import TIDY_EVERY_SECONDS, Janitor
from core.logs import configure
from core.metrics import expect
from core.settings import Settings

logger = logging.getLogger(__name__)

CONNECTIONS = 20_000
OPEN_FILES = CONNECTIONS + 1_000
HURRIED_SECONDS = 1.0
DRAIN_LOOK_SECONDS = 0.1
LAST_BYTES_SECONDS = 0.5


class Master(Arbiter):  # type: ignore[misc]
    """gunicorn's master, for which a second SIGTERM is quicker than the first, as a second SIGINT is."""

    _told = False

    def signal(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGTERM:
            sig, self._told = (signal.SIGQUIT if self._told else sig), True
        super().signal(sig, frame)


class GunicornLog(Logger):  # type: ignore[misc]
    """gunicorn's own lines, in the form of ours."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.error_log.propagate = True


class Worker(GeventWorker):  # type: ignore[misc]
    """The process that serves. Told to stop, it takes requests for a while yet, and says that it is draining: so a
    proxy sends it nothing more before it closes its doors. (Caddy before 2.11.4 cannot send a POST that met a closed
    door to another one.)"""

    told = False

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self.wsgi: Any = Lean(self.wsgi)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.told = True
        gevent.spawn_later(self.app.notice_seconds, super().handle_exit, sig, frame)


class Lean:
    """The WSGI application, of which a stream holds as little as possible for as long as it lasts (measured: a fifth).

    A request is worked on in a greenlet of its own, so that its deep stack goes with it; gunicorn's greenlet only
    reads the answer. And gunicorn's account of the request is emptied, which it keeps for an access log that is off.
    """

    def __init__(self, application: Any) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        body = gevent.spawn(self._application, environ, start_response).get()
        file_wrapper = environ["wsgi.file_wrapper"]  # gunicorn looks at this one yet
        environ.clear()
        environ["wsgi.file_wrapper"] = file_wrapper
        asked = start_response.__self__.req
        asked.headers = [header for header in asked.headers if header[0] == "CONNECTION"]  # it ends as this one says
        return body


class Replica(BaseApplication):  # type: ignore[misc]
    """gunicorn with one gevent worker; more replicas, not more workers, serve more clients."""

    def __init__(self, loaded: Settings) -> None:
        self._settings = loaded
        self.notice_seconds = loaded.drain_notice_seconds
        self._services: services.Services | None = None
        self._announcer: Announcer | None = None
        super().__init__()

    def load_config(self) -> None:
        options: dict[str, Any] = {
            "bind": self._settings.bind,
            "worker_class": Worker,
            "workers": 1,
            "worker_connections": CONNECTIONS,
            "max_requests": 0,  # a worker that recycles itself would cut its streams
            "timeout": 0,
            "graceful_timeout": math.ceil(self.notice_seconds + self._settings.drain_seconds) + 2,
            "keepalive": 75,  # longer than a proxy keeps an idle connection, so that the proxy closes first
            "control_socket_disable": True,
            "forwarder_headers": "",  # a client's SCRIPT_NAME header is not the server's variable
            "loglevel": "warning",
            "errorlog": None,  # its lines take the way that ours do
            "logger_class": GunicornLog,
            "proc_name": "heartline-app",
            "post_worker_init": self._watch_for_the_end,
            "worker_int": self._hurry,
            "worker_exit": self._take_leave,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Runs in the worker process: clients and greenlets are made after the fork."""
        self._services = built = services.build(self._settings)
        expect(profile.id for profile in built.profiles.profiles)
        built.hub.start()
        gevent.spawn(built.attendance.keep_word)
        gevent.spawn(_keep_tidy, built.janitor)
        self._announcer = Announcer(built)
        gevent.spawn(self._announcer.keep_word)
        app = create_app(built)
        collector.settle()
        return app

    def run(self) -> None:
        Master(self).run()

    def _watch_for_the_end(self, worker: Worker) -> None:
        gevent.spawn(self._drain_when_stopped, worker)

    def _drain_when_stopped(self, worker: Worker) -> None:
        """gunicorn cuts a stream at its own time limit, in mid-chunk: so we end them all before."""
        while worker.alive and not worker.told:
            gevent.sleep(DRAIN_LOOK_SECONDS)
        if (built := self._services) is None:
            return
        logger.info("app_draining watchers=%d seconds=%g", built.hub.watchers, self._settings.drain_seconds)
        built.relay.drain.begin(self._settings.drain_seconds)
        while worker.alive or built.hub.watchers:
            built.hub.wake()
            gevent.sleep(DRAIN_LOOK_SECONDS)
        built.attendance.close()
        gevent.sleep(LAST_BYTES_SECONDS)
        worker.cfg.set("graceful_timeout", 0)  # who is still connected only keeps his connection for later

    def _hurry(self, worker: GeventWorker) -> None:
        """A second signal: gunicorn is about to exit, and gives this hook the time to take leave."""
        if (built := self._services) is not None:
            built.relay.drain.begin(0)
            built.hub.wake()
            gevent.sleep(min(HURRIED_SECONDS, self._settings.drain_seconds))

    def _take_leave(self, _: Arbiter, __: GeventWorker) -> None:
        """Also in the master's name, which has no services and nothing to say."""
        if (built := self._services) is not None:
            built.attendance.close()
        if self._announcer is not None:
            self._announcer.close()


def _keep_tidy(janitor: Janitor) -> None:
    while True:
        try:
            janitor.tidy()
        except Exception:
            logger.exception("janitor_failed")
        gevent.sleep(TIDY_EVERY_SECONDS)


def _raise_open_files() -> int:
    """Each client is an open file, and many systems allow 1,024 of them unless asked; returns what is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS has a lower limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def main() -> int:
    if sys.argv[1:2] == ["doctor"]:  # it examines the worker, too, which nothing here may import
        os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])  # noqa: S606
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
    configure(loaded.log_level, loaded.log_format)
    logger.info("app_starting bind=%s open_files=%d", loaded.bind, _raise_open_files())
    Replica(loaded).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
