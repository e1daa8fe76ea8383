"""Taking a run in: stored and put in line, in one transaction. Both, or neither."""

import hashlib
import logging
import re
import time
from typing import TypeVar

import msgspec
from flask import Request
from gunicorn.http.errors import ParseException
from redis import Redis
from redis.exceptions import WatchError
from werkzeug.exceptions import RequestEntityTooLarge

from app.attendance import Attendance
from app.metrics import RUNS_QUEUED
from core import keys
from core.conversation import Origin
from core.errors import InvalidRequest, TooManyRuns, Unavailable
from core.nodes import Nodes
from core.profiles import Profile, Profiles
from core.queue import RunQueue
from core.run import Lane, Place, Run, RunRequest, id_of, new_id
from core.runs import RunStore
from core.settings import Settings

logger = logging.getLogger(__name__)

MAX_IDEMPOTENCY_KEY = 255

T = TypeVar("T")


class Intake:
    """Makes runs of requests."""

    def __init__(
        self,
        settings: Settings,
        profiles: Profiles,
        redis: "Redis",
        store: RunStore,
        nodes: Nodes,
        queue: RunQueue,
        attendance: Attendance,
    ) -> None:
        self._settings = settings
        self._profiles = profiles
        self._redis = redis
        self._store = store
        self._nodes = nodes
        self._queue = queue
        self._attendance = attendance

    def submit(
        self,
        owner: str,
        model: str | None,
        request: RunRequest,
        *,
        detach: bool,
        origin: Origin | None = None,
        parent: Run | None = None,
        place: Place | None = None,
        idempotency_key: str = "",
        task: bool = False,
        trace_id: str = "",
    ) -> tuple[Run, bool]:
        """The run that answers this request, and whether it is a new one: with an `idempotency_key` that was
        used before it is the run of then. Its place in a conversation is `place`, or behind `parent`, or where `origin`
        and the request's history say. A task runs on the task profile, whatever `model` says; where there is none, it
        is a request like others.

        Raises `ModelNotFound`, `IdempotencyConflict`, `TooManyRuns`, `Unavailable`, or redis-py's errors when
        Redis is away.
        """
        profile = (self._profiles.task if task else None) or self._profiles.choose(model)
        run = Run(
            id=id_of(owner, idempotency_key) if idempotency_key else new_id(),
            owner=owner,
            profile=profile.id,
            model=model or profile.id,
            created_at=time.time(),
            detach=detach or profile.detach,
            lane=Lane.TASKS if self._profiles.is_task(profile.id) else Lane.RUNS,
            trace_id=trace_id,
        )
        fingerprint = hashlib.sha256(msgspec.json.encode((model, request))).hexdigest() if idempotency_key else ""
        if idempotency_key and (known := self._store.made_before(run, fingerprint)):
            return known, False
        self._refuse_when_full(owner, run.lane)
        place, why = self._place(run, profile, request, origin or Origin(), parent, place)
        run = msgspec.structs.replace(run, place=place)
        timeout = profile.run_timeout_seconds or self._settings.run_timeout_seconds
        with self._redis.pipeline() as pipe:
            # Of two requests that arrive together, one makes the run; so does one of two tries of the same
            # transaction, which redis-py repeats when the answer does not come.
            pipe.watch(keys.run(run.id))
            if idempotency_key and (known := self._store.made_before(run, fingerprint)):
                return known, False
            self._queue.put_with(pipe, run, timeout + self._settings.stop_grace_seconds)
            self._store.create_with(pipe, run, request, fingerprint)
            if not run.detach:
                self._attendance.announce_with(pipe, run.id)
            try:
                pipe.execute()
            except WatchError:  # the other one was faster; or the connection broke, which redis-py tells so, too
                if known := self._store.made_before(run, fingerprint):
                    return known, not idempotency_key
                raise Unavailable from None
        RUNS_QUEUED.labels(run.profile).inc()
        logger.info("run_queued run_id=%s profile=%s owner=%s conversation=%s", run.id, run.profile, owner, why)
        return run, True

    def _place(
        self,
        run: Run,
        profile: Profile,
        request: RunRequest,
        origin: Origin,
        parent: Run | None,
        given: Place | None,
    ) -> tuple[Place | None, str]:
        """The run's place in its conversation, and in one word why it is there."""
        if profile.runner == "diagnostic" or run.lane is Lane.TASKS:
            return None, "none"
        if given is not None:
            return given, "session" if given.parent else "start"
        if parent is None:
            return self._nodes.place(run.id, run.owner, profile.id, request, origin)
        if parent.place is None or parent.profile != profile.id:
            return Place(conversation=run.id), "another_model"
        return Place(conversation=parent.place.conversation, parent=parent.id), "session"

    def _refuse_when_full(self, owner: str, lane: Lane) -> None:
        """Waiting runs beyond the limits are not taken in: they would only time out in the queue."""
        with self._redis.pipeline(transaction=False) as pipe:
            self._queue.length_with(pipe, lane)
            self._store.waiting_with(pipe, owner, lane)
            in_line, of_owner = pipe.execute()
        if in_line >= self._settings.max_queued_runs:
            raise TooManyRuns
        limit = self._settings.max_queued_runs_per_key
        if of_owner >= limit and self._store.waiting(owner, lane) >= limit:
            raise TooManyRuns(f"{limit} of your runs are waiting already. Please try again when some have started.")


def idempotency_key(request: Request) -> str:
    """The header of that name, or nothing. Raises `InvalidRequest` for one that is too long."""
    key = request.headers.get("Idempotency-Key", "")
    if len(key) > MAX_IDEMPOTENCY_KEY:
        raise InvalidRequest(
            f"Idempotency-Key: expected at most {MAX_IDEMPOTENCY_KEY} characters.", param="Idempotency-Key"
        )
    return key


def wants_detach(request: Request) -> bool:
    """Whether the header `X-Heartline-Detach` asks that the run goes on when its client leaves."""
    value = request.headers.get("X-Heartline-Detach", "").strip().lower()
    if value not in ("", "0", "false", "1", "true"):
        raise InvalidRequest("X-Heartline-Detach: expected 'true' or 'false'.", param="X-Heartline-Detach")
    return value in ("1", "true")


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
