"""clients/js with Node: its own tests, against real replicas, beside another parser, and held against its types."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import skip_unless_ci
from tests.deployment import KEYS, PROJECT, Deployment

CLIENT = PROJECT / "clients" / "js"
OLDEST_NODE = 20
PARSER, TYPESCRIPT = "eventsource-parser@3.1.1", "typescript@5.9.3"
INSTALL_SECONDS = 90


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        skip_unless_ci("there is no node on PATH")
    version = subprocess.run([str(found), "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").split(".")[0]) < OLDEST_NODE:
        skip_unless_ci(f"Node {version.strip()} is older than {OLDEST_NODE}")
    return str(found)


def run(*argv: str, seconds: float = 110, **environment: str) -> str:
    """What the program says. Fails, with that, unless it ends well."""
    given = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **environment}
    ended = subprocess.run(argv, cwd=CLIENT, env=given, capture_output=True, text=True, timeout=seconds, check=False)
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-8000:]
    return ended.stdout


def own_tests(node: str, *names: str, **environment: str) -> None:
    """Node's own tests, of which none may fail or be skipped."""
    files = [f"test/{name}.test.mjs" for name in names]
    said = run(node, "--test", "--test-reporter=spec", *files, **environment)
    assert "fail 0" in said
    assert "skipped 0" in said


def installed(package: str, folder: Path) -> Path:
    """The folder of a package that npm has just put there."""
    npm = shutil.which("npm")
    if npm is None:
        skip_unless_ci("there is no npm on PATH")
    argv = [str(npm), "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", package]
    try:
        subprocess.run(argv, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=True)
    except subprocess.SubprocessError as error:
        skip_unless_ci(f"npm cannot install {package}: {error}")
    return folder / "node_modules" / package.rpartition("@")[0]


def test_the_parser_and_the_client_on_answers_made_for_them(node: str) -> None:
    own_tests(node, "event-stream", "client")


def test_the_client_against_real_replicas(node: str, tmp_path: Path) -> None:
    with Deployment(
        tmp_path, replicas=2, heartbeat_seconds=0.3, disconnect_grace_seconds=2, worker_slots=8
    ) as heartline:
        urls = {"HEARTLINE_URL": heartline.replicas[0].url, "HEARTLINE_OTHER_URL": heartline.replicas[1].url}
        own_tests(node, "server", HEARTLINE_KEY=KEYS["alice"], **urls)


def test_the_parser_agrees_with_another_one_on_the_same_bytes(node: str, tmp_path: Path) -> None:
    package = installed(PARSER, tmp_path)
    seed = str(time.time_ns() % 2**31)
    assert "events" in run(node, "test/beside.mjs", str(package / "dist" / "index.js"), seed)


def test_the_types_hold_under_strict_typescript(node: str, tmp_path: Path) -> None:
    package = installed(TYPESCRIPT, tmp_path)
    run(node, str(package / "bin" / "tsc"), "--noEmit", "-p", "tsconfig.json")


def test_it_needs_no_other_package() -> None:
    assert "ependencies" not in (CLIENT / "package.json").read_text(encoding="utf-8")
