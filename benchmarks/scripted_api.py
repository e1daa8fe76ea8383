"""The model that all CLIs talk to: the tests' scripted API, as a process of its own, so that it shares no interpreter
with who measures.

`python -m benchmarks.scripted_api` prints its address, and ends with its standard input.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.results import PROJECT
from tests.doubles.anthropic_api import ScriptedApi, Text, Turn

MARKER = "benchmark"
"""What a prompt must have in it to be answered."""
ANSWER = "word"


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Its base URL, for as long as the block lasts."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scripted_api"],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


def main() -> None:
    with ScriptedApi() as api:
        api.script(MARKER, Turn(Text(ANSWER)))
        print(api.base_url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
