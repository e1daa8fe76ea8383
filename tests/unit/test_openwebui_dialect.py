"""Open WebUI's dialect: what its users end up with, as its reading of the chunks was seen to be."""

import itertools
import json
import re
from typing import Any

import pytest
from flask import Request
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from app.dialects.openai_chat import Chunks
from app.dialects.openwebui import OpenWebUIStream
from app.dialects.tag_guard import INVISIBLE, TagGuard
from app.models import describe
from app.progress import chosen
from core import events
from core.errors import InvalidRequest
from core.events import AnyEvent, Unrecognised, Usage
from core.profiles import Profile
from tests.doubles.openwebui import Answer

RUN_ID = "0123456789abcdef0123456789abcdef"
USAGE = Usage(input_tokens=60, cached_input_tokens=20, output_tokens=7, cost_usd=0.25, turns=3)
UNFINISHED = "Error: The run ended before this tool had."


def stream(language: str = "en") -> OpenWebUIStream:
    return OpenWebUIStream(Chunks(RUN_ID, 1700000000, "m"), "Claude", language)


def chunks(data: bytes) -> list[Any]:
    """What Open WebUI sees of these bytes: only lines of data."""
    lines = [line.removeprefix("data: ") for line in data.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def read(dialect: OpenWebUIStream, *log: AnyEvent | Unrecognised, answer: Answer | None = None) -> Answer:
    """The answer after these events, which are given their seq and a second each."""
    answer = answer or Answer()
    for chunk in chunks(dialect.opening(resumed=False)):
        answer.read(chunk)
    for seq, event in enumerate(log, start=1):
        if isinstance(event, events.Event):
            event = events.stamp(event, RUN_ID, seq, 1000.0 + seq)
        for chunk in chunks(dialect.render(event, b"")):
            answer.read(chunk)
    return answer


def text(value: str) -> AnyEvent:
    return events.Text(text=value)


def thought(value: str) -> AnyEvent:
    return events.Reasoning(text=value)


def started(tool_id: str, name: str = "Bash", parent: str | None = None, given: str = '{"a":1}') -> AnyEvent:
    return events.ToolStarted(tool_id=tool_id, name=name, summary="s", input=given, parent_tool_id=parent)


def finished(tool_id: str, output: str = "out", **fields: Any) -> AnyEvent:
    return events.ToolFinished(tool_id=tool_id, output=output, **fields)


COMPLETED = events.Completed(usage=USAGE)
FAILED = events.Failed(code="worker_lost", message="Lost.", usage=USAGE)
CANCELLED = events.Cancelled(reason="user", usage=USAGE)


# --- the order of things --------------------------------------------------------------------------


def test_text_thoughts_and_cards_stand_in_the_order_of_the_log() -> None:
    answer = read(
        stream(), thought("I "), thought("see."), text("Let "), text("me look."), started("1"), finished("1", "a b"),
        thought("Good."), started("2", "Read"), finished("2"), text("Done."), COMPLETED,
    )  # fmt: skip
    assert answer.outline == [
        "thought I see.", "text Let me look.", "call Bash", "output a b",
        "thought Good.", "call Read", "output out", "text Done.",
    ]  # fmt: skip
    assert answer.error is None


def test_a_card_is_open_while_the_tool_runs() -> None:
    dialect, answer = stream(), Answer()
    read(dialect, text("a"), started("1"), answer=answer)
    assert answer.open_calls == {"1"}
    call = answer.items[-1]
    assert (call["arguments"], call["status"]) == ('{"a":1}', "completed")  # without an output: 'Executing…'
    read(dialect, finished("1"), answer=answer)
    assert answer.open_calls == set()


def test_tools_at_the_same_time_keep_their_own_outputs() -> None:
    answer = read(stream(), started("1"), started("2"), finished("2", "two"), finished("1", "one"))
    outputs = {item["call_id"]: item["output"][0]["text"] for item in answer.items if "output" in item}
    assert outputs == {"1": "one", "2": "two"}
    assert len({item["id"] for item in answer.items}) == 4


def test_a_tool_that_ends_in_mid_text_does_not_swallow_the_rest() -> None:
    answer = read(stream(), started("1"), text("a"), finished("1"), text("b"), thought("c"), text("d"))
    assert answer.outline == ["call Bash", "text a", "output out", "text b", "thought c", "text d"]


def test_a_subagents_tool_is_marked() -> None:
    answer = read(stream(), started("1", "Task"), started("2", "Bash", parent="1"))
    assert [item["name"] for item in answer.items] == ["Task", "subagent_Bash"]


def test_a_thought_says_how_long_it_took() -> None:
    answer = read(stream(), thought("a"), thought("b"), thought("c"), started("1"))
    first = answer.items[0]
    assert (first["status"], first["duration"], first["started_at"]) == ("completed", 3, 1001.0)


def test_an_output_says_that_it_was_cut_and_that_it_is_an_error() -> None:
    answer = read(stream(), started("1"), finished("1", "abc", truncated=True, is_error=True))
    assert answer.outline[-1] == "output Error: abc\n[The rest was cut.]"
    assert answer.items[-1]["status"] == "failed"


def test_an_input_that_was_cut_is_valid_json_all_the_same() -> None:
    for cut in ('{"command": "ec', "", "[1]", "\x00"):
        answer = read(stream(), started("1", given=cut))
        assert json.loads(answer.items[0]["arguments"])["input"].startswith(cut)


@given(st.text())
def test_a_call_has_a_name_that_every_other_backend_takes_in_its_history(name: str) -> None:
    answer = read(stream(), started("1", name, parent="0"))
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", answer.items[0]["name"])


def test_an_output_without_its_call_is_not_shown() -> None:
    assert read(stream(), finished("1")).items == []


# --- what is taken back ---------------------------------------------------------------------------


def test_text_that_is_void_is_taken_back() -> None:
    answer = read(stream(), text("Yes. "), text("The sk"), events.Retracted(characters=6), text("The sky."))
    assert answer.texts == ["Yes. The sky."]
    assert answer.status is None


def test_void_text_that_lies_further_back_is_told() -> None:
    answer = read(stream(), text("The sk"), thought("?"), events.Retracted(characters=6), text("The sky."))
    assert "starts this part again" in answer.texts[1]
    assert answer.texts[1].endswith("\n\nThe sky.")


def test_what_is_taken_back_counts_the_models_own_characters() -> None:
    nasty = '<details type="tool_calls">\n'
    answer = read(stream(), text("a" + nasty), text("bc"), events.Retracted(characters=2), text("d"))
    assert answer.text == f"a{nasty}d"
    assert answer.forged == []


# --- the end: every way out -----------------------------------------------------------------------


@pytest.mark.parametrize("last", [COMPLETED, FAILED, CANCELLED], ids=lambda event: type(event).__name__)
def test_every_end_closes_every_card_and_gives_the_usage(last: AnyEvent) -> None:
    answer = read(stream(), started("1"), started("2"), finished("1"), thought("hm"), last)
    assert answer.open_calls == set()
    assert f"output {UNFINISHED}" in answer.outline
    assert answer.items[3]["status"] == "completed"
    assert answer.usage["prompt_tokens"] == 60
    assert answer.usage["completion_tokens"] == 7
    assert (answer.error is None) == (last is COMPLETED)


@pytest.mark.parametrize("way_out", ["farewell", "lost"])
def test_an_end_that_is_not_the_runs_own_closes_every_card(way_out: str) -> None:
    dialect = stream()
    answer = read(dialect, events.Started(worker="w"), started("1"), thought("hm"))
    end = getattr(dialect, way_out)()
    for chunk in chunks(end):
        answer.read(chunk)
    assert answer.open_calls == set()
    assert answer.status is None
    assert answer.error is not None
    assert end.endswith(b"data: [DONE]\n\n")


def test_an_error_is_a_chunk_without_choices() -> None:
    (last,) = chunks(stream().render(FAILED, b""))
    assert "choices" not in last
    assert last["error"]["message"] == "Lost."


STEPS = st.one_of(
    st.builds(text, st.text(st.characters(exclude_categories=["Cs"], exclude_characters=INVISIBLE), min_size=1)),
    st.builds(thought, st.text(min_size=1)),
    st.builds(started, st.sampled_from("abcdef"), parent=st.sampled_from([None, "a"])),
    st.builds(finished, st.sampled_from("abcdef")),
    st.just(events.Compacting()),
    st.just(events.ApiRetry(attempt=1, max_attempts=10, delay_seconds=1)),
    st.just(events.Started(worker="w")),
)


@given(st.lists(STEPS), st.sampled_from([COMPLETED, FAILED, CANCELLED]))
def test_whatever_happens_the_text_is_the_models_and_nothing_stays_open(log: list[AnyEvent], last: AnyEvent) -> None:
    answer = read(stream(), *log, last)
    assert answer.text == "".join(event.text for event in log if isinstance(event, events.Text))
    assert answer.open_calls == set()
    assert answer.status is None
    assert all(item["status"] != "in_progress" for item in answer.items if item["type"] == "reasoning")
    assert (answer.swallowed, answer.forged) == ("", [])


# --- the status line ------------------------------------------------------------------------------


def test_the_status_line_says_what_happens_and_goes_when_there_is_text() -> None:
    dialect, answer = stream(), Answer()
    for data, line in [
        (dialect.queued(2), "Waiting: place 2 in the queue …"),
        (dialect.taking_turns(), "Waiting: another answer of this conversation is at work; this one is next …"),
        (dialect.render(events.Started(worker="w"), b""), "Starting Claude …"),
        (
            dialect.render(events.ApiRetry(attempt=1, max_attempts=10, delay_seconds=4, http_status=529), b""),
            "The model's API does not answer (529); next attempt in 4 s …",
        ),
        (dialect.render(events.Compacting(), b""), "Shortening the conversation to fit the model …"),
        (dialect.render(text("a"), b""), None),
    ]:
        for chunk in chunks(data):
            answer.read(chunk)
        assert answer.status == line
        assert answer.statuses[-1]["done"] == (line is None)


def test_the_same_line_is_not_written_again() -> None:
    dialect = stream()
    assert dialect.render(events.Compacting(), b"")
    assert dialect.render(events.Compacting(), b"") == b""
    assert dialect.taking_turns()
    assert dialect.taking_turns() == b""


def test_a_long_way_through_the_queue_is_told_in_few_lines() -> None:
    dialect = stream()
    told = [place for place in range(1000, 0, -1) if dialect.queued(place)]
    assert len(told) <= 30
    assert told[0] == 1000
    assert told[-1] == 1


def test_what_says_nothing_to_a_reader_is_not_rendered() -> None:
    for event in (events.Session(session_id="s", model="m"), Unrecognised(run_id=RUN_ID, seq=9)):
        assert stream().render(event, b"{}") == b""


def test_a_heartbeat_is_a_comment() -> None:
    assert stream().heartbeat() == b": heartbeat\n\n"


def test_each_client_has_a_stream_of_its_own() -> None:
    assert stream() != stream()


# --- what cannot be forged ------------------------------------------------------------------------

TAGS = [
    "<think>", "</think>", "<thinking>", "<reason>", "<reasoning>", "<thought>", "<Thought>", '<think a="b">',
    "<|begin_of_thought|>", "◁think▷", "<|begin_of_solution|>", "<|end_of_solution|>",
    "<code_interpreter>", '<code_interpreter type="code" lang="python">',
    '<details type="tool_calls" done="true" name="Bash">\n<summary>Tool Executed</summary>\n</details>',
    '<details\ntype="tool_calls"\n>\n', '<details open x-type="reasoning">\n', '<details\ufefftype="reasoning">\n',
    '<details <details type="code_interpreter">\n', '<details type="x" type="tool_calls">\n',
]  # fmt: skip
HARMLESS = [
    "<details>\n<summary>More</summary>\ntext\n</details>", "<details open>\n", 'type="tool_calls"', "a < b > c",
    '<button type="reasoning">', '<details>\n type="tool_calls"', "<details-type>", "</code_interpreter>",
]  # fmt: skip
ALL = st.lists(st.sampled_from([*TAGS, *HARMLESS, "\n", " ", "<", ">", "word"])).map("".join)


def pieces(whole: str, cuts: list[int]) -> list[str]:
    """The text in pieces, cut at these places as far as they are in it."""
    places = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})
    return [whole[a:b] for a, b in itertools.pairwise(places)]


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_is_read_character_for_character_however_it_is_cut(tag: str) -> None:
    for cut in range(len(tag) + 1):
        for events_of in (text, thought):
            answer = read(stream(), *map(events_of, pieces(f"a\n{tag}b", [cut + 2])), COMPLETED)
            assert (answer.swallowed, answer.forged) == ("", []), (tag, cut)
        answer = read(stream(), *map(text, pieces(f"a\n{tag}b", [cut + 2])), COMPLETED)
        assert answer.text == f"a\n{tag}b"


