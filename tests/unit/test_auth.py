"""API keys: how they are read, whose a key is, and what a request without one gets."""

from pathlib import Path

import pytest
from flask import Flask, g

from app.auth import ApiKeys, parse, required
from core.errors import ConfigurationError, Unauthorized
from core.settings import Settings

ALICE, BOB = "alice-key-0123456789", "bob-key-0123456789"


@pytest.mark.parametrize(
    ("entries", "keys"),
    [
        ([f"alice:{ALICE}"], {"alice": ALICE}),
        ([f"alice:{ALICE}", f"bob:{BOB}"], {"alice": ALICE, "bob": BOB}),
        ([f"  alice : {ALICE}  "], {"alice": ALICE}),
        (["", "  ", "# a comment", "  # bob:x", f"alice:{ALICE}"], {"alice": ALICE}),
        ([f"alice:{ALICE}:with:colons"], {"alice": f"{ALICE}:with:colons"}),
        ([f"A.b_c-1:{ALICE}"], {"A.b_c-1": ALICE}),
        (["a:1234567890123456"], {"a": "1234567890123456"}),
    ],
)
def test_entries_are_names_with_keys(entries: list[str], keys: dict[str, str]) -> None:
    assert parse(entries, "SOURCE") == keys


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([], "there is no key"),
        (["", "# only a comment"], "there is no key"),
        ([ALICE], "entry 1: expected name:key"),
        ([f":{ALICE}"], "entry 1"),
        ([f"alice:{ALICE}", f"b ob:{BOB}"], "entry 2"),
        ([f"../alice:{ALICE}"], "entry 1"),
        ([f"{'a' * 65}:{ALICE}"], "entry 1"),
        (["alice:"], "'alice' needs 16"),
        (["alice:123456789012345"], "'alice' needs 16"),
        ([f"alice:{ALICE}", f"alice:{BOB}"], "'alice' is used twice"),
    ],
)
def test_wrong_entries_are_refused_in_one_line_without_any_key(entries: list[str], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        parse(entries, "SOURCE")
    assert caught.value.message.startswith("SOURCE:")
    assert len(caught.value.message.splitlines()) == 1
    assert not [key for key in (ALICE, BOB, "123456789012345") if key in caught.value.message]


def test_the_keys_in_the_environment_win_over_the_file(folder: Path) -> None:
    (folder / "api-keys").write_text(f"bob:{BOB}\n")
    keys = ApiKeys.load(Settings(api_keys=f"alice:{ALICE},carol:carol-{ALICE}", state_dir=str(folder)))
    assert (keys.owner(ALICE), keys.owner(f"carol-{ALICE}"), keys.owner(BOB)) == ("alice", "carol", None)


def test_the_keys_are_read_from_the_file_otherwise(folder: Path) -> None:
    (folder / "api-keys").write_text(f"# name:key\nbob:{BOB}\n")
    assert ApiKeys.load(Settings(state_dir=str(folder))).owner(BOB) == "bob"


def test_without_any_keys_the_start_is_refused_with_what_to_do(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="HEARTLINE_API_KEYS") as caught:
        ApiKeys.load(Settings(state_dir=str(folder)))
    assert len(caught.value.message.splitlines()) == 1


@pytest.mark.parametrize("key", ["", "x", ALICE + "x", ALICE[:-1], ALICE.upper(), f" {ALICE}", "ä\udcff"])
def test_a_wrong_key_is_nobodys(key: str) -> None:
    assert ApiKeys({"alice": ALICE}).owner(key) is None


# The decorator.


def guarded(authorization: str | None) -> str:
    """The owner that a view finds when a request carries this header."""

    @required(ApiKeys({"alice": ALICE, "bob": BOB}))
    def view() -> str:
        return str(g.owner)

    headers = {} if authorization is None else {"Authorization": authorization}
    with Flask(__name__).test_request_context(headers=headers):
        return view()


@pytest.mark.parametrize("header", [f"Bearer {BOB}", f"bearer {BOB}", f"BEARER   {BOB} "])
def test_a_valid_key_lets_its_owner_in(header: str) -> None:
    assert guarded(header) == "bob"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", f"Basic {BOB}", BOB, f"Bearer {BOB}x", f"Bearer{BOB}", "Bearer ÿ"]
)
def test_without_a_valid_key_nobody_gets_in(header: str | None) -> None:
    with pytest.raises(Unauthorized):
        guarded(header)
