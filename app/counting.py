"""GET /test/stream: counts 0 to 9, one a second, without queue, Redis or worker.

It tells trouble of a proxy from trouble of Heartline with plain curl, so it has the headers of every other
stream. Like every other route it wants a key.
"""

import time
from collections.abc import Callable, Iterator

import msgspec
from flask import Blueprint, Response, request
from gevent.event import Event as Signal

from app import sse
from app.auth import required
from app.client import Client
from app.drain import Drain
from app.services import Services

COUNT = 10
SECONDS_EACH = 1.0
LOOK_SECONDS = 0.1
"""How often a stream asks whether this replica drains: sooner than the replica closes what is still open."""

FAREWELL = sse.comment(b"this server is being restarted; ask again")


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("counting", __name__)

    @blueprint.get("/test/stream")
    @required(services.api_keys)
    def count() -> Response:
        if request.method == "HEAD":
            return Response(headers=sse.headers())
        return Response(counting(Client.of(request), services.relay.drain), headers=sse.headers())

    return blueprint


def counting(client: Client, drain: Drain, clock: Callable[[], float] = time.monotonic) -> Iterator[bytes]:
    """Each count with the time at which it was written, to the last one or the client's leaving."""
    gone = Signal()
    with client.calling(gone.set):
        begun = clock()
        for number in range(COUNT):
            while (left := begun + number * SECONDS_EACH - clock()) > 0:
                if drain.draining:
                    yield FAREWELL
                    return
                if gone.wait(min(left, LOOK_SECONDS)):
                    return
            yield sse.frame(msgspec.json.encode({"count": number, "at": time.time()}), seq=number)
