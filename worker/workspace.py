"""The folders below the state folder: where runs work, and what each is given. Paths come from ids only."""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from core.run import Run
from worker.sessions import Sessions
from worker.turns import Turn, Turns

logger = logging.getLogger(__name__)


class Workspaces:
    """Makes and removes the folders of runs and of their CLIs.

    Below `workspaces`, each conversation has a folder with its `files`, where its runs work one after the other,
    and its `sessions`. A run that belongs to none has a workspace that goes with it. Below `runs`, each CLI has a
    folder with what only it should read; one that was started before its run has a workspace below `spares`.
    """

    def __init__(self, state: Path, keep_seconds: float, max_bytes: int, private_seconds: float = 86400) -> None:
        """`keep_seconds`: how long a conversation's folder stays after its last run; `max_bytes`: how large all
        together may grow before the oldest go; `private_seconds`: longer than any run takes."""
        self._workspaces = state / "workspaces"
        self._private = state / "runs"
        self._spares = state / "spares"
        self._turns = Turns(state / "turns")
        self._keep_seconds = keep_seconds
        self._max_bytes = max_bytes
        self._private_seconds = private_seconds

    def turn(self, run: Run, directory: str | None = None) -> Turn | None:
        """The right to work in the run's workspace; None while another run has it. A profile's `directory` is
        one workspace for all of its runs."""
        lasting = directory is not None or run.place is not None
        return self._turns.take(_name(directory) if directory else _home(run), lasting=lasting)

    def open(self, run: Run, directory: str | None = None) -> Path:
        """The run's workspace, made if need be. It must have its turn. Raises `OSError`."""
        home = self._workspaces / _home(run)
        files = _made(home / "files")
        os.utime(home)
        return Path(directory) if directory else files

    def sessions(self, run: Run) -> Sessions | None:
        """The sessions of the run's conversation, if it belongs to one."""
        return Sessions(self._workspaces / _home(run) / "sessions") if run.place else None

    def close(self, run: Run) -> None:
        """Remove the run's workspace if it was its own."""
        home = self._workspaces / _home(run)
        if run.place is None:
            _delete(home)
        with contextlib.suppress(FileNotFoundError):
            os.utime(home)

    def private(self, cli_id: str) -> Path:
        """A folder for one CLI, which no other run sees. Raises `OSError`."""
        return _made(self._private / _safe(cli_id))

    def spare(self, cli_id: str) -> Path:
        """A workspace for a CLI that has no run yet. Raises `OSError`."""
        return _made(self._spares / _safe(cli_id) / "files")

    def move_in(self, cli_id: str, run: Run) -> Path | None:
        """Make a spare's workspace, with the CLI that works in it, the one of the run's conversation; None when
        that has files already. The run must have its turn.

        A process keeps its working directory when that is renamed, and bubblewrap its mount; a name of it that was
        read before leads to the new place.
        """
        spare, home = self._spares / _safe(cli_id) / "files", self._workspaces / _home(run)
        try:
            os.rename(spare, home / "files")  # takes an empty folder's place, and no other's
            os.symlink(home / "files", spare)
        except OSError:
            return None
        return home / "files"

    def touch(self, cli_id: str) -> None:
        """A CLI is in use: its folders are not old."""
        for folder in (self._private, self._spares):
            with contextlib.suppress(FileNotFoundError):
                os.utime(folder / _safe(cli_id))

    def remove(self, cli_id: str) -> None:
        """Remove what belongs to one CLI, and what it was given as a spare."""
        _delete(self._private / _safe(cli_id))
        _delete(self._spares / _safe(cli_id))

    def sweep(self) -> int:
        """Remove conversations that have been left alone for long enough, the oldest ones sooner when all together
        are too large, and what killed workers left behind; returns how many folders."""
        now, removed, total = time.time(), 0, 0
        for folder, age in (*_by_age(self._private, now), *_by_age(self._spares, now)):
            if age > self._private_seconds:
                _delete(folder)
                removed += 1
        for folder, age in _by_age(self._workspaces, now):
            total += _size(folder)
            if age > self._keep_seconds or total > self._max_bytes:
                removed += self._remove(folder)
        if removed:
            logger.info("folders_removed count=%d", removed)
        return removed

    def _remove(self, folder: Path) -> bool:
        """Not while a run works there."""
        turn = self._turns.take(folder.name, lasting=False)
        if turn is None:
            return False
        _delete(folder)
        turn.release()
        return True


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _home(run: Run) -> str:
    return _safe(run.place.conversation if run.place else run.id)


def _name(directory: str) -> str:
    return hashlib.sha256(os.path.realpath(directory).encode()).hexdigest()[:32]


def _by_age(parent: Path, now: float) -> Iterator[tuple[Path, float]]:
    """The folders in `parent` and their ages in seconds, the youngest first."""
    found = []
    for folder in parent.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another worker on this host sweeps, too
            found.append((now - folder.stat().st_mtime, folder))
    for age, folder in sorted(found):
        yield folder, age


def _delete(folder: Path) -> None:
    """The folder with all that is in it, where tools may have left folders that nobody can write to."""
    for parent, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            os.chmod(parent, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _size(folder: Path) -> int:
    """What its files occupy, in bytes; links are not followed."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


def _safe(run_id: str) -> str:
    """An id is 32 hex digits; anything else never becomes a path. Raises `ValueError`."""
    if not re.fullmatch(r"[0-9a-f]{32}", run_id):
        raise ValueError(f"not a run id: {run_id!r}")
    return run_id
