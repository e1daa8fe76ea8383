"""How an answer ends early, seen from Open WebUI: an error, a CLI that dies, the Stop button."""

import threading

from tests.deployment import eventually
from tests.doubles.anthropic_api import ApiError, Gate, Text, ToolUse, Turn
from tests.e2e.conftest import SLOTS, Stage, sleeping


def test_an_api_error_is_shown_and_the_text_before_it_stays(stage: Stage) -> None:
    stage.api.script(
        "fail on the way",
        Turn(Text("So far, so good."), ToolUse("Bash", {"command": "echo done"})),
        Turn(ApiError(400, "enough is enough")),
    )
    stage.api.script("try once more", Turn(Text("Now it works.")))
    chat = stage.web.chat("agent")
    turn = chat.ask("fail on the way")
    answer = chat.answer(turn)
    assert "enough is enough" in answer.error
    assert answer.text == "So far, so good."
    assert [card.output for card in answer.cards] == ["done"]
    chat.settled()
    after = chat.answer(chat.ask("try once more", after=turn))
    assert after.text == "Now it works."
    assert after.error == ""
    assert stage.runs("agent")[-1]["parent"] is None, "a failed run is no node"


def test_an_error_in_place_of_an_answer_is_shown(stage: Stage) -> None:
    stage.api.script("fail at once", Turn(ApiError(400, "not with me")))
    chat = stage.web.chat("chat")
    answer = chat.answer(chat.ask("fail at once"))
    assert "not with me" in answer.error
    assert answer.text == ""


def test_a_cli_that_is_killed_in_mid_answer_ends_it_with_a_sentence(stage: Stage) -> None:
    never = threading.Event()
    stage.api.script("half an answer", Turn(Text("Half of it"), Gate(never)))
    stage.api.script("the other half", Turn(Text("All of it.")))
    chat = stage.web.chat("agent")
    turn = chat.ask("half an answer")
    chat.when(turn, lambda message: message.text == "Half of it")
    run = stage.run()
    stage.kill_cli(run["id"])
    answer = chat.answer(turn)
    assert answer.text == "Half of it"
    assert answer.error
    assert stage.heartline.run(run["id"])["status"] == "failed"
    chat.settled()
    assert chat.answer(chat.ask("the other half", after=turn)).text == "All of it."
    never.set()


def test_a_cli_that_is_killed_in_mid_tool_leaves_no_open_card(stage: Stage) -> None:
    stage.api.script("a tool that ends badly", Turn(Text("Wait."), ToolUse("Bash", {"command": "sleep 4302"})))
    chat = stage.web.chat("agent")
    turn = chat.ask("a tool that ends badly")
    eventually(lambda: sleeping("4302"))
    stage.kill_cli(stage.run()["id"])
    answer = chat.answer(turn)
    assert answer.error
    assert [card.output is not None for card in answer.cards] == [True]
    assert len(stage.api.requests_for("a tool that ends badly")) == 1, "nobody has run the tool again"
    assert len(stage.runs("agent")) == 1
    eventually(lambda: not sleeping("4302"))


# --- the Stop button --------------------------------------------------------------------------------


def test_stop_while_it_waits_in_line(stage: Stage) -> None:
    hold = threading.Event()
    stage.api.script("keep a slot busy", Turn(Gate(hold, timeout=100), Text("Busy.")))
    stage.api.script("stopped in line", Turn(Text("Never said.")))
    busy = [stage.web.chat("agent") for _ in range(SLOTS)]
    turns = [chat.ask("keep a slot busy") for chat in busy]
    eventually(lambda: len(stage.api.requests_for("keep a slot busy")) == SLOTS)
    chat = stage.web.chat("agent2")
    chat.ask("stopped in line")
    eventually(lambda: [run["status"] for run in stage.runs("agent2")] == ["queued"])
    chat.stop()
    eventually(lambda: [run["status"] for run in stage.runs("agent2")] == ["cancelled"])
    hold.set()
    for other, turn in zip(busy, turns, strict=True):
        assert other.answer(turn).text == "Busy."
        other.settled()
    assert stage.api.requests_for("stopped in line") == []


def test_stop_before_the_first_text(stage: Stage) -> None:
    never = threading.Event()
    stage.api.script("stopped at the start", Turn(Gate(never), Text("Never said.")))
    chat = stage.web.chat("agent")
    chat.ask("stopped at the start")
    eventually(lambda: stage.api.requests_for("stopped at the start"))
    chat.stop()
    eventually(lambda: stage.run()["status"] == "cancelled")
    eventually(lambda: not stage.processes(stage.run()["id"]), what="the CLI is gone")
    never.set()


def test_stop_in_mid_text_keeps_what_was_read(stage: Stage) -> None:
    never = threading.Event()
    stage.api.script("stopped in mid-text", Turn(Text("This much"), Gate(never), Text(" and no more.")))
    chat = stage.web.chat("agent")
    turn = chat.ask("stopped in mid-text")
    chat.when(turn, lambda message: message.text == "This much")
    chat.stop()
    eventually(lambda: stage.run()["status"] == "cancelled")
    eventually(lambda: not stage.processes(stage.run()["id"]), what="the CLI is gone")
    never.set()
    chat.settled()
    assert chat.message(turn).text == "This much"


def test_stop_in_mid_tool_ends_the_tool_and_what_it_started(stage: Stage) -> None:
    command = "setsid nohup sleep 4303 > /dev/null 2>&1 & true && sleep 4303"
    stage.api.script("stopped in mid-tool", Turn(Text("Wait."), ToolUse("Bash", {"command": command})))
    chat = stage.web.chat("agent")
    turn = chat.ask("stopped in mid-tool")
    eventually(lambda: len(sleeping("4303")) == 2)
    chat.when(turn, lambda message: message.cards)
    chat.stop()
    eventually(lambda: not sleeping("4303"), what="the tool and its daemon are gone")
    eventually(lambda: stage.run()["status"] == "cancelled")
    eventually(lambda: not stage.processes(stage.run()["id"]), what="the CLI is gone")
    assert len(stage.api.requests_for("stopped in mid-tool")) == 1
