"""Attendance: which runs this replica's clients wait for, and what happens when the last of them leaves.

A run that is not detached ends when nobody watches it any more, on any replica, for the grace time.
"""

import contextlib
import logging
import uuid
from collections import Counter

import gevent
from flask import Response
from redis.client import Pipeline

from core.clients import AWAY
from core.errors import RunNotFound
from core.presence import RENEW_EVERY_SECONDS, Presence
from core.run import Run
from core.stopping import Stopper

logger = logging.getLogger(__name__)


class Attendance:
    """Counts this replica's clients for each run that is not detached, and keeps its word in Redis fresh."""

    def __init__(self, presence: Presence, stopper: Stopper, grace_seconds: float) -> None:
        self._presence = presence
        self._stopper = stopper
        self._grace_seconds = grace_seconds
        self._replica = uuid.uuid4().hex
        self._clients: Counter[str] = Counter()
        self._leaving: dict[str, gevent.Greenlet] = {}

    def attending(self, run: Run, response: Response, *, announced: bool = False) -> Response:
        """The same response, during which its client counts as a watcher of the run; `announced`: that one would
        come has just been said."""
        if not run.detach:
            self.enter(run.id, announced=announced)
            response.call_on_close(lambda: self.leave(run.id))
        return response

    def announce_with(self, pipe: "Pipeline", run_id: str) -> None:
        """A client of the run that is made in `pipe` is about to come: a worker that asks finds it said."""
        self._presence.enter_with(pipe, run_id, self._replica)

    def enter(self, run_id: str, *, announced: bool = False) -> None:
        """A client has come. Raises redis-py's errors when Redis is away."""
        if not self._clients[run_id] and not announced:
            self._presence.enter([run_id], self._replica)
        self._clients[run_id] += 1
        if (leaving := self._leaving.pop(run_id, None)) is not None:
            leaving.kill(block=False)

    def leave(self, run_id: str) -> None:
        """A client has gone; when it was the last one here, the run has the grace time left."""
        self._clients[run_id] -= 1
        if not self._clients[run_id]:
            self._leaving[run_id] = gevent.spawn_later(self._grace_seconds, self._after_grace, run_id)

    def keep_word(self) -> None:
        """For a greenlet: renew this replica's presence for as long as it runs."""
        while True:
            gevent.sleep(RENEW_EVERY_SECONDS)
            try:
                self._presence.enter(list(self._clients), self._replica)
            except Exception as error:  # whatever it was: without this, every run here would end as unwatched
                logger.warning("presence_not_renewed error=%r", error)

    def close(self) -> None:
        """This replica serves nobody any more: no run's worker need wait until its word expires."""
        left = list(self._clients)
        self._clients.clear()  # first: `keep_word` may be about to renew what is taken back here
        try:
            for run_id in left:
                self._presence.leave(run_id, self._replica)
        except AWAY as error:
            logger.warning("presence_redis_away error=%s", type(error).__name__)

    def _after_grace(self, run_id: str) -> None:
        del self._leaving[run_id]  # from here on nobody who comes back can hold it up
        del self._clients[run_id]
        try:
            if not self._presence.leave(run_id, self._replica):
                with contextlib.suppress(RunNotFound):  # Redis has lost it: there is nothing to end
                    self._stopper.cancel(run_id, "the client has gone")
        except AWAY as error:
            # The word that is not renewed ends by itself, and the run's worker sees to the rest.
            logger.warning("presence_redis_away run_id=%s error=%s", run_id, type(error).__name__)
