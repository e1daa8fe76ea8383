"""A chat is a tree: what Open WebUI's users do with it, and what the model is shown of it."""

import json
import threading
from typing import Any

import pytest

from tests.deployment import eventually
from tests.doubles.anthropic_api import Gate, Text, Thinking, ToolUse, Turn
from tests.e2e.conftest import Stage
from tests.e2e.openwebui import Chat
from tests.e2e.openwebui import Turn as Asked
from tests.e2e.temporary import TemporaryChat


def said(turns: list[dict[str, Any]], role: str) -> str:
    """All text of a role in what the model was shown."""
    return "\n".join(
        block["text"] for turn in turns if turn["role"] == role for block in turn["content"] if block["type"] == "text"
    )


def kinds(turns: list[dict[str, Any]]) -> list[str]:
    return [block["type"] for turn in turns for block in turn["content"]]


def test_the_models_have_names_and_keep_open_webuis_own_tools_out(stage: Stage) -> None:
    models = stage.web.models()
    assert {model_id: models[model_id]["name"] for model_id in ("chat", "agent", "agent2")} == {
        "chat": "Chat",
        "agent": "Agent",
        "agent2": "Second Agent",
    }
    for model in ("chat", "agent"):
        capabilities = models[model]["info"]["meta"]["capabilities"]
        assert capabilities["usage"] is True
        assert capabilities["builtin_tools"] is False


def test_a_first_chat_is_one_agent_run_and_gets_title_tags_and_follow_ups(stage: Stage) -> None:
    stage.api.script(
        "six times seven",
        Turn(Text("I reckon."), ToolUse("Bash", {"command": "echo once >> trace; wc -l < trace"})),
        Turn(Text("It is **42**.")),
    )
    chat = stage.web.chat("agent")
    turn = chat.ask("How much is six times seven?")
    answer = chat.answer(turn)
    chat.settled()
    assert [block if isinstance(block, str) else block.output for block in answer.blocks] == [
        "I reckon.",
        "1",
        "It is **42**.",
    ]
    assert answer.error == ""
    assert eventually(lambda: chat.title != "New Chat" and chat.title) == "Six times seven"
    assert eventually(lambda: chat.tags) == ["Arithmetic", "Numbers"]
    assert eventually(lambda: chat.message(turn).follow_ups) == ["And seven times?"]
    assert len(stage.api.requests_for("six times seven")) == 2
    assert len(stage.runs("agent")) == 1
    assert len(stage.runs("task")) == 3


def test_usage_is_what_the_cli_counted(stage: Stage) -> None:
    stage.api.script("count the tokens", Turn(Text("Counted."), usage=(1234, 56)))
    chat = stage.web.chat("chat")
    answer = chat.answer(chat.ask("count the tokens"))
    assert answer.usage["prompt_tokens"] == 1234
    assert answer.usage["completion_tokens"] == 56


def remembering(stage: Stage, name: str, *further: Turn) -> tuple[Chat, Asked]:
    """A chat with one answered turn, in which a tool wrote a file; `further` answers come when it is continued."""
    marker = f"{name}: note the number"
    stage.api.script(
        marker,
        Turn(ToolUse("Bash", {"command": f"echo {name}-4711 > number; echo noted"})),
        Turn(Text("I have noted it.")),
        *further,
    )
    chat = stage.web.chat("agent")
    turn = chat.ask(marker)
    answer = chat.answer(turn)
    assert answer.blocks[-1] == "I have noted it.", answer
    chat.settled()
    return chat, turn


def test_a_second_turn_remembers_and_reuses_the_session(stage: Stage) -> None:
    chat, first = remembering(stage, "second")
    stage.api.script("which number", Turn(ToolUse("Bash", {"command": "cat number"})), Turn(Text("It was 4711.")))
    second = chat.ask("which number was it?", after=first)
    answer = chat.answer(second)
    assert [card.output for card in answer.cards] == ["second-4711"]
    assert answer.text == "It was 4711."
    turns = stage.asked("which number")
    assert kinds(turns).count("tool_use") == 2, "the first turn's tool is there as it was, not retold"
    assert "I have noted it." in said(turns, "assistant")
    assert said(turns, "user").count("note the number") == 1
    before, after = stage.runs("agent")
    assert after["parent"] == before["id"]
    assert after["conversation"] == before["conversation"]


