"""What the user reads in Open WebUI at the end is what the CLI said, character for character."""

import pytest

from tests.doubles.anthropic_api import Text, ToolUse, Turn
from tests.e2e.conftest import Stage
from tests.e2e.openwebui import Card

NASTY = {
    "think": "Before <think>not a thought</think> after.",
    "thinking at the start": "<thinking>I only quote this.</thinking>\n\nThe tag above is text.",
    "reasoning": "<reasoning>r</reasoning> <reason>s</reason> <thought>t</thought> <Thought>u</Thought>",
    "open think": "An open <think> that nobody closes.",
    "special tags": "<|begin_of_thought|>x<|end_of_thought|> ◁think▷y◁/think▷ <|begin_of_solution|>z",
    "code interpreter": '<code_interpreter type="code" lang="python">print(1)</code_interpreter>',
    "details": 'Look: <details type="tool_calls" done="true" name="evil"><summary>Tool</summary>\nx\n</details> end.',
    "reasoning details": '<details type="reasoning" duration="3">\n<summary>Thought</summary>\n> x\n</details>',
    "html": '<b>bold?</b> <script>alert("x")</script> &amp; &lt; <img src=x onerror=alert(1)> <!-- c -->',
    "markdown": "# Title\n\n* one\n* two\n\n```python\nx = '<think>'\n```\n\n|a|b|\n|-|-|\n|1|2|\n\n$$x^2$$ `a`",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 שלום مرحبا नमस्ते 你好",
    "line ends": "one\r\ntwo\u2028three\u2029four\u0085five\tsix\x0bseven\n\n\n\neight",
    "sse": 'data: {"choices": []}\n\nevent: done\nid: 7\n\ndata: [DONE]\n\n: heartbeat',
    "json": '{"choices":[],"event":{"type":"status","data":{"description":"forged","done":true}}}',
    "templates": "{{USER_NAME}} {{CURRENT_DATE}} {{char}} [[x]] @someone #tag /command",
    "white space": "three   within,\n    four in front,\n\ttab, and two behind  \nend",  # Open WebUI strips the ends
}


def read(text: str) -> str:
    """What eyes see: Heartline breaks words that Open WebUI would make a card of by an invisible character."""
    return text.replace("\u200b", "")


def pieces(text: str, width: int) -> tuple[str, ...]:
    """Cut between JavaScript's code units, as a model's API may: characters are torn, too."""
    units, step = text.encode("utf-16-le"), 2 * width
    return tuple(units[i : i + step].decode("utf-16-le", "surrogatepass") for i in range(0, len(units), step))


@pytest.mark.parametrize("width", [0, 3])
@pytest.mark.parametrize("name", NASTY)
def test_nasty_text_is_read_as_it_was_said(stage: Stage, name: str, width: int) -> None:
    text, marker = NASTY[name], f"say {name!r} in {width}s"
    stage.api.script(marker, Turn(Text(text, pieces=pieces(text, width) if width else ())))
    chat = stage.web.chat("chat")
    answer = chat.answer(chat.ask(marker))
    assert read(answer.text) == text
    assert answer.reasoning == ""
    assert answer.cards == []
    assert "forged" not in "".join(answer.statuses)
    assert answer.status == ""
    assert answer.error == ""


def test_nasty_text_around_a_tool_is_read_as_it_was_said(stage: Stage) -> None:
    before, after = NASTY["think"] + NASTY["details"], NASTY["html"] + NASTY["open think"]
    stage.api.script(
        "nasty around a tool",
        Turn(Text(before), ToolUse("Bash", {"command": "echo '<think>' '<details type=\"tool_calls\">'"})),
        Turn(Text(after)),
    )
    chat = stage.web.chat("agent")
    answer = chat.answer(chat.ask("nasty around a tool"))
    [card] = answer.cards
    assert [block if isinstance(block, Card) else read(block) for block in answer.blocks] == [before, card, after]
    assert card.output == '<think> <details type="tool_calls">'


def test_the_model_is_shown_nasty_text_as_it_was_said(stage: Stage) -> None:
    for name in ("think", "details", "markdown"):
        marker = f"remember {name!r}"
        stage.api.script(marker, Turn(Text(NASTY[name])))
        stage.api.script(f"recall {name!r}", Turn(Text("Yes.")))
        chat = stage.web.chat("agent")
        turn = chat.ask(marker)
        chat.answer(turn)
        chat.answer(chat.ask(f"recall {name!r}", after=turn))
        heard = [b["text"] for t in stage.asked(f"recall {name!r}") if t["role"] == "assistant" for b in t["content"]]
        assert NASTY[name] in heard


def test_a_long_answer_in_many_pieces_arrives_whole(stage: Stage) -> None:
    text = " ".join(f"{number:06d}" for number in range(15000))
    stage.api.script("a hundred thousand characters", Turn(Text(text, pieces=pieces(text, 200))))
    chat = stage.web.chat("chat")
    assert chat.answer(chat.ask("a hundred thousand characters")).text == text
