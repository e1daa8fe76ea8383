"""Hundreds of clients that watch at the same time: each gets every byte, and one that does not read holds up nobody."""

import hashlib
import selectors
import socket
import time
import urllib.parse
from collections.abc import Iterator

import psutil
import pytest
from redis import Redis

from core import events
from core.log import EventLog, Writer
from core.run import Message, Run, RunRequest, new_id
from core.runs import RunStore
from tests.deployment import KEYS, Deployment, eventually

WATCHERS = 300
EVENTS = 60
SLOW = 10
SLOW_BYTES = 12 * 1024 * 1024
"""More than the kernel takes for one client that does not read, on both sides of the connection."""


@pytest.fixture(scope="module")
def heartline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("heartline"), workers=0, heartbeat_seconds=55) as deployment:
        yield deployment


def begun(redis: "Redis") -> Writer:
    """A run that this test is the worker of."""
    run = Run(id=new_id(), owner="alice", profile="chat", model="chat", created_at=time.time(), detach=True)
    RunStore(redis, 1000).create(run, RunRequest(messages=(Message("user", "?"),)))
    writer = Writer(EventLog(redis, 1000), run.id)
    writer.start("slot1")
    return writer


def watcher(heartline: Deployment, run_id: str, receive_bytes: int = 0) -> socket.socket:
    """A client that has asked and read nothing yet; HTTP/1.0 has no chunks, and ends with the connection."""
    address = urllib.parse.urlsplit(heartline.replicas[0].url)
    client = socket.socket()
    if receive_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.connect((address.hostname, address.port))
    client.sendall(f"GET /v1/runs/{run_id}/events HTTP/1.0\r\nAuthorization: Bearer {KEYS['alice']}\r\n\r\n".encode())
    return client


def watching(heartline: Deployment) -> int:
    with heartline.http() as client:
        lines = client.get("/metrics").text.splitlines()
    return int(float(next(line for line in lines if line.startswith("heartline_watchers ")).split()[1]))


def skip_head(client: socket.socket) -> None:
    """Read the status and the headers, which differ."""
    client.settimeout(30)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(1)
        assert head, "there is no answer"
    assert b" 200 " in head.partition(b"\r\n")[0], head


def read_all(clients: list[socket.socket]) -> list[str]:
    """Each client's body, as a digest, once all of them have ended."""
    for client in clients:
        skip_head(client)
    found = {client: hashlib.sha256() for client in clients}
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(30)
            assert ready, "the streams do not end"
            for key, _ in ready:
                client = key.fileobj
                assert isinstance(client, socket.socket)
                data = client.recv(1 << 18)
                if data:
                    found[client].update(data)
                else:
                    selector.unregister(client)
                    client.close()
    return [found[client].hexdigest() for client in clients]


def resident(heartline: Deployment) -> int:
    return int(psutil.Process(heartline.replicas[0].process.pid).children()[0].memory_info().rss)


def test_all_watchers_of_a_run_get_every_byte(heartline: Deployment) -> None:
    writer = begun(heartline.redis)
    clients = [watcher(heartline, writer.run_id) for _ in range(WATCHERS)]
    eventually(lambda: watching(heartline) == WATCHERS, what="all of them watch")
    for number in range(EVENTS):
        writer.append([events.Text(text=f"{number} "), events.Reasoning(text="…")])
    writer.finish(events.Completed())
    live = set(read_all(clients))
    assert live == set(read_all([watcher(heartline, writer.run_id)]))  # what somebody reads who comes when all is over
    assert len(live) == 1


def test_each_watcher_of_its_own_run_gets_its_own(heartline: Deployment) -> None:
    writers = [begun(heartline.redis) for _ in range(WATCHERS // 3)]
    clients = [watcher(heartline, writer.run_id) for writer in writers]
    eventually(lambda: watching(heartline) == len(writers), what="all of them watch")
    for number in range(EVENTS // 6):
        for writer in writers:
            writer.append([events.Text(text=f"{number} {writer.run_id}")])
    for writer in writers:
        writer.finish(events.Completed())
    live = read_all(clients)
    assert len(set(live)) == len(writers)
    assert read_all([watcher(heartline, writer.run_id) for writer in writers]) == live


def test_clients_that_do_not_read_hold_up_nobody_and_cost_no_memory(heartline: Deployment) -> None:
    writer = begun(heartline.redis)
    slow = [watcher(heartline, writer.run_id, receive_bytes=65536) for _ in range(SLOW)]
    quick = [watcher(heartline, writer.run_id) for _ in range(2)]
    eventually(lambda: watching(heartline) == SLOW + 2, what="all of them watch")
    before = resident(heartline)
    text = "x" * events.MAX_TEXT_CHARACTERS
    for _ in range(SLOW_BYTES // len(text)):
        writer.append([events.Text(text=text)])
    writer.finish(events.Completed())
    done = read_all(quick)  # while the slow ones have read nothing at all
    assert len(set(done)) == 1
    assert watching(heartline) == SLOW
    # What the replica holds for all of them is less than one of them has still to read.
    assert resident(heartline) - before < SLOW_BYTES
    assert read_all(slow) == [done[0]] * SLOW
    eventually(lambda: watching(heartline) == 0)


def test_clients_that_do_not_read_a_log_of_large_events_cost_a_piece_of_it_each(heartline: Deployment) -> None:
    writer = begun(heartline.redis)
    for _ in range(SLOW_BYTES // events.MAX_TEXT_CHARACTERS):
        writer.append([events.Text(text="x" * events.MAX_TEXT_CHARACTERS)])
    writer.finish(events.Completed())
    before = resident(heartline)
    slow = [watcher(heartline, writer.run_id, receive_bytes=65536) for _ in range(SLOW)]
    eventually(lambda: watching(heartline) == SLOW, what="all of them watch")
    assert len(set(read_all([watcher(heartline, writer.run_id)]))) == 1
    assert resident(heartline) - before < SLOW * 1024 * 1024
    assert len(set(read_all(slow))) == 1
