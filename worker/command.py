"""How a run's CLI is started: its arguments, its environment, and the files it is given. Pure but for `prepare`.

Arguments are visible to every user of the machine and limited in size: the prompt goes in on standard
input, system text and history through files that only the worker's user can read. The schema that an answer
must follow has to be an argument; the CLI takes it in no other way.
"""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from core.profiles import Profile, environment_of
from core.run import Image, RunRequest
from worker import transcript
from worker.answer_file import AnswerFile

_PASSED = {
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "TERM",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS",
}  # fmt: skip
_PASSED_PREFIXES = ("LC_", "ANTHROPIC_", "CLAUDE_CODE_", "CLAUDE_CONFIG_DIR")

_FIXED = {
    "DISABLE_AUTOUPDATER": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    # Without it the CLI puts any file that a prompt names as '@/path' into the conversation, whatever
    # tools and permissions the profile has (seen with 2.1.329; 2.1.197 does not know the variable).
    "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",
    # A run ends when its answer does: nothing may be scheduled or left behind for later,
    # and what one user's run remembers is not the next one's to read.
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    "CLAUDE_CODE_DISABLE_CRON": "1",
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
}

_ONLINE_TOOLS = ("WebFetch", "WebSearch")
"""The tools that use the network from within the CLI."""

_SESSION = "session.jsonl"
_DIAGNOSTIC = Path(__file__).with_name("diagnostic.py")

MINIMUM_VERSION = (2, 1, 329)
"""The oldest CLI whose prompts cannot read files (see `_FIXED`)."""


@dataclass(frozen=True)
class Command:
    """Everything that `Process` needs."""

    argv: tuple[str, ...]
    stdin: bytes
    environment: dict[str, str]
    program: tuple[Path, ...] = ()
    """Files and folders without which it cannot run."""
    farewell: bytes = b""
    """What to write to its standard input so that it stops."""


def _interrupt(request_id: str) -> bytes:
    request = {"type": "control_request", "request_id": request_id, "request": {"subtype": "interrupt"}}
    return json.dumps(request).encode() + b"\n"


INTERRUPT = _interrupt("stop")
"""Makes the CLI abort its tools and give its `result` (seen with 2.1.329: within 10 ms)."""

ARE_YOU_THERE = _interrupt("ready")
"""The CLI answers with one line when it is up. There is nothing yet to interrupt, and nothing it does later is
different for it: it prints the same lines and asks the model the same (seen with 2.1.329)."""


def prepare(
    run_id: str,
    request: RunRequest,
    profile: Profile,
    claude_bin: str,
    folder: Path,
    environ: Mapping[str, str],
    *,
    answer_file: AnswerFile | None = None,
    session: Path | None = None,
    lasting: bool = False,
    seen_at: Path | None = None,
    denied_tools: Sequence[str] = (),
) -> Command:
    """The command of a run, or of a CLI that is to wait for one: its request has no messages yet. Writes its files
    into `folder`, which the caller made and removes.

    With a `session` the CLI goes on from there, else it is given the history; `lasting`: it keeps its own session.
    `seen_at` is where the CLI finds that folder, `denied_tools` what it may not use beside the profile's.
    Raises `ConfigurationError` for a variable that the profile needs and `environ` lacks.
    """
    environment = environment_for(profile, environ)
    stdin = question(request) if request.messages else b""
    if profile.runner == "diagnostic":
        program = (Path(sys.base_prefix), _DIAGNOSTIC)
        return Command((sys.executable, "-I", str(_DIAGNOSTIC)), stdin, environment, program)
    seen_at = seen_at or folder
    files: list[str] = []
    flag, text = _system_prompt(profile, request.system)
    if answer_file is not None:
        text = answer_file.instruct(text)
    if text:
        files += [flag, str(seen_at / _write(folder / "system-prompt.txt", text))]
    if earlier := _earlier(request, session, folder, seen_at):
        # Without the last flag the CLI would take the system prompt of then.
        files += ["--resume", str(seen_at / earlier), "--fork-session", "--system-prompt-snapshot", "off"]
    if not lasting:
        files += ["--no-session-persistence"]
    flags = arguments(run_id, profile, denied_tools, effort=request.effort, schema=request.schema)
    argv = (claude_bin, *flags, *files, *profile.flags)
    return Command(argv, stdin, environment, program_of(claude_bin), farewell=INTERRUPT)


def _earlier(request: RunRequest, session: Path | None, folder: Path, seen_at: Path) -> str | None:
    """The file in `folder` that the CLI resumes from, if there is anything to go on from."""
    if session is not None:
        shutil.copyfile(session, folder / _SESSION)
        return _SESSION
    if request.history:
        return _write(folder / _SESSION, transcript.session_file(request.history, str(seen_at)))
    return None


def program_of(claude_bin: str) -> tuple[Path, ...]:
    """What must be readable to run the CLI: one binary, or all of the `node_modules` that it is installed in."""
    binary = Path(claude_bin).resolve()
    modules = [folder for folder in binary.parents if folder.name == "node_modules"]
    return (modules[-1] if modules else binary,)


def arguments(
    run_id: str, profile: Profile, denied_tools: Sequence[str] = (), *, effort: str | None = None, schema: str = ""
) -> list[str]:
    """The CLI's flags for this profile. What a request says of the effort wins over it."""
    denied = (*profile.denied_tools, *(() if profile.network else _ONLINE_TOOLS), *denied_tools)
    flags = [
        "-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose",
        "--include-partial-messages", "--session-id", str(UUID(run_id)),
        "--permission-mode", profile.permission_mode,
        # Neither the operator's own settings nor his MCP servers are the clients' to use.
        "--setting-sources", "", "--strict-mcp-config",
    ]  # fmt: skip
    options = {
        "--model": profile.model,
        "--effort": effort or profile.effort,
        "--json-schema": schema or None,
        "--max-turns": profile.max_turns,
        "--max-budget-usd": profile.max_budget_usd,
        "--tools": None if profile.tools is None else ",".join(profile.tools),
        "--allowedTools": ",".join(profile.allowed_tools) or None,
        "--disallowedTools": ",".join(denied) or None,
    }
    for flag, value in options.items():
        if value is not None:
            flags += [flag, str(value)]
    for folder in (*profile.read_only_folders, *profile.writable_folders):
        flags += ["--add-dir", folder]
    return flags


def environment_for(profile: Profile, environ: Mapping[str, str]) -> dict[str, str]:
    """What the CLI, and every tool it runs, gets to see of the worker's environment."""
    passed = {name: value for name, value in environ.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)}
    return {**passed, **_FIXED, **environment_of(profile, environ)}


def question(request: RunRequest) -> bytes:
    """What is new in the request, as a line for the CLI."""
    asked = transcript.alternating(request.prompt)[-1]
    return user_line(asked.text, asked.images)


def user_line(prompt: str, images: Sequence[Image] = ()) -> bytes:
    """The prompt as a line of the CLI's stream-json input, with its pictures.

    A prompt that begins with '/' would be taken for a command of the CLI's own ('/model', '/clear'), and
    never reach the model, behind a picture, too; behind a blank it is text like any other (seen with 2.1.329).
    """
    text = f" {prompt}" if prompt.startswith("/") else prompt
    message = {"role": "user", "content": transcript.content(text, images)}
    return json.dumps({"type": "user", "message": message}).encode() + b"\n"


def _system_prompt(profile: Profile, asked: str) -> tuple[str, str]:
    flag = "--system-prompt-file" if profile.system_prompt_mode == "replace" else "--append-system-prompt-file"
    return flag, "\n\n".join(filter(None, (profile.system_prompt, asked)))


def _write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return path.name
