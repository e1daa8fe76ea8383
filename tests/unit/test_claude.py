"""The CLI's lines become events: nothing doubled, nothing lost, and nothing that it prints can do harm.

The lines have the shapes that CLI 2.1.329 prints, shortened to what carries meaning.
"""

import json
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import events
from core.events import Answer, ApiRetry, Compacting, Event, Reasoning, Retracted, Session, Text, Usage
from worker.claude import MAX_SUMMARY_CHARACTERS, Translator, from_init, summary

Json = dict[str, Any]

SECRET = "the-secret-word"


# Lines, as the CLI prints them.


def line(kind: str, **fields: Any) -> bytes:
    return json.dumps({"type": kind, **fields, "session_id": "s-1", "uuid": "u-1"}).encode() + b"\n"


def init(session: str = "s-1") -> bytes:
    return json.dumps({"subtype": "init", "model": "sonnet", "session_id": session, "type": "system"}).encode()


def stream(kind: str, parent: str | None = None, **fields: Any) -> bytes:
    return line("stream_event", event={"type": kind, **fields}, parent_tool_use_id=parent, api_message_id="m")


def message_start(message_id: str = "m1", parent: str | None = None) -> bytes:
    return stream("message_start", parent, message={"id": message_id, "role": "assistant", "content": []})


def block_start(kind: str = "text", parent: str | None = None) -> bytes:
    return stream("content_block_start", parent, index=0, content_block={"type": kind, kind: ""})


def delta(text: str, parent: str | None = None) -> bytes:
    return stream("content_block_delta", parent, index=0, delta={"type": "text_delta", "text": text})


def thinking_delta(text: str, parent: str | None = None) -> bytes:
    return stream("content_block_delta", parent, index=0, delta={"type": "thinking_delta", "thinking": text})


def assistant(*blocks: Json, message_id: str = "m1", parent: str | None = None, model: str = "sonnet") -> bytes:
    message = {"id": message_id, "type": "message", "role": "assistant", "model": model, "content": list(blocks)}
    return line("assistant", message=message, parent_tool_use_id=parent)


def text_block(text: str) -> Json:
    return {"type": "text", "text": text}


def thinking_block(text: str) -> Json:
    return {"type": "thinking", "thinking": text, "signature": "signed"}


def tool_use(given: Any, name: str = "Bash", tool_id: str = "toolu_1") -> Json:
    return {"type": "tool_use", "id": tool_id, "name": name, "input": given}


def tool_result(content: Any, tool_id: str = "toolu_1", parent: str | None = None, **fields: Any) -> bytes:
    block = {"tool_use_id": tool_id, "type": "tool_result", "content": content, **fields}
    echo = {"stdout": content, "stderr": "", "interrupted": False}
    message = {"role": "user", "content": [block]}
    return line("user", message=message, parent_tool_use_id=parent, tool_use_result=echo)


def result(subtype: str = "success", **fields: Any) -> bytes:
    return line("result", **{"subtype": subtype, "is_error": False, "num_turns": 1, **fields})


def retry(**fields: Any) -> bytes:
    known = {"attempt": 1, "max_retries": 10, "retry_delay_ms": 546.3, "error_status": None, "error": "unknown"}
    return line("system", subtype="api_retry", **{**known, **fields})


def block_stop() -> bytes:
    return stream("content_block_stop", index=0)


def message_stop(**fields: Any) -> bytes:
    return line("stream_event", event={"type": "message_stop"}, parent_tool_use_id=None, **fields)


def streamed_block(*deltas: str, message_id: str = "m1") -> list[bytes]:
    """One text block from its start to its end, the assistant line in between as the CLI prints it."""
    whole = assistant(text_block("".join(deltas)), message_id=message_id)
    return [block_start(), *map(delta, deltas), whole, block_stop()]


def streamed(*deltas: str, message_id: str = "m1") -> list[bytes]:
    return [message_start(message_id), *streamed_block(*deltas, message_id=message_id), message_stop()]


# What comes of them.


class Run:
    """A translator, and everything that came out of it."""

    def __init__(self, *lines: bytes, max_tool_output_bytes: int = 8192) -> None:
        self.translator = Translator("r" * 32, max_tool_output_bytes)
        self.events: list[Event] = []
        self.feed(*lines)

    def feed(self, *lines: bytes) -> None:
        for each in lines:
            self.events += self.translator.feed(each)

    @property
    def answer(self) -> str:
        answer = Answer()
        for event in self.events:
            answer.add(event)
        return answer.text

    @property
    def written(self) -> list[Event]:
        """All that the log would get: the events, and either ending that the result can become."""
        last = self.translator.result
        if last is None:
            return self.events
        failed = events.Failed(code="cli_error", message=last.reason, usage=last.usage)
        return [*self.events, failed, events.Completed(stop_reason=last.stop_reason, usage=last.usage)]

    def only(self) -> Event:
        (event,) = self.events
        return event


