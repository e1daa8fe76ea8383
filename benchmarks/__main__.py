"""`python -m benchmarks [PART …]`: measures, prints tables, writes JSON, and compares with a stored run."""

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from benchmarks import append, first_content, idle, latency, machine, results, startup, tables, watchers
from benchmarks.comparison import MOVED, changes
from benchmarks.figures import Found, Part
from benchmarks.results import Result

PARTS: dict[str, Callable[[Part], None]] = {
    "first_content": first_content.measure,
    "latency": latency.measure,
    "watchers": watchers.measure,
    "append": append.measure,
    "idle": idle.measure,
    "startup": startup.measure,
}


PART_SECONDS = 360


class TooLong(Exception):
    """A part has taken longer than it may."""


def main(argv: list[str] | None = None) -> int:
    given = _arguments(argv)
    signal.signal(signal.SIGTERM, _leave)
    if given.show:
        result = results.read(given.show)
    else:
        result = results.of(_measure(given.parts or list(PARTS)), machine.describe())
        print(f"written to {results.write(result)}\n", file=sys.stderr)
    print(report(result, tables.as_markdown if given.markdown else tables.as_text))
    if (path := given.against or results.newest_committed()) is None:
        print("\nno stored run to compare with: name one with --against", file=sys.stderr)
    else:
        print(f"\n{compared(result, results.read(path), path.name)}", file=sys.stderr)
    return 0


def report(result: Result, show: Callable[[tables.Table], str]) -> str:
    """All tables of a run."""
    about = ", ".join(f"{name} {value}" for name, value in result.machine.items())
    pieces = [f"Measured at {result.at} on {about}; version {result.commit}."]
    heading = "### {}" if show is tables.as_markdown else "--- {}"
    for part in tables.parts(result.found):
        if len(rows := tables.figures(part, result.found)) > 1:
            pieces += [heading.format(part), show(rows)]
    for name, rows in {
        "growth": tables.growth(result.found),
        "bars": tables.bars(result.found),
        "skipped": tables.skipped(result.found),
    }.items():
        if len(rows) > 1:
            pieces += [heading.format(name), show(rows)]
    return "\n\n".join(pieces)


def compared(now: Result, then: Result, name: str) -> str:
    """Which ratios have moved since a stored run."""
    found = changes(now.ratios, then.ratios)
    rows = tables.moved(found)
    if len(rows) == 1:
        return f"of {len(found)} ratios, none moved by more than {MOVED:g}× against {name}"
    return f"against {name}, of {len(found)} ratios:\n\n{tables.as_text(rows)}"


def _measure(names: list[str]) -> list[Found]:
    found: list[Found] = []
    for name in names:
        started = time.monotonic()
        print(f"measuring {name} …", end=" ", file=sys.stderr, flush=True)
        found += _bounded(name)
        print(f"{time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return found


def _bounded(name: str) -> list[Found]:
    """What one part finds; one that takes too long is given up, with what it has found."""
    part = Part(name)
    before = signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(PART_SECONDS)
    try:
        PARTS[name](part)
    except TooLong:
        part.skip("the rest", f"it took longer than {PART_SECONDS} s")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return part.found


def _give_up(*_: int | FrameType | None) -> None:
    raise TooLong  # every `with` block ends what it has started, as in `_leave`


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure: {', '.join(PARTS)}; all without")
    parser.add_argument("--against", type=Path, metavar="FILE", help="the stored run to compare with")
    parser.add_argument("--markdown", action="store_true", help="the tables as Markdown")
    parser.add_argument("--show", type=Path, metavar="FILE", help="measure nothing: show this stored run")
    given = parser.parse_args(argv)
    if unknown := [name for name in given.parts if name not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return given


def _leave(*_: int | FrameType | None) -> None:
    signal.alarm(0)  # nothing may break into the ending
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(143)  # so that every `with` block ends what it has started


if __name__ == "__main__":
    sys.exit(main())
