"""The pages in a real browser: live, resumable, inert, and nothing of ours that the policy blocks."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from core.events import Completed, Retracted, Text, ToolFinished, ToolStarted
from core.log import EventLog, Writer
from core.run import Message, Run, RunRequest, new_id
from core.runs import RunStore
from tests.browser import Browser
from tests.deployment import KEYS, Deployment, eventually
from tests.doubles import anthropic_api as model
from tests.doubles.anthropic_api import Gate, ScriptedApi, Thinking, ToolUse, Turn

NASTY = '<script>document.title = "owned"</script><img src=x onerror=\'document.title = "owned"\'>'
OPERATOR, OWNER = "bob", "alice"


@pytest.fixture(scope="module")
def api() -> Iterator[ScriptedApi]:
    with ScriptedApi() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def heartline(tmp_path_factory: pytest.TempPathFactory, claude_bin: str, api: ScriptedApi) -> Iterator[Deployment]:
    with Deployment(
        tmp_path_factory.mktemp("heartline"),
        claude_bin=claude_bin,
        replicas=2,
        operators=OPERATOR,
        worker_slots=2,
        environment={"ANTHROPIC_BASE_URL": api.base_url, "CLAUDE_CODE_MAX_RETRIES": "1"},
    ) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture
def browser(chromium: Browser, heartline: Deployment) -> Iterator[Browser]:
    """Logged out; complaints are the test's own."""
    chromium.look(width=1280, height=900)
    chromium.open(f"{heartline.replicas[0].url}/login")
    chromium.devtools("Network.clearBrowserCookies")
    chromium.complaints()
    yield chromium
    chromium.open("about:blank")


def start(heartline: Deployment, prompt: str, profile: str = "agent", owner: str = OWNER) -> str:
    with heartline.http(owner) as client:
        run_id: str = client.post("/v1/runs", json={"model": profile, "prompt": prompt}).json()["id"]
        return run_id


def visit(browser: Browser, heartline: Deployment, path: str, owner: str, replica: int = 0) -> None:
    """Open a page as somebody who has not logged in yet."""
    browser.open(heartline.replicas[replica].url + path)
    browser.type("#key", KEYS[owner])
    browser.click("button.primary")
    browser.wait(lambda: browser.url.endswith(path), f"back at {path}")


def test_a_run_is_followed_live_and_after_a_reload_without_repetition(
    browser: Browser, heartline: Deployment, api: ScriptedApi
) -> None:
    tool, later = threading.Event(), threading.Event()
    api.script(
        "follow me",
        Turn(
            Thinking("I should look first."),
            model.Text("I look."),
            ToolUse("Bash", {"command": "echo from-the-tool", "description": "Look"}),
        ),
        Turn(
            model.Text("The first half, ", pieces=("The first ", "half, ")),
            Gate(tool),
            model.Text("the other"),
            Gate(later),
            model.Text(" half."),
        ),
    )
    run_id = start(heartline, "follow me")
    visit(browser, heartline, f"/runs/{run_id}", OWNER)
    browser.wait(lambda: "The first half," in browser.text("#answer"), "the text so far")
    assert browser.text("#status") == "running"
    assert browser.text(".said.user .words") == "follow me"
    assert "echo from-the-tool" in browser.text(".tool .inside")
    browser.wait(lambda: "from-the-tool" in browser.text(".tool.done .inside div:last-child pre"), "the tool's output")
    assert browser.text(".tool.done .took")
    assert browser.text(".thought .words") == "I should look first."
    tool.set()
    browser.wait(lambda: browser.text("#answer").endswith("the other"), "text that comes later")
    before = browser.text("#answer")
    browser.reload()
    browser.wait(lambda: browser.text("#answer") == before, "the same after a reload, once")
    assert browser.run("return document.querySelectorAll('.tool').length") == 1
    later.set()
    browser.wait(lambda: browser.text("#status") == "completed", "the end")
    assert browser.text("#answer") == heartline.run(run_id)["answer"]
    assert browser.text("#cost").startswith("$")
    assert browser.complaints() == []


def test_a_stream_that_breaks_goes_on_where_it_was(browser: Browser, heartline: Deployment, api: ScriptedApi) -> None:
    later = threading.Event()
    api.script("break off", Turn(model.Text("before the break, "), Gate(later), model.Text("behind it")))
    third = heartline.start_replica()
    try:
        heartline.wait_until_ready()
        run_id = start(heartline, "break off", "chat")
        visit(browser, heartline, f"/runs/{run_id}", OWNER, replica=-1)
        browser.wait(lambda: "before the break" in browser.text("#answer"), "the first half")
        third.stop()
        heartline.start_again(third)
        later.set()
        browser.wait(lambda: browser.text("#status") == "completed", "the end")
        assert browser.text("#answer") == heartline.run(run_id)["answer"]
        assert browser.text("#answer").count("before the break") == browser.text("#answer").count("behind it") == 1
        seqs = browser.run(
            "document.querySelector('#raw').open = true;"
            "return new Promise((done) => setTimeout(() => done("
            "[...document.querySelectorAll('#raw-events li')].map((each) => JSON.parse(each.textContent).seq)), 200))"
        )
        assert seqs == list(range(1, len(seqs) + 1))
    finally:
        third.stop()
        heartline.parts.remove(third)