# Text.


def test_deltas_become_text_one_by_one() -> None:
    assert Run(*streamed("Hel", "lo")).events == [Text(text="Hel"), Text(text="lo")]


def test_a_delta_becomes_text_at_once() -> None:
    run = Run(message_start(), block_start())
    assert run.events == []
    run.feed(delta("Hel"))
    assert run.events == [Text(text="Hel")]


def test_an_assistant_line_does_not_double_what_was_streamed() -> None:
    assert Run(*streamed("Hello"), assistant(text_block("Hello"))).answer == "Hello"


def test_assistant_text_that_was_never_streamed_is_used() -> None:
    assert Run(assistant(text_block("Hello"))).answer == "Hello"


def test_a_message_that_was_not_streamed_follows_one_that_was() -> None:
    run = Run(*streamed("One."), assistant(text_block("Two."), message_id="m2"))
    assert run.answer == "One.\n\nTwo."


def test_two_blocks_are_two_paragraphs() -> None:
    run = Run(message_start(), *streamed_block("One", "."), *streamed_block("Two", "."), message_stop())
    assert run.answer == "One.\n\nTwo."


def test_two_messages_are_two_paragraphs() -> None:
    assert Run(*streamed("One."), *streamed("Two.", message_id="m2")).answer == "One.\n\nTwo."


def test_two_blocks_of_an_unstreamed_line_are_two_paragraphs() -> None:
    assert Run(assistant(text_block("One."), text_block("Two."))).answer == "One.\n\nTwo."


def test_an_empty_block_is_no_paragraph() -> None:
    lines = [message_start(), *streamed_block("One."), *streamed_block(""), *streamed_block("Two.")]
    assert Run(*lines).answer == "One.\n\nTwo."


def test_a_tool_between_two_texts_keeps_them_paragraphs() -> None:
    run = Run(*streamed("Looking."), assistant(tool_use({})), tool_result("x"), *streamed("It is 42.", message_id="m2"))
    assert run.answer == "Looking.\n\nIt is 42."


def test_an_error_that_the_cli_made_up_is_not_the_answer() -> None:
    run = Run(assistant(text_block("API Error: 400 bad"), message_id="x", model="<synthetic>"))
    assert run.events == []


def test_the_note_that_the_cli_writes_as_the_user_is_not_the_answer() -> None:
    note = {"role": "user", "content": [text_block("Your response above was cut off mid-stream.")]}
    assert Run(line("user", message=note, parent_tool_use_id=None, isSynthetic=True)).events == []


@pytest.mark.parametrize(("text", "size"), [("abc", 3), ("ä", 2), ("😀", 4), ("€€", 6)])
def test_the_size_of_the_answer_is_counted_in_bytes(text: str, size: int) -> None:
    assert Run(*streamed(text)).translator.answer_bytes == size


# Characters that came in two halves.


def test_a_character_split_over_two_deltas_is_whole() -> None:
    assert Run(*streamed("a\ud83d", "\ude00b")).answer == "a😀b"


def test_a_half_waits_for_its_other_half_across_an_empty_delta() -> None:
    assert Run(*streamed("\ud83d", "", "\ude00")).answer == "😀"


@pytest.mark.parametrize("half", [0xD800, 0xD83D, 0xDBFF, 0xDC00, 0xDE00, 0xDFFF], ids=hex)
def test_a_half_that_stays_alone_is_replaced(half: int) -> None:
    assert Run(*streamed(chr(half) + "x")).answer == "\ufffdx"
    assert Run(*streamed(chr(half), "x")).answer == "\ufffdx"


def test_a_half_at_the_end_of_a_block_does_not_slip_into_the_next() -> None:
    run = Run(message_start(), *streamed_block("One.\ud83d"), *streamed_block("Two."))
    assert run.answer.endswith("\n\nTwo.")


def test_a_half_that_was_retracted_does_not_come_back() -> None:
    cut = [message_start(), block_start(), delta("half an ans\ud83d"), block_stop(), message_stop()]
    assert Run(*streamed("One.", message_id="m0"), *cut, *streamed("Two.", message_id="m2")).answer == "One.\n\nTwo."


def test_a_thought_split_in_the_middle_of_a_character_is_whole() -> None:
    run = Run(message_start(), block_start("thinking"), thinking_delta("\ud83d"), thinking_delta("\ude00"))
    assert "".join(event.text for event in run.events if isinstance(event, Reasoning)) == "😀"


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def utf16_units(text: str) -> str:
    """The same text as JavaScript holds it: every code unit a character, halves of pairs included."""
    data = text.encode("utf-16-le")
    return "".join(chr(data[i] | data[i + 1] << 8) for i in range(0, len(data), 2))


