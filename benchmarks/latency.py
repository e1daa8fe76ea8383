"""What Heartline adds to each event: from the CLI's write to the client's read, beside a bare pipe.

The fake CLI writes the moment into the text of each delta; both ends read the same clock.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.figures import Row
from tests import sse
from tests.caddy import Caddy
from tests.deployment import FAKE_CLAUDE, Deployment, chat

RUNS = (1, 10, 50)
SECONDS = 5
EVENTS_EACH = 20 * SECONDS
PROMPT = json.dumps({"text": ["@now "], "repeat": EVENTS_EACH, "interval": SECONDS / EVENTS_EACH})


def measure() -> list[Row]:
    rows = [Row.of("event, bare pipe", _bare())]
    for runs in RUNS:
        with tempfile.TemporaryDirectory() as folder, Deployment(Path(folder), worker_slots=runs) as heartline:
            rows.append(Row.of(f"event, Heartline, {runs} runs × 20/s", behind(heartline, runs), "event, bare pipe"))
    return rows


def _bare() -> list[float]:
    prompt = {"type": "user", "message": {"role": "user", "content": [{"type": "text", "text": PROMPT}]}}
    with subprocess.Popen([sys.executable, str(FAKE_CLAUDE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(prompt).encode() + b"\n")
        process.stdin.close()
        found = []
        for line in process.stdout:
            now = time.time()
            if b"text_delta" in line:
                found.append(now - float(json.loads(line)["event"]["delta"]["text"]))
    return found


def behind(server: Deployment | Caddy, runs: int) -> list[float]:
    """How long each event of so many runs took, in seconds; of as many streams at the same time."""
    found: list[float] = []
    threads = [threading.Thread(target=_one, args=(server, found)) for _ in range(runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == runs * EVENTS_EACH, "an event was lost"
    return found


def _one(server: Deployment | Caddy, found: list[float]) -> None:
    with (
        server.http() as client,
        client.stream("POST", "/v1/chat/completions", json=chat(PROMPT, stream=True)) as answer,
    ):
        for frame in sse.of(answer):
            now = time.time()
            found += [now - float(moment) for moment in sse.contents([frame]).split()]
