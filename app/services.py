"""What the views work with, built once per process from the settings."""

from dataclasses import dataclass

from redis import Redis

from app.auth import ApiKeys
from app.hub import Hub
from app.intake import Intake
from app.relay import Relay
from core import profiles
from core.clients import connect
from core.liveness import Liveness
from core.log import EventLog
from core.profiles import Profiles
from core.queue import RunQueue
from core.runs import RunStore
from core.settings import Settings


@dataclass(frozen=True)
class Services:
    settings: Settings
    profiles: Profiles
    api_keys: ApiKeys
    redis: "Redis"
    log: EventLog
    runs: RunStore
    intake: Intake
    liveness: Liveness
    hub: Hub
    relay: Relay


def build(settings: Settings) -> Services:
    """Connects nothing yet: redis-py connects at the first command, the hub when it is started.

    Raises `ConfigurationError` for keys or models that are missing or wrong.
    """
    known = profiles.load(settings.models_file, settings.log_ttl_seconds)
    api_keys = ApiKeys.load(settings)
    redis = connect(settings.redis_url)
    log = EventLog(redis, settings.log_ttl_seconds)
    store = RunStore(redis, settings.unfinished_ttl_seconds)
    queue = RunQueue(redis, settings.log_ttl_seconds)
    hub = Hub(settings.redis_url)
    return Services(
        settings=settings,
        profiles=known,
        api_keys=api_keys,
        redis=redis,
        log=log,
        runs=store,
        intake=Intake(settings, known, store, queue),
        liveness=Liveness(redis),
        hub=hub,
        relay=Relay(hub, log, queue, settings.heartbeat_seconds),
    )
