"""What the clients ask, and what they must read when the run completes. No two answers share a word."""

import dataclasses
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.deployment import FAKE_CLAUDE
from tests.doubles.anthropic_api import ScriptedApi, Silence, Text, ToolUse, Turn

KINDS = ("plain", "tool", "child", "silent")


@dataclass(frozen=True)
class Question:
    """A prompt for the profile `model`; `answer` is the whole text that the CLI prints for it, `again` what it
    prints in a second run, for a client whose first one was lost: the scripted model has gone on by then."""

    tag: str
    kind: str
    model: str
    prompt: str
    answer: str
    again: str


def fake(number: int, chance: random.Random) -> Question:
    """For the fake CLI: some words, with a tool, a child in a session of its own, or a silence before them."""
    tag, kind = f"f{number:04d}", KINDS[number % len(KINDS)]
    pieces = [f"<{tag}:{i} žлą🙂>" for i in range(chance.randint(10, 60))]
    command: dict[str, object] = {"text": pieces, "interval": round(chance.uniform(0.01, 0.06), 3)}
    if kind == "tool":
        command["tool"] = {"name": "Bash", "input": {"command": tag}, "output": tag, "seconds": chance.uniform(0.1, 1)}
    elif kind == "child":
        command["child"] = 600
    elif kind == "silent":
        command["sleep_before"] = round(chance.uniform(1, 3), 1)
    return Question(tag, kind, "fake", json.dumps(command), "".join(pieces), "".join(pieces))


def slow(question: Question) -> Question:
    """One like it that takes much longer, for a client that will not wait; the real CLI's stays as it is."""
    if question.model != "fake":
        return question
    command = {**json.loads(question.prompt), "interval": 1}
    return dataclasses.replace(question, prompt=json.dumps(command))


def real(number: int, api: ScriptedApi) -> Question:
    """For the real CLI: it runs a command for real, in a session of its own."""
    tag = f"r{number:04d}"
    shell = f"for i in 1 2 3; do echo {tag} $i; sleep 0.3; done"
    api.script(
        f"question {tag}",
        Turn(Text(f"Looking, {tag}."), ToolUse("Bash", {"command": shell})),
        Turn(Silence(0.5), Text(f"Done, {tag}.")),
    )
    return Question(tag, "real", "real", f"question {tag}", f"Looking, {tag}.\n\nDone, {tag}.", f"Done, {tag}.")


def program(folder: Path, claude_bin: str | None) -> Path:
    """A CLI that is the fake one for the profile `fake`, and the real one otherwise."""
    path = folder / "claude"
    path.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *"--model fake"*|--version) exec {sys.executable} {FAKE_CLAUDE} "$@";; esac\n'
        f'exec {claude_bin or "false"} "$@"\n'
    )
    path.chmod(0o755)
    return path
