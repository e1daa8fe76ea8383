"""GET /v1/overview: what this server is doing, for operators."""

import time
from datetime import UTC, datetime
from typing import Any

import msgspec
from flask import Blueprint, g

from app.auth import required
from app.dialects.native import describe
from app.services import Services
from app.usage import describe as describe_usage
from core.errors import Forbidden
from core.events import Failed
from core.run import Lane, Run, Status
from core.usage import Totals

MAX_RUNNING = 200
MAX_FAILURES = 10
FAILURES_LOOKED_AT = 50
"""Jobs that were stopped are among the failed ones, and are passed over."""


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("overview", __name__)

    @blueprint.get("/v1/overview")
    @required(services.api_keys, services.logins)
    def show() -> dict[str, Any]:
        if not g.operator:
            raise Forbidden
        lines = {lane: services.queue.waiting(lane) for lane in Lane}
        unfinished = services.runs.known(services.leases.all())
        created = {run.id: run.created_at for run in unfinished}
        running = sorted(
            (run for run in unfinished if run.status is Status.RUNNING), key=lambda run: run.started_at or 0
        )
        return {
            "object": "overview",
            "at": time.time(),
            "replicas": [msgspec.to_builtins(replica) for replica in services.replicas.alive()],
            "workers": workers(services),
            "lanes": [
                {
                    "lane": lane.value,
                    "queued": len(line),
                    "oldest_created_at": min((created[run_id] for run_id in line if run_id in created), default=None),
                }
                for lane, line in lines.items()
            ],
            "running": [described(run) for run in running[:MAX_RUNNING]],
            "running_count": len(running),
            "failures": failures(services),
            "usage_today": usage_today(services),
        }

    return blueprint


def described(run: Run) -> dict[str, Any]:
    return {**describe(run), "owner": run.owner, "lane": run.lane.value, "worker": run.worker}


def workers(services: Services) -> list[dict[str, Any]]:
    """Each worker with its slots; one that takes no more runs is `leaving`."""
    alive = services.liveness.names()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sorted(alive)}
    for slot in services.slots.all():
        found.setdefault(slot.worker, []).append({"name": slot.name, "lane": slot.lane, "run": slot.run})
    return [{"name": name, "leaving": name not in alive, "slots": slots} for name, slots in found.items()]


def failures(services: Services) -> list[dict[str, Any]]:
    """The newest failed runs, with the reason."""
    newest = services.runs.known(services.queue.newest_failed(FAILURES_LOOKED_AT))
    failed = [run for run in newest if run.status is Status.FAILED][:MAX_FAILURES]
    found = []
    for run in failed:
        last = services.log.last(run.id)
        if isinstance(last, Failed):
            found.append({**described(run), "code": last.code, "message": last.message})
    return found


def usage_today(services: Services) -> dict[str, Any]:
    """What all keys' runs that ended today (UTC) consumed, together and for each key that had any."""
    today = datetime.now(UTC).date()
    owners = {
        owner: Totals.sum(profiles.values())
        for owner in services.api_keys.owners
        for profiles in services.usage.of(owner, [today]).values()
    }
    return {
        "date": today.isoformat(),
        "totals": describe_usage(Totals.sum(owners.values())),
        "owners": {owner: describe_usage(totals) for owner, totals in owners.items()},
    }
