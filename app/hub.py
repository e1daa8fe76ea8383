"""The hub: this replica's one subscription to Redis, shared by all its watchers.

It tells watchers what is new; it promises nothing, because pub/sub loses messages when its connection
breaks. Whoever must have every event reads the log (`app.relay`).
"""

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import msgspec
from gevent.event import Event as Signal
from gevent.lock import RLock
from redis import ConnectionPool

from app.dialects import Dialect
from app.metrics import HUB_RECONNECTS, WATCHERS
from core import events, keys
from core.clients import AWAY

logger = logging.getLogger(__name__)

PING_EVERY_SECONDS = 10.0
CONNECT_SECONDS = 10.0
RECENT_EVENTS = 256
RECENT_BYTES = 256 * 1024


class Entry:
    """One event as it came from Redis, with what it looks like in each dialect that was asked for."""

    __slots__ = ("_rendered", "data", "event", "seq")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.event = events.decode(data)
        self.seq = self.event.seq
        self._rendered: dict[Dialect, bytes] = {}

    def rendered(self, dialect: Dialect) -> bytes:
        """The bytes for `dialect`, made once however many watch."""
        known = self._rendered.get(dialect)
        if known is None:
            known = self._rendered[dialect] = dialect.render(self.event, self.data)
        return known


class Feed:
    """The newest events of one run on this replica: a window without holes, and the signal that it moved."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.watchers = 0
        self.live = False  # whether messages can be expected to arrive
        self.confirmations = 0  # each one is a moment before which messages may have been lost
        self._recent: deque[Entry] = deque()
        self._bytes = 0
        self._moved = Signal()

    def confirm(self) -> None:
        """Redis has (again) confirmed the subscription."""
        self.live = True
        self.confirmations += 1
        self.wake()

    def suspend(self) -> None:
        """The connection is gone: nothing will come until the next confirmation."""
        self.live = False
        self.wake()

    def publish(self, entry: Entry) -> None:
        """Take a message from the channel."""
        last = self._recent[-1].seq if self._recent else None
        if last is not None and entry.seq <= last:
            return
        if last is not None and entry.seq > last + 1:
            self._recent.clear()
            self._bytes = 0
        self._recent.append(entry)
        self._bytes += len(entry.data)
        while len(self._recent) > RECENT_EVENTS or (self._bytes > RECENT_BYTES and len(self._recent) > 1):
            self._bytes -= len(self._recent.popleft().data)
        self.wake()

    def after(self, cursor: int) -> list[Entry] | None:
        """What is known behind `cursor`, or None when the window starts too late to say."""
        recent = self._recent
        if not recent or recent[-1].seq <= cursor:
            return []
        if recent[0].seq > cursor + 1:
            return None
        if recent[-1].seq == cursor + 1:
            return [recent[-1]]
        return [entry for entry in recent if entry.seq > cursor]

    def signal(self) -> Signal:
        """Set when the feed moves next. Take it before looking: what happens in between sets it too."""
        return self._moved

    def wake(self) -> None:
        """Have every watcher look again."""
        moved, self._moved = self._moved, Signal()
        moved.set()


class Hub:
    """Keeps one connection subscribed to the channels of all watched runs."""

    def __init__(self, redis_url: str) -> None:
        self._pool = ConnectionPool.from_url(redis_url, protocol=2, socket_connect_timeout=5)
        self._feeds: dict[bytes, Feed] = {}
        self._connection: Any = None
        self._sending = RLock()  # commands go out whole; only `_listen` reads
        self._heard = True
        self._greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        self._greenlets = [gevent.spawn(self._keep_listening), gevent.spawn(self._keep_pinging)]

    def close(self) -> None:
        gevent.killall(self._greenlets)
        self._drop_connection()

    @contextmanager
    def watch(self, run_id: str) -> Iterator[Feed]:
        """The run's feed, for as long as the block lasts."""
        channel = keys.channel(run_id).encode()
        feed = self._feeds.get(channel)
        if feed is None:
            feed = self._feeds[channel] = Feed(run_id)
        feed.watchers += 1
        WATCHERS.inc()
        try:
            if feed.watchers == 1:
                self._send("SUBSCRIBE", channel)
            yield feed
        finally:
            feed.watchers -= 1
            WATCHERS.dec()
            if not feed.watchers:
                del self._feeds[channel]
                self._send("UNSUBSCRIBE", channel)

    def wake(self) -> None:
        """Have every watcher of every run look again."""
        for feed in self._feeds.values():
            feed.wake()

    @property
    def watchers(self) -> int:
        """How many clients are being served."""
        return sum(feed.watchers for feed in self._feeds.values())

    # --- the connection ---------------------------------------------------------------------------

    def _send(self, command: str, *channel: bytes) -> None:
        """Send when connected; when not, connecting subscribes to every feed anyway."""
        with self._sending:
            connection = self._connection
            if connection is None:
                return
            if command == "UNSUBSCRIBE" and channel[0] in self._feeds:
                return  # somebody came back while this waited for its turn
            try:
                connection.send_command(command, *channel, check_health=False)
            except (*AWAY, OSError):
                self._hang_up(connection)

    def _keep_listening(self) -> None:
        pause, anew = 0.05, False
        while True:
            try:
                connection = self._connect()
                if anew:
                    HUB_RECONNECTS.inc()
                pause, anew = 0.05, True
                self._listen(connection)
            except Exception as error:  # whatever it was, the hub must live: all watchers depend on it
                logger.warning("hub_disconnected error=%r feeds=%d", error, len(self._feeds))
            self._drop_connection()
            gevent.sleep(pause)
            pause = min(pause * 2, 1.0)

    def _connect(self) -> Any:
        connection = self._pool.make_connection()
        with gevent.Timeout(CONNECT_SECONDS, OSError("Redis does not answer")):
            connection.connect()
        with self._sending:
            self._connection, self._heard = connection, True
            if self._feeds:
                connection.send_command("SUBSCRIBE", *self._feeds, check_health=False)
        return connection

    def _listen(self, connection: Any) -> None:
        while True:
            message = connection.read_response(disconnect_on_error=False, push_request=True, timeout=None)
            self._heard = True
            if isinstance(message, list):
                self._dispatch(message)

    def _dispatch(self, message: list[Any]) -> None:
        kind, channel, *rest = message
        feed = self._feeds.get(channel)
        if feed is None:
            return
        if kind == b"message":
            try:
                feed.publish(Entry(rest[0]))
            except msgspec.MsgspecError:
                logger.warning("hub_unreadable_message run_id=%s", feed.run_id)
        elif kind == b"subscribe":
            feed.confirm()

    def _keep_pinging(self) -> None:
        """A connection that died without a word is noticed by the answer that does not come."""
        while True:
            gevent.sleep(PING_EVERY_SECONDS)
            if (connection := self._connection) is not None and not self._heard:
                logger.warning("hub_silent feeds=%d", len(self._feeds))
                self._hang_up(connection)
            self._heard = False
            self._send("PING")

    def _hang_up(self, connection: Any) -> None:
        """Wakes the listener, which connects anew. Nobody may send before: redis-py would connect, and read, too."""
        if self._connection is connection:
            self._connection = None
        connection.disconnect()

    def _drop_connection(self) -> None:
        if (connection := self._connection) is not None:
            self._hang_up(connection)
        for feed in self._feeds.values():
            feed.suspend()
