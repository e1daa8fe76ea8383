"""POST /chat/stream and /execute/stream, for clients of the older orchestrator.

One message in, the native events of its run out. Such a client shows no history: it names a session, and the
conversation goes on behind the newest completed run of it.
"""

import msgspec
from flask import Blueprint, Response, g, request

from app import sse
from app.auth import required
from app.client import Client
from app.dialects.native import SessionStream, StreamBody, behind, checked, message_of
from app.intake import read_body, wants_detach
from app.services import Services
from app.whole import Whole
from core.errors import NotFound, RunNotFound
from core.run import Place, RunRequest, new_id


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("older", __name__)
    guard = required(services.api_keys)

    @blueprint.post("/chat/stream")
    @guard
    def chat() -> Response:
        return answer(services.profiles.defaults.chat_stream, "chat_stream")

    @blueprint.post("/execute/stream")
    @guard
    def execute() -> Response:
        return answer(services.profiles.defaults.execute_stream, "execute_stream")

    def answer(profile: str | None, name: str) -> Response:
        if profile is None:
            raise NotFound(
                f"{request.path} is turned off: the operator can name its model in models.yaml (defaults.{name})."
            )
        body = read_body(request, StreamBody)
        asked, session = message_of(body, services.settings), body.session_id or new_id()
        place = services.nodes.newest(g.owner, body.user_id, profile, session)
        asked, place = _with_history(services, asked, place)
        run, is_new = services.intake.submit(g.owner, profile, asked, detach=wants_detach(request), place=place)
        dialect = SessionStream(services.settings.language, session, run.id)
        stream = services.relay.stream(run, dialect, client=Client.of(request))
        response = Response(stream, headers=sse.headers(run.id))
        return services.attendance.attending(run, response, announced=is_new)

    return blueprint


def _with_history(services: Services, asked: RunRequest, place: Place) -> tuple[RunRequest, Place]:
    """The request with its conversation in front, in case the CLI's session is not where its run will be; and the
    place, which is a beginning when the parent has expired."""
    if place.parent is None:
        return asked, place
    try:
        earlier = services.runs.request(place.parent)
    except RunNotFound:
        return asked, msgspec.structs.replace(place, parent=None)
    text = Whole.read(services.log, place.parent).text
    return checked(behind(earlier, text, asked), services.settings, "message"), place