def test_what_a_model_and_a_tool_say_stays_text(browser: Browser, heartline: Deployment, api: ScriptedApi) -> None:
    command = f"cat <<'END'\n{NASTY}\nEND"
    api.script(
        "be nasty",
        Turn(Thinking(NASTY), ToolUse("Bash", {"command": command, "description": NASTY})),
        Turn(model.Text(NASTY)),
    )
    run_id = start(heartline, f"be nasty {NASTY}")
    visit(browser, heartline, f"/runs/{run_id}", OWNER)
    browser.wait(lambda: browser.text("#status") == "completed", "the end")
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    browser.wait(lambda: NASTY in json.loads(browser.text("#raw-events li:nth-last-child(2)"))["text"], "raw events")
    assert browser.text("#answer") == NASTY
    assert NASTY in browser.text(".said.user .words")
    assert NASTY in browser.text(".thought .words")
    assert NASTY in browser.text(".tool .inside div:last-child pre")
    assert browser.run("return [document.querySelectorAll('main img').length, document.title]") == [
        0, f"Run {run_id[:8]} · Heartline",
    ]  # fmt: skip
    assert browser.complaints() == []


def test_a_sub_agents_tools_stand_below_its_own(browser: Browser, heartline: Deployment) -> None:
    """Written into the log as a worker would."""
    run = Run(id=new_id(), owner=OWNER, profile="agent", model="agent", created_at=time.time(), detach=True)
    RunStore(heartline.redis, 3600).create(run, RunRequest(messages=(Message("user", "nest"),)))
    writer = Writer(EventLog(heartline.redis, 3600), run.id)
    writer.start("a worker")
    writer.append([ToolStarted(tool_id="outer", name="Task", summary="errand", input="{}")])
    inner = ToolStarted(tool_id="inner", name="Read", summary="a file", input="{}", parent_tool_id="outer")
    writer.append([inner, ToolFinished(tool_id="inner", output="gone", is_error=True, parent_tool_id="outer")])
    visit(browser, heartline, f"/runs/{run.id}", OWNER)
    below = "#timeline > .tool.running > .timeline > .tool.failed summary .name"
    browser.wait(lambda: browser.text(below) == "Read", "the inner tool below the outer one")
    writer.append([Text(text="😀 broken"), Retracted(characters=len("😀 broken")), Text(text="😀 whole")])
    writer.finish(Completed())
    browser.wait(lambda: browser.text("#status") == "completed", "the end")
    assert browser.text("#answer") == "😀 whole"
    assert "The run ended before this tool had." in browser.text("#timeline > .tool.failed > details .inside")
    assert browser.complaints() == []


def test_the_button_stops_a_run(browser: Browser, heartline: Deployment, api: ScriptedApi) -> None:
    api.script("run on", Turn(model.Text("begun"), Gate(threading.Event()), model.Text("never")))
    run_id = start(heartline, "run on", "chat")
    visit(browser, heartline, f"/runs/{run_id}", OWNER)
    browser.wait(lambda: browser.text("#answer") == "begun", "the beginning")
    browser.click("#cancel")
    browser.wait(lambda: browser.text("#status") == "cancelled", "its end")
    assert "cancelled by its owner" in browser.text("#failure")
    assert browser.run("return document.querySelector('#cancel').hidden")
    assert heartline.run(run_id)["status"] == "cancelled"
    assert browser.complaints() == []


def test_an_operator_sees_a_run_come_and_go(browser: Browser, heartline: Deployment, api: ScriptedApi) -> None:
    api.script("be seen", Turn(model.Text("here"), Gate(threading.Event())))
    visit(browser, heartline, "/", OPERATOR)
    browser.wait(lambda: browser.text("#n-replicas") == "2", "the replicas")
    assert browser.text("#n-slots") == "0 / 2"
    run_id = start(heartline, "be seen", "chat")
    browser.wait(lambda: run_id[:8] in browser.text("#running"), "the run")
    browser.wait(lambda: run_id[:8] in browser.text("#workers"), "its slot")
    browser.click("#running a")
    browser.wait(lambda: browser.text("#answer") == "here", "its page")
    browser.click("#cancel")
    browser.wait(lambda: "cancelled by an operator" in browser.text("#failure"), "its end")
    browser.open(heartline.replicas[0].url + "/")
    browser.wait(lambda: browser.text("#n-slots") == "0 / 2" and browser.text("#running") == "", "a free slot")
    assert browser.complaints() == []


