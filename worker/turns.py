"""Runs that share a workspace take turns: a lock on a file, which ends with the process that holds it."""

import fcntl
import os
from pathlib import Path


class Turn:
    """The right to work in a workspace, until it is released."""

    def __init__(self, path: Path, descriptor: int, *, lasting: bool) -> None:
        self._path = path
        self._descriptor = descriptor
        self._lasting = lasting

    def release(self) -> None:
        if not self._lasting:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


class Turns:
    """The turns of all workspaces on this host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, name: str, *, lasting: bool = True) -> Turn | None:
        """The turn in the workspace `name`; None while somebody else has it. `lasting`: others will follow."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / name
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is(path, descriptor):
                    return Turn(path, descriptor, lasting=lasting)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # its file was removed before it was locked


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
