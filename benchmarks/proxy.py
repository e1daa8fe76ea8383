"""What Caddy adds to each event, from the CLI's write to the client's read, with the project's Caddyfile."""

import shutil
import tempfile
from pathlib import Path

from benchmarks import latency
from benchmarks.figures import Row
from tests.caddy import Caddy
from tests.deployment import Deployment

RUNS = 10


def measure() -> list[Row]:
    if shutil.which("caddy") is None:
        print("there is no caddy on PATH: not measured")
        return []
    with (
        tempfile.TemporaryDirectory() as folder,
        Deployment(Path(folder), replicas=2, worker_slots=RUNS) as heartline,
        Caddy(Path(folder), [part.url for part in heartline.replicas]) as caddy,
    ):
        direct = f"event, without Caddy, {RUNS} runs × 20/s"
        return [
            Row.of(direct, latency.behind(heartline, RUNS)),
            Row.of(f"event, through Caddy, {RUNS} runs × 20/s", latency.behind(caddy, RUNS), direct),
        ]
