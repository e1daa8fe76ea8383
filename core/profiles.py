"""Profiles: the named models of `models.yaml`, each with the CLI flags, environment and limits it stands for."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml
from msgspec import Meta

from core.errors import ConfigurationError, ModelNotFound

Id = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}\Z")]
Folder = Annotated[str, Meta(pattern=r"\A/")]
PermissionMode = Literal["acceptEdits", "auto", "bypassPermissions", "default", "dontAsk", "manual", "plan"]


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model as clients see it. What is left out is left to the CLI's own default."""

    id: Id
    name: str = ""
    description: str = ""
    runner: Literal["claude", "diagnostic"] = "claude"
    model: str | None = None
    permission_mode: PermissionMode = "dontAsk"
    tools: tuple[str, ...] | None = None
    allowed_tools: tuple[str, ...] = ()
    denied_tools: tuple[str, ...] = ()
    system_prompt: str = ""
    system_prompt_mode: Literal["append", "replace"] = "append"
    effort: str | None = None
    max_turns: Annotated[int, Meta(ge=1)] | None = None
    max_budget_usd: Annotated[float, Meta(gt=0)] | None = None
    run_timeout_seconds: Annotated[float, Meta(gt=0, le=30 * 86400)] | None = None
    detach: bool = False
    answer_file: Annotated[str, Meta(pattern=r"\A(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}\Z")] | None = None
    directory: Folder | None = None
    read_only_folders: tuple[Folder, ...] = ()
    writable_folders: tuple[Folder, ...] = ()
    network: bool = True
    flags: tuple[str, ...] = ()
    environment: dict[str, str] = {}

    @property
    def label(self) -> str:
        return self.name or self.id


class Defaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which profile answers a request that names no model, one that names a model that is not listed here, one
    that is a task, and those of `POST /chat/stream` and `POST /execute/stream`."""

    absent: str | None = None
    unknown: str | None = None
    task: str | None = None
    chat_stream: str | None = None
    execute_stream: str | None = None


class Profiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of `models.yaml`, in its order."""

    profiles: Annotated[tuple[Profile, ...], Meta(min_length=1)]
    defaults: Defaults = Defaults()

    def get(self, profile_id: str) -> Profile:
        """The profile with this id. Raises `ModelNotFound`, which lists the known ones."""
        return self._find(profile_id, self.profiles)

    @property
    def task(self) -> Profile | None:
        """The profile that performs tasks, or None where they are turned off."""
        return None if self.defaults.task is None else self.get(self.defaults.task)

    def is_task(self, profile_id: str) -> bool:
        """Whether this is the task profile: its runs have a lane of their own, and neither session nor workspace."""
        return profile_id == self.defaults.task

    @property
    def offered(self) -> tuple[Profile, ...]:
        """What clients may choose from: the task profile is not theirs to name."""
        return tuple(profile for profile in self.profiles if not self.is_task(profile.id))

    def offer(self, profile_id: str) -> Profile:
        """The same as `get`, of those that are offered."""
        return self._find(profile_id, self.offered)

    def choose(self, model: str | None) -> Profile:
        """The profile for the model that a client named, or did not name. Raises `ModelNotFound`."""
        if not model:
            if self.defaults.absent is None:
                raise ModelNotFound(f"Name a model in the field 'model'. {self._known()}", param="model")
            return self.offer(self.defaults.absent)
        try:
            return self.offer(model)
        except ModelNotFound:
            if self.defaults.unknown is None:
                raise
            return self.offer(self.defaults.unknown)

    def _find(self, profile_id: str, among: tuple[Profile, ...]) -> Profile:
        for profile in among:
            if profile.id == profile_id:
                return profile
        raise ModelNotFound(f"The model '{profile_id[:100]}' does not exist. {self._known()}", param="model")

    def _known(self) -> str:
        return f"Known models: {', '.join(profile.id for profile in self.offered)}."


def load(path: str | Path, log_ttl_seconds: float = float("inf")) -> Profiles:
    """Read `models.yaml`. Raises `ConfigurationError` with one line that names the place.

    No profile's run may take `log_ttl_seconds` or longer: it would outlive its own log.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"HEARTLINE_MODELS_FILE={path}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date
        raise ConfigurationError(f"{path}: not valid YAML: {_reason(error)}") from None
    try:
        profiles = msgspec.convert(data, Profiles)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    _check(profiles, path, log_ttl_seconds)
    return profiles


def _reason(error: Exception) -> str:
    """What is wrong and where, without the lines themselves, which PyYAML quotes: they may hold a key."""
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark):
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _check(profiles: Profiles, path: str | Path, log_ttl_seconds: float) -> None:
    ids = [profile.id for profile in profiles.profiles]
    for profile_id in ids:
        if ids.count(profile_id) > 1:
            raise ConfigurationError(f"{path}: the profile id '{profile_id}' is used twice")
    for field in Defaults.__struct_fields__:
        named = getattr(profiles.defaults, field)
        if named is not None and named not in ids:
            raise ConfigurationError(f"{path}: defaults.{field} names '{named}', which is no profile")
        if field != "task" and named is not None and profiles.is_task(named):
            raise ConfigurationError(f"{path}: defaults.{field} names '{named}', which is only for tasks")
    _check_task(profiles, path)
    for profile in profiles.profiles:
        if (profile.run_timeout_seconds or 0) >= log_ttl_seconds:
            raise ConfigurationError(
                f"{path}: the profile '{profile.id}' has run_timeout_seconds={profile.run_timeout_seconds:g}, which "
                f"must be less than HEARTLINE_LOG_TTL_SECONDS={log_ttl_seconds:g}, or a run outlives its own log"
            )


def _check_task(profiles: Profiles, path: str | Path) -> None:
    """A task must never start an agent, and leave clients something to ask."""
    if (task := profiles.task) is None:
        return
    if task.tools != ():
        raise ConfigurationError(f"{path}: the profile '{task.id}' is for tasks: it must say 'tools: []'")
    if task.answer_file:
        raise ConfigurationError(f"{path}: the profile '{task.id}' is for tasks: it can have no answer_file")
    if not profiles.offered:
        raise ConfigurationError(f"{path}: there is no profile but '{task.id}', which is only for tasks")


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def environment_of(profile: Profile, environ: Mapping[str, str]) -> dict[str, str]:
    """The profile's environment with `${VAR}` and `${VAR:-default}` filled in from `environ`.

    Raises `ConfigurationError` for a variable that is neither set nor given a default.
    """

    def fill(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        value = environ.get(name) or default
        if value is None:
            raise ConfigurationError(f"models.yaml: profile '{profile.id}' needs {name}, which is not set")
        return value

    filled = {}
    for name, value in profile.environment.items():
        rest = _VARIABLE.sub("", value)
        if "${" in rest:
            raise ConfigurationError(
                f"models.yaml: profile '{profile.id}', environment {name}: write ${{VAR}} or ${{VAR:-default}}"
            )
        filled[name] = _VARIABLE.sub(fill, value)
    return filled
