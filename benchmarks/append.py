"""What one append costs a worker, beside `redis-benchmark` with the same script on the same server, in turn.

redis-benchmark cannot count, and our script wants the next seq each time: so it is given the script with one line in
front, which reads the seq from the log's length. That is one command more than ours, in redis-benchmark's disfavour.
"""

import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis import Redis

from benchmarks.figures import Part, percentile
from core import events, keys, log
from core.clients import connect
from core.log import EventLog, Writer
from core.run import Message, Run, RunRequest, new_id
from core.runs import RunStore
from stack.valkey import EmbeddedValkey

AT_ONCE = (1, 2, 4)
ROUNDS = 8
APPENDS = 1500
"""Of each writer in a round."""
TEXT = "x" * 160
"""About 256 bytes as an event."""
TTL_SECONDS = 3600
SEQ_ARGUMENT = 2
"""Where our script takes the first seq, counted as Lua does."""
COUNTING = f"ARGV[{SEQ_ARGUMENT}] = redis.call('XLEN', KEYS[1]) + 1\n"
BARE = "redis.call('XADD', KEYS[1], ARGV[1] .. '-0', 'e', ARGV[2]) redis.call('PUBLISH', ARGV[3], ARGV[2])"


def measure(part: Part) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedValkey(Path(folder))
        process = server.start()
        try:
            costs = [(writers, _at(part, server.url, writers)) for writers in AT_ONCE]
        finally:
            process.terminate()
            process.wait()
    part.growth("one append, runs at once", "µs", costs)


def _at(part: Part, url: str, writers: int) -> float:
    """Measure with so many writers at once; returns the median cost of one append of ours in µs."""
    at = "one run" if writers == 1 else f"{writers} runs at once"
    ours = [_Ours(url) for _ in range(writers)]
    bare = [_Bare(url) for _ in range(writers)]
    limit = None if shutil.which("redis-benchmark") is None else _Limit(url, writers)
    if limit is None:
        part.skip(f"{at}: redis-benchmark", "there is no redis-benchmark on PATH: on Debian, apt install redis-tools")
    costs: dict[str, list[float]] = {"limit": [], "bare": [], "ours": []}
    for _ in range(ROUNDS):
        if limit is not None:
            costs["limit"].append(limit.cost())
        costs["bare"].append(_cost(bare))
        costs["ours"].append(_cost(ours))
    name = f"{at}: redis-benchmark, same script"
    if limit is not None:
        part.values(name, "µs", costs["limit"])
    part.values(f"{at}: redis-py, XADD and PUBLISH in a script", "µs", costs["bare"], name if limit else "")
    part.values(f"{at}: Heartline's writer", "µs", costs["ours"], name if limit else "")
    return percentile(sorted(costs["ours"]), 50)


class _Ours:
    """A run's writer, as a worker has it."""

    def __init__(self, url: str) -> None:
        self._writer = writing(connect(url, kernel_waits=True).client())

    def append(self) -> None:
        self._writer.append([events.Text(text=TEXT)])


class _Bare:
    """The least that appends and publishes, through the same client."""

    def __init__(self, url: str) -> None:
        self._run_id, self._seq = new_id(), 0
        self._script = connect(url, kernel_waits=True).client().register_script(BARE)
        self._payload = events.encode(events.Text(text=TEXT, run_id=self._run_id, seq=1, at=time.time()))

    def append(self) -> None:
        self._seq += 1
        channel = keys.channel(self._run_id)
        self._script(keys=[keys.log(self._run_id)], args=[self._seq, self._payload, channel])


class _Limit:
    """redis-benchmark with the command that our writer has just sent."""

    def __init__(self, url: str, clients: int) -> None:
        redis = _Recording(unix_socket_path=url.removeprefix("unix://"))
        writer = writing(redis)
        redis.sent.clear()
        writer.append([events.Text(text=TEXT)])
        _, _, *arguments = next(words for words in redis.sent if words[0] == "EVALSHA")
        script = redis.script_load(COUNTING + log._APPEND)
        words = [word.decode() if isinstance(word, bytes) else str(word) for word in arguments]
        self._argv = [
            *("redis-benchmark", "-s", url.removeprefix("unix://"), "-c", str(clients), "-n", str(clients * APPENDS)),
            *("--csv", "EVALSHA", str(script), *words),
        ]
        self._length, self._redis, self._run_id = clients * APPENDS, redis, writer.run_id

    def cost(self) -> float:
        """µs for one append, of one round."""
        before = self._redis.xlen(keys.log(self._run_id))
        done = subprocess.run(self._argv, capture_output=True, text=True, check=True)
        head, row = [line.split(",") for line in done.stdout.splitlines() if line.startswith('"')]
        assert self._redis.xlen(keys.log(self._run_id)) == before + self._length, "redis-benchmark appended nothing"
        behind = len(head) - head.index('"rps"')  # from the end: the test's own name may have commas in it
        return 1e6 / float(row[-behind].strip('"'))


class _Recording(Redis):
    """Remembers what it sends."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.sent: list[tuple[Any, ...]] = []
        super().__init__(*arguments, **options)

    def execute_command(self, *words: Any, **options: Any) -> Any:
        self.sent.append(words)
        return super().execute_command(*words, **options)  # type: ignore[no-untyped-call]


def writing(redis: "Redis") -> Writer:
    """The writer of a new run that has begun."""
    run = Run(id=new_id(), owner="benchmark", profile="chat", model="chat", created_at=time.time())
    RunStore(redis, TTL_SECONDS).create(run, RunRequest(messages=(Message("user", "?"),)))
    writer = Writer(EventLog(redis, TTL_SECONDS), run.id)
    writer.start("benchmark")
    return writer


def _cost(writers: Sequence[_Ours | _Bare]) -> float:
    """µs for one append, of one round of all of them at once."""
    start = threading.Barrier(len(writers) + 1)

    def work(writer: _Ours | _Bare) -> None:
        start.wait()
        for _ in range(APPENDS):
            writer.append()

    threads = [threading.Thread(target=work, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    start.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    return 1e6 * (time.perf_counter() - begun) / (len(writers) * APPENDS)
