"""API keys: how they are read, whose a key is, and what a request without one gets."""

from pathlib import Path

import pytest
from fakeredis import FakeRedis
from flask import Flask, g, request

from app.auth import COOKIE, ApiKeys, is_from_here, parse, required, whose
from core.errors import ConfigurationError, ForeignOrigin, Unauthorized
from core.logins import Logins
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


# Operators.


def test_operators_are_the_keys_that_the_setting_names() -> None:
    keys = ApiKeys.load(Settings(api_keys=f"alice:{ALICE},bob:{BOB}", operators=" bob , "))
    assert [keys.is_operator(name) for name in keys.owners] == [False, True]


def test_without_the_setting_nobody_is_an_operator() -> None:
    assert not ApiKeys.load(Settings(api_keys=f"alice:{ALICE}")).is_operator("alice")


def test_an_operator_without_a_key_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match=r"HEARTLINE_OPERATORS.*'carol'"):
        ApiKeys.load(Settings(api_keys=f"alice:{ALICE}", operators="alice,carol"))


# Logins.

TOKEN = "the-token-of-a-browser"


def visited(
    keys: ApiKeys, logins: Logins, *, token: str = TOKEN, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[str, str | None]:
    """The owner that a view for pages finds, and whose runs he may see."""

    @required(keys, logins)
    def view() -> tuple[str, str | None]:
        return str(g.owner), whose()

    sent = {"Cookie": f"{COOKIE}={token}", **(headers or {})}
    with Flask(__name__).test_request_context(method=method, base_url="http://here.example", headers=sent):
        return view()


@pytest.fixture
def keys() -> ApiKeys:
    return ApiKeys({"alice": ALICE, "bob": BOB}, operators=["bob"])


@pytest.fixture
def logins(keys: ApiKeys) -> Logins:
    made = Logins(FakeRedis(), ttl_seconds=60)
    made.begin(TOKEN, keys.login("alice", TOKEN))
    return made


def test_a_login_stands_for_its_owner_who_sees_his_own_runs(keys: ApiKeys, logins: Logins) -> None:
    assert visited(keys, logins) == ("alice", "alice")


def test_an_operator_sees_everybodys_runs(keys: ApiKeys, logins: Logins) -> None:
    logins.begin("other", keys.login("bob", "other"))
    assert visited(keys, logins, token="other") == ("bob", None)


@pytest.mark.parametrize("token", ["", "x", TOKEN + "x"])
def test_another_token_is_nobodys(keys: ApiKeys, logins: Logins, token: str) -> None:
    with pytest.raises(Unauthorized):
        visited(keys, logins, token=token)


def test_a_key_in_the_request_wins_over_the_login(keys: ApiKeys, logins: Logins) -> None:
    assert visited(keys, logins, headers={"Authorization": f"Bearer {BOB}"})[0] == "bob"
    with pytest.raises(Unauthorized):
        visited(keys, logins, headers={"Authorization": "Bearer wrong"})


def test_a_login_ends_with_its_key(logins: Logins) -> None:
    for left in ({"bob": BOB}, {"alice": f"{ALICE}-new"}):
        with pytest.raises(Unauthorized):
            visited(ApiKeys(left), logins)


def test_a_logout_ends_it(keys: ApiKeys, logins: Logins) -> None:
    logins.end(TOKEN)
    with pytest.raises(Unauthorized):
        visited(keys, logins)


def test_what_is_kept_of_a_login_is_neither_its_token_nor_the_key() -> None:
    redis = FakeRedis()
    Logins(redis, 60).begin(TOKEN, ApiKeys({"alice": ALICE}).login("alice", TOKEN))
    kept = b"".join(key + redis.get(key) for key in redis.scan_iter())
    assert TOKEN.encode() not in kept
    assert ALICE.encode() not in kept


def test_a_login_counts_only_where_pages_need_it() -> None:
    with (
        Flask(__name__).test_request_context(headers={"Cookie": f"{COOKIE}={TOKEN}"}),
        pytest.raises(Unauthorized),
    ):
        required(ApiKeys({"alice": ALICE}))(lambda: None)()


FROM_HERE = [
    {"Sec-Fetch-Site": "same-origin"},
    {"Origin": "http://here.example"},
    {"Origin": "https://here.example"},  # a proxy took the https off
]
FROM_ELSEWHERE = [
    {},
    {"Origin": "null"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://here.example.evil.example"},
    {"Origin": "http://here.example:8080"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://here.example"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
]


@pytest.mark.parametrize("headers", FROM_HERE)
def test_a_page_of_this_server_may_change_something(keys: ApiKeys, logins: Logins, headers: dict[str, str]) -> None:
    assert visited(keys, logins, method="POST", headers=headers)[0] == "alice"


@pytest.mark.parametrize("headers", FROM_ELSEWHERE)
def test_no_other_page_may_change_anything(keys: ApiKeys, logins: Logins, headers: dict[str, str]) -> None:
    with pytest.raises(ForeignOrigin):
        visited(keys, logins, method="POST", headers=headers)


def test_a_key_needs_no_origin(keys: ApiKeys, logins: Logins) -> None:
    headers = {"Authorization": f"Bearer {BOB}", "Origin": "http://evil.example"}
    assert visited(keys, logins, method="POST", headers=headers)[0] == "bob"


def test_the_host_is_compared_without_regard_to_case() -> None:
    with Flask(__name__).test_request_context(
        base_url="http://Here.Example", headers={"Origin": "http://here.example"}
    ):
        assert is_from_here(request)
