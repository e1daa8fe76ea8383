"""The pages on a real Valkey, without processes: who gets in, what a browser is told, and that texts stay texts."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from flask.testing import FlaskClient
from msgspec import structs

from app import create_app, services
from app.auth import COOKIE
from app.jobs import SHOWN, build, filtered
from app.pages.visitors import page_of
from app.services import Services
from core.logins import MAX_FAILURES
from core.run import Image, Message, Run, RunRequest, new_id
from core.settings import Settings
from tests.deployment import KEYS, MODELS

HERE = {"Sec-Fetch-Site": "same-origin"}
NASTY = "<script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }} ' \" &amp;"


@pytest.fixture
def built(redis_url: str) -> Iterator[Services]:
    made = services.build(
        Settings(
            redis_url=redis_url,
            models_file=str(MODELS),
            api_keys=",".join(f"{name}:{key}" for name, key in KEYS.items()),
            operators="bob",
        )
    )
    yield made
    made.redis.close()


@pytest.fixture
def browser(built: Services) -> FlaskClient:
    return create_app(built).test_client()


def log_in(browser: FlaskClient, owner: str, wanted: str = "/") -> str:
    """Logs in; returns where that leads."""
    answer = browser.post("/login", data={"key": KEYS[owner], "next": wanted}, headers=HERE)
    assert answer.status_code == 303
    return str(answer.headers["Location"])


def make_run(built: Services, owner: str = "alice", *messages: Message) -> str:
    run = Run(id=new_id(), owner=owner, profile="chat", model="chat", created_at=time.time(), detach=True)
    built.runs.create(run, RunRequest(messages=messages or (Message("user", "hello"),)))
    return run.id


# --- the login --------------------------------------------------------------------------------------


def test_who_is_not_logged_in_is_led_to_the_login_and_back(browser: FlaskClient, built: Services) -> None:
    path = f"/runs/{make_run(built)}"
    answer = browser.get(path)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/login?next={path}")
    assert f'value="{path}"' in browser.get(answer.headers["Location"]).text
    assert log_in(browser, "alice", path) == path
    assert browser.get(path).status_code == 200
    assert browser.get(f"/login?next={path}").headers["Location"] == path


@pytest.mark.parametrize(
    "wanted",
    ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/a//b", "/\nx", "", "x"],
)
def test_nobody_is_led_elsewhere(browser: FlaskClient, wanted: str) -> None:
    assert page_of(wanted) == "/"
    assert log_in(browser, "alice", wanted) == "/"


@pytest.mark.parametrize("wanted", ["/", "/runs", "/runs/0123456789abcdef", "/jobs/0/view/queues"])
def test_pages_of_ours_are_led_to(wanted: str) -> None:
    assert page_of(wanted) == wanted


def test_the_cookie_is_for_this_server_and_its_pages_only(browser: FlaskClient) -> None:
    answer = browser.post("/login", data={"key": KEYS["alice"]}, headers=HERE)
    said = answer.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"} <= set(said.split("; "))
    assert "Secure" not in said
    answer = browser.post("/login", data={"key": KEYS["alice"]}, headers=HERE, base_url="https://localhost")
    assert "Secure" in answer.headers["Set-Cookie"].split("; ")


def test_a_wrong_key_is_told_so_and_not_shown_again(browser: FlaskClient) -> None:
    answer = browser.post("/login", data={"key": "no-key-of-this-server"}, headers=HERE)
    assert answer.status_code == 401
    assert 'role="alert"' in answer.text
    assert "no-key-of-this-server" not in answer.text
    assert "Set-Cookie" not in answer.headers


def test_after_many_wrong_keys_an_address_has_to_wait_and_others_not(browser: FlaskClient) -> None:
    for _ in range(MAX_FAILURES):
        assert browser.post("/login", data={"key": "wrong"}, headers=HERE).status_code == 401
    answer = browser.post("/login", data={"key": KEYS["alice"]}, headers=HERE)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "60")
    other = {**HERE, "X-Forwarded-For": "203.0.113.7"}  # from the proxy on this machine
    assert browser.post("/login", data={"key": KEYS["alice"]}, headers=other).status_code == 303


def test_an_address_cannot_be_made_up_by_who_is_no_proxy(browser: FlaskClient) -> None:
    from_afar = {"REMOTE_ADDR": "198.51.100.1"}
    for number in range(MAX_FAILURES):
        headers = {**HERE, "X-Forwarded-For": f"203.0.113.{number}"}
        browser.post("/login", data={"key": "wrong"}, headers=headers, environ_base=from_afar)
    answer = browser.post("/login", data={"key": KEYS["alice"]}, headers=HERE, environ_base=from_afar)
    assert answer.status_code == 429


@pytest.mark.parametrize("path", ["/login", "/logout"])
@pytest.mark.parametrize("headers", [{}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_no_other_page_logs_anybody_in_or_out(browser: FlaskClient, path: str, headers: dict[str, str]) -> None:
    log_in(browser, "alice")
    assert browser.post(path, data={"key": KEYS["bob"]}, headers=headers).status_code == 403
    assert "alice" in browser.get("/").text


def test_a_logout_ends_the_login_for_every_replica(browser: FlaskClient, built: Services) -> None:
    log_in(browser, "alice")
    cookie = browser.get_cookie(COOKIE)
    assert cookie is not None
    other_replica = create_app(built).test_client()
    other_replica.set_cookie(COOKIE, cookie.value)
    assert other_replica.get("/").status_code == 200
    browser.post("/logout", headers=HERE)
    assert browser.get_cookie(COOKIE) is None
    assert other_replica.get("/").status_code == 303


# --- who sees what ------------------------------------------------------------------------------------


def test_another_keys_run_does_not_exist_but_for_an_operator(browser: FlaskClient, built: Services) -> None:
    of_alice, of_bob = make_run(built, "alice"), make_run(built, "bob")
    log_in(browser, "alice")
    for path in (f"/runs/{of_bob}", f"/v1/runs/{of_bob}", f"/runs/{new_id()}", "/runs/nonsense"):
        assert browser.get(path).status_code == 404
    assert browser.post(f"/v1/runs/{of_bob}/cancel", headers=HERE).status_code == 404
    log_in(browser, "bob")
    for path in (f"/runs/{of_alice}", f"/v1/runs/{of_alice}"):
        assert browser.get(path).status_code == 200
    assert browser.post(f"/v1/runs/{of_alice}/cancel", headers=HERE).json["status"] == "cancelled"  # type: ignore[index]


def test_an_operator_may_read_and_cancel_by_key_too(browser: FlaskClient, built: Services) -> None:
    run_id = make_run(built, "alice")
    headers = {"Authorization": f"Bearer {KEYS['bob']}"}
    assert browser.get(f"/v1/runs/{run_id}", headers=headers).status_code == 200
    assert browser.post(f"/v1/runs/{run_id}/cancel", headers=headers).json["status"] == "cancelled"  # type: ignore[index]
    last = built.log.last(run_id)
    assert getattr(last, "reason", None) == "cancelled by an operator"


@pytest.mark.parametrize(
    "path", ["/v1/overview", "/jobs", "/jobs/", "/jobs/0/data/queues.json", "/jobs/static/css/main.css"]
)
def test_only_operators_see_the_whole_server(browser: FlaskClient, path: str) -> None:
    assert browser.get(path).status_code in (303, 401)
    log_in(browser, "alice")
    assert browser.get(path).status_code == 403
    log_in(browser, "bob")
    assert browser.get(path).status_code == 200


def test_the_first_page_is_for_each_his_own(browser: FlaskClient) -> None:
    log_in(browser, "alice")
    assert "/static/owner.js" in browser.get("/").text
    assert "/jobs/" not in browser.get("/").text
    log_in(browser, "bob")
    assert "/static/operator.js" in browser.get("/").text


# --- what a browser is told ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/login", "/", "/runs", "/runs/nonsense", "/static/run.js", "/jobs/", "/jobs/nonsense"]
)
def test_every_page_says_what_a_browser_may_do_with_it(browser: FlaskClient, path: str) -> None:
    if path != "/login":
        log_in(browser, "bob")
    headers = browser.get(path, buffered=True).headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["connect-src"] == "'self'"
    if not path.startswith("/jobs"):
        assert policy["script-src"] == policy["style-src"] == "'self'"
    assert "'unsafe-inline'" not in policy["script-src"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"


class Inline(HTMLParser):
    """Collects what a policy without 'unsafe-inline' blocks, and the texts."""

    def __init__(self) -> None:
        super().__init__()
        self.blocked: list[str] = []
        self.texts: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.blocked += [name for name in given if name.startswith("on") or name == "style"]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.blocked.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_what_was_said_is_shown_as_text(browser: FlaskClient, built: Services) -> None:
    said = (Message("user", NASTY), Message("assistant", NASTY), Message("user", f"last {NASTY}"))
    run_id = make_run(built, "alice", *said)
    log_in(browser, "alice")
    page = Inline()
    page.feed(browser.get(f"/runs/{run_id}").text)
    assert page.blocked == []
    assert "img" not in page.tags
    assert [text for text in page.texts if NASTY in text] == [NASTY, NASTY, f"last {NASTY}"]


def test_pictures_are_shown_but_never_fetched_from_elsewhere(browser: FlaskClient, built: Services) -> None:
    pictures = (
        Image("image/png", "aGVsbG8="),
        Image("image/svg+xml", "aGVsbG8="),
        Image(url="https://evil.example/x.png"),
    )
    run_id = make_run(built, "alice", Message("user", "look", images=pictures))
    log_in(browser, "alice")
    assert re.findall(r'<img[^>]* src="([^"]*)"', browser.get(f"/runs/{run_id}").text) == [
        "data:image/png;base64,aGVsbG8="
    ]


def test_pages_are_in_the_language_of_the_server(built: Services) -> None:
    german = create_app(replace(built, settings=structs.replace(built.settings, language="de"))).test_client()
    page = german.get("/login").text
    assert '<html lang="de"' in page
    assert "Anmelden" in page
    assert "Log in" not in page
    assert "Das ist kein Schlüssel" in german.post("/login", data={"key": "wrong"}, headers=HERE).text


def test_a_very_long_message_is_cut_on_the_page(browser: FlaskClient, built: Services) -> None:
    run_id = make_run(built, "alice", Message("user", "long " * 1_000_000))
    log_in(browser, "alice")
    page = browser.get(f"/runs/{run_id}").text
    assert len(page) < 100_000
    assert "The rest is not shown here" in page


# --- the dashboard ------------------------------------------------------------------------------------


def test_the_dashboard_has_no_view_but_those_that_show(built: Services, browser: FlaskClient) -> None:
    log_in(browser, "bob")
    rules = [rule for rule in build(built).url_map.iter_rules() if rule.endpoint not in SHOWN]
    assert {rule.endpoint.partition(".")[2] for rule in rules} == {
        "delete_job_view", "requeue_job_view", "requeue_all", "empty_queue", "compact_queue", "favicon",
    }  # fmt: skip
    for rule in rules:
        path = "/jobs" + re.sub("<.*?>", "heartline", rule.rule)
        assert browser.get(path, headers=HERE).status_code == 404, path
        assert browser.post(path, headers=HERE).status_code == 405, path


@pytest.mark.parametrize(
    "path",
    [
        "1/view/queues",
        "0/data/jobs/elsewhere/queued/8/asc/1.json",
        "0/data/jobs/heartline/nonsense/8/asc/1.json",
        "0/data/jobs/heartline/queued/0/asc/1.json",
        "0/data/jobs/heartline/queued/x/asc/1.json",
        "0/data/jobs/heartline/queued/8/asc/0.json",
        "0/data/jobs/heartline/queued/100000/asc/1.json",
        "../login",
        "0/view/job/nonsense",
        "0/data/job/nonsense.json",
    ],
)
def test_what_the_dashboard_would_break_on_is_not_there(browser: FlaskClient, path: str) -> None:
    log_in(browser, "bob")
    assert browser.get(f"/jobs/{path}").status_code == 404


def test_the_dashboards_templates_write_texts_only(browser: FlaskClient) -> None:
    log_in(browser, "bob")
    for path in ("0/view/queues", "0/view/workers", "0/view/jobs"):
        page = browser.get(f"/jobs/{path}").text
        assert "<%-" in page
        assert "<%=" not in page
        assert "$('<div/>').text(" not in page.partition("var POLL_INTERVAL")[0]


def test_a_text_that_was_escaped_already_is_escaped_once() -> None:
    assert filtered("<%= $('<div/>').text(d.description).html() %>") == "<%- d.description %>"


def test_the_dashboard_opens_no_connection_by_itself(browser: FlaskClient, built: Services) -> None:
    log_in(browser, "bob")
    paths = ("0/data/queues.json", "0/data/workers.json", "0/data/jobs/heartline/queued/8/asc/1.json")
    for path in paths:
        assert browser.get(f"/jobs/{path}").status_code == 200
    before = built.redis.info("clients")["connected_clients"]
    for path in paths * 10:
        browser.get(f"/jobs/{path}")
    assert built.redis.info("clients")["connected_clients"] <= before
