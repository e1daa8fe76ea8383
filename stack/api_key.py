"""The first API key: made once, in a file that only its owner can read."""

import os
import secrets
from pathlib import Path

NAME = "default"
"""The name of the key that is made here."""


def ensure(path: Path, name: str = NAME) -> str:
    """The first key in `path`; writes a new random one when there is no such file."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return first(path.read_text(encoding="utf-8"))
    key = f"sk-heartline-{secrets.token_urlsafe(32)}"
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"# name:key, one a line; the name owns the runs that are made with the key\n{name}:{key}\n")
    return key


def first(text: str) -> str:
    """The key in the first `name:key` line, or nothing."""
    return _first(text)[1]


def is_ours(path: Path) -> bool:
    """Whether the first key in `path` is one that was made here, by its name."""
    return _first(path.read_text(encoding="utf-8"))[0] == NAME


def _first(text: str) -> tuple[str, str]:
    for line in text.splitlines():
        name, colon, key = line.partition(":")
        if colon and not name.strip().startswith("#"):
            return name.strip(), key.strip()
    return "", ""
