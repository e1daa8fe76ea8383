"""The real Caddy in front of Heartline's replicas, with the fewest words that a Caddyfile needs."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import httpx

from tests.deployment import eventually, free_port

CADDYFILE = """\
{{
	admin off
	auto_https off
}}
http://127.0.0.1:{port} {{
	reverse_proxy {replicas} {{
		lb_policy least_conn
	}}
}}
"""


def installed() -> bool:
    return shutil.which("caddy") is not None


class Caddy:
    """`with Caddy(folder, [replica.url, …]) as caddy: … caddy.url`"""

    def __init__(self, folder: Path, replicas: Sequence[str]) -> None:
        self.folder = folder
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.log = folder / "caddy.log"
        upstreams = " ".join(url.removeprefix("http://") for url in replicas)
        (folder / "Caddyfile").write_text(CADDYFILE.format(port=self._port, replicas=upstreams))

    def __enter__(self) -> "Caddy":
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                ["caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile"],
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            eventually(self._answers, what=f"Caddy answers; its log is {self.log}")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False
