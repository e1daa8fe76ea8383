"""The announcer: says every few seconds that this replica is alive, and how many clients it serves."""

import logging
import os
import secrets
import socket
import time

import gevent

from app.services import Services
from core.clients import AWAY
from core.replicas import SIGN_EVERY_SECONDS, Replica

logger = logging.getLogger(__name__)


class Announcer:
    """One per process. Its word ends by itself a few seconds after the process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._host = socket.gethostname()
        self._name = f"{self._host}.{os.getpid()}.{secrets.token_hex(2)}"
        self._since = time.time()
        self._closed = False

    def keep_word(self) -> None:
        """For a greenlet: renew it for as long as it runs."""
        while not self._closed:
            try:
                self._services.replicas.sign(self.describe())
            except AWAY as error:
                logger.warning("replica_not_announced error=%s", type(error).__name__)
            except Exception:
                logger.exception("replica_not_announced")
            gevent.sleep(SIGN_EVERY_SECONDS)

    def close(self) -> None:
        """This replica serves nobody any more."""
        self._closed = True
        try:
            self._services.replicas.leave(self._name)
        except AWAY as error:
            logger.warning("replica_not_taken_off error=%s", type(error).__name__)

    def describe(self) -> Replica:
        return Replica(
            name=self._name,
            host=self._host,
            address=self._services.settings.bind,
            since=self._since,
            watchers=self._services.hub.watchers,
            draining=self._services.relay.drain.draining,
        )