@given(text=TEXTS, cuts=st.lists(st.integers(0, 200), max_size=8))
@settings(max_examples=300)
def test_any_text_split_anywhere_comes_out_whole(text: str, cuts: list[int]) -> None:
    units = utf16_units(text)
    edges = [0, *sorted(min(cut, len(units)) for cut in cuts), len(units)]
    deltas = [units[a:b] for a, b in zip(edges, edges[1:], strict=False)]  # noqa: RUF007
    run = Run(*streamed(*deltas), result(result=text))
    assert run.answer == text
    assert [event for event in run.events if not isinstance(event, Text)] == []


@given(st.lists(TEXTS.filter(bool), max_size=4), st.booleans())
def test_any_blocks_come_out_as_paragraphs_streamed_or_not(blocks: list[str], as_stream: bool) -> None:
    lines = [message_start()] if as_stream else []
    for block in blocks:
        lines += streamed_block(block) if as_stream else [assistant(text_block(block))]
    assert Run(*lines).answer == "\n\n".join(blocks)


# Thinking.


def test_thinking_is_reasoning_and_never_the_answer() -> None:
    lines = [message_start(), block_start("thinking"), thinking_delta("Hm"), thinking_delta(".")]
    signature = stream("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "signed"})
    run = Run(*lines, signature, assistant(thinking_block("Hm.")), block_stop(), *streamed_block("Yes."))
    assert run.events == [Reasoning(text="Hm"), Reasoning(text="."), Text(text="Yes.")]
    assert run.answer == "Yes."


def test_thinking_that_was_never_streamed_is_used() -> None:
    assert Run(assistant(thinking_block("Hm."), text_block("Yes."))).events == [
        Reasoning(text="Hm."),
        Text(text="Yes."),
    ]


def test_empty_thinking_is_nothing() -> None:
    assert Run(message_start(), block_start("thinking"), thinking_delta(""), assistant(thinking_block(""))).events == []


# Tools.


def test_a_tool_starts_with_its_name_its_summary_and_its_input() -> None:
    assert Run(message_start(), assistant(tool_use({"command": "ls -l", "timeout": 5}))).only() == events.ToolStarted(
        tool_id="toolu_1", name="Bash", summary="ls -l", input='{"command": "ls -l", "timeout": 5}'
    )


@pytest.mark.parametrize("given_input", [None, "text", ["list"], 5])
def test_a_tool_whose_input_is_no_object_has_started_all_the_same(given_input: Any) -> None:
    started = Run(assistant(tool_use(given_input))).only()
    assert isinstance(started, events.ToolStarted)
    assert (started.name, started.summary) == ("Bash", "")


def test_a_tool_finishes_with_its_output() -> None:
    assert Run(tool_result("hi", is_error=False)).only() == events.ToolFinished(tool_id="toolu_1", output="hi")


def test_a_tool_can_fail() -> None:
    assert Run(tool_result("no", is_error=True)).only() == events.ToolFinished(
        tool_id="toolu_1", output="no", is_error=True
    )


def test_the_deltas_of_a_tools_input_are_nothing() -> None:
    partial = stream("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": '{"a"'})
    assert Run(message_start(), block_start("tool_use"), partial).events == []


@pytest.mark.parametrize(
    ("content", "output"),
    [
        ("text", "text"),
        ("", ""),
        (None, ""),
        (5, ""),
        ([], ""),
        ([text_block("a"), text_block("b")], "a\nb"),
        ([text_block("a"), {"type": "image", "source": {"data": "…"}}], "a\n[image]"),
        ([text_block("a"), "b", None], "a"),
        ([{}], "[content]"),
    ],
)
def test_an_output_of_any_form_becomes_text(content: Any, output: str) -> None:
    assert Run(tool_result(content)).only() == events.ToolFinished(tool_id="toolu_1", output=output)


@pytest.mark.parametrize(
    ("output", "limit", "kept", "truncated"),
    [
        ("abcdef", 6, "abcdef", False),
        ("abcdef", 5, "abcde", True),
        ("aäb", 4, "aäb", False),
        ("aäb", 3, "aä", True),
        ("aäb", 2, "a", True),
        ("😀😀", 7, "😀", True),
        ("😀😀", 3, "", True),
    ],
)
def test_a_long_output_is_cut_between_two_characters(output: str, limit: int, kept: str, truncated: bool) -> None:
    assert Run(tool_result(output), max_tool_output_bytes=limit).only() == events.ToolFinished(
        tool_id="toolu_1", output=kept, truncated=truncated
    )


