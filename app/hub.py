"""The hub: this replica's one subscription to Redis, shared by all its watchers.

It tells watchers what is new; it promises nothing, because pub/sub loses messages when its connection
breaks. Whoever must have every event reads the log (`app.relay`).
"""

import logging
from collections import deque
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
from core.log import PAGE

logger = logging.getLogger(__name__)

PING_EVERY_SECONDS = 10.0
CONNECT_SECONDS = 10.0
RECENT_BYTES = 2 * 1024 * 1024
"""How much a replica keeps of what is new, of all runs together: whoever is further behind reads the log."""

ENTRY_BYTES = 512
"""What an entry weighs beside its text, which it holds as it came, decoded and rendered."""


class Entry:
    """One event as it came from Redis, with what it looks like in each dialect that was asked for."""

    __slots__ = ("_rendered", "data", "event", "seq", "weight")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.event = events.decode(data)
        self.seq = self.event.seq
        self.weight = 3 * len(data) + ENTRY_BYTES
        self._rendered: dict[Dialect, bytes] = {}

    def rendered(self, dialect: Dialect) -> bytes:
        """The bytes for `dialect`, made once however many watch."""
        known = self._rendered.get(dialect)
        if known is None:
            known = self._rendered[dialect] = dialect.render(self.event, self.data)
        return known


class Feed:
    """The newest events of one run on this replica: a window without holes, and the signal that it moved."""

    __slots__ = ("_moved", "_newest", "_recent", "confirmations", "live", "run_id", "watchers")

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.watchers = 0
        self.live = False  # whether messages can be expected to arrive
        self.confirmations = 0  # each one is a moment before which messages may have been lost
        self._newest = 0  # the last seq that came, be it kept or not; 0 while none has
        self._recent: deque[Entry] = deque()  # what is kept: it ends with the newest, if there is anything
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

    def publish(self, entry: Entry) -> bool:
        """Take a message from the channel; returns whether it is kept."""
        if entry.seq <= self._newest:
            return False
        if entry.seq > self._newest + 1:
            self._recent.clear()
        self._newest = entry.seq
        self._recent.append(entry)
        self.wake()
        return True

    def forget(self, entry: Entry) -> None:
        """Let go of the oldest entry, if it is this one."""
        if self._recent and self._recent[0] is entry:
            self._recent.popleft()

    def after(self, cursor: int) -> list[Entry] | None:
        """What is known behind `cursor`, at most a page of it, or None when the window starts too late to say."""
        recent, behind = self._recent, self._newest - cursor
        if behind <= 0:
            return []
        if behind > len(recent):
            return None
        return [recent[-i] for i in range(behind, max(behind - PAGE, 0), -1)]

    def signal(self) -> Signal:
        """Set when the feed moves next. Take it before looking: what happens in between sets it too."""
        return self._moved

    def wake(self) -> None:
        """Have every watcher look again."""
        moved, self._moved = self._moved, Signal()
        moved.set()


class Recent:
    """What the feeds hold, in the order in which it came: when it weighs too much, the oldest is let go of, whichever
    run it is of. So what a replica holds does not grow with the number of runs."""

    def __init__(self) -> None:
        self._held: deque[tuple[Feed, Entry]] = deque()
        self._bytes = 0
        self.fresh_bytes = 0
        """What has come since the watchers could last look."""

    def publish(self, feed: Feed, entry: Entry) -> None:
        """Give the feed its newest entry, and make room for it."""
        if not feed.publish(entry):
            return
        self._held.append((feed, entry))
        self._bytes += entry.weight
        self.fresh_bytes += entry.weight
        while self._bytes > RECENT_BYTES and len(self._held) > 1:
            oldest_feed, oldest = self._held.popleft()
            self._bytes -= oldest.weight
            oldest_feed.forget(oldest)


class Hub:
    """Keeps one connection subscribed to the channels of all watched runs."""

    def __init__(self, redis_url: str) -> None:
        self._pool = ConnectionPool.from_url(redis_url, protocol=2, socket_connect_timeout=5)
        self._feeds: dict[bytes, Feed] = {}
        self._recent = Recent()
        self._connection: Any = None
        self._sending = RLock()  # commands go out whole; only `_listen` reads
        self._heard = True
        self._greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        self._greenlets = [gevent.spawn(self._keep_listening), gevent.spawn(self._keep_pinging)]

    def close(self) -> None:
        gevent.killall(self._greenlets)
        self._drop_connection()

    def enter(self, run_id: str) -> Feed:
        """The run's feed, which has one watcher more, until that one leaves."""
        channel = keys.channel(run_id).encode()
        feed = self._feeds.get(channel)
        if feed is None:
            feed = self._feeds[channel] = Feed(run_id)
        feed.watchers += 1
        WATCHERS.inc()
        try:
            if feed.watchers == 1:
                self._send("SUBSCRIBE", channel)
        except BaseException:
            self.leave(feed)
            raise
        return feed

    def leave(self, feed: Feed) -> None:
        """A watcher has gone."""
        feed.watchers -= 1
        WATCHERS.dec()
        if not feed.watchers:
            channel = keys.channel(feed.run_id).encode()
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
            if self._recent.fresh_bytes > RECENT_BYTES // 2:
                self._recent.fresh_bytes = 0
                gevent.sleep(0)  # what is pushed out before it was looked at would have to be read from the log

    def _dispatch(self, message: list[Any]) -> None:
        kind, channel, *rest = message
        feed = self._feeds.get(channel)
        if feed is None:
            return
        if kind == b"message":
            try:
                self._recent.publish(feed, Entry(rest[0]))
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
