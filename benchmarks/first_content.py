"""The wait for the first word of a new chat: the bare CLI on a pipe, and the same CLI behind Heartline.

Both ask the same scripted API, in turn, so that the machine's mood falls on both.
"""

import os
import subprocess
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.figures import Row
from core import profiles
from core.run import Message, RunRequest, new_id
from core.settings import Settings
from tests import sse
from tests.deployment import MODELS, Deployment, chat
from tests.doubles.anthropic_api import ScriptedApi, Text, Turn
from worker import cli, command

ROUNDS = 12
PROMPT = "first content"


def measure() -> list[Row]:
    claude_bin = cli.find(Settings(), os.environ)
    bare, behind = [], []
    with tempfile.TemporaryDirectory() as folder, ScriptedApi() as api:
        api.script(PROMPT, Turn(Text("word")))
        environment = {"ANTHROPIC_BASE_URL": api.base_url}
        with Deployment(Path(folder), claude_bin=claude_bin, environment=environment) as heartline:
            for number in range(ROUNDS + 1):
                times = (_bare(claude_bin, heartline), _behind(heartline))
                if number:  # the first of each only warms the machine's caches
                    bare.append(times[0])
                    behind.append(times[1])
    return [
        Row.of("first content, bare CLI, cold", bare),
        Row.of("first content, Heartline, cold", behind, limit="first content, bare CLI, cold"),
    ]


def _bare(claude_bin: str, heartline: Deployment) -> float:
    """Seconds from the start of the process to the first line with a delta."""
    request = RunRequest(messages=(Message("user", PROMPT),))
    profile = profiles.load(MODELS).get("chat")
    workspace = Path(tempfile.mkdtemp(dir=heartline.folder))
    prepared = command.prepare(new_id(), request, profile, claude_bin, workspace, heartline.environment)
    started = time.perf_counter()
    with subprocess.Popen(
        prepared.argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=prepared.environment,
        cwd=workspace,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(prepared.stdin)
        process.stdin.close()
        first = next(time.perf_counter() for line in process.stdout if b"text_delta" in line)
        process.stdout.read()
    return first - started


def _behind(heartline: Deployment) -> float:
    """Seconds from the request to the first chunk with content."""
    with heartline.http() as client:
        started = time.perf_counter()
        with client.stream("POST", "/v1/chat/completions", json=chat(PROMPT, stream=True)) as answer:
            return _until_content(answer) - started


def _until_content(answer: httpx.Response) -> float:
    first = 0.0
    for frame in sse.of(answer):
        if not first and sse.contents([frame]):
            first = time.perf_counter()
    return first
