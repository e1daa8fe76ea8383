"""The Redis or Valkey: whether it answers, keeps what it is given, has room, and has the same time."""

import contextlib
import time
from collections.abc import Iterator

from redis.connection import parse_url
from redis.exceptions import AuthenticationError, OutOfMemoryError, ReadOnlyError, RedisError

from core.clients import connect
from core.liveness import Liveness
from core.settings import Settings
from doctor.case import Case
from doctor.finding import Finding, failed, ok, warning
from stack.valkey import EmbeddedValkey

OLDEST = (6, 2)
"""RQ moves jobs with LMOVE, which came with it."""

FULL, NEARLY_FULL = 0.9, 0.75
SKEW_SECONDS, SKEW_HARMFUL_SECONDS = 1.0, 10.0


def check_reachable(case: Case) -> Iterator[Finding]:
    url = case.settings.redis_url or _embedded(case.settings)
    if not url:
        yield failed(
            "redis",
            f"HEARTLINE_REDIS_URL is not set, and {case.settings.state} holds no embedded Valkey.",
            "Start everything with 'make run', or set HEARTLINE_REDIS_URL.",
        )
        return
    place = _place(url)
    redis = connect(url, retries=1, timeout_seconds=3, wait_seconds=3)
    try:
        case.redis_info = redis.info()
        Liveness(redis).count()  # is refused where nothing can be written
    except AuthenticationError:
        yield failed("redis", f"{place} refuses the password.", "Correct user and password in HEARTLINE_REDIS_URL.")
    except ReadOnlyError:
        yield failed("redis", f"{place} is a replica and takes no writes.", "Name the master in HEARTLINE_REDIS_URL.")
    except OutOfMemoryError:
        yield failed("redis", f"{place} is full and takes no writes.", "Raise its maxmemory, or make room.")
    except (RedisError, OSError) as error:
        fix = "Start it, or correct HEARTLINE_REDIS_URL." if case.settings.redis_url else "Start it with 'make run'."
        yield failed("redis", f"{place} does not answer ({type(error).__name__}).", fix)
    else:
        case.redis = redis
        yield ok("redis", f"{place} answers and takes writes.")


def check_version(case: Case) -> Iterator[Finding]:
    info = case.redis_info
    name = str(info.get("server_name", "redis")).capitalize()
    version = str(info.get(f"{name.lower()}_version", info["redis_version"]))
    compatible = str(info["redis_version"])
    if tuple(map(int, compatible.split(".")[:2])) < OLDEST:
        fix = f"Install Redis {OLDEST[0]}.{OLDEST[1]} or newer, or any Valkey."
        yield failed("redis version", f"It is {name} {version}, which is too old.", fix)
    else:
        yield ok("redis version", f"It is {name} {version}.")


def check_persistence(case: Case) -> Iterator[Finding]:
    info = case.redis_info
    if info.get("aof_enabled"):
        if (status := info.get("aof_last_write_status", "ok")) != "ok":
            fix = "Make room on its disk; its log says what it could not write."
            yield failed("persistence", f"Its append-only file could not be written ({status}).", fix)
        else:
            yield ok("persistence", "It keeps an append-only file: a restart loses a second at most.")
        return
    fix = "Set 'appendonly yes' (in its configuration, or with CONFIG SET and CONFIG REWRITE)."
    if _saves(case):
        yield warning("persistence", "It only saves snapshots: a restart loses all runs since the last one.", fix)
    else:
        yield failed("persistence", "It keeps nothing on disk: a restart loses every run and every answer.", fix)


def check_eviction(case: Case) -> Iterator[Finding]:
    policy = str(case.redis_info.get("maxmemory_policy", "unknown"))
    if policy != "noeviction":
        yield failed(
            "eviction",
            f"Its maxmemory-policy is {policy}: when memory is short it removes answers that are still wanted.",
            "Set 'maxmemory-policy noeviction'.",
        )
    else:
        yield ok("eviction", "Its maxmemory-policy is noeviction: nothing is removed before its time.")


def check_memory(case: Case) -> Iterator[Finding]:
    info = case.redis_info
    used, limit = int(info["used_memory"]), int(info.get("maxmemory", 0))
    whose = "its maxmemory" if limit else "its machine's memory"
    limit = limit or int(info.get("total_system_memory", 0))
    said = f"It uses {_megabytes(used)} of {_megabytes(limit)}, {whose}."
    fix = "Raise its maxmemory, give it a larger machine, or lower HEARTLINE_LOG_TTL_SECONDS."
    share = used / limit if limit else 0.0
    facts = {"used_bytes": used, "limit_bytes": limit}
    if share > FULL:
        yield failed("memory", said, fix, **facts)
    elif share > NEARLY_FULL:
        yield warning("memory", said, fix, **facts)
    else:
        yield ok("memory", said, **facts)


def check_clock(case: Case) -> Iterator[Finding]:
    before = time.time()
    seconds, microseconds = case.server.time()
    skew = float(seconds) + float(microseconds) / 1e6 - (before + time.time()) / 2
    said = f"Redis's clock and this machine's are {abs(skew):.3f} s apart."
    fix = "Let both machines take their time from NTP (chrony or systemd-timesyncd)."
    if abs(skew) > SKEW_HARMFUL_SECONDS:
        yield failed("clock", said, fix, skew_seconds=skew)
    elif abs(skew) > SKEW_SECONDS:
        yield warning("clock", said, fix, skew_seconds=skew)
    else:
        yield ok("clock", said, skew_seconds=skew)


def _embedded(settings: Settings) -> str:
    """Where the Valkey of `make run` is, if there was ever one."""
    return EmbeddedValkey(settings.state).url if (settings.state / "valkey").is_dir() else ""


def _place(url: str) -> str:
    """The server's address, without user and password."""
    parts = parse_url(url)
    if path := parts.get("path"):
        return f"Redis at {path}"
    return f"Redis at {parts.get('host', 'localhost')}:{parts.get('port', 6379)}"


def _saves(case: Case) -> bool:
    """Whether snapshots are on; a managed server that does not tell gets the benefit of the doubt."""
    with contextlib.suppress(RedisError):
        found = case.server.config_get("save")
        return bool(found.get("save"))
    return True


def _megabytes(count: int) -> str:
    return f"{count / (1 << 20):,.0f} MiB"
