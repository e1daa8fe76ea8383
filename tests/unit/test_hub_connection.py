"""The hub and a connection that has ended: nobody but the listener connects anew."""

from redis.exceptions import ConnectionError as RedisConnectionError

from app.hub import Hub


class Connection:
    """One that breaks when something is sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.ended = 0

    def send_command(self, command: str, *_: bytes, check_health: bool) -> None:
        self.sent.append(command)
        raise RedisConnectionError

    def disconnect(self) -> None:
        self.ended += 1


def test_nothing_is_sent_on_a_connection_that_broke() -> None:
    hub, connection = Hub("unix:///nobody/is/here"), Connection()
    hub._connection = connection
    for _ in range(3):
        hub._send("PING")
    assert connection.sent == ["PING"]  # redis-py would connect again for the second, and read where the hub does
    assert connection.ended == 1


def test_hanging_up_an_old_connection_leaves_the_new_one() -> None:
    hub, old, new = Hub("unix:///nobody/is/here"), Connection(), Connection()
    hub._connection = new
    hub._hang_up(old)
    assert (old.ended, new.ended) == (1, 0)
    assert hub._connection is new