def test_a_long_input_is_cut_too() -> None:
    started = Run(assistant(tool_use({"content": "x" * 5000})), max_tool_output_bytes=100).only()
    assert isinstance(started, events.ToolStarted)
    assert len(started.input) == 100


def test_several_results_of_one_line_are_several_events() -> None:
    blocks = [{"type": "tool_result", "tool_use_id": name, "content": name} for name in "ab"]
    run = Run(line("user", message={"role": "user", "content": blocks}))
    assert run.events == [events.ToolFinished(tool_id=name, output=name) for name in "ab"]


@pytest.mark.parametrize(
    ("given_input", "short"),
    [
        ({}, ""),
        ({"command": "ls"}, "ls"),
        ({"file_path": "/a", "content": "long"}, "/a"),
        ({"description": "d", "command": "c"}, "c"),
        ({"command": "a\n  b\tc "}, "a b c"),
        ({"command": "  ", "description": "d"}, "d"),
        ({"command": 5, "prompt": "p"}, "p"),
        ({"unknown": "x"}, ""),
        ({"command": "x" * 200}, "x" * 200),
        ({"command": "x" * 201}, "x" * 199 + "…"),
    ],
)
def test_the_summary_is_the_most_telling_field_on_one_short_line(given_input: Json, short: str) -> None:
    assert summary(given_input) == short
    assert len(short) <= MAX_SUMMARY_CHARACTERS


# Sub-agents.


SUB = "toolu_task"


def test_nothing_that_a_sub_agent_says_or_thinks_is_the_answer() -> None:
    run = Run(
        *streamed("Delegating."),
        message_start("s1", SUB),
        block_start("text", SUB),
        delta("sub", SUB),
        thinking_delta("sub", SUB),
        assistant(text_block("Sub says."), thinking_block("Sub thinks."), message_id="s1", parent=SUB),
        assistant(text_block("Sub says more."), message_id="s2", parent=SUB),
        line("user", message={"role": "user", "content": [text_block("subgo")]}, parent_tool_use_id=SUB),
        *streamed("Done.", message_id="m2"),
    )
    assert run.answer == "Delegating.\n\nDone."
    assert {type(event) for event in run.events} == {Text}


def test_a_sub_agents_tools_name_their_parent() -> None:
    run = Run(
        assistant(tool_use({"command": "ls"}, tool_id="t2"), message_id="s1", parent=SUB),
        tool_result("out", tool_id="t2", parent=SUB),
    )
    assert [(type(e), e.parent_tool_id) for e in run.events if hasattr(e, "parent_tool_id")] == [
        (events.ToolStarted, SUB),
        (events.ToolFinished, SUB),
    ]


def test_a_sub_agents_message_retracts_nothing() -> None:
    run = Run(message_start(), block_start(), delta("Hel"), message_start("s1", SUB), delta("sub", SUB), delta("lo"))
    assert run.answer == "Hello"
    assert not [event for event in run.events if isinstance(event, Retracted)]


def test_a_sub_agents_text_confirms_nothing() -> None:
    cut = [message_start(), block_start(), delta("half"), assistant(text_block("half"), message_id="s1", parent=SUB)]
    assert Run(*cut, *streamed("whole", message_id="m2")).answer == "whole"


# The CLI's own words.


def test_the_session_is_told_once() -> None:
    assert Run(init(), init()).events == [Session(session_id="s-1", model="sonnet")]


def test_another_session_is_told_again() -> None:
    assert [e.session_id for e in Run(init("a"), init("b")).events if isinstance(e, Session)] == ["a", "b"]


@pytest.mark.parametrize("status", [None, 401, 429, 529])
def test_a_retry_says_when_and_why(status: int | None) -> None:
    assert Run(retry(attempt=2, error_status=status)).only() == ApiRetry(
        attempt=2, max_attempts=10, delay_seconds=0.5463, http_status=status
    )


def test_compacting_is_told() -> None:
    assert Run(line("system", subtype="status", status="compacting")).only() == Compacting()


@pytest.mark.parametrize(
    "fields",
    [
        {"subtype": "status", "status": "requesting"},
        {"subtype": "status", "status": None},
        {"subtype": "thinking_tokens", "estimated_tokens": 1},
        {"subtype": "task_started", "task_id": "a", "prompt": "subgo"},
        {"subtype": "compact_boundary"},
        {"subtype": None},
        {},
    ],
)
def test_other_system_lines_are_nothing(fields: Json) -> None:
    assert Run(line("system", **fields)).events == []


# A connection that broke.


