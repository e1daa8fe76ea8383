"""docker-compose.yml, read as Compose reads it: merged, with its variables filled in."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from tests.deployment import PROJECT

FILE = PROJECT / "docker-compose.yml"
UNITS = {"s": 1, "m": 60, "h": 3600}


def read(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The file's content; `environ` is what would stand in `.env`."""
    given = environ or {}

    def fill(match: re.Match[str]) -> str:
        return given.get(match[1]) or match[2]

    text = re.sub(r"\$\{(\w+):-([^}]*)\}", fill, FILE.read_text(encoding="utf-8"))
    assert "$" not in text, "a variable without a default"
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def ours(services: Mapping[str, Any]) -> dict[str, Any]:
    """The services that run Heartline's own image."""
    return {name: service for name, service in services.items() if service["image"].startswith("heartline:")}


def seconds(duration: str) -> float:
    """Compose's durations, of one unit."""
    return float(duration[:-1]) * UNITS[duration[-1]]
