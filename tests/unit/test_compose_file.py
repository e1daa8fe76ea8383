"""docker-compose.yml without a container engine: what can be told from the file, and from what it refers to."""

import json
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from core import settings
from core.settings import Settings
from tests import compose, rehearsal
from tests.compose import seconds
from tests.deployment import PROJECT

CONTENT = compose.read()
SERVICES: dict[str, Any] = CONTENT["services"]
OURS = compose.ours(SERVICES)

KNOWN = {
    *(
        "build",
        "cap_add",
        "cap_drop",
        "command",
        "configs",
        "depends_on",
        "deploy",
        "env_file",
        "environment",
        "healthcheck",
    ),
    *("image", "logging", "networks", "ports", "profiles", "read_only", "restart", "secrets", "security_opt"),
    *("stop_grace_period", "stop_signal", "sysctls", "tmpfs", "ulimits", "user", "volumes"),
}
"""The keys of a service in the Compose Specification, as far as this file needs them: a typo is none of them."""


def lines_of(path: str, pattern: str) -> str:
    found = re.search(pattern, (PROJECT / path).read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{path}: {pattern}"
    return found.group(1)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_kept_small_and_can_be_watched(name: str) -> None:
    service = SERVICES[name]
    assert set(service) <= KNOWN
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["restart"] == "unless-stopped"
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert "stop_grace_period" in service
    check = service.get("healthcheck")
    assert check is None if name in OURS and name != "worker" else check["test"][0] in ("CMD", "CMD-SHELL")
    if name != "open-webui":  # its image wants to be root, and to write where it is installed
        assert service["read_only"] is True
        assert int(service["user"].split(":")[0]) > 0
    if name not in OURS:
        assert re.fullmatch(r"[a-z./-]+:v?\d+\.\d+\.\d+(-alpine)?", service["image"]), "pinned to a version"


def test_whatever_is_referred_to_is_there() -> None:
    for name, service in SERVICES.items():
        networks = set(service["networks"])
        assert networks <= set(CONTENT["networks"]), name
        secrets = {each["source"] if isinstance(each, dict) else each for each in service.get("secrets", ())}
        assert secrets <= set(CONTENT["secrets"]), name
        assert set(service.get("depends_on", ())) <= set(SERVICES), name
        assert {config["source"] for config in service.get("configs", ())} <= set(CONTENT["configs"]), name
        for volume in service.get("volumes", ()):
            source, target, *_ = volume.split(":")
            assert target.startswith("/"), name
            if source.startswith("./"):
                assert (PROJECT / source).is_file(), source
            else:
                assert source in CONTENT["volumes"], source
    assert set(CONTENT["volumes"]) == {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", ())
        if not volume.startswith("./")
    }


def test_valkey_is_reached_by_ours_alone_and_only_caddy_from_outside() -> None:
    assert CONTENT["networks"]["back"] == {"internal": True}
    assert {name for name, service in SERVICES.items() if "back" in service["networks"]} == {*OURS, "valkey"}
    assert SERVICES["valkey"]["networks"] == ["back"]
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"caddy", "grafana"}
    assert all(port.startswith("127.0.0.1:") for port in published["grafana"])
    assert {name for name, service in SERVICES.items() if "watch" in service["networks"]} == {"worker", "prometheus"}
    assert "front" not in SERVICES["worker"]["networks"]  # an agent has no business at the API's door


def test_every_setting_is_one_and_all_together_are_right() -> None:
    for name, service in OURS.items():
        given = {key: value for key, value in service["environment"].items() if key.startswith("HEARTLINE_")}
        assert set(service["environment"]) - set(given) <= {"FORWARDED_ALLOW_IPS"}, name
        assert all(isinstance(value, str) for value in given.values()), name
        loaded = settings.load({**given, "HEARTLINE_REDIS_URL": "redis://valkey:6379/0"}, dotenv=None)
        assert loaded.keys_file == Path("/run/secrets/api-keys")
    known = {settings.PREFIX + field.upper() for field in Settings.__struct_fields__}
    for service in SERVICES.values():
        named = {key for key in service.get("environment", {}) if key.startswith(settings.PREFIX)}
        assert named <= known


