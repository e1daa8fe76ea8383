"""What is written down: the settings, the models, the keys, and the ladder of timeouts."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from app import auth
from core import profiles, settings
from core.errors import ConfigurationError
from core.queue import JOB_MARGIN_SECONDS
from core.settings import PREFIX
from doctor.case import Case
from doctor.finding import Finding, failed, ok, skipped, warning

DOTENV = Path(".env")


def check_settings(case: Case) -> Iterator[Finding]:
    try:
        case.settings = settings.load(os.environ)
    except ConfigurationError as error:
        fix = (
            f"Correct it in the environment or in {DOTENV.resolve()}; the README's table says what each setting takes."
        )
        yield failed("settings", f"{error}.", fix)
        return
    made = sum(name.startswith(PREFIX) and bool(value) for name, value in case.environ.items())
    where = f"{DOTENV.resolve()} is read" if DOTENV.is_file() else f"there is no .env in {Path.cwd()}"
    if DOTENV.is_file() and _others_may_read(DOTENV) and _holds_a_secret(case):
        fix = f"chmod 600 {DOTENV.resolve()}"
        yield warning("settings", f"They load, but every user of this machine can read {DOTENV.resolve()}.", fix)
        return
    yield ok("settings", f"They load: {made} are set, the rest are defaults; {where}.")


def check_models(case: Case) -> Iterator[Finding]:
    path = Path(case.settings.models_file).resolve()
    try:
        known = profiles.load(case.settings.models_file, case.settings.log_ttl_seconds)
        for profile in known.profiles:
            profiles.environment_of(profile, case.environ)
    except ConfigurationError as error:
        fix = f"Correct {path} (docs/models.md has every field) or set the variable; restart the API and the workers."
        yield failed("models", f"{error}.", fix)
        return
    case.profiles = known
    yield ok("models", f"{path} has {', '.join(profile.id for profile in known.profiles)}.")


def check_keys(case: Case) -> Iterator[Finding]:
    given, path = case.settings, case.settings.keys_file
    try:
        keys = auth.read(given)
        case.api_key = _own_key(case) or next(iter(keys.values()))
    except (ConfigurationError, OSError, UnicodeDecodeError) as error:
        yield failed(
            "keys",
            f"{error}.",
            "Give each key as name:key, of 16 characters or more, in HEARTLINE_API_KEYS or on a line of the keys file.",
        )
        return
    where = "HEARTLINE_API_KEYS" if given.api_keys else str(path)
    yield ok("keys", f"{where} has {len(keys)}, of {', '.join(keys)}.")


def check_keys_file(case: Case) -> Iterator[Finding]:
    path = case.settings.keys_file
    if case.settings.api_keys:
        yield skipped("keys file", "The keys are in HEARTLINE_API_KEYS.")
    elif _others_may_read(path):
        yield failed("keys file", f"Every user of this machine can read the API keys in {path}.", f"chmod 600 {path}")
    else:
        yield ok("keys file", "Not every user of this machine can read it.")


def check_timeouts(case: Case) -> Iterator[Finding]:
    """The rungs that a start refuses are the settings' own business; here are those that it lets pass."""
    given = case.settings
    if 2 * given.heartbeat_seconds > given.proxy_idle_seconds:
        yield warning(
            "timeouts",
            f"Proxies give up after {given.proxy_idle_seconds:g} s of silence, and a heartbeat comes every "
            f"{given.heartbeat_seconds:g} s: one that is late loses the stream.",
            "Make HEARTLINE_HEARTBEAT_SECONDS half of HEARTLINE_PROXY_IDLE_SECONDS or less, or raise the proxy's "
            "timeout and then that setting.",
        )
        return
    job = given.run_timeout_seconds + given.stop_grace_seconds + JOB_MARGIN_SECONDS
    yield ok(
        "timeouts",
        f"Heartbeat {given.heartbeat_seconds:g} s < proxy's silence {given.proxy_idle_seconds:g} s; "
        f"run {given.run_timeout_seconds:g} s < job {job:g} s; "
        f"stop grace {given.stop_grace_seconds:g} s < drain {given.drain_seconds:g} s: whatever stops the processes "
        f"must wait for {given.drain_seconds + 3 * given.stop_grace_seconds:g} s before it kills them.",
    )


def _own_key(case: Case) -> str:
    """The key in the file that the operator has named; with or without a name in front."""
    if not case.key_file:
        return ""
    lines = Path(case.key_file).read_text(encoding="utf-8").split()
    if not lines:
        raise ConfigurationError(f"{case.key_file}: there is no key in it")
    return lines[0].rpartition(":")[2]


def _others_may_read(path: Path) -> bool:
    return bool(path.stat().st_mode & stat.S_IROTH)


def _holds_a_secret(case: Case) -> bool:
    found = settings.environment({}, DOTENV)
    return any(("KEY" in name or "TOKEN" in name or "REDIS_URL" in name) and value for name, value in found.items())
