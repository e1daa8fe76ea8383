"""GET /metrics: who may read it, and what it says while Redis is away."""

import math
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client import REGISTRY

from app import create_app, services
from core.settings import Settings

KEY, TOKEN = "0123456789abcdef", "a-token-of-prometheus"
MODELS = Path(__file__).resolve().parents[1] / "models.yaml"
SOMEWHERE = "192.0.2.7"


def client(**settings: Any) -> FlaskClient:
    built = services.build(
        Settings(redis_url="redis://127.0.0.1:1", api_keys=f"alice:{KEY}", models_file=str(MODELS), **settings)
    )
    return create_app(built).test_client()


def status(asked: FlaskClient, address: str, headers: dict[str, str] | None = None) -> int:
    return asked.get("/metrics", headers=headers, environ_base={"REMOTE_ADDR": address}).status_code


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("address", "headers", "expected"),
    [
        ("127.0.0.1", {}, 200),
        ("127.8.8.8", {}, 200),
        ("::1", {}, 200),
        ("::ffff:127.0.0.1", {}, 200),
        ("127.0.0.1", {"Host": "127.0.0.1:8080"}, 200),
        ("127.0.0.1", {"Host": "[::1]:8080"}, 200),
        ("127.0.0.1", {"Host": "[::1]"}, 200),
        (SOMEWHERE, {}, 401),
        ("::ffff:192.0.2.7", {}, 401),
        ("", {}, 401),
        ("nonsense", {}, 401),
        ("127.0.0.1", {"X-Forwarded-For": SOMEWHERE}, 401),
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 401),
        ("127.0.0.1", {"Forwarded": "for=127.0.0.1"}, 401),
        ("127.0.0.1", {"X-Real-IP": SOMEWHERE}, 401),
        ("127.0.0.1", {"Via": "1.1 caddy"}, 401),
        ("127.0.0.1", {"Host": "evil.example"}, 401),
        ("127.0.0.1", {"Host": "evil.example:8080"}, 401),
        (SOMEWHERE, {"Host": "127.0.0.1"}, 401),
        (SOMEWHERE, bearer(KEY), 200),
        (SOMEWHERE, bearer(KEY + "x"), 401),
        (SOMEWHERE, bearer(""), 401),
    ],
)
def test_without_a_token_this_machine_and_keys_may_read(address: str, headers: dict[str, str], expected: int) -> None:
    assert status(client(), address, headers) == expected


@pytest.mark.parametrize(
    ("address", "headers", "expected"),
    [
        (SOMEWHERE, bearer(TOKEN), 200),
        ("127.0.0.1", bearer(TOKEN), 200),
        ("127.0.0.1", {}, 401),
        ("127.0.0.1", bearer(KEY), 401),
        (SOMEWHERE, bearer(TOKEN[:-1]), 401),
        (SOMEWHERE, bearer(""), 401),
        (SOMEWHERE, {"Authorization": f"Basic {TOKEN}"}, 401),
        (SOMEWHERE, bearer("größe"), 401),
    ],
)
def test_with_a_token_only_it_counts(address: str, headers: dict[str, str], expected: int) -> None:
    assert status(client(metrics_token=TOKEN), address, headers) == expected


def test_a_refusal_says_how_to_ask() -> None:
    answer = client().get("/metrics", environ_base={"REMOTE_ADDR": SOMEWHERE})
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert b"heartline_" not in answer.data


def test_they_can_be_turned_off() -> None:
    assert status(client(metrics="off"), "127.0.0.1", bearer(KEY)) == 404


def test_while_redis_is_away_the_rest_can_be_read() -> None:
    answer = client().get("/metrics")
    assert answer.content_type.startswith("text/plain; version=")
    assert b"\nheartline_watchers 0.0\n" in answer.data
    assert REGISTRY.get_sample_value("heartline_redis_up") == 0
    for name, labels in (("heartline_workers", {}), ("heartline_queue_length", {"lane": "runs"})):
        assert math.isnan(REGISTRY.get_sample_value(name, labels) or 0)
