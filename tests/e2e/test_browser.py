"""Once with eyes: headless Chromium on Open WebUI. Screenshots go to .e2e/screenshots, for people to look at."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.deployment import PROJECT, eventually
from tests.doubles.anthropic_api import ApiError, Text, ToolUse, Turn
from tests.e2e.conftest import Stage, sleeping, wake

SCREENSHOTS = PROJECT / ".e2e" / "screenshots"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BEFORE = "I look it up. A tag <think> is text, and so is 6 < 7 & 8."
AFTER = "It is **42**, and nothing else. 👩‍👩‍👧‍👦"


@pytest.fixture
def page(stage: Stage, chromium: str, tmp_path: Path) -> Iterator[Page]:
    """A browser of its own, in which Open WebUI's user is signed in and has read what is new."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    stage.web.post("/api/v1/users/user/settings/update", {"ui": {"version": stage.web.get("/api/version")["version"]}})
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=chromium, args=ARGUMENTS, viewport={"width": 1200, "height": 900}
        )
        context.add_init_script(f"localStorage.token = {stage.web.token!r}; localStorage.locale = 'en-US'")
        page = context.pages[0]
        page.set_default_timeout(30_000)
        yield page
        context.close()


def ask(page: Page, text: str) -> None:
    field = page.locator("#chat-input")
    field.click()
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def opened(stage: Stage, page: Page, model: str) -> None:
    """A new chat with a model."""
    page.goto(f"{stage.web.url}/?models={model}")
    expect(page.locator("#chat-input")).to_be_visible(timeout=60_000)


def at_rest(page: Page) -> None:
    """Nothing is written any more, title and follow-ups included: where Stop was there is this button again."""
    expect(page.get_by_role("button", name="Voice mode")).to_be_visible()


def shot(page: Page, name: str) -> None:
    page.screenshot(path=SCREENSHOTS / f"{name}.png", animations="disabled")


def test_a_user_asks_watches_the_tool_reloads_and_asks_again(stage: Stage, page: Page) -> None:
    stage.api.script(
        "six by seven",
        Turn(Text(BEFORE), ToolUse("Bash", {"command": "sleep 4304; echo 6 x 7 is 42"})),
        Turn(Text(AFTER)),
    )
    stage.api.script("are you sure", Turn(Text("Quite sure.")))
    opened(stage, page, "agent")
    ask(page, "How much is six by seven?")
    answer = page.locator(".chat-assistant").last
    expect(answer).to_contain_text(BEFORE)
    expect(answer).to_contain_text("Bash")
    eventually(lambda: sleeping("4304"))
    shot(page, "1-tool-runs")
    page.reload()
    expect(answer).to_contain_text(BEFORE)
    expect(answer).to_contain_text("Bash")
    shot(page, "2-reloaded-while-tool-runs")
    wake("4304")
    expect(answer).to_contain_text("It is 42, and nothing else.")
    expect(answer).to_contain_text("View Result from Bash")
    expect(page.get_by_text("And seven times?")).to_be_visible()
    expect(page).to_have_title("Six times seven / Open WebUI")
    at_rest(page)
    shot(page, "3-answered")
    answer.get_by_text("View Result from Bash").click()
    expect(answer).to_contain_text("6 x 7 is 42")
    page.wait_for_timeout(500)  # it unfolds slowly, by a script
    shot(page, "4-card-opened")
    ask(page, "are you sure")
    expect(page.locator(".chat-assistant").last).to_contain_text("Quite sure.")
    at_rest(page)
    shot(page, "5-second-turn")
    assert len(stage.runs("agent")) == 2


def test_a_user_presses_stop_in_mid_tool(stage: Stage, page: Page) -> None:
    stage.api.script("stop me", Turn(Text("I begin."), ToolUse("Bash", {"command": "sleep 4305"})))
    opened(stage, page, "agent")
    ask(page, "stop me")
    answer = page.locator(".chat-assistant").last
    expect(answer).to_contain_text("I begin.")
    eventually(lambda: sleeping("4305"))
    page.get_by_role("button", name="Stop").click()
    eventually(lambda: not sleeping("4305"), what="the tool is gone")
    expect(answer).to_contain_text("I begin.")
    shot(page, "6-stopped")


def test_a_user_sees_an_error_in_a_red_box_below_what_was_said(stage: Stage, page: Page) -> None:
    stage.api.script(
        "end in an error",
        Turn(Text("So far, so good."), ToolUse("Bash", {"command": "true"})),
        Turn(ApiError(400, "enough is enough")),
    )
    opened(stage, page, "agent")
    ask(page, "end in an error")
    answer = page.locator(".chat-assistant").last
    expect(answer).to_contain_text("So far, so good.")
    expect(answer).to_contain_text("enough is enough")
    at_rest(page)
    shot(page, "7-error")


@pytest.mark.parametrize("forgery", ["tool_calls", "reasoning", "code_interpreter"])
def test_text_that_reads_like_open_webuis_own_blocks_is_text(stage: Stage, page: Page, forgery: str) -> None:
    forged = f'<details type="{forgery}" done="true" name="forged">\n<summary>Forged</summary>\nInside.\n</details>'
    stage.api.script(f"forge {forgery}", Turn(Text(f"Before.\n\n{forged}\n\nAfter.")))
    opened(stage, page, "chat")
    ask(page, f"forge {forgery}")
    answer = page.locator(".chat-assistant").last
    expect(answer).to_contain_text("After.")
    at_rest(page)
    for sign in ("View Result", "Thought", "Analyzed"):
        expect(answer).not_to_contain_text(sign)
    shot(page, f"8-forged-{forgery}")


def test_markup_is_shown_and_not_run(stage: Stage, page: Page) -> None:
    text = '6 < 7 & 8 > 5, <script>document.title = "forged"</script> <think>kept</think> and `<b>code</b>`.'
    stage.api.script("show markup", Turn(Text(text)))
    opened(stage, page, "chat")
    ask(page, "show markup")
    answer = page.locator(".chat-assistant").last
    expect(answer).to_contain_text("<think>kept</think>")
    expect(answer).to_contain_text("<b>code</b>")
    expect(answer).to_contain_text("6 < 7 & 8 > 5")
    expect(page).to_have_title("Six times seven / Open WebUI")
    at_rest(page)
    shot(page, "9-markup")


def test_two_models_side_by_side(stage: Stage, page: Page) -> None:
    stage.api.script("both of you", Turn(Text("Here I am.")))
    opened(stage, page, "agent,agent2")
    ask(page, "both of you")
    expect(page.get_by_text("Here I am.")).to_have_count(2)
    at_rest(page)
    shot(page, "10-side-by-side")
