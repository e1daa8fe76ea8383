"""POST /v1/chat/completions: a question in, the answer as a stream or whole."""

import time
from collections.abc import Iterator
from itertools import chain

import gevent
import msgspec
from flask import Blueprint, Response, g, request

from app import sse, tasks
from app.auth import required
from app.client import Client
from app.dialects import Dialect
from app.dialects.openai_chat import ChatStream, Chunks, completion, error_object
from app.dialects.openai_request import ChatBody, parse
from app.dialects.openwebui import OpenWebUIStream
from app.intake import idempotency_key, read_body, wants_detach
from app.origin import origin_of
from app.progress import Progress, chosen
from app.relay import RETRY_SECONDS
from app.services import Services
from app.traceparent import trace_id_of
from app.whole import Silent, Whole
from core.clients import AWAY
from core.errors import HeartlineError
from core.events import Completed, Failed, Text, stamp
from core.run import Lane, Run, RunRequest, new_id
from core.sentences import sentence


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("chat", __name__)
    settings = services.settings

    @blueprint.post("/v1/chat/completions")
    @required(services.api_keys)
    def create() -> Response:
        body = read_body(request, ChatBody)
        asked = parse(body, settings)
        task = task_of(body, asked)
        progress = chosen(settings.progress, request) if task is None else "none"
        if task is not None and services.profiles.task is None:
            return at_once(body, tasks.plain_answer(task, asked))
        run, is_new = services.intake.submit(
            g.owner,
            body.model,
            asked,
            detach=wants_detach(request),
            origin=origin_of(request, body.user),
            idempotency_key=idempotency_key(request),
            task=task is not None,
            trace_id=trace_id_of(request),
        )
        if not body.stream:
            return whole(run, is_new)
        return streamed(run, is_new, dialect_of(services, run, progress, body.include_usage))

    def streamed(run: Run, is_new: bool, dialect: Dialect) -> Response:
        stream = services.relay.stream(run, dialect, client=Client.of(request))
        response = Response(stream, headers=sse.headers(run.id))
        return services.attendance.attending(run, response, announced=is_new)

    def whole(run: Run, is_new: bool) -> Response:
        """Real status codes while nothing was sent; from the first heartbeat on, white space and then JSON."""
        stream = services.relay.stream(run, Silent(), client=Client.of(request))
        response = Response(mimetype="application/json", headers={"X-Run-Id": run.id})
        response = services.attendance.attending(run, response, announced=is_new)
        try:
            beat = next(filter(None, stream), None)
            if beat is not None:
                response.response = chain([beat], stream, finished(run))
                return response
            answer, failure = outcome(services, run)
        except BaseException:
            response.close()  # or the client would count as waiting for ever
            raise
        response.data = answer
        if failure is not None:
            response.status_code = failure.status
        return response

    def finished(run: Run) -> Iterator[bytes]:
        """The status is long sent: a Redis that is away right now is waited for."""
        while True:
            try:
                yield outcome(services, run)[0]
                return
            except AWAY:
                yield b"\n"
                gevent.sleep(RETRY_SECONDS)

    return blueprint


def dialect_of(services: Services, run: Run, progress: Progress, include_usage: bool) -> Dialect:
    """How the client reads the run."""
    settings = services.settings
    label, created = services.profiles.get(run.profile).label, int(run.created_at)
    if progress == "openwebui":
        return OpenWebUIStream(Chunks(run.id, created, run.model), label, settings.language)
    return ChatStream(
        run_id=run.id,
        created=created,
        model=run.model,
        label=label,
        include_usage=include_usage,
        progress=progress,
        heartbeat_style=settings.heartbeat_style if run.lane is Lane.RUNS else "comment",
        language=settings.language,
    )


def task_of(body: ChatBody, asked: RunRequest) -> str | None:
    """The name of the task that the current request is, or None."""
    header = request.headers.get(tasks.HEADER, "")
    return tasks.recognise(header, asked, streams=bool(body.stream), has_tools=bool(body.tools))


def at_once(body: ChatBody, text: str) -> Response:
    """An answer without a run: neither Redis nor a worker is asked."""
    run = Run(id=new_id(), owner="", profile="", model=body.model or "", created_at=time.time())
    if not body.stream:
        return Response(msgspec.json.encode(completion(run, text, Completed())), mimetype="application/json")
    dialect = ChatStream(run.id, int(run.created_at), run.model, label="", include_usage=body.include_usage)
    chunks = [
        dialect.opening(resumed=False),
        dialect.render(stamp(Text(text=text), run.id, 1, run.created_at), b""),
        dialect.render(stamp(Completed(), run.id, 2, run.created_at), b""),
    ]
    return Response(b"".join(chunks), headers=sse.headers())


def outcome(services: Services, run: Run) -> tuple[bytes, HeartlineError | None]:
    """What a client that waited for the whole is sent, and the failure that it is, if it is one."""
    result, language = Whole.read(services.log, run.id), services.settings.language
    match result.terminal:
        case Completed() as terminal:
            return msgspec.json.encode(completion(run, result.text, terminal)), None
        case Failed(code=code, message=message):
            failure = RunFailed(message, code=code)
        case None:
            code = "replica_shutdown" if services.relay.drain.draining else "log_lost"
            failure = RunFailed(sentence(language, code), code=code)
        case _:
            failure = RunFailed(sentence(language, "cancelled"), code="cancelled")
    return msgspec.json.encode(error_object(failure.code or "", failure.message)), failure


class RunFailed(HeartlineError):
    """The run has ended without an answer."""

    status = 502