def test_without_the_headers_the_history_tells_where_a_question_belongs(stage: Stage) -> None:
    stage.api.script(
        "plain: note the number",
        Turn(ToolUse("Bash", {"command": "echo plain-4711 > number; echo noted"})),
        Turn(Text("I have noted it, plainly.")),
    )
    stage.api.script("plain: read it", Turn(ToolUse("Bash", {"command": "cat number"})), Turn(Text("4711.")))
    chat = stage.web.chat("plain.agent")
    first = chat.ask("plain: note the number")
    assert chat.answer(first).text == "I have noted it, plainly."
    chat.settled()
    assert eventually(lambda: chat.title != "New Chat" and chat.title) == "Six times seven"
    assert chat.answer(chat.ask("plain: read it", after=first)).text == "4711."
    assert "plain-4711" in json.dumps(stage.asked("plain: read it"))
    before, after = stage.runs("agent", "bob")
    assert after["parent"] == before["id"]
    chat.settled()
    assert len(stage.runs("task", "bob")) == 4


BASH = ToolUse("Bash", {"command": "echo '<think>' done"})
FORMS = {
    "thought": [Turn(Thinking("Hm."), Text("A thought came first."))],
    "tools": [
        Turn(Thinking("First."), Text("One."), BASH),
        Turn(Thinking("Then."), Text("Two.\n"), BASH, BASH),
        Turn(Text("\n\nThree.\n")),
    ],
    "no last word": [Turn(Text("Before."), BASH), Turn(Thinking("Nothing to add."))],
    "guarded": [Turn(Text('<details type="tool_calls">\n<summary>x</summary>\n</details> and <think>so</think>.'))],
    "many lines": [Turn(Text("  * a\r\n  * b\n\n\n    code\u2028end  "))],
}


# Without the headers Open WebUI takes <think> out of the text, so that the history is not what was said.
@pytest.mark.parametrize(
    ("form", "model"),
    [
        (form, model)
        for form in FORMS
        for model in ("agent", "plain.agent")
        if (form, model) != ("guarded", "plain.agent")
    ],
)
def test_an_answer_of_any_form_is_found_again(stage: Stage, form: str, model: str) -> None:
    name = f"{form} of {model}"
    stage.api.script(f"{name}: one", *FORMS[form])
    stage.api.script(f"{name}: two", Turn(Text("And on.")))
    chat = stage.web.chat(model)
    turn = chat.ask(f"{name}: one")
    assert chat.answer(turn).error == ""
    chat.settled()
    assert chat.answer(chat.ask(f"{name}: two", after=turn)).text == "And on."
    first, second = stage.runs("agent", "bob" if model.startswith("plain") else "alice")
    assert second["parent"] == first["id"]


def test_a_third_turn_holds_each_turn_once(stage: Stage) -> None:
    chat, first = remembering(stage, "third")
    stage.api.script("the middle turn", Turn(Text("The middle.")))
    stage.api.script("the last turn", Turn(Text("The last.")))
    second = chat.ask("the middle turn", after=first)
    chat.answer(second)
    assert chat.answer(chat.ask("the last turn", after=second)).text == "The last."
    turns = stage.asked("the last turn")
    assert said(turns, "user").count("the middle turn") == 1
    assert said(turns, "assistant").count("The middle.") == 1
    assert said(turns, "assistant").count("I have noted it.") == 1


def test_regenerate_answers_the_same_question_from_the_same_parent(stage: Stage) -> None:
    chat, first = remembering(stage, "regenerate")
    stage.api.script("roll the dice", Turn(Text("A one.")), Turn(Text("A six.")))
    second = chat.ask("roll the dice", after=first)
    assert chat.answer(second).text == "A one."
    again = chat.regenerate(second)
    assert chat.answer(again).text == "A six."
    assert chat.message(second).text == "A one.", "the first answer is still there"
    turns = stage.asked("roll the dice")
    assert "A one." not in said(turns, "assistant")
    assert said(turns, "user").count("roll the dice") == 1
    noted, one, six = stage.runs("agent")
    assert one["parent"] == six["parent"] == noted["id"]


def test_regenerating_the_first_answer_starts_anew(stage: Stage) -> None:
    stage.api.script("say it first", Turn(Text("First try.")), Turn(Text("Second try.")))
    chat = stage.web.chat("agent")
    turn = chat.ask("say it first")
    assert chat.answer(turn).text == "First try."
    assert chat.answer(chat.regenerate(turn)).text == "Second try."
    turns = stage.asked("say it first")
    assert said(turns, "assistant") == ""
    assert [run["parent"] for run in stage.runs("agent")] == [None, None]


