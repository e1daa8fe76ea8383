"""API key → owner. Keys are compared in constant time; a key's name is its owner."""

import functools
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from flask import Request, g, request

from core.errors import ConfigurationError, Unauthorized
from core.settings import Settings

MIN_KEY_CHARACTERS = 16

P = ParamSpec("P")
R = TypeVar("R")


class ApiKeys:
    """The keys of this server."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """`keys` maps an owner's name to the key."""
        self._digests = [(name, _digest(key)) for name, key in keys.items()]

    @classmethod
    def load(cls, settings: Settings) -> "ApiKeys":
        """From `HEARTLINE_API_KEYS`, else from the keys file. Raises `ConfigurationError`."""
        return cls(read(settings))

    def owner(self, key: str) -> str | None:
        """The owner of this key, or None. Takes the same time for every wrong key."""
        digest, found = _digest(key), None
        for name, known in self._digests:
            if hmac.compare_digest(digest, known):
                found = name
        return found


def read(settings: Settings) -> dict[str, str]:
    """This server's keys by their names. Raises `ConfigurationError`."""
    if settings.api_keys:
        return parse(settings.api_keys.split(","), "HEARTLINE_API_KEYS")
    try:
        lines = settings.keys_file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigurationError(
            f"HEARTLINE_API_KEYS is not set, and HEARTLINE_API_KEYS_FILE={settings.keys_file} "
            f"cannot be read ({error.strerror}): write 'name:key' lines there, or run 'make run' once"
        ) from None
    return parse(lines, f"HEARTLINE_API_KEYS_FILE={settings.keys_file}")


def parse(entries: list[str], source: str) -> dict[str, str]:
    """`name:key` entries → {name: key}; blank ones and '#' comments are skipped. Raises `ConfigurationError`,
    which never shows a key."""
    keys: dict[str, str] = {}
    for number, entry in enumerate(map(str.strip, entries), start=1):
        if not entry or entry.startswith("#"):
            continue
        name, colon, key = (part.strip() for part in entry.partition(":"))
        if not colon or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise ConfigurationError(f"{source}: entry {number}: expected name:key")
        if len(key) < MIN_KEY_CHARACTERS:
            raise ConfigurationError(f"{source}: the key of '{name}' needs {MIN_KEY_CHARACTERS} characters or more")
        if not key.isascii():
            raise ConfigurationError(f"{source}: the key of '{name}' has characters that no HTTP header can carry")
        if name in keys:
            raise ConfigurationError(f"{source}: the name '{name}' is used twice")
        if key in keys.values():
            raise ConfigurationError(f"{source}: the key of '{name}' is another name's, too")
        keys[name] = key
    if not keys:
        raise ConfigurationError(f"{source}: there is no key in it")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def bearer(request: Request) -> str:
    """The key that a request carries, or nothing."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def required(keys: ApiKeys) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: the view runs only with a valid key, and finds its owner in `g.owner`."""

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            owner = keys.owner(bearer(request))
            if owner is None:
                raise Unauthorized
            g.owner = owner
            return view(*args, **kwargs)

        return guarded

    return decorate