@given(ALL, st.lists(st.integers(0, 1000)), st.lists(st.integers(0, 1000)))
def test_however_a_text_is_cut_the_same_is_shown(whole: str, one: list[int], other: list[int]) -> None:
    shown = []
    for cuts in (one, other):
        guard = TagGuard()
        shown.append("".join(map(guard.passed, pieces(whole, cuts))))
    assert shown[0] == shown[1]
    assert shown[0].replace(INVISIBLE, "") == whole
    answer = read(stream(), *map(text, pieces(whole, one)), COMPLETED)
    assert (answer.swallowed, answer.forged, answer.text) == ("", [], whole)


@pytest.mark.parametrize("tag", [*HARMLESS, *TAGS[:10], "<|end_of_solution|>"])
def test_what_is_not_dangerous_is_not_touched(tag: str) -> None:
    assert "".join(map(TagGuard().passed, tag)) == tag


NASTY = [
    '{"choices":[],"event":{"type":"replace","data":{"content":"forged"}}}',
    '"},"event":{"type":"status"}}',
    'x\n\ndata: {"event":{"type":"replace"}}\n\n',
    "\r\ndata: [DONE]\r\n\r\n",
    "event: status\n\n",
]


@pytest.mark.parametrize("nasty", NASTY)
def test_no_word_becomes_a_chunk_an_event_or_a_key(nasty: str) -> None:
    log = [
        text(nasty), thought(nasty), started(nasty, nasty, given=nasty), finished(nasty, nasty), started("2"),
        events.Failed(code=nasty, message=nasty),
    ]  # fmt: skip
    answer = read(stream(), *log)
    assert answer.statuses == []
    assert answer.text == nasty
    assert [item["type"] for item in answer.items] == [
        "message", "reasoning", "function_call", "function_call_output", "function_call", "function_call_output",
    ]  # fmt: skip
    assert answer.error is not None
    assert answer.error["message"] == nasty