def cut(*deltas: str, message_id: str = "m1", index: int = 0) -> list[bytes]:
    """A text block whose end never came, as the CLI closes it."""
    abandoned = {"api_message_id": message_id, "from_block_index": index}
    return [block_start(), *map(delta, deltas), block_stop(), message_stop(abandoned_blocks=abandoned)]


def test_a_stream_cut_in_its_first_block_is_retracted_before_the_retry() -> None:
    run = Run(message_start(), *cut("half ", "an ans"), retry())
    assert [type(event) for event in run.events] == [Text, Text, Retracted, ApiRetry]
    assert run.events[2] == Retracted(characters=len("half an ans"))
    assert run.answer == ""


def test_the_answer_after_a_cut_in_the_first_block_is_only_what_came_again() -> None:
    run = Run(message_start(), *cut("half ", "an ans"), retry(), *streamed("whole answer", message_id="m2"))
    assert run.answer == "whole answer"


def test_a_stream_cut_in_its_second_block_keeps_the_first() -> None:
    run = Run(message_start(), *streamed_block("First."), *cut("half", index=1), *streamed("Second.", message_id="m2"))
    assert Retracted(characters=len("\n\nhalf")) in run.events
    assert run.answer == "First.\n\nSecond."


def test_a_cut_without_a_retry_line_is_retracted_by_the_next_message() -> None:
    run = Run(message_start(), *cut("half"), message_start("m2"))
    assert run.events == [Text(text="half"), Retracted(characters=4)]


def test_characters_are_counted_as_code_points() -> None:
    assert Run(message_start(), *cut("a😀\ud83d", "\ude00"), retry()).events[-2] == Retracted(characters=3)


def test_a_retry_after_a_finished_block_retracts_nothing() -> None:
    assert Run(*streamed("First."), retry()).events[-1:] == Run(retry()).events


def test_nothing_is_retracted_twice() -> None:
    run = Run(message_start(), *cut("half"), retry(), retry(attempt=2), message_start("m2"), message_start("m3"))
    assert len([event for event in run.events if isinstance(event, Retracted)]) == 1


def test_after_a_cut_an_answer_that_is_not_streamed_replaces_the_half() -> None:
    run = Run(message_start(), *cut("half"), assistant(text_block("whole"), message_id="m2"))
    assert run.answer == "whole"


def test_after_a_cut_an_answer_that_comes_only_with_the_result_is_used() -> None:
    assert Run(message_start(), *cut("half"), retry(), result(result="whole")).answer == "whole"


def test_two_cuts_in_a_row_leave_the_answer_right() -> None:
    first, second = [message_start("m1"), *cut("ha")], [message_start("m2"), *cut("half")]
    assert Run(*first, *second, retry(), *streamed("whole", message_id="m3")).answer == "whole"


ATTEMPTS = st.lists(st.tuples(st.lists(TEXTS, max_size=3), st.booleans()), max_size=4)


@given(ATTEMPTS, TEXTS.filter(bool))
def test_whatever_was_cut_the_answer_is_what_was_confirmed(attempts: list[tuple[list[str], bool]], last: str) -> None:
    run, confirmed = Run(), []
    for number, (deltas, whole) in enumerate(attempts):
        text = "".join(deltas)
        message_id = f"m{number}"
        run.feed(
            message_start(message_id), *(streamed_block(*deltas, message_id=message_id) if whole else cut(*deltas))
        )
        confirmed += [text] if whole and text else []
    run.feed(*streamed(last, message_id="last"))
    assert run.answer == "\n\n".join([*confirmed, last])


# The result.


def test_a_result_is_no_event_but_the_last_word() -> None:
    run = Run(*streamed("Hello"))
    assert run.translator.result is None
    run.feed(result(result="Hello", stop_reason="end_turn"))
    assert run.answer == "Hello"
    found = run.translator.result
    assert found is not None
    assert (found.is_error, found.kind, found.stop_reason) == (False, "success", "end_turn")


def test_an_answer_that_comes_only_with_the_result_is_used() -> None:
    assert Run(result(result="Local command output")).answer == "Local command output"


STRUCTURED = [
    message_start(),
    assistant(tool_use({"n": "3"}, name="StructuredOutput")),
    tool_result("Output does not match required schema: /n: must be integer", is_error=True),
    assistant(tool_use({"n": 3}, name="StructuredOutput", tool_id="toolu_2")),
    tool_result("Structured output provided successfully", tool_id="toolu_2"),
]


def test_how_the_model_hands_in_json_is_no_tool() -> None:
    assert Run(*STRUCTURED).events == []
    started, finished = Run(*STRUCTURED, assistant(tool_use({}, tool_id="t")), tool_result("x", tool_id="t")).events
    assert (type(started).__name__, type(finished).__name__) == ("ToolStarted", "ToolFinished")


