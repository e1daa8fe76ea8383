"""The settings: read once from `HEARTLINE_*` variables and `.env`, checked, frozen, passed in."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from dotenv import dotenv_values
from msgspec import Meta
from redis.connection import parse_url

from core.errors import ConfigurationError

PREFIX = "HEARTLINE_"
NOT_SETTINGS = {"HEARTLINE_RUN_ID", "HEARTLINE_WORKER_PID"}
"""Variables with our prefix that are no settings: the marks of a run's processes."""

MIN_TOKEN_CHARACTERS = 16

Seconds = Annotated[float, Meta(gt=0, le=30 * 86400)]
Bytes = Annotated[int, Meta(ge=1024, le=1 << 30)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting with its default; the variable is the upper-case name behind `HEARTLINE_`."""

    redis_url: str = ""
    bind: str = "127.0.0.1:8080"
    api_keys: str = ""
    api_keys_file: str = ""
    operators: str = ""
    login_ttl_seconds: Annotated[int, Meta(ge=60, le=30 * 86400)] = 12 * 3600
    claude_bin: str = ""
    sandbox: Literal["auto", "bwrap", "off"] = "auto"
    state_dir: str = "state"
    models_file: str = "models.yaml"
    worker_slots: Annotated[int, Meta(ge=1, le=256)] = 4
    task_slots: Annotated[int, Meta(ge=1, le=256)] = 2
    warm_processes: Annotated[int, Meta(ge=0, le=256)] = 4
    warm_seconds: Seconds = 600
    warm_memory_bytes: Annotated[int, Meta(ge=1 << 20)] = 1 << 30
    heartbeat_seconds: Seconds = 15
    heartbeat_style: Literal["comment", "dot"] = "comment"
    proxy_idle_seconds: Seconds = 60
    run_timeout_seconds: Seconds = 600
    stall_timeout_seconds: Seconds = 180
    tool_timeout_seconds: Seconds = 600
    queue_timeout_seconds: Seconds = 600
    disconnect_grace_seconds: Annotated[float, Meta(ge=0, le=3600)] = 3
    stop_grace_seconds: Seconds = 5
    drain_seconds: Seconds = 20
    drain_notice_seconds: Annotated[float, Meta(ge=0, le=60)] = 0
    log_ttl_seconds: Annotated[int, Meta(ge=60, le=30 * 86400)] = 86400
    workspace_ttl_seconds: Annotated[int, Meta(ge=60, le=366 * 86400)] = 14 * 86400
    workspaces_max_bytes: Annotated[int, Meta(ge=1 << 20)] = 20 << 30
    usage_ttl_seconds: Annotated[int, Meta(ge=86400, le=3660 * 86400)] = 400 * 86400
    progress: Literal["auto", "openwebui", "text", "reasoning", "none"] = "auto"
    language: Literal["en", "de"] = "en"
    max_queued_runs: Annotated[int, Meta(ge=1)] = 1000
    max_queued_runs_per_key: Annotated[int, Meta(ge=1)] = 100
    max_body_bytes: Bytes = 32 * 1024 * 1024
    max_prompt_bytes: Bytes = 24 * 1024 * 1024
    max_images: Annotated[int, Meta(ge=0, le=100)] = 20
    image_urls: Literal["off", "on"] = "off"
    max_answer_bytes: Bytes = 32 * 1024 * 1024
    max_tool_output_bytes: Bytes = 8 * 1024
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"
    metrics: Literal["on", "off"] = "on"
    metrics_token: str = ""
    worker_metrics_bind: str = ""

    @property
    def state(self) -> Path:
        return Path(self.state_dir).resolve()

    @property
    def keys_file(self) -> Path:
        """Where the API keys are when `api_keys` does not say them."""
        return Path(self.api_keys_file).resolve() if self.api_keys_file else self.state / "api-keys"

    @property
    def address(self) -> tuple[str, int]:
        """`bind` as (host, port)."""
        return _address(self.bind)

    @property
    def worker_metrics_address(self) -> tuple[str, int]:
        """`worker_metrics_bind`, which must be set, as (host, port)."""
        return _address(self.worker_metrics_bind)

    @property
    def local_url(self) -> str:
        """Where a client on this machine finds the API."""
        host, port = self.address
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def unfinished_ttl_seconds(self) -> int:
        """How long Redis keeps a run that nobody ends: longer than any run can wait and work."""
        return 2 * self.log_ttl_seconds + 3600


def environment(environ: Mapping[str, str], dotenv: str | Path | None = ".env") -> dict[str, str]:
    """`environ` and, behind it, what the `dotenv` file sets: keys of the CLI's may stand there, too."""
    from_file = dotenv_values(dotenv) if dotenv else {}
    return {**{name: value for name, value in from_file.items() if value}, **_set(environ)}


def _set(environ: Mapping[str, str]) -> dict[str, str]:
    """Without our own variables that are empty: an empty setting is one that is not made."""
    return {name: value for name, value in environ.items() if value or not name.startswith(PREFIX)}


def load(environ: Mapping[str, str], dotenv: str | Path | None = ".env") -> Settings:
    """The settings of this process; a variable in `environ` wins over the one in the `dotenv` file.

    Raises `ConfigurationError` with one line that names the variable and what it must be.
    """
    found = environment(environ, dotenv)
    known = {PREFIX + name.upper(): name for name in Settings.__struct_fields__}
    given = {known[name]: value.strip() for name, value in found.items() if name in known and value}
    for name in (*found, *environ):
        if name.startswith(PREFIX) and name not in known and name not in NOT_SETTINGS:
            raise ConfigurationError(f"{name}: there is no such setting")
    settings = _convert(given)
    _check(settings)
    return settings


def _convert(given: dict[str, str]) -> Settings:
    try:
        return msgspec.convert(given, Settings, strict=False)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`")
        raise ConfigurationError(f"{_variable(name)}={given.get(name, '')!r}: {reason}") from None


def _check(settings: Settings) -> None:
    if not _is_address(settings.bind):
        raise _wrong(settings, "bind", "expected host:port, such as 127.0.0.1:8080")
    if settings.worker_metrics_bind and not _is_address(settings.worker_metrics_bind):
        raise _wrong(settings, "worker_metrics_bind", "expected host:port, such as 127.0.0.1:9464")
    token = settings.metrics_token
    if token and not re.fullmatch(rf"[!-~]{{{MIN_TOKEN_CHARACTERS},}}", token):  # not shown: it is a secret
        raise ConfigurationError(
            f"{_variable('metrics_token')}: expected {MIN_TOKEN_CHARACTERS} characters or more, of ASCII and no blanks"
        )
    if settings.redis_url:
        try:
            parse_url(settings.redis_url)
        except ValueError as error:  # the URL itself is not shown: it may hold a password
            raise ConfigurationError(f"{_variable('redis_url')}: {' '.join(str(error).split())}") from None
    _ladder(settings, "heartbeat_seconds", "proxy_idle_seconds", "or a proxy closes a silent stream first")
    _ladder(settings, "stop_grace_seconds", "drain_seconds", "or a stopping worker has no time to stop its runs")
    _ladder(settings, "run_timeout_seconds", "log_ttl_seconds", "or a run outlives its own log")
    _ladder(settings, "warm_seconds", "log_ttl_seconds", "or a waiting CLI outlives its folder")
    _ladder(settings, "max_prompt_bytes", "max_body_bytes", "or the prompt limit can never apply", equal=True)


def _is_address(text: str) -> bool:
    form = r"(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}"
    return re.fullmatch(form, text, re.ASCII) is not None and _address(text)[1] <= 65535


def _address(bind: str) -> tuple[str, int]:
    host, _, port = bind.rpartition(":")
    return host.strip("[]"), int(port)


def _ladder(settings: Settings, lower: str, upper: str, why: str, *, equal: bool = False) -> None:
    small: Any = getattr(settings, lower)
    large: Any = getattr(settings, upper)
    if small > large or (small == large and not equal):
        relation = "at most" if equal else "less than"
        raise _wrong(settings, lower, f"must be {relation} {_variable(upper)}={large}, {why}")


def _wrong(settings: Settings, name: str, must: str) -> ConfigurationError:
    return ConfigurationError(f"{_variable(name)}={' '.join(str(getattr(settings, name)).split())}: {must}")


def _variable(name: str) -> str:
    return PREFIX + name.upper()