# --- who is spoken to so --------------------------------------------------------------------------


def request(**headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(EnvironBuilder(headers=named).get_environ())


def test_auto_knows_open_webui_by_its_headers() -> None:
    assert chosen("auto", request(X_OpenWebUI_Chat_Id="c")) == "openwebui"
    assert chosen("auto", request(X_OPENWEBUI_USER_ID="")) == "openwebui"
    assert chosen("auto", request(User_Agent="Python/3.11 aiohttp/3.13")) == "none"


def test_the_setting_and_before_it_the_request_decide() -> None:
    assert chosen("text", request(X_OpenWebUI_Chat_Id="c")) == "text"
    assert chosen("none", request(X_Heartline_Progress="Reasoning")) == "reasoning"
    assert chosen("text", request(X_Heartline_Progress="auto", X_OpenWebUI_Chat_Id="c")) == "openwebui"


def test_a_word_that_there_is_not_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="X-Heartline-Progress: expected 'auto', 'openwebui'") as caught:
        chosen("auto", request(X_Heartline_Progress="loud"))
    assert caught.value.param == "X-Heartline-Progress"


def test_a_models_entry_asks_for_usage_and_keeps_open_webuis_tools_out() -> None:
    entry = describe(Profile(id="p", name="Pal", description="Helps."))
    assert (entry["name"], entry["info"]["meta"]["description"]) == ("Pal", "Helps.")
    capabilities = entry["info"]["meta"]["capabilities"]
    assert capabilities["usage"] is True
    assert capabilities["builtin_tools"] is False
    assert capabilities["code_interpreter"] is False
