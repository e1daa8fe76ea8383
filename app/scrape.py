"""GET /metrics: this replica's numbers, for Prometheus.

They say what a server does and costs, so not everybody may read them: with `HEARTLINE_METRICS_TOKEN`, who has that;
else who has an API key, and who asks from this machine itself.
"""

import hmac
from ipaddress import IPv6Address, ip_address

import gevent
from flask import Blueprint, Response, request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.auth import ApiKeys, bearer
from app.metrics import QUEUE_LENGTH, REDIS_UP, WORKERS
from app.services import Services
from core.clients import AWAY
from core.errors import Unauthorized
from core.metrics import label_of
from core.run import Lane

ANSWER_SECONDS = 2.0
"""For so long Redis may take to answer before it counts as away: a scrape has a deadline of its own."""

FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
"""What proxies add: one on this machine speaks for a client who may be anywhere."""


def routes(services: Services) -> Blueprint:
    """Nothing at all with `HEARTLINE_METRICS=off`."""
    blueprint = Blueprint("scrape", __name__)
    if services.settings.metrics == "off":
        return blueprint

    @blueprint.get("/metrics")
    def read() -> Response:
        if not may_read(services.settings.metrics_token, services.api_keys):
            raise Unauthorized
        look_at_redis(services)
        return Response(generate_latest(), content_type=CONTENT_TYPE_LATEST)

    return blueprint


def may_read(token: str, keys: ApiKeys) -> bool:
    """Whether the current request may."""
    given = bearer(request)
    if token:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())
    return keys.owner(given) is not None or is_local()


def is_local() -> bool:
    """Whether the current request comes from this machine, and from nobody behind a proxy on it; a foreign web page
    that a browser on this machine shows is not local either (it can name us anything but this machine)."""
    if any(name in request.headers for name in FORWARDED):
        return False
    return _is_loopback(request.remote_addr or "") and _names_this_machine(request.host)


def look_at_redis(services: Services) -> None:
    """What only Redis knows, as of now."""
    try:
        with gevent.Timeout(ANSWER_SECONDS):
            WORKERS.set(services.liveness.count())
            for lane in Lane:
                QUEUE_LENGTH.labels(label_of(lane)).set(services.queue.length(lane))
        REDIS_UP.set(1)
    except (*AWAY, gevent.Timeout):
        REDIS_UP.set(0)
        for gauge in (WORKERS, *(QUEUE_LENGTH.labels(label_of(lane)) for lane in Lane)):
            gauge.set(float("nan"))


def _names_this_machine(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name == "localhost" or _is_loopback(name.strip("[]"))


def _is_loopback(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
