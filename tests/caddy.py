"""The real Caddy with the project's own Caddyfile, as a process on loopback, for acceptance tests."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import httpx
import openai

from tests.conftest import skip_unless_ci
from tests.deployment import KEYS, PROJECT, eventually, free_port

CADDYFILE = PROJECT / "Caddyfile"
NOBODY = "127.0.0.1:9"  # the discard port


def program() -> str:
    """The real Caddy; skips the test where there is none."""
    found = shutil.which("caddy")
    if found is None:
        skip_unless_ci("no caddy on PATH")
        raise AssertionError
    return found


class Caddy:
    """`with Caddy(folder, api=[…]) as caddy: …`; `api` and the others are replicas' URLs."""

    def __init__(
        self,
        folder: Path,
        api: Sequence[str],
        *,
        dashboard: Sequence[str] = (),
        site: str = "http://127.0.0.1",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.url = f"{site}:{free_port()}"
        self.chat_url = f"http://127.0.0.1:{free_port()}"
        self.log = folder / "caddy.log"
        self._program = program()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "XDG_DATA_HOME": str(folder / "caddy-data"),
            "XDG_CONFIG_HOME": str(folder / "caddy-config"),
            "CADDY_SITE": self.url,
            "CADDY_CHAT_SITE": self.chat_url,
            "CADDY_HTTP_PORT": str(free_port()),
            "CADDY_ADMIN": f"127.0.0.1:{free_port()}",
            "CADDY_API": hosts(api),
            "CADDY_DASHBOARD": hosts(dashboard or api),
            "CADDY_CHAT": NOBODY,
            **buffering(self._program),
            **(environment or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Caddy":
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [self._program, "run", "--config", str(CADDYFILE), "--adapter", "caddyfile"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            eventually(self._answers, what="Caddy answers")
        except BaseException:
            print(self.log.read_text(errors="replace")[-5000:])
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is not None:
            print(f"--- caddy {self.url}\n{self.log.read_text(errors='replace')[-5000:]}")

    def reload(self, api: Sequence[str]) -> None:
        """Give it another list of replicas, as `caddy reload` does: without a restart."""
        self.environment["CADDY_API"] = hosts(api)
        subprocess.run(
            [
                *(self._program, "reload", "--config", str(CADDYFILE), "--adapter", "caddyfile"),
                *("--address", self.environment["CADDY_ADMIN"]),
            ],
            env=self.environment,
            capture_output=True,
            timeout=60,
            check=True,
        )

    def stop(self) -> None:
        """At once: without a grace period it would wait for every stream."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "Caddy has ended"
        try:
            url = self.url.replace("//:", "//localhost:")
            httpx.get(f"{url}/metrics", timeout=5, verify=False)  # noqa: S501  # what Caddy answers by itself
        except httpx.TransportError:
            return False
        return True

    @contextlib.contextmanager
    def http(self, owner: str = "alice") -> Iterator[httpx.Client]:
        """Raw HTTP through Caddy, with an owner's key."""
        headers = {"Authorization": f"Bearer {KEYS[owner]}"}
        # With TLS it is by an authority that only this Caddy knows.
        with httpx.Client(base_url=self.url, headers=headers, timeout=60, verify=False) as client:  # noqa: S501
            yield client

    @contextlib.contextmanager
    def openai(self, owner: str = "alice") -> Iterator[openai.OpenAI]:
        """The official client through Caddy."""
        with openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEYS[owner], timeout=60, max_retries=0) as client:
            yield client


def buffering(caddy: str) -> dict[str, str]:
    """What the Caddyfile asks for with an older Caddy."""
    version = subprocess.run([caddy, "version"], capture_output=True, text=True, check=True).stdout
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    return {"CADDY_BUFFER": "buffer_requests"} if found < (2, 6, 3) else {}


def hosts(urls: Sequence[str]) -> str:
    """URLs as Caddy's upstreams."""
    return " ".join(url.removeprefix("http://") for url in urls)