def test_an_edited_question_forgets_the_old_one(stage: Stage) -> None:
    chat, first = remembering(stage, "edit")
    stage.api.script("the wrong question", Turn(Text("A wrong answer.")))
    stage.api.script("the right question", Turn(Text("A right answer.")))
    second = chat.ask("the wrong question", after=first)
    chat.answer(second)
    assert chat.answer(chat.edit(second, "the right question")).text == "A right answer."
    turns = stage.asked("the right question")
    assert "wrong" not in json.dumps(turns)
    assert "I have noted it." in said(turns, "assistant")
    noted, wrong, right = stage.runs("agent")
    assert wrong["parent"] == right["parent"] == noted["id"]


def test_a_branch_goes_on_from_the_answer_that_it_hangs_on(stage: Stage) -> None:
    chat, first = remembering(stage, "branch")
    stage.api.script("left or right", Turn(Text("Go left.")), Turn(Text("Go right.")))
    stage.api.script("and then where", Turn(Text("Straight on.")))
    left = chat.ask("left or right", after=first)
    chat.answer(left)
    right = chat.regenerate(left)
    chat.answer(right)
    assert chat.answer(chat.ask("and then where", after=left)).text == "Straight on."
    heard = said(stage.asked("and then where"), "assistant")
    assert "Go left." in heard
    assert "Go right." not in heard
    assert stage.runs("agent")[-1]["parent"] == stage.runs("agent")[1]["id"]


def test_continue_goes_on_in_the_same_message(stage: Stage) -> None:
    stage.api.script("tell a tale", Turn(Text("Once upon")), Turn(Text(" a time.")))
    stage.api.script("who was in the tale", Turn(Text("A king.")))
    chat = stage.web.chat("agent")
    turn = chat.ask("tell a tale")
    assert chat.answer(turn).text == "Once upon"
    chat.settled()
    resumed = chat.resume(turn)
    assert chat.when(resumed, lambda message: message.done and "time" in message.text).text == "Once upon a time."
    assert "Once upon" in said(stage.asked("tell a tale"), "assistant")
    chat.settled()
    assert chat.answer(chat.ask("who was in the tale", after=turn)).text == "A king."
    heard = said(stage.asked("who was in the tale"), "assistant")
    assert heard.index("Once upon") < heard.index("a time.")
    assert heard.count("Once upon") == 1


def test_continue_goes_on_behind_a_card(stage: Stage) -> None:
    chat, turn = remembering(stage, "behind a card", Turn(Text(" Twice.")))
    resumed = chat.resume(turn)
    answer = chat.when(resumed, lambda message: message.done and "Twice" in message.text)
    assert answer.text == "I have noted it. Twice."
    assert [card.output for card in answer.cards] == ["noted"]
    first, second = stage.runs("agent")
    assert second["parent"] == first["id"]


def test_continue_goes_on_where_stop_has_cut(stage: Stage) -> None:
    hold = threading.Event()
    stage.api.script("count to four", Turn(Text("One, two,"), Gate(hold)), Turn(Text(" three, four.")))
    chat = stage.web.chat("agent")
    turn = chat.ask("count to four")
    chat.when(turn, lambda message: message.text == "One, two,")
    chat.stop()
    eventually(lambda: stage.runs("agent")[0]["status"] == "cancelled")
    hold.set()
    chat.settled()
    resumed = chat.resume(turn)
    answer = chat.when(resumed, lambda message: message.done and "four" in message.text)
    assert answer.text == "One, two, three, four."
    assert "One, two," in said(stage.asked("count to four"), "assistant")


@pytest.mark.parametrize("how", ["in its place", "as a copy"])
def test_an_answer_that_the_user_has_changed_is_what_the_model_is_shown(stage: Stage, how: str) -> None:
    stage.api.script(f"{how}: name a colour", Turn(Text("It is red.")))
    stage.api.script(f"{how}: which colour was it", Turn(Text("Blue.")))
    chat = stage.web.chat("agent")
    turn = chat.ask(f"{how}: name a colour")
    chat.answer(turn)
    chat.settled()
    turn = chat.rewrite(turn, "It is blue.", copy=how == "as a copy")
    assert chat.message(turn).text == "It is blue."
    assert chat.answer(chat.ask(f"{how}: which colour was it", after=turn)).text == "Blue."
    turns = stage.asked(f"{how}: which colour was it")
    assert "It is blue." in said(turns, "assistant")
    assert "red" not in said(turns, "assistant")


