"""The counting stream leaves when its client does, and when its replica drains."""

import gevent
from gevent import socket

from app.client import Client
from app.counting import FAREWELL, counting
from app.drain import Drain


class _Socket:
    """What gunicorn hands to a view: a gevent socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock._sock  # type: ignore[attr-defined]
        self.fileno = sock.fileno


def test_ends_at_once_when_the_client_leaves() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        stream = counting(Client(_Socket(ours)), Drain(lambda: 0.0))
        assert next(stream).startswith(b"id: 0\n")
        theirs.close()
        with gevent.Timeout(5):
            assert list(stream) == []


def test_says_goodbye_when_the_replica_drains() -> None:
    drain = Drain(lambda: 0.0)
    stream = counting(Client(), drain)
    assert next(stream).startswith(b"id: 0\n")
    drain.begin(20)
    assert list(stream) == [FAREWELL]
