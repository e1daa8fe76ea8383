"""What the views work with, built once per process from the settings."""

from dataclasses import dataclass

from redis import Redis

from app.attendance import Attendance
from app.auth import ApiKeys
from app.hub import Hub
from app.intake import Intake
from app.relay import Relay
from core import profiles
from core.clients import connect
from core.janitor import Janitor
from core.leases import Leases
from core.liveness import Liveness
from core.log import EventLog
from core.logins import Logins
from core.nodes import Nodes
from core.presence import Presence
from core.profiles import Profiles
from core.queue import RunQueue
from core.replicas import Replicas
from core.runs import RunStore
from core.settings import Settings
from core.slots import SlotBook
from core.stopping import Stopper
from core.taking_turns import TakingTurns
from core.usage import UsageBook


@dataclass(frozen=True)
class Services:
    settings: Settings
    profiles: Profiles
    api_keys: ApiKeys
    logins: Logins
    redis: "Redis"
    log: EventLog
    runs: RunStore
    usage: UsageBook
    nodes: Nodes
    intake: Intake
    queue: RunQueue
    leases: Leases
    liveness: Liveness
    replicas: Replicas
    slots: SlotBook
    stopper: Stopper
    attendance: Attendance
    janitor: Janitor
    hub: Hub
    relay: Relay


def build(settings: Settings) -> Services:
    """Connects nothing yet: redis-py connects at the first command, the hub when it is started.

    Raises `ConfigurationError` for keys or models that are missing or wrong.
    """
    known = profiles.load(settings.models_file, settings.log_ttl_seconds)
    api_keys = ApiKeys.load(settings)
    # Who asks, hears soon that it is away.
    redis = connect(settings.redis_url, retries=1, timeout_seconds=2, wait_seconds=5)
    store = RunStore(redis, settings.unfinished_ttl_seconds)
    usage = UsageBook(redis, store, settings.usage_ttl_seconds)
    log = EventLog(redis, settings.log_ttl_seconds, usage.count)
    nodes = Nodes(redis, settings.workspace_ttl_seconds)
    queue = RunQueue(redis, settings.log_ttl_seconds)
    hub = Hub(settings.redis_url)
    leases = Leases(redis)
    stopper = Stopper(log, store, queue, leases)
    attendance = Attendance(Presence(redis), stopper, settings.disconnect_grace_seconds)
    return Services(
        settings=settings,
        profiles=known,
        api_keys=api_keys,
        logins=Logins(redis, settings.login_ttl_seconds),
        redis=redis,
        log=log,
        runs=store,
        usage=usage,
        nodes=nodes,
        intake=Intake(settings, known, redis, store, nodes, queue, attendance),
        queue=queue,
        leases=leases,
        liveness=Liveness(redis),
        replicas=Replicas(redis),
        slots=SlotBook(redis),
        stopper=stopper,
        attendance=attendance,
        janitor=Janitor(settings, log, store, queue, leases),
        hub=hub,
        relay=Relay(hub, log, queue, TakingTurns(redis), settings.heartbeat_seconds),
    )