def test_the_dashboard_works_in_a_browser_and_stops_a_job(
    browser: Browser, heartline: Deployment, api: ScriptedApi
) -> None:
    api.script("be stopped", Turn(model.Text("here"), Gate(threading.Event())))
    run_id = start(heartline, "be stopped", "chat")
    eventually(lambda: heartline.run(run_id)["status"] == "running")
    visit(browser, heartline, "/jobs/", OPERATOR)
    browser.wait(lambda: "heartline" in browser.text("#queues tbody"), "the queues")
    browser.open(f"{heartline.replicas[0].url}/jobs/0/view/workers")
    browser.wait(lambda: run_id in browser.text("#workers tbody"), "the slot that has it")
    browser.open(f"{heartline.replicas[0].url}/jobs/0/view/job/{run_id}")
    browser.wait(lambda: "started" in browser.text("#job-data"), "the job")
    stop = "const [stop] = [...document.querySelectorAll('.ours button')]; return stop.hidden"
    browser.wait(lambda: not browser.run(stop), "the button")
    browser.click(".ours button")
    eventually(lambda: heartline.run(run_id)["status"] == "cancelled")
    browser.wait(lambda: "stopped" in browser.text("#job-data"), "its end")
    assert browser.complaints() == []


def test_a_text_in_redis_is_no_markup_in_the_dashboard(browser: Browser, heartline: Deployment) -> None:
    run_id = start(heartline, "whatever")
    with heartline.http(OWNER) as client:
        client.post(f"/v1/runs/{run_id}/cancel")
    eventually(lambda: heartline.run(run_id)["ended_at"])
    heartline.redis.hset(f"rq:job:{run_id}", "description", NASTY)
    visit(browser, heartline, f"/jobs/0/view/job/{run_id}", OPERATOR)
    browser.wait(lambda: NASTY in browser.text("#job-data"), "the description")
    assert browser.run("return [document.querySelectorAll('#job-data img').length, document.title]") == [
        0, "RQ dashboard",
    ]  # fmt: skip


def shape(browser: Browser) -> dict[str, Any]:
    """How far the page reaches beyond the window, and what a screen reader finds to go by."""
    found: dict[str, Any] = browser.run(
        "const unnamed = [...document.querySelectorAll('button, input:not([type=hidden]), a, img')].filter((each) =>"
        "  !(each.textContent || each.alt || each.ariaLabel || each.labels?.length));"
        "return {beyond: document.documentElement.scrollWidth - innerWidth, unnamed: unnamed.length,"
        "  landmarks: ['header', 'main', 'nav'].filter((each) => document.querySelector(each)),"
        "  headings: document.querySelectorAll('h1').length, language: document.documentElement.lang}"
    )
    return found


@pytest.mark.parametrize("dark", [False, True])
def test_the_pages_fit_a_phone_and_can_be_found_ones_way_in(
    browser: Browser, heartline: Deployment, api: ScriptedApi, dark: bool
) -> None:
    prompt = f"fit in {'the dark' if dark else 'the light'}"
    api.script(prompt, Turn(model.Text(f"{'unbreakable' * 30} and words")))
    run_id = start(heartline, prompt, "chat", OPERATOR)
    visit(browser, heartline, "/", OPERATOR)
    browser.look(width=390, height=844, dark=dark)
    for path, loaded in (("/", "#lanes"), ("/runs", "#runs"), (f"/runs/{run_id}", "#answer")):
        browser.open(heartline.replicas[0].url + path)
        browser.wait(lambda loaded=loaded: browser.text(loaded), f"{path} is there")  # type: ignore[misc]
        assert shape(browser) == {
            "beyond": 0, "unnamed": 0, "landmarks": ["header", "main", "nav"], "headings": 1, "language": "en",
        }, path  # fmt: skip


def test_who_follows_a_link_from_elsewhere_need_not_log_in_again(browser: Browser, heartline: Deployment) -> None:
    """The browser keeps a strict cookie to itself then; the login page asks again from here."""
    visit(browser, heartline, "/runs", OWNER)
    browser.wait(lambda: browser.text("h1") == "My runs", "the login to have led here, and nowhere else any more")
    url = heartline.replicas[0].url
    elsewhere = f"data:text/html,<a id=link href={url}/runs>there</a>"
    browser.open(elsewhere)
    browser.click("#link")
    browser.wait(lambda: browser.url == f"{url}/runs", "the page that was meant")
    browser.wait(lambda: browser.text("h1") == "My runs", "its content")