def test_the_parts_agree_with_each_other() -> None:
    api, worker = SERVICES["api-1"]["environment"], SERVICES["worker"]["environment"]
    shared = set(api) & set(worker)
    assert {key: api[key] for key in shared} == {key: worker[key] for key in shared}
    assert set(api) - shared == {
        "HEARTLINE_BIND", "HEARTLINE_DRAIN_NOTICE_SECONDS", "HEARTLINE_OPERATORS", "FORWARDED_ALLOW_IPS",
    }  # fmt: skip
    assert f"{api['HEARTLINE_OPERATORS']}:" in (PROJECT / "scripts" / "secrets.sh").read_text()
    scraped = (PROJECT / "deploy" / "prometheus" / "prometheus.yml").read_text()
    assert f"port: {worker['HEARTLINE_WORKER_METRICS_BIND'].rpartition(':')[2]}" in scraped
    assert SERVICES["dashboard"]["environment"] == api
    names = [name for name in SERVICES if name.startswith("api-")]
    caddy = SERVICES["caddy"]["environment"]
    assert caddy["CADDY_API"].split() == [f"{name}:8080" for name in names]
    assert caddy["CADDY_DASHBOARD"] == "dashboard:8080"
    assert caddy["HEARTLINE_MAX_BODY_BYTES"] == api["HEARTLINE_MAX_BODY_BYTES"]
    assert SERVICES["open-webui"]["environment"]["OPENAI_API_BASE_URLS"] == "http://caddy:8080/v1"
    assert caddy["CADDY_SITE"].split(", ")[1] == "http://caddy:8080"
    for name in names:
        assert SERVICES[name]["networks"]["front"] == {"aliases": ["api"]}
        assert {**SERVICES[name], "profiles": None} == {**SERVICES["api-1"], "profiles": None}
    assert [name for name in names if "profiles" not in SERVICES[name]] == ["api-1", "api-2", "api-3"]


def test_the_ladder_of_times_holds_through_all_parts() -> None:
    caddy = (PROJECT / "Caddyfile").read_text(encoding="utf-8")

    def directive(name: str) -> float:
        return seconds(lines_of("Caddyfile", rf"^\s+{name} (\d+[sm])$"))

    for service in OURS.values():
        given = settings.load(service["environment"], dotenv=None)
        assert 2 * given.heartbeat_seconds < directive("read_timeout") == given.proxy_idle_seconds
        assert directive("write_timeout") == directive("read_timeout")
        # Every run can end in the time of a drain, and every drain in the time that Docker waits.
        assert given.run_timeout_seconds + 2 * given.stop_grace_seconds < given.drain_seconds
        grace = seconds(service["stop_grace_period"])
        assert given.drain_notice_seconds + given.drain_seconds + 2 * given.stop_grace_seconds < grace
        if given.drain_notice_seconds:
            assert given.drain_notice_seconds > 2 * directive("health_interval")
    assert directive("keepalive") < 75  # gunicorn's, in app/__main__.py
    assert '"keepalive": 75' in (PROJECT / "app" / "__main__.py").read_text(encoding="utf-8")
    assert f"max_size {{$HEARTLINE_MAX_BODY_BYTES:{Settings().max_body_bytes}}}" in caddy


