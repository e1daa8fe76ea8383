"""Logins: browsers that have shown an API key. They are in Redis, so that every replica knows them and each can end
them; neither a token nor a key is."""

import hashlib
import secrets
from typing import cast

import msgspec
from redis import Redis

from core import keys

FAILURES_SECONDS = 60
MAX_FAILURES = 10
"""So many wrong keys may come from one address in `FAILURES_SECONDS`. Keys are too long to be guessed; this keeps a
guesser out of the log, and off the processor."""

# The expiry belongs to the first failure: whoever goes on guessing does not lock an address for ever.
_FAILED = """
if redis.call('INCR', KEYS[1]) == 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
"""


class Login(msgspec.Struct, frozen=True):
    """Whose a login is. `proof` shows that his key is still the one that was given; see `app.auth`."""

    owner: str
    proof: str


class Logins:
    """All logins. Raises redis-py's errors when Redis is away."""

    def __init__(self, redis: "Redis", ttl_seconds: int) -> None:
        self._redis = redis
        self._ttl_seconds = ttl_seconds
        self._failed = redis.register_script(_FAILED)

    def begin(self, token: str, login: Login) -> None:
        """From now on, and for `ttl_seconds`, whoever has this token is logged in."""
        self._redis.set(_key(token), msgspec.json.encode(login), ex=self._ttl_seconds)

    def of(self, token: str) -> Login | None:
        """The login that this token stands for, or None."""
        data = cast("bytes | None", self._redis.get(_key(token)))
        return msgspec.json.decode(data, type=Login) if data else None

    def end(self, token: str) -> None:
        self._redis.delete(_key(token))

    def failed(self, address: str) -> None:
        """Somebody at this address has shown a key that is none."""
        self._failed(keys=[keys.login_failures(address)], args=[FAILURES_SECONDS])

    def may_try(self, address: str) -> bool:
        """Whether this address has failed seldom enough to be listened to."""
        return int(cast("bytes | None", self._redis.get(keys.login_failures(address))) or 0) < MAX_FAILURES


def new_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(32)


def _key(token: str) -> str:
    return keys.login(hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest())
