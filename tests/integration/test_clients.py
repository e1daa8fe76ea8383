"""A client of Redis waits no longer than it was told to, whoever keeps the time."""

import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from redis import Redis

from core.clients import AWAY, connect


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that answers redis-py's greeting, and nothing that follows it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                threading.Thread(target=greet, args=(connection,), daemon=True).start()

        def greet(connection: socket.socket) -> None:
            while said := connection.recv(1 << 16):
                if b"PING" not in said:
                    connection.sendall(b"+OK\r\n" * said.count(b"*"))

        threading.Thread(target=serve, daemon=True).start()
        yield f"redis://{host}:{port}?protocol=2"
        server.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


@pytest.mark.parametrize("kernel_waits", [False, True])
def test_a_server_that_does_not_answer_is_away(silent: str, kernel_waits: bool) -> None:
    client = connect(silent, retries=1, timeout_seconds=0.2, kernel_waits=kernel_waits).client()
    with pytest.raises(AWAY):
        client.ping()
    client.close()


def test_the_kernel_keeps_the_time_of_each_connection_that_is_made(redis: "Redis") -> None:
    options = redis.connection_pool.connection_kwargs
    client = connect(f"unix://{options['path']}", timeout_seconds=2.5, kernel_waits=True).client()
    for _ in range(2):
        assert client.ping()
        connected = client.connection._sock
        assert connected.gettimeout() is None, "Python would ask the kernel before each read"
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            limit = struct.unpack("ll", connected.getsockopt(socket.SOL_SOCKET, option, 16))
            assert limit == (2, 500_000)
        client.connection.disconnect()
    client.close()
