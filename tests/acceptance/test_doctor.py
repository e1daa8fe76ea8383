"""The doctor finds each planted fault and names its fix, finds nothing where nothing is, and tells no secret."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.deployment import KEYS, Deployment, eventually, free_port
from tests.doubles.anthropic_api import ApiError, ScriptedApi, Turn
from tests.doubles.proxies import BufferingProxy
from worker.process import MARK, OWNER

PASSWORD = "the-password-of-redis"
MODEL_KEY = "sk-ant-the-models-key"
SECRETS = (*KEYS.values(), PASSWORD, MODEL_KEY)


@pytest.fixture(scope="module")
def heartline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    environment = {"ANTHROPIC_API_KEY": MODEL_KEY}
    with Deployment(tmp_path_factory.mktemp("heartline"), environment=environment) as deployment:
        yield deployment


class Doctor:
    """What the doctor says in this deployment's environment, with other settings here and there."""

    def __init__(
        self,
        heartline: Deployment,
        *arguments: str,
        quick: bool = True,
        environment: Mapping[str, str | None] | None = None,
        module: tuple[str, ...] = ("doctor",),
        **settings: object,
    ) -> None:
        given: dict[str, str | None] = {
            **heartline.replicas[0].environment,
            **{f"HEARTLINE_{name.upper()}": str(value) for name, value in settings.items()},
            **(environment or {}),
        }
        argv = [sys.executable, "-m", *module, "--json", *(["--quick"] if quick else []), *arguments]
        ended = subprocess.run(
            argv,
            cwd=heartline.folder,
            env={name: value for name, value in given.items() if value is not None},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert not ended.stderr, ended.stderr
        assert not any(secret in ended.stdout for secret in SECRETS)
        self.code = ended.returncode
        self.report: dict[str, Any] = json.loads(ended.stdout)
        assert self.report["ok"] is (self.code == 0)

    def graded(self, *grades: str) -> list[str]:
        return [finding["check"] for finding in self.report["findings"] if finding["grade"] in grades]

    def finding(self, check: str, grade: str = "failed") -> str:
        """What the check said, and its fix."""
        found = [f for f in self.report["findings"] if f["check"] == check and f["grade"] == grade]
        assert len(found) == 1, self.report
        if grade == "failed":
            assert self.code == 1
        assert found[0]["fix"]
        return f"{found[0]['said']} FIX: {found[0]['fix']}"


def test_where_nothing_is_wrong_it_says_so_and_tells_the_times(heartline: Deployment) -> None:
    url = f"{heartline.replicas[0].url}/v1"  # as it is given to OpenAI's clients
    doctor = Doctor(heartline, "--url", url, quick=False)
    assert doctor.code == 0
    assert doctor.graded("failed") == []
    found = {finding["check"]: finding for finding in doctor.report["findings"]}
    for check in ("direct: test stream", "direct: run", "url: test stream", "url: run"):
        assert found[check]["grade"] in ("ok", "warning"), found[check]  # a machine under load is no fault of ours
        facts = found[check]["facts"]
        assert facts["events"] >= 10
        assert 0.5 < facts["largest_gap_seconds"] < 5
        assert 0 <= facts["first_byte_seconds"] < 5
    assert {"settings", "models", "keys", "redis", "persistence", "worker", "slots", "cli", "login"} <= set(
        doctor.graded("ok")
    )


def test_for_people_it_is_a_line_for_each_check_and_a_last_word(heartline: Deployment) -> None:
    argv = [sys.executable, "-m", "app", "doctor", "--quick"]
    environment = {**heartline.replicas[0].environment, "HEARTLINE_BIND": f"127.0.0.1:{free_port()}"}
    ended = subprocess.run(
        argv, cwd=heartline.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("ok       settings ")
    failed = next(number for number, line in enumerate(lines) if line.startswith("FAILED   direct: api"))
    assert "make run" in lines[failed + 1]
    assert lines[-1].startswith("1 of ")


def test_a_key_that_the_api_does_not_know(heartline: Deployment, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("somebody:0123456789abcdef0123\n", encoding="utf-8")
    found = Doctor(heartline, "--key-file", str(tmp_path / "key")).finding("direct: api")
    assert "does not know the key" in found
    assert "restart it" in found


def test_redis_that_is_not_there(heartline: Deployment) -> None:
    doctor = Doctor(heartline, redis_url=f"redis://me:{PASSWORD}@127.0.0.1:{free_port()}/0")
    found = doctor.finding("redis")
    assert "does not answer" in found
    assert "HEARTLINE_REDIS_URL" in found
    assert {"persistence", "worker", "clock"} <= set(doctor.graded("skipped"))


def test_redis_that_wants_another_password(heartline: Deployment) -> None:
    heartline.redis.execute_command("ACL", "SETUSER", "somebody", "on", ">another-password", "~*", "&*", "+@all")
    try:
        socket = heartline.redis.connection_pool.connection_kwargs["path"]
        found = Doctor(heartline, redis_url=f"unix://somebody:{PASSWORD}@{socket}").finding("redis")
    finally:
        heartline.redis.execute_command("ACL", "DELUSER", "somebody")
    assert "refuses the password" in found
    assert "Correct user and password" in found


@pytest.mark.parametrize(
    ("name", "value", "check", "grade", "fix"),
    [
        ("appendonly", "no", "persistence", "failed", "appendonly yes"),
        ("maxmemory-policy", "allkeys-lru", "eviction", "failed", "maxmemory-policy noeviction"),
    ],
)
def test_redis_that_would_lose_answers(
    heartline: Deployment, name: str, value: str, check: str, grade: str, fix: str
) -> None:
    before = heartline.redis.config_get(name)[name]
    heartline.redis.config_set(name, value)
    try:
        assert fix in Doctor(heartline).finding(check, grade)
    finally:
        heartline.redis.config_set(name, before)


def test_redis_that_only_saves_snapshots(heartline: Deployment) -> None:
    heartline.redis.config_set("appendonly", "no")
    heartline.redis.config_set("save", "3600 1")
    try:
        assert "appendonly yes" in Doctor(heartline).finding("persistence", "warning")
    finally:
        heartline.redis.config_set("save", "")
        heartline.redis.config_set("appendonly", "yes")


def test_redis_that_is_nearly_full(heartline: Deployment) -> None:
    used = heartline.redis.info("memory")["used_memory"]
    heartline.redis.config_set("maxmemory", int(used * 1.2))
    try:
        found = Doctor(heartline).finding("memory", "warning")
    finally:
        heartline.redis.config_set("maxmemory", 0)
    assert "maxmemory" in found


def test_no_worker(tmp_path: Path) -> None:
    with Deployment(tmp_path, workers=0) as heartline:
        doctor = Doctor(heartline)
    assert "python -m worker" in doctor.finding("worker")
    assert "workers 0" in doctor.finding("direct: api")


def test_no_cli(heartline: Deployment, tmp_path: Path) -> None:
    found = Doctor(heartline, claude_bin=tmp_path / "nowhere").finding("cli")
    assert "there is no such program" in found
    assert "make cli" in found


def test_a_cli_that_is_too_old(heartline: Deployment, tmp_path: Path) -> None:
    program = tmp_path / "claude"
    program.write_text("#!/bin/sh\necho '1.0.3 (Claude Code)'\n", encoding="utf-8")
    program.chmod(0o755)
    found = Doctor(heartline, claude_bin=program).finding("cli")
    assert "1.0.3 is older than" in found
    assert "make cli" in found


def test_neither_login_nor_key(heartline: Deployment, tmp_path: Path) -> None:
    found = Doctor(heartline, environment={"ANTHROPIC_API_KEY": None, "HOME": str(tmp_path)}).finding("login")
    assert "ANTHROPIC_API_KEY" in found
    assert "log in" in found


def test_a_login_that_has_expired(heartline: Deployment, tmp_path: Path) -> None:
    (tmp_path / ".claude").mkdir()
    login = {"claudeAiOauth": {"accessToken": MODEL_KEY, "expiresAt": 1000 * (time.time() - 60)}}
    (tmp_path / ".claude" / ".credentials.json").write_text(json.dumps(login), encoding="utf-8")
    environment = {"ANTHROPIC_API_KEY": None, "HOME": str(tmp_path)}
    assert "expired" in Doctor(heartline, environment=environment).finding("login", "warning")


def test_a_proxy_that_buffers(heartline: Deployment) -> None:
    with BufferingProxy(heartline.replicas[0].url) as url:
        doctor = Doctor(heartline, "--url", url, quick=False)
    for check in ("url: test stream", "url: run"):
        found = doctor.finding(check)
        assert "buffers" in found
        assert "proxy_buffering off" in found
    assert not [check for check in doctor.graded("failed") if check.startswith("direct")]


def test_a_proxy_that_is_not_there(heartline: Deployment) -> None:
    doctor = Doctor(heartline, "--url", f"http://127.0.0.1:{free_port()}")
    assert "Start the proxy" in doctor.finding("url: api")
    assert "direct: api" in doctor.graded("ok")


def test_an_address_that_is_not_heartlines(heartline: Deployment) -> None:
    doctor = Doctor(heartline, "--url", f"{heartline.replicas[0].url}/elsewhere")
    assert "answers 404" in doctor.finding("url: api")


def test_a_ladder_of_timeouts_with_a_wrong_rung(heartline: Deployment) -> None:
    found = Doctor(heartline, heartbeat_seconds=90).finding("settings")
    assert "HEARTLINE_HEARTBEAT_SECONDS=90" in found
    assert "must be less than HEARTLINE_PROXY_IDLE_SECONDS" in found


def test_a_ladder_of_timeouts_that_is_narrow(heartline: Deployment) -> None:
    assert "half of" in Doctor(heartline, heartbeat_seconds=40).finding("timeouts", "warning")


def test_keys_that_everybody_can_read(heartline: Deployment, tmp_path: Path) -> None:
    path = tmp_path / "api-keys"
    path.write_text(f"alice:{KEYS['alice']}\n", encoding="utf-8")
    path.chmod(0o644)
    doctor = Doctor(heartline, api_keys="", api_keys_file=path)
    assert f"chmod 600 {path}" in doctor.finding("keys file")
    path.chmod(0o600)
    assert Doctor(heartline, api_keys="", api_keys_file=path).code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("profiles: [{id: a, colour: blue}]", "colour"),
        (f"profiles: [{{id: a, environment: {{K: '{MODEL_KEY}'}}}}\n: ", "not valid YAML"),
        ("profiles: [{id: a, environment: {K: '${NOT_THERE}'}}]", "NOT_THERE"),
    ],
)
def test_models_that_are_wrong(heartline: Deployment, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(text, encoding="utf-8")
    found = Doctor(heartline, models_file=path).finding("models")
    assert said in found
    assert f"Correct {path}" in found


def test_an_api_that_does_not_run(heartline: Deployment) -> None:
    found = Doctor(heartline, bind=f"127.0.0.1:{free_port()}").finding("direct: api")
    assert "Nobody listens" in found
    assert "make run" in found


def test_what_a_dead_worker_has_left_running(heartline: Deployment) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    environment = {**os.environ, MARK: "0" * 32, OWNER: str(dead.pid)}

    def look() -> bool:
        """Anew each time: any worker that starts on this machine ends what is planted here."""
        left = subprocess.Popen(["/bin/sleep", "600"], env=environment)
        try:
            doctor = Doctor(heartline)
            return "orphans" in doctor.graded("warning") and str(left.pid) in doctor.finding("orphans", "warning")
        finally:
            left.kill()
            left.wait()

    assert eventually(look)


def test_a_models_api_that_refuses_the_key(tmp_path: Path, claude_bin: str) -> None:
    with (
        ScriptedApi() as api,
        Deployment(tmp_path, claude_bin=claude_bin, environment={"ANTHROPIC_BASE_URL": api.base_url}) as heartline,
    ):
        api.script("Say hello.", Turn(ApiError(401, "invalid x-api-key", "authentication_error")))
        doctor = Doctor(heartline, "--model", "chat", quick=False)
    assert "ANTHROPIC_API_KEY" in doctor.finding("direct: run")
