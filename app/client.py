"""The client at the other end of one request: whether its socket is still open.

A server that only writes notices a closed socket with its second write, which may be a heartbeat later.
"""

import socket
from collections.abc import Callable
from typing import Any

import gevent
from flask import Request

_ENVIRON = "heartline.client"


class Client:
    """Watches a socket for its close. Without one (in tests, or another server) it never notices any.

    It also remembers what its stream was: how many events, and in one word how it ended.
    """

    __slots__ = ("_socket", "ended", "events", "gone")

    def __init__(self, sock: Any = None) -> None:
        self._socket = sock
        self.gone = False
        self.events = 0
        self.ended = ""

    @classmethod
    def of(cls, request: Request) -> "Client":
        """The client of the current request, one for each; gunicorn tells its socket."""
        client: Client = request.environ.setdefault(_ENVIRON, cls(request.environ.get("gunicorn.socket")))
        return client

    def calling(self, on_gone: Callable[[], None]) -> "Calling":
        """While this lasts, `on_gone` is called at once when the client closes its socket. It must not block."""
        return Calling(self, on_gone)

    def watcher(self) -> Any:
        """gevent's, of the socket; None without one."""
        return None if self._socket is None else gevent.get_hub().loop.io(self._socket.fileno(), 1)

    def look(self) -> None:
        """Find out whether it has gone."""
        self.gone = self.gone or self._closed()

    def _closed(self) -> bool:
        try:
            return bool(self._socket._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"")
        except BlockingIOError:
            return False
        except OSError:
            return True


class Calling:
    """A `with` block in which it is noticed that a client closes its socket."""

    __slots__ = ("_client", "_on_gone", "_watcher")

    def __init__(self, client: Client, on_gone: Callable[[], None]) -> None:
        self._client = client
        self._on_gone = on_gone
        self._watcher = client.watcher()

    def __enter__(self) -> None:
        if self._watcher is not None:
            self._watcher.start(self._readable)

    def __exit__(self, *_: object) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()

    def _readable(self) -> None:
        self._client.look()
        if self._client.gone:
            self._on_gone()
        self._watcher.stop()  # closed, or the next request is already here: there is no more to learn