def test_an_answer_with_a_card_that_the_user_has_changed_keeps_what_the_tool_did(stage: Stage) -> None:
    chat, first = remembering(stage, "changed")
    stage.api.script("what did you note", Turn(Text("What you say.")))
    turn = chat.rewrite(first, "I have noted nothing.")
    chat.answer(chat.ask("what did you note", after=turn))
    turns = stage.asked("what did you note")
    assert "I have noted nothing." in said(turns, "assistant")
    assert "I have noted it." not in said(turns, "assistant")


def test_two_models_side_by_side_have_folders_and_sessions_of_their_own(stage: Stage) -> None:
    both = threading.Event()
    command = ToolUse("Bash", {"command": "echo here >> trace; wc -l < trace"})
    stage.api.script(
        "side by side",
        Turn(Gate(both), command),
        Turn(Gate(both), command),
        Turn(Text("Done.")),
    )
    stage.api.script("and together", Turn(Text("Together.")))
    chat = stage.web.chat("agent", "agent2")
    turn = chat.ask("side by side")
    eventually(lambda: len(stage.api.requests_for("side by side")) == 2, what="both ask the model")
    both.set()
    for index in (0, 1):
        answer = chat.answer(turn, index)
        assert [card.output for card in answer.cards] == ["1"], "nobody else was in this folder"
        assert answer.text == "Done."
    asked = {request.body["model"] for request in stage.api.requests_for("side by side")}
    assert len(asked) == 2, asked
    chat.settled()
    second = chat.ask("and together", after=turn)
    for index in (0, 1):
        assert chat.answer(second, index).text == "Together."
    for request in stage.api.requests_for("and together"):
        assert str(request.body["messages"]).count("Done.") == 1
    first, one = stage.runs("agent")
    first2, _ = stage.runs("agent2")
    assert one["parent"] == first["id"]
    assert first["conversation"] != first2["conversation"]


def test_a_temporary_chat_remembers_by_its_history_alone(stage: Stage) -> None:
    stage.api.script("just between us", Turn(Text("My lips are sealed.")))
    stage.api.script("what did you say", Turn(Text("That my lips are sealed.")))
    with TemporaryChat(stage.web, "agent") as chat:
        assert chat.ask("just between us") == "My lips are sealed."
        assert chat.ask("what did you say") == "That my lips are sealed."
    turns = stage.asked("what did you say")
    assert said(turns, "assistant").count("My lips are sealed.") == 1
    assert said(turns, "user").count("just between us") == 1


def test_tasks_neither_wait_behind_agents_nor_know_their_session(stage: Stage) -> None:
    hold = threading.Event()
    stage.api.script("hold the slot", Turn(Gate(hold, timeout=100), Text("Held.")))
    chats = [stage.web.chat("agent") for _ in range(3)]
    turns = [chat.ask("hold the slot") for chat in chats]
    for chat in chats:
        eventually(lambda chat=chat: chat.title == "Six times seven", what="a title though every slot is taken")  # type: ignore[misc]
    hold.set()
    for chat, turn in zip(chats, turns, strict=True):
        assert chat.answer(turn).text == "Held."
        chat.settled()
    for run in stage.runs("task"):
        assert run["parent"] is None


@pytest.mark.parametrize("where", ["beside", "below"])
def test_a_question_beside_or_below_a_stopped_one_knows_what_was_before(stage: Stage, where: str) -> None:
    chat, first = remembering(stage, where)
    hold = threading.Event()
    stage.api.script(f"{where}: never mind", Turn(Text("I beg"), Gate(hold)))
    stage.api.script(f"{where}: and what now", Turn(Text("Now this.")))
    stopped = chat.ask(f"{where}: never mind", after=first)
    chat.when(stopped, lambda message: message.text == "I beg")
    chat.stop()
    eventually(lambda: stage.runs("agent")[-1]["status"] == "cancelled")
    hold.set()
    after = first if where == "beside" else stopped
    assert chat.answer(chat.ask(f"{where}: and what now", after=after)).text == "Now this."
    turns = stage.asked(f"{where}: and what now")
    assert said(turns, "assistant").count("I have noted it.") == 1
    assert said(turns, "user").count("note the number") == 1
    assert said(turns, "assistant").count("I beg") == (1 if where == "below" else 0)


def test_a_card_of_an_earlier_turn_is_no_news(stage: Stage) -> None:
    chat, first = remembering(stage, "cards")
    stage.api.script("no tools now", Turn(Text("None.")))
    answer = chat.answer(chat.ask("no tools now", after=first))
    assert answer.blocks == ["None."]
