"""Taking a run in: stored, then put in line. Both, or neither."""

import logging
import re
import time
from typing import TypeVar

import msgspec
from flask import Request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import RequestEntityTooLarge

from core.errors import InvalidRequest
from core.profiles import Profiles
from core.queue import RunQueue
from core.run import Run, RunRequest, new_id
from core.runs import RunStore
from core.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Intake:
    """Makes runs of requests."""

    def __init__(self, settings: Settings, profiles: Profiles, store: RunStore, queue: RunQueue) -> None:
        self._settings = settings
        self._profiles = profiles
        self._store = store
        self._queue = queue

    def submit(self, owner: str, model: str | None, request: RunRequest) -> Run:
        """A new queued run. Raises `ModelNotFound`, or redis-py's errors when Redis is away."""
        profile = self._profiles.choose(model)
        run = Run(id=new_id(), owner=owner, profile=profile.id, model=model or profile.id, created_at=time.time())
        timeout = profile.run_timeout_seconds or self._settings.run_timeout_seconds
        self._store.create(run, request)
        try:
            self._queue.put(run, timeout + self._settings.stop_grace_seconds)
        except Exception:
            self._store.discard(run)
            raise
        logger.info("run_queued run_id=%s profile=%s owner=%s", run.id, run.profile, owner)
        return run


def read_body(request: Request, kind: type[T]) -> T:
    """The request's JSON body as `kind`. Raises `InvalidRequest`, naming the field."""
    data = _receive(request)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        param = path.rstrip("`").lstrip(".")
        if missing := re.fullmatch(r"Object missing required field `(\w+)`", reason):
            param = f"{param}.{missing[1]}".lstrip(".")
        raise InvalidRequest(f"{param or 'body'}: {reason}.", param=param or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The request's body is not valid JSON: {error}.") from None


def _receive(request: Request) -> bytes:
    """The body. werkzeug (3.1) cuts one without a length silently at the limit: what was cut shows as more."""
    try:
        data = request.get_data(cache=False)
        if len(data) == request.max_content_length and request.environ["wsgi.input"].read(1):
            raise RequestEntityTooLarge
    except ParseException:
        raise InvalidRequest("The request's body is not chunked as HTTP wants it.") from None
    return data