@pytest.mark.parametrize("text", ['{"n":3,"x":1.0,"y":1e2,"b":"ä😀\\n","a":[]}', "[]", '"null"', "0", "false"])
def test_structured_output_is_kept_to_the_letter_and_is_no_event(text: str) -> None:
    printed = result(result=text, structured_output="HERE").replace(b'"HERE"', text.encode())
    run = Run(*STRUCTURED, printed)
    assert run.events == []
    assert run.translator.result is not None
    assert run.translator.result.structured == text


def test_structured_output_with_half_a_character_can_be_written() -> None:
    found = Run(result(result=HALF, structured_output={HALF: HALF})).translator.result
    assert found is not None
    assert json.loads(found.structured.encode())


def test_without_structured_output_there_is_none() -> None:
    for last in (result(result="said"), result(result="said", structured_output=None)):
        run = Run(last)
        assert run.answer == "said"
        assert run.translator.result is not None
        assert run.translator.result.structured == ""


@pytest.mark.parametrize("text", ["", None])
def test_a_result_without_text_is_an_empty_answer(text: str | None) -> None:
    run = Run(result(result=text))
    assert run.answer == ""
    assert run.translator.result is not None


def test_the_result_of_a_run_with_text_does_not_add_to_it() -> None:
    assert Run(*streamed("One."), *streamed("Two.", message_id="m2"), result(result="Two.")).answer == "One.\n\nTwo."


def test_only_the_first_result_counts() -> None:
    run = Run(result(result="one"), result("error_during_execution", is_error=True))
    assert run.translator.result is not None
    assert run.translator.result.is_error is False


@pytest.mark.parametrize(
    ("fields", "kind", "reason"),
    [
        (
            {"subtype": "success", "is_error": True, "result": "API Error: 400 bad", "api_error_status": 400},
            "success",
            "API Error: 400 bad",
        ),
        (
            {"subtype": "error_max_turns", "is_error": True, "errors": ["Reached maximum number of turns (1)"]},
            "error_max_turns",
            "Reached maximum number of turns (1)",
        ),
        (
            {"subtype": "error_during_execution", "is_error": True, "errors": ["a", "b"]},
            "error_during_execution",
            "a; b",
        ),
        ({"subtype": "error_max_budget_usd"}, "error_max_budget_usd", "error_max_budget_usd"),
        ({"subtype": None, "is_error": True}, "", "unknown"),
        ({"subtype": "error_new", "errors": [{"a": 1}]}, "error_new", "{'a': 1}"),
    ],
)
def test_a_failed_result_gives_its_reason_and_no_text(fields: Json, kind: str, reason: str) -> None:
    run = Run(result(**fields))
    found = run.translator.result
    assert found is not None
    assert (found.is_error, found.kind, found.reason) == (True, kind, reason)
    assert run.events == []


def test_usage_counts_cached_input_in() -> None:
    numbers = {
        "input_tokens": 10,
        "cache_read_input_tokens": 20,
        "cache_creation_input_tokens": 30,
        "output_tokens": 7,
        "service_tier": "standard",
    }
    found = Run(result(usage=numbers, total_cost_usd=0.25, num_turns=3)).translator.result
    assert found is not None
    assert found.usage == Usage(input_tokens=60, cached_input_tokens=20, output_tokens=7, cost_usd=0.25, turns=3)


@pytest.mark.parametrize("numbers", [None, {}, {"input_tokens": None, "cache_read_input_tokens": None}])
def test_usage_that_is_missing_is_nothing(numbers: Json | None) -> None:
    found = Run(result(usage=numbers, total_cost_usd=None)).translator.result
    assert found is not None
    assert found.usage == Usage(turns=1)


# Lines that are broken, strange or huge.


BROKEN = [
    b'{"type":"result", ' + SECRET.encode(),
    SECRET.encode(),
    b"\xff\xfe" + SECRET.encode(),
    b'"' + SECRET.encode() + b'"',
    b'["' + SECRET.encode() + b'"]',
    b'{"type":["' + SECRET.encode() + b'"]}',
    b"[" * 100_000 + SECRET.encode(),
    line("stream_event", event=SECRET),
    stream("message_start", message=SECRET),
    stream("content_block_delta", delta=SECRET),
    stream("content_block_delta", delta={"type": "text_delta", "text": [SECRET]}),
    stream("content_block_delta", delta={"type": "thinking_delta", "thinking": {SECRET: 1}}),
    line("assistant", message=SECRET),
    line("assistant", message={"content": [None, SECRET, 5]}),
    line("user", message=[SECRET]),
    result(usage=SECRET),
    result(usage={"input_tokens": SECRET}),
    retry(attempt=SECRET),
]


