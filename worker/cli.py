"""Where the Claude CLI is, and whether its version will do."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from core.errors import ConfigurationError
from core.settings import Settings
from worker.command import MINIMUM_VERSION

PROJECT_CLI = Path(__file__).resolve().parent.parent / ".cli" / "node_modules" / ".bin" / "claude"
"""Where `make run` installs the CLI when there is none on PATH."""


def find(settings: Settings, environ: Mapping[str, str]) -> str:
    """The CLI's path: the setting's, else the one on PATH, else the project's own; recent enough.

    Raises `ConfigurationError` with what to do when there is none, or only one that is too old.
    """
    if settings.claude_bin:
        chosen = shutil.which(settings.claude_bin, path=environ.get("PATH"))
        if chosen is None:
            raise ConfigurationError(f"HEARTLINE_CLAUDE_BIN={settings.claude_bin}: there is no such program")
        candidates = [chosen]
    else:
        on_path = shutil.which("claude", path=environ.get("PATH"))
        candidates = [path for path in (on_path, shutil.which(str(PROJECT_CLI))) if path]
    if not candidates:
        raise ConfigurationError(
            "HEARTLINE_CLAUDE_BIN is not set and there is no 'claude' on PATH: run 'make cli' to install it "
            "with npm into this project, or 'npm install -g @anthropic-ai/claude-code'"
        )
    versions = {path: version(path, environ) for path in candidates}
    for path, found in versions.items():
        if found >= MINIMUM_VERSION:
            return path
    path, found = next(iter(versions.items()))
    needed, has = (".".join(map(str, v)) for v in (MINIMUM_VERSION, found))
    raise ConfigurationError(
        f"HEARTLINE_CLAUDE_BIN={path}: version {has} is older than {needed}, the first that is known to keep "
        "'@/path' in a prompt from reading files; update it, or run 'make cli' to install one here"
    )


def version(path: str, environ: Mapping[str, str]) -> tuple[int, ...]:
    """The version that the program at `path` names. Raises `ConfigurationError` when it names none."""
    try:
        output = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=30, env=dict(environ), check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigurationError(f"HEARTLINE_CLAUDE_BIN={path}: cannot be run: {error}") from None
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", output.strip())
    if match is None:
        raise ConfigurationError(f"HEARTLINE_CLAUDE_BIN={path}: is not the Claude CLI ('--version' names no version)")
    return tuple(int(part) for part in match.groups())
