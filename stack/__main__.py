"""`python -m stack`: embedded Valkey, one API replica, one worker; ends them all on Ctrl-C, writers first."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import FrameType

from core import profiles, settings
from core.errors import ConfigurationError
from core.settings import Settings
from stack import api_key
from stack.valkey import EmbeddedValkey

READY_SECONDS = 60


class Stack:
    """The processes, in the order of their start."""

    def __init__(self, loaded: Settings) -> None:
        self._settings = loaded
        self._parts: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._signals = 0

    def run(self) -> int:
        """Start, say where, and stay until a signal comes or a part dies; returns the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._signalled)
        try:
            key = self._start()
            if self._wait_until_ready():
                print(banner(self._settings, key), flush=True)
            return self._stay()
        finally:
            self._stop()

    def _start(self) -> str:
        given = self._settings
        refuse_taken(given.address)
        given.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = "" if given.api_keys else api_key.ensure(given.keys_file)
        environment = {**os.environ}
        if key and not (given.api_keys_file or given.operators) and api_key.is_ours(given.keys_file):
            environment["HEARTLINE_OPERATORS"] = api_key.NAME
        if not given.redis_url:
            valkey = EmbeddedValkey(given.state)
            self._parts.append(("valkey", valkey.start()))
            environment["HEARTLINE_REDIS_URL"] = valkey.url
        for part in ("worker", "app"):
            self._parts.append((part, self._spawn(part, environment)))
        return key

    def _spawn(self, part: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        # Sessions of their own: a Ctrl-C at the terminal comes here only, and is passed on in order.
        return subprocess.Popen([sys.executable, "-m", part], env=environment, start_new_session=True)

    def _wait_until_ready(self) -> bool:
        url = f"{self._settings.local_url}/readyz"
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever HTTP_PROXY says
        deadline = time.monotonic() + READY_SECONDS
        while not self._signals and not self._dead() and time.monotonic() < deadline:
            try:
                with direct.open(url, timeout=2):
                    return True
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        return False

    def _stay(self) -> int:
        while not self._signals:
            if dead := self._dead():
                print(f"heartline: the {dead} has ended; stopping the rest", file=sys.stderr)
                return 1
            time.sleep(0.1)
        return 0

    def _dead(self) -> str | None:
        return next((name for name, process in self._parts if process.poll() is not None), None)

    def _stop(self) -> None:
        """Worker first: its runs get their last word, which the API still delivers; Valkey last."""
        order = {"worker": 0, "app": 1, "valkey": 2}
        for name, process in sorted(self._parts, key=lambda part: order[part[0]]):
            passed_on = self._signals
            process.terminate()
            deadline = time.monotonic() + self._settings.drain_seconds + 3 * self._settings.stop_grace_seconds
            while process.poll() is None and time.monotonic() < deadline:
                if self._signals > passed_on:
                    passed_on = self._signals
                    process.terminate()
                time.sleep(0.02)
            if process.poll() is None:
                print(f"heartline: the {name} did not end; killed", file=sys.stderr)
                process.kill()
            process.wait()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals == 1:
            print("\nheartline: stopping; running answers may finish. Once more to stop at once.", flush=True)


def refuse_taken(address: tuple[str, int]) -> None:
    """Raises `ConfigurationError` when somebody else listens there."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise ConfigurationError(
                f"HEARTLINE_BIND={address[0]}:{address[1]}: {error.strerror}; choose another address"
            ) from None


def banner(given: Settings, key: str) -> str:
    """What a newcomer needs: the URL, the key, the models, and a line to try at once."""
    base = f"{given.local_url}/v1"
    ids = [profile.id for profile in profiles.load(given.models_file, given.log_ttl_seconds).offered]
    shown = key or "(one of HEARTLINE_API_KEYS)"
    trial = next((i for i in ids if "diagnostic" in i), ids[0])
    question = json.dumps({"model": trial, "stream": True, "messages": [{"role": "user", "content": "Hello"}]})
    return (
        f"\nHeartline is ready.\n\n"
        f"  base URL   {base}\n"
        f"  API key    {shown}\n"
        f"  models     {', '.join(ids)}\n"
        f"  runs       {base.removesuffix('/v1')}/ shows them in a browser; log in with the key\n\n"
        f"  Try it:\n"
        f"  curl -N {base}/chat/completions -H 'Authorization: Bearer {shown}' \\\n"
        f"       -H 'Content-Type: application/json' -d '{question}'\n"
    )


def main() -> int:
    try:
        loaded = settings.load(os.environ)
        profiles.load(loaded.models_file, loaded.log_ttl_seconds)
        return Stack(loaded).run()
    except ConfigurationError as error:
        print(f"heartline: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