@pytest.mark.parametrize("broken", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_line_is_survived_and_logged_without_its_content(
    broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        run = Run(*streamed("One."), broken, *streamed("Two.", message_id="m2"))
    assert run.answer == "One.\n\nTwo."
    (record,) = caplog.records
    assert "run_id=" + "r" * 32 in record.getMessage()
    assert f"bytes={len(broken)}" in record.getMessage()
    assert SECRET not in caplog.text


STRANGE = [
    b"",
    b"\n",
    b"   \r\n",
    b"{}",
    b'{"type":""}',
    line("rate_limit_event", status="allowed"),
    line("control_response", response={}),
    line("huge", filler="x" * 5_000_000),
    stream("ping"),
    stream("content_block_delta", delta={"type": "citations_delta", "citation": {}}),
    stream("content_block_delta", delta={}),
    line("stream_event", event=None),
    line("stream_event"),
    line("assistant", message=None),
    line("assistant"),
    line("user", message=None),
    line("user", message={"content": "just a string"}),
    line("user", message={"content": None}),
    assistant({"type": "server_tool_use", "id": "x"}),
    assistant({}),
    stream("message_start", message={}),
    stream("content_block_delta", delta={"type": "text_delta", "words": "x"}),
    assistant({"type": "text", "words": "x"}, message_id="m9"),
    assistant({"type": "tool_use", "name": "x"}),
    line("user", message={"content": [{"type": "tool_result", "content": "x"}]}),
    line("system", subtype="init", session_id=None),
]


@pytest.mark.parametrize("strange", STRANGE, ids=range(len(STRANGE)))
def test_a_line_of_an_unknown_form_is_nothing_and_not_worth_a_word(
    strange: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        run = Run(*streamed("One."), strange, *streamed("Two.", message_id="m2"))
    assert [event for event in run.events if not isinstance(event, Text | Session)] == []
    assert run.answer == "One.\n\nTwo."
    assert caplog.records == []


def test_a_megabyte_of_text_in_one_line_is_whole() -> None:
    text = "0123456789abcdef" * 65536
    assert Run(*streamed(text)).answer == text


NULLABLE = [
    "subtype", "is_error", "result", "structured_output", "errors", "stop_reason", "num_turns", "total_cost_usd",
    "usage", "terminal_reason", "api_error_status", "session_id", "parent_tool_use_id", "attempt", "retry_delay_ms",
]  # fmt: skip


@pytest.mark.parametrize("field", NULLABLE)
def test_a_field_that_is_null_counts_as_missing(field: str) -> None:
    found = Run(result(**{field: None})).translator.result
    assert found is not None
    assert found.is_error is False


@pytest.mark.parametrize("field", ["attempt", "max_retries", "retry_delay_ms", "error_status"])
def test_a_retry_with_a_null_is_still_a_retry(field: str) -> None:
    assert isinstance(Run(retry(**{field: None})).only(), ApiRetry)


def test_the_order_of_keys_does_not_matter() -> None:
    backwards = json.dumps(dict(reversed(json.loads(delta("Hello")).items()))).encode()
    assert Run(message_start(), block_start(), backwards).answer == "Hello"


HALF = "half \ud83d"
WITH_HALVES = [
    line("system", subtype="init", model=HALF),
    assistant(tool_use({"command": HALF})),
    assistant(tool_use({HALF: HALF})),
    assistant(tool_use({}, name=HALF)),
    assistant(tool_use({}, tool_id=HALF)),
    assistant(text_block(HALF + "x"), thinking_block(HALF)),
    tool_result(HALF),
    tool_result("x", tool_id=HALF),
    tool_result("x", parent=HALF),
    result(result=HALF),
]


@pytest.mark.parametrize("halved", WITH_HALVES, ids=range(len(WITH_HALVES)))
def test_half_a_character_anywhere_gives_events_that_can_be_written(halved: bytes) -> None:
    run = Run(halved)
    assert run.events
    assert [events.decode(events.encode(event)) for event in run.events] == run.events


@pytest.mark.parametrize(
    "fields", [{"result": HALF}, {"errors": [HALF]}, {"stop_reason": HALF}, {"subtype": f"error_{HALF}"}]
)
def test_half_a_character_in_a_result_gives_a_reason_that_can_be_written(fields: Json) -> None:
    found = Run(result(**{"is_error": True, **fields})).translator.result
    assert found is not None
    assert f"{found.reason}{found.stop_reason}{found.kind}".encode()


# Whatever it prints.


@given(st.lists(st.binary(), max_size=5))
@settings(max_examples=200)
def test_garbage_never_raises(lines: list[bytes]) -> None:
    run = Run(*streamed("One."), *lines, *streamed("Two.", message_id="m2"))
    assert run.answer == "One.\n\nTwo."


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "text", "id"]), inner, max_size=2)
    ),
    max_leaves=4,
)
GOOD = [
    init(),
    message_start(),
    block_start(),
    delta("x"),
    thinking_delta("x"),
    assistant(text_block("x"), message_id="m9"),
    assistant(thinking_block("x"), message_id="m9"),
    assistant(tool_use({"command": "ls"})),
    tool_result("x"),
    tool_result([text_block("x")]),
    retry(),
    result(result="x", usage={"input_tokens": 1, "output_tokens": 1}, total_cost_usd=0.1),
    result(result="{}", structured_output={"a": [None, "x"]}),
]


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, each in inner for path in paths(each, (*at, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], new)
    return changed


