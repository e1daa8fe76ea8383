"""The folders of a run below the state folder: where it works, and what it is given. Paths come from ids only."""

import contextlib
import logging
import re
import shutil
import time
from pathlib import Path

logger = logging.getLogger(__name__)


class Workspaces:
    """Makes and removes runs' folders."""

    def __init__(self, state: Path, keep_seconds: float) -> None:
        """`keep_seconds`: how long a workspace with files in it stays after its last change."""
        self._workspaces = state / "workspaces"
        self._private = state / "runs"
        self._keep_seconds = keep_seconds

    def open(self, run_id: str) -> tuple[Path, Path]:
        """A fresh working directory, and a folder for what only the CLI should read."""
        return self._make(self._workspaces, run_id), self._make(self._private, run_id)

    def close(self, run_id: str) -> None:
        """Remove what the run was given, and its workspace if it left nothing there."""
        shutil.rmtree(self._private / _safe(run_id), ignore_errors=True)
        workspace = self._workspaces / _safe(run_id)
        if workspace.exists() and not any(workspace.iterdir()):
            workspace.rmdir()

    def sweep(self) -> int:
        """Remove folders that have been kept for long enough, a killed worker's included; returns how many."""
        removed, now = 0, time.time()
        for folder in (*self._workspaces.glob("*"), *self._private.glob("*")):
            with contextlib.suppress(FileNotFoundError):  # another worker on this host sweeps, too
                if now - folder.stat().st_mtime > self._keep_seconds:
                    shutil.rmtree(folder, ignore_errors=True)
                    removed += 1
        if removed:
            logger.info("folders_removed count=%d", removed)
        return removed

    @staticmethod
    def _make(parent: Path, run_id: str) -> Path:
        folder = parent / _safe(run_id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder


def _safe(run_id: str) -> str:
    """A run id is 32 hex digits; anything else never becomes a path. Raises `ValueError`."""
    if not re.fullmatch(r"[0-9a-f]{32}", run_id):
        raise ValueError(f"not a run id: {run_id!r}")
    return run_id
