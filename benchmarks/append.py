"""One append: our script through our log, beside the barest script that appends and publishes."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from redis import Redis

from benchmarks.figures import Row
from core import events, keys
from core.clients import connect
from core.log import EventLog, Writer
from core.run import Message, Run, RunRequest, new_id
from core.runs import RunStore
from stack.valkey import EmbeddedValkey

APPENDS = 5000
PAYLOAD = "x" * 160  # about 256 bytes as an event
BARE = "redis.call('XADD', KEYS[1], ARGV[1] .. '-0', 'e', ARGV[2]) redis.call('PUBLISH', ARGV[3], ARGV[2])"


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedValkey(Path(folder))
        process = server.start()
        try:
            ours, bare = _ours(connect(server.url)), _bare(connect(server.url))
            pairs = [(_timed(bare), _timed(ours)) for _ in range(APPENDS)]
        finally:
            process.terminate()
            process.wait()
    return [
        Row.of("append, bare XADD + PUBLISH script", [pair[0] for pair in pairs]),
        Row.of("append, Heartline", [pair[1] for pair in pairs], "append, bare XADD + PUBLISH script"),
    ]


def _timed(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _ours(redis: "Redis") -> Callable[[], None]:
    run = Run(id=new_id(), owner="bench", profile="chat", model="chat", created_at=time.time())
    RunStore(redis, 1000).create(run, RunRequest(messages=(Message("user", "?"),)))
    writer = Writer(EventLog(redis, 1000), run.id)
    writer.start("bench")
    return lambda: writer.append([events.Text(text=PAYLOAD)])


def _bare(redis: "Redis") -> Callable[[], None]:
    run_id, script, seq = new_id(), redis.register_script(BARE), 0
    payload = events.encode(events.Text(text=PAYLOAD, run_id=run_id, seq=1, at=time.time()))

    def append() -> None:
        nonlocal seq
        seq += 1
        script(keys=[keys.log(run_id)], args=[seq, payload, keys.channel(run_id)])

    return append
