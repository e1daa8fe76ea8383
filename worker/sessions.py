"""The CLI's sessions: a file for each completed run of a conversation, never changed, from which later runs fork.

The CLI writes a session below its own folder, as `projects/<working directory>/<session id>.jsonl`, and reads one
from anywhere (`--resume FILE --fork-session`): the new session holds the old one's turns and its own (seen with
2.1.329). It has written all of it when it exits, and usually before it prints its `result`.
"""

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from uuid import UUID

MAX_BYTES = 256 << 20


class Sessions:
    """The sessions of one conversation."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, run_id: str) -> Path | None:
        """A run's session; None when it is not on this host, or not there any more."""
        path = self._path(run_id)
        return path if path.is_file() else None

    def keep(self, run_id: str, session_id: str, config: Path) -> None:
        """Keep the session of a CLI that has exited, from its folder `config`, as the run's. Raises `OSError`."""
        for written in _written(session_id, config):
            if not written.is_file() or written.is_symlink():
                continue
            arriving = self._arriving(run_id)
            shutil.move(written, arriving)
            os.replace(arriving, self._path(run_id))
            _remove_if_empty(written.parent)

    def copy(self, run_id: str, session_id: str, config: Path, last_entry: str, at: Collection[str]) -> bool:
        """Keep a copy of the session of a CLI that lives on; False while the CLI has not written all of it, up to
        the entry with the uuid `last_entry`, or when it has gone from its workspace, whose paths are `at`. Raises
        `OSError`."""
        for written in _written(session_id, config):
            content = _content(written)
            whole = last_entry and last_entry.encode() in content and content.endswith(b"\n")
            if whole and any(_last_cwd(content) == content.rfind(_cwd(path)) for path in at):
                arriving = self._arriving(run_id)
                arriving.write_bytes(content)
                os.replace(arriving, self._path(run_id))
                return True
        return False

    def _arriving(self, run_id: str) -> Path:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._path(run_id).with_suffix(".part")

    def _path(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.jsonl"


def discard(session_id: str, config: Path) -> None:
    """Remove what the CLI has kept of a session in its folder. Raises `OSError`."""
    for path in config.glob(f"projects/*/{UUID(session_id)}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        _remove_if_empty(path.parent)


def _written(session_id: str, config: Path) -> Iterator[Path]:
    return config.glob(f"projects/*/{UUID(session_id)}.jsonl")


def _last_cwd(content: bytes) -> int:
    return content.rfind(b'"cwd":')


def _cwd(path: str) -> bytes:
    return f'"cwd":{json.dumps(path, ensure_ascii=False)}'.encode()


def _content(path: Path) -> bytes:
    """Nothing for what is no file of a likely size: where tools are not walled in, they can write there."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        return file.read() if stat.S_ISREG(found.st_mode) and found.st_size <= MAX_BYTES else b""


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # other sessions are in it
        folder.rmdir()
