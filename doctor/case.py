"""The case: what is examined, and what the checks so far have learned of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from redis import Redis

from core.profiles import Profile, Profiles
from core.settings import Settings


@dataclass
class Case:
    """Each check may leave here what later ones need. `environ` is with what `.env` says."""

    environ: Mapping[str, str]
    urls: tuple[str, ...] = ()
    key_file: str = ""
    model: str = ""
    quick: bool = False
    settings: Settings = field(default_factory=Settings)
    profiles: Profiles | None = None
    api_key: str = ""
    redis: "Redis | None" = None
    redis_info: Mapping[str, int | float | str] = field(default_factory=dict)
    claude_bin: str = ""

    @property
    def server(self) -> "Redis":
        """The Redis that answers. Only for checks that need it."""
        assert self.redis is not None  # noqa: S101
        return self.redis

    @property
    def claude_profiles(self) -> list[Profile]:
        """The profiles that need the Claude CLI."""
        known = self.profiles.profiles if self.profiles else ()
        return [profile for profile in known if profile.runner == "claude"]
