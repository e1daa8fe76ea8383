"""The CLI's sessions: a file for each completed run of a conversation, never changed, from which later runs fork.

The CLI writes a session below its own folder, as `projects/<working directory>/<session id>.jsonl`, and reads one
from anywhere (`--resume FILE --fork-session`): the new session holds the old one's turns and its own (seen with
2.1.329). It has written all of it when it exits.
"""

import contextlib
import os
import shutil
from pathlib import Path
from uuid import UUID


class Sessions:
    """The sessions of one conversation."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, run_id: str) -> Path | None:
        """A run's session; None when it is not on this host, or not there any more."""
        path = self._path(run_id)
        return path if path.is_file() else None

    def keep(self, run_id: str, config: Path) -> None:
        """Take a run's session from the CLI's folder `config`. Raises `OSError`."""
        for written in config.glob(f"projects/*/{UUID(run_id)}.jsonl"):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            arriving = self._path(run_id).with_suffix(".part")
            shutil.move(written, arriving)
            os.replace(arriving, self._path(run_id))
            _remove_if_empty(written.parent)

    def _path(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.jsonl"


def discard(run_id: str, config: Path) -> None:
    """Remove what the CLI has kept of a run in its folder. Raises `OSError`."""
    for path in config.glob(f"projects/*/{UUID(run_id)}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        _remove_if_empty(path.parent)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # other sessions are in it
        folder.rmdir()
