"""The client at the other end of one request: whether its socket is still open.

A server that only writes notices a closed socket with its second write, which may be a heartbeat later.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from flask import Request

_ENVIRON = "heartline.client"


class Client:
    """Watches a socket for its close. Without one (in tests, or another server) it never notices any.

    It also remembers what its stream was: how many events, and in one word how it ended.
    """

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

    @contextmanager
    def calling(self, on_gone: Callable[[], None]) -> Iterator[None]:
        """While this lasts, `on_gone` is called at once when the client closes its socket. It must not block."""
        if self._socket is None:
            yield
            return
        watcher = gevent.get_hub().loop.io(self._socket.fileno(), 1)

        def readable() -> None:
            if self._closed():
                self.gone = True
                on_gone()
            watcher.stop()  # closed, or the next request is already here: there is no more to learn

        watcher.start(readable)
        try:
            yield
        finally:
            watcher.stop()
            watcher.close()

    def _closed(self) -> bool:
        try:
            return bool(self._socket._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"")
        except BlockingIOError:
            return False
        except OSError:
            return True