@given(st.sampled_from(GOOD), st.data(), VALUES)
@settings(max_examples=500)
def test_a_line_with_one_wrong_value_never_raises_and_gives_only_events_that_can_be_read_again(
    good: bytes, data: st.DataObject, value: Any
) -> None:
    parsed = json.loads(good)
    bad = json.dumps(replaced(parsed, data.draw(st.sampled_from(paths(parsed))), value)).encode()
    written = Run(message_start(), block_start(), bad).written
    assert [events.decode(events.encode(event)) for event in written] == written


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    "torn",
    [
        '{"type":"system","subtype":"api_retry","retry_delay_ms":NUMBER}',
        '{"type":"result","subtype":"success","total_cost_usd":NUMBER}',
        '{"type":"result","subtype":"success","result":"\\ud83d","total_cost_usd":NUMBER}',
    ],
)
def test_what_is_no_number_gives_no_event_that_cannot_be_read_again(torn: str, number: str) -> None:
    written = Run(torn.replace("NUMBER", number).encode()).written
    assert [events.decode(events.encode(event)) for event in written] == written


# What was consumed, as far as is known before the result.


def spent_message(read: Any, written: Any, message_id: str = "m1") -> list[bytes]:
    begun = stream("message_start", message={"id": message_id, "content": [], "usage": read})
    return [begun, *streamed_block("hi", message_id=message_id), stream("message_delta", delta={}, usage=written)]


def test_what_messages_consume_adds_up_without_a_result() -> None:
    read = {"input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 1}
    run = Run(*spent_message(read, {"output_tokens": 7}), *spent_message(read, {"output_tokens": 8}, "m2"))
    assert run.translator.spent == events.Usage(
        input_tokens=34, cached_input_tokens=10, output_tokens=15, cost_usd=0.0, turns=2
    )


def test_a_message_that_is_still_being_written_has_been_read() -> None:
    run = Run(*spent_message({"input_tokens": 10, "output_tokens": 1}, {})[:-1])
    assert run.translator.spent == events.Usage(input_tokens=10, turns=1)


@pytest.mark.parametrize("usage", [None, 5, "many", [], {}, {"input_tokens": "many"}, {"output_tokens": None}])
def test_no_word_is_lost_for_a_usage_that_is_none(usage: Any) -> None:
    run = Run(*spent_message(usage, usage))
    assert run.answer == "hi"
    assert run.translator.spent == events.Usage(turns=1)


# A process that performs several runs.


def test_the_cost_is_that_of_this_run_alone() -> None:
    first = Translator("run", 1000)
    first.feed(line("result", subtype="success", total_cost_usd=0.25, usage={"input_tokens": 10}, num_turns=1))
    second = Translator("run", 1000, cost_before=first.cost_after)
    second.feed(line("result", subtype="success", total_cost_usd=0.75, usage={"input_tokens": 20}, num_turns=2))
    assert first.result is not None
    assert second.result is not None
    assert (first.result.usage.cost_usd, second.result.usage.cost_usd) == (0.25, 0.5)
    assert (second.result.usage.input_tokens, second.result.usage.turns, second.cost_after) == (20, 2, 0.75)


def test_the_last_entry_is_the_models_last_word_and_no_sub_agents() -> None:
    translator = Translator("run", 1000)
    assert translator.last_entry == ""
    for uuid, parent in (("one", None), ("two", None), ("three", "toolu_1")):
        message = {"id": "m", "model": "sonnet", "content": [text_block("x")]}
        said = {"type": "assistant", "message": message, "parent_tool_use_id": parent, "uuid": uuid}
        translator.feed(json.dumps(said).encode())
    assert translator.last_entry == "two"


def test_a_turn_begins_with_its_init() -> None:
    stray, begin, said = line("result", subtype="success"), init(), delta("x")
    assert from_init([stray, b"no json", begin, said]) == [begin, said]
    assert from_init([stray, said]) == []
