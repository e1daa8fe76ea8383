"""Runs of the suite as JSON in `benchmarks/results`. Those that are committed are there to compare with."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.figures import Figure, Found, Growth, Skipped

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = PROJECT / "benchmarks" / "results"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run: on what, when, of which version, and what it found."""

    at: str
    commit: str
    machine: dict[str, str]
    figures: tuple[Figure, ...] = ()
    growth: tuple[Growth, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @property
    def found(self) -> tuple[Found, ...]:
        return (*self.figures, *self.growth, *self.skipped)

    @property
    def ratios(self) -> tuple[Figure | Growth, ...]:
        """What can be compared with another run."""
        return (*self.figures, *self.growth)


def of(found: Sequence[Found], machine: dict[str, str]) -> Result:
    return Result(
        at=time.strftime("%Y-%m-%dT%H:%M:%S"),
        commit=_git("describe", "--always", "--dirty"),
        machine=machine,
        figures=tuple(one for one in found if isinstance(one, Figure)),
        growth=tuple(one for one in found if isinstance(one, Growth)),
        skipped=tuple(one for one in found if isinstance(one, Skipped)),
    )


def write(result: Result) -> Path:
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{result.at.replace(':', '').replace('-', '')}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return path


def read(path: Path) -> Result:
    """Raises `OSError`, or `msgspec.MsgspecError` when it is no run of the suite."""
    return msgspec.json.decode(path.read_bytes(), type=Result)


def newest_committed() -> Path | None:
    """The run to compare with when none is named; None where there is none, or no git."""
    listed = _git("ls-files", "--", str(FOLDER)).splitlines()
    found = sorted(PROJECT / name for name in listed if name.endswith(".json"))
    return found[-1] if found else None


def _git(*arguments: str) -> str:
    """What git says, or nothing."""
    try:
        done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=True)  # noqa: S607
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
