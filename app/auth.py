"""Who asks: API key → owner, and a browser's login → owner. Keys are compared in constant time; a key's name is its
owner. Operators are owners who may see and stop everybody's runs.

A browser sends its cookie along with whatever any page makes it ask for. So a login counts only where a page of ours
needs it, and for what changes something only when the browser says that a page of ours has asked.
"""

import functools
import hashlib
import hmac
import re
from collections.abc import Callable, Collection, Mapping
from typing import ParamSpec, TypeVar
from urllib.parse import urlsplit

from flask import Request, g, request

from core.errors import ConfigurationError, ForeignOrigin, Unauthorized
from core.logins import Login, Logins
from core.settings import Settings

MIN_KEY_CHARACTERS = 16
COOKIE = "heartline"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

P = ParamSpec("P")
R = TypeVar("R")


class ApiKeys:
    """The keys of this server."""

    def __init__(self, keys: Mapping[str, str], operators: Collection[str] = ()) -> None:
        """`keys` maps an owner's name to the key; `operators` are those of the names that may see everything."""
        self._digests = {name: _digest(key) for name, key in keys.items()}
        self._operators = frozenset(operators)

    @classmethod
    def load(cls, settings: Settings) -> "ApiKeys":
        """From `HEARTLINE_API_KEYS`, else from the keys file, with the `HEARTLINE_OPERATORS` among them. Raises
        `ConfigurationError`."""
        keys = read(settings)
        operators = [name.strip() for name in settings.operators.split(",") if name.strip()]
        if unknown := next((name for name in operators if name not in keys), None):
            raise ConfigurationError(f"HEARTLINE_OPERATORS: there is no API key with the name '{unknown}'")
        return cls(keys, operators)

    def owner(self, key: str) -> str | None:
        """The owner of this key, or None. Takes the same time for every wrong key."""
        digest, found = _digest(key), None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found

    @property
    def owners(self) -> list[str]:
        return list(self._digests)

    def is_operator(self, owner: str) -> bool:
        return owner in self._operators

    def login(self, owner: str, token: str) -> Login:
        """What is kept of a login of this owner. The proof is of no use without the token."""
        return Login(owner, hmac.digest(token.encode("utf-8", "surrogateescape"), self._digests[owner], "sha256").hex())

    def still(self, login: Login, token: str) -> str | None:
        """The owner of a login; None when his key is gone, or is another one now."""
        if login.owner not in self._digests:
            return None
        known = self.login(login.owner, token).proof
        return login.owner if hmac.compare_digest(known, login.proof) else None


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


def required(keys: ApiKeys, logins: Logins | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: the view runs only with a valid key, and finds its owner in `g.owner`. With `logins`, a browser's
    login does as well; one for what changes something only from a page of ours."""

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            if logins is None or "Authorization" in request.headers:
                owner, g.by_login = keys.owner(bearer(request)), False
            else:
                owner, g.by_login = owner_by_login(keys, logins), True
            if owner is None:
                raise Unauthorized
            if g.by_login and request.method not in SAFE_METHODS and not is_from_here(request):
                raise ForeignOrigin
            g.owner, g.operator = owner, keys.is_operator(owner)
            return view(*args, **kwargs)

        return guarded

    return decorate


def whose() -> str | None:
    """Whose runs the current request may see: those of its owner, or, None, everybody's."""
    return None if g.operator else str(g.owner)


def owner_by_login(keys: ApiKeys, logins: Logins) -> str | None:
    """Who is logged in with the browser that asks, or None."""
    token = request.cookies.get(COOKIE, "")
    login = logins.of(token) if token else None
    return keys.still(login, token) if login else None


def is_from_here(asked: Request) -> bool:
    """Whether the browser says that a page of this very server made it ask; without such a word, it is not.

    `Sec-Fetch-Site` comes only over https and from localhost. A proxy may have taken the https off, so that of an
    `Origin` only the host is compared. https://fetch.spec.whatwg.org/#http-origin
    """
    if (site := asked.headers.get("Sec-Fetch-Site")) is not None:
        return site == "same-origin"
    origin = asked.headers.get("Origin", "")
    return bool(origin) and urlsplit(origin).netloc.lower() == asked.host.lower()