def test_valkey_keeps_everything_it_is_given() -> None:
    command = SERVICES["valkey"]["command"]
    options = dict(zip(command[2::2], command[3::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"


def test_open_webui_is_given_the_headers_of_the_readme() -> None:
    configs = json.loads(SERVICES["open-webui"]["environment"]["OPENAI_API_CONFIGS"])
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    template = re.search(r"```json\n(\{\n  \"X-OpenWebUI.*?\})\n```", readme, re.DOTALL)
    assert template
    assert configs == {"0": {"headers": json.loads(template.group(1))}}


def test_grafana_is_told_where_prometheus_is() -> None:
    told = {name: yaml.safe_load(config["content"]) for name, config in CONTENT["configs"].items()}
    assert told["grafana-datasource"]["datasources"][0]["url"] == "http://prometheus:9090"
    path = told["grafana-dashboards"]["providers"][0]["options"]["path"]
    assert any(volume.split(":")[1].startswith(path) for volume in SERVICES["grafana"]["volumes"])


def test_secrets_are_made_once_and_fit_each_other(tmp_path: Path) -> None:
    def make() -> dict[str, str]:
        script = PROJECT / "scripts" / "secrets.sh"
        subprocess.run(["sh", str(script)], cwd=tmp_path, capture_output=True, timeout=30, check=True)
        return {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "secrets").iterdir()}

    made = make()
    assert make() == made
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    wanted = {Path(secret["file"]).name for secret in CONTENT["secrets"].values()}
    wanted |= {Path(name).name for service in SERVICES.values() for name in service.get("env_file", ())}
    assert set(made) == wanted
    password = made["valkey.conf"].split()[1]
    assert made["HEARTLINE_REDIS_URL"].strip() == f"redis://:{password}@valkey:6379/0"
    keys = dict(line.split(":") for line in made["api-keys"].splitlines() if not line.startswith("#"))
    assert set(keys) == {"operator", "open-webui"}
    assert f"OPENAI_API_KEYS={keys['open-webui']}\n" in made["open-webui.env"]
    ignored = (PROJECT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "secrets/" in ignored


def test_secrets_become_variables_and_empty_ones_do_not(tmp_path: Path) -> None:
    (tmp_path / "ANTHROPIC_API_KEY").write_text("sk $(not run) 'as it is'\n", encoding="utf-8")
    (tmp_path / "EMPTY_KEY").touch()
    (tmp_path / "api-keys").write_text("operator:x", encoding="utf-8")
    script = str(PROJECT / "deploy" / "with-secrets.sh")
    given = {"PATH": "/usr/bin:/bin", "SECRETS_DIR": str(tmp_path)}
    done = subprocess.run([script, "env"], env=given, capture_output=True, text=True, timeout=30, check=True)
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert found["ANTHROPIC_API_KEY"] == "sk $(not run) 'as it is'"
    assert "EMPTY_KEY" not in found
    assert "api-keys" not in found


# --- the Dockerfile -------------------------------------------------------------------------------

STEPS = re.sub(r"\\\n", "", (PROJECT / "Dockerfile").read_text(encoding="utf-8"))


def test_the_image_has_the_projects_own_pins() -> None:
    assert lines_of("Dockerfile", r"^ARG CLI_VERSION=(\S+)$") == lines_of("Makefile", r"^CLI_VERSION := (\S+)$")
    bases = re.findall(r"^FROM (\S+)", STEPS, re.MULTILINE)
    assert all(re.fullmatch(r"\w+:\d+\.\d+\.\d+-(slim-bookworm|bookworm-slim)", base) for base in bases), "exact tags"
    assert len({base for base in bases if base.startswith("python:")}) == 1, "the packages' Python is the image's"
    requirements = (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert all("==" in line for line in requirements if line and not line.startswith("#"))
    assert "-r requirements.txt" in STEPS


def test_the_image_holds_what_runs_and_no_more() -> None:
    allowed = (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [
        source for line in re.findall(r"^COPY (?!--from)(.+)$", STEPS, re.MULTILINE) for source in line.split()[:-1]
    ]
    assert set(copied) == {line[1:] for line in allowed if line.startswith("!")}
    assert "*" in allowed
    assert all((PROJECT / source).exists() for source in copied)
    assert lines_of("Dockerfile", r"^USER (\S+)$") == SERVICES["worker"]["user"]
    final = STEPS[STEPS.rindex("FROM ") :]
    assert "pip install" not in final
    assert "npm" not in final
    state = lines_of("Dockerfile", r"HEARTLINE_STATE_DIR=(\S+)$")
    assert state.startswith("/var/lib/heartline/")
    assert "state:/var/lib/heartline" in SERVICES["worker"]["volumes"]


def test_the_rehearsal_takes_its_settings_from_the_file() -> None:
    given = {f"HEARTLINE_{name.upper()}": str(value) for name, value in rehearsal.settings().items()}
    known = settings.load({**given, "HEARTLINE_API_KEYS": "alice:a-key-of-sixteen-characters"}, dotenv=None)
    assert known.heartbeat_seconds == float(SERVICES["api-1"]["environment"]["HEARTLINE_HEARTBEAT_SECONDS"])
