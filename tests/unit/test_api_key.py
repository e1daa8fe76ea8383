"""The first API key: made once, readable by its owner only, never written over."""

import os
import stat
from pathlib import Path

import pytest

from app.auth import MIN_KEY_CHARACTERS, ApiKeys
from core.settings import Settings
from stack.api_key import ensure, first, is_ours


def test_a_new_key_can_be_read_by_its_owner_only(folder: Path) -> None:
    path = folder / "state" / "api-keys"
    before = os.umask(0)
    try:
        ensure(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_api_takes_the_key_that_was_made(folder: Path) -> None:
    settings = Settings(state_dir=str(folder))
    key = ensure(settings.keys_file)
    assert ApiKeys.load(settings).owner(key) == "default"


def test_keys_are_long_and_never_the_same(folder: Path) -> None:
    one, other = ensure(folder / "one"), ensure(folder / "other")
    assert one != other
    assert len(one) > 2 * MIN_KEY_CHARACTERS


def test_a_key_that_is_there_is_kept(folder: Path) -> None:
    path = folder / "api-keys"
    key = ensure(path)
    content = path.read_bytes()
    assert ensure(path) == key
    assert path.read_bytes() == content


def test_a_file_of_the_users_own_is_never_written_over(folder: Path) -> None:
    path = folder / "api-keys"
    path.write_text("# mine\nalice: alice-key-0123456789 \nbob:bob-key-0123456789\n")
    content = path.read_bytes()
    assert ensure(path) == "alice-key-0123456789"
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", ""),
        ("# name:key\n", ""),
        ("nonsense\n", ""),
        ("a:k1\nb:k2\n", "k1"),
        ("  # x:y\n\n a : k:1 \n", "k:1"),
    ],
)
def test_the_first_key_is_found_behind_comments(text: str, key: str) -> None:
    assert first(text) == key


@pytest.mark.parametrize(
    ("text", "ours"), [("default:k1\n", True), ("# x\n default : k1", True), ("a:k\ndefault:k", False)]
)
def test_a_key_that_was_made_here_is_known_by_its_name(folder: Path, text: str, ours: bool) -> None:
    (folder / "api-keys").write_text(text)
    assert is_ours(folder / "api-keys") == ours
