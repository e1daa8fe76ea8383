"""`python -m benchmarks`: runs every measurement, prints one table, writes it as JSON beside it."""

import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import append, first_content, latency, proxy
from benchmarks.figures import Row, table

RESULTS = Path(__file__).parent / "results"
MEASUREMENTS: dict[str, Callable[[], list[Row]]] = {
    "first_content": first_content.measure,
    "latency": latency.measure,
    "proxy": proxy.measure,
    "append": append.measure,
}


def main(names: list[str]) -> int:
    unknown = set(names) - set(MEASUREMENTS)
    if unknown:
        print(f"no such measurement: {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
        return 2
    rows = [row for name in names or MEASUREMENTS for row in MEASUREMENTS[name]()]
    print(table(rows))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.write_text(json.dumps({"machine": platform.platform(), "rows": [row.as_dict() for row in rows]}, indent=1))
    print(f"\nwritten to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
