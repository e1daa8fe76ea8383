"""GET /v1/usage: what the key's runs consumed, per day and profile."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

from flask import Blueprint, g, request

from app.auth import required
from app.services import Services
from core.errors import InvalidRequest
from core.usage import Totals

DEFAULT_DAYS = 30
MAX_DAYS = 400


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("usage", __name__)

    @blueprint.get("/v1/usage")
    @required(services.api_keys)
    def show() -> dict[str, Any]:
        days = _days(datetime.now(UTC).date())
        found = services.usage.of(g.owner, days)
        return {
            "object": "usage",
            "from": days[0].isoformat(),
            "to": days[-1].isoformat(),
            "days": [
                {"date": day.isoformat(), "profiles": {name: describe(totals) for name, totals in profiles.items()}}
                for day, profiles in found.items()
            ],
            "totals": describe(Totals.sum(totals for profiles in found.values() for totals in profiles.values())),
        }

    return blueprint


def describe(totals: Totals) -> dict[str, Any]:
    """As clients see it: the cost in US dollars."""
    return {
        "runs": totals.runs,
        "completed": totals.completed,
        "failed": totals.failed,
        "cancelled": totals.cancelled,
        "input_tokens": totals.input_tokens,
        "cached_input_tokens": totals.cached_input_tokens,
        "output_tokens": totals.output_tokens,
        "cost_usd": totals.cost_nanousd / 1e9,
    }


def _days(today: date) -> list[date]:
    """Every day from `?from=` to `?to=`, both included. Raises `InvalidRequest`."""
    last = _date("to") or today
    first = _date("from") or last - timedelta(days=DEFAULT_DAYS - 1)
    count = (last - first).days + 1
    if count < 1:
        raise InvalidRequest(f"from: {first} is later than to={last}.", param="from")
    if count > MAX_DAYS:
        raise InvalidRequest(f"from: ask for at most {MAX_DAYS} days at once; these are {count}.", param="from")
    return [first + timedelta(days=i) for i in range(count)]


def _date(name: str) -> date | None:
    text = request.args.get(name, "")
    if not text:
        return None
    try:
        if re.fullmatch(r"2\d{3}-\d\d-\d\d", text, re.ASCII):
            return date.fromisoformat(text)
    except ValueError:  # a day that the month does not have
        pass
    raise InvalidRequest(f"{name}: expected a day such as 2026-01-31.", param=name)
