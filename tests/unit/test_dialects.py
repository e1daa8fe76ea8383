"""The wire formats: a request's body becomes what to run, an event becomes what the client reads."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dialects import Dialect, native, openai_chat, openai_request
from app.dialects.native import NativeStream, RunBody
from app.dialects.openai_chat import PROGRESS_MARK, ChatStream, without_progress
from app.dialects.openai_request import ChatBody
from app.whole import Silent
from core import events
from core.errors import InvalidRequest, TooLarge
from core.events import AnyEvent, Unrecognised, Usage
from core.run import Message, Run, RunRequest, Status

Json = dict[str, Any]

RUN_ID = "0123456789abcdef0123456789abcdef"
LARGE = 1_000_000
USAGE = Usage(input_tokens=60, cached_input_tokens=20, output_tokens=7, cost_usd=0.25, turns=3)
SAFE_TEXT = st.text(st.characters(exclude_categories=["Cs"]))

TOOL = events.ToolStarted(seq=4, tool_id="t", name="Bash", summary="ls -l", input="{}")
SUB_TOOL = events.ToolStarted(seq=4, tool_id="t2", name="Bash", summary="ls", input="{}", parent_tool_id="t")
EVERY_EVENT: list[AnyEvent] = [
    events.Started(seq=1, worker="w"),
    events.Session(seq=2, session_id="s", model="m"),
    events.Text(seq=3, text="Hello"),
    events.Retracted(seq=4, characters=5),
    events.Reasoning(seq=5, text="Hm."),
    TOOL,
    events.ToolFinished(seq=7, tool_id="t", output="out"),
    events.ApiRetry(seq=8, attempt=1, max_attempts=10, delay_seconds=1.6, http_status=529),
    events.Compacting(seq=9),
    events.Completed(seq=10, usage=USAGE),
    events.Failed(seq=11, code="timeout", message="Too long."),
    events.Cancelled(seq=12, reason="user"),
]


# OpenAI's chat: the request.


def chat(*messages: Json, max_bytes: int = LARGE, **fields: Any) -> RunRequest:
    """What to run, from the JSON of a body."""
    data = json.dumps({"messages": messages, **fields}).encode()
    return openai_request.parse(msgspec.json.decode(data, type=ChatBody), max_bytes)


def user(content: Any) -> Json:
    return {"role": "user", "content": content}


def assistant(content: Any, **fields: Any) -> Json:
    return {"role": "assistant", "content": content, **fields}


def refused(*messages: Json, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        chat(*messages, **fields)
    return caught.value


def test_one_message_is_the_prompt() -> None:
    assert chat(user("hi")) == RunRequest(messages=(Message("user", "hi"),))


def test_roles_become_turns_and_system_text() -> None:
    request = chat(
        {"role": "system", "content": "Be brief."},
        user("a"),
        assistant("b"),
        {"role": "developer", "content": "Be kind."},
        user("c"),
    )
    assert request.system == "Be brief.\n\nBe kind."
    assert request.messages == (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))


def test_the_text_of_a_message_is_not_touched() -> None:
    assert chat(user("  a\n\n b ")).prompt == "  a\n\n b "


def test_empty_turns_and_empty_system_text_are_left_out() -> None:
    request = chat({"role": "system", "content": ""}, user(" "), assistant(None), assistant([]), user("hi"))
    assert request == RunRequest(messages=(Message("user", "hi"),))


def test_parts_are_paragraphs() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}, {"type": "output_text", "text": "c"}]
    assert chat(user(parts)).prompt == "a\n\nb\n\nc"


def test_an_earlier_refusal_is_part_of_the_history() -> None:
    request = chat(user("a"), assistant([{"type": "refusal", "refusal": "I cannot do that."}]), user("b"))
    assert Message("assistant", "I cannot do that.") in request.messages


def test_earlier_tool_calls_and_results_are_written_out() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "ls", "arguments": '{"path": "/"}'}}
    request = chat(
        user("a"),
        assistant(None, tool_calls=[call]),
        {"role": "tool", "tool_call_id": "c1", "content": "bin etc"},
        assistant("Done."),
        user("b"),
    )
    assert request.history == (
        Message("user", "a"),
        Message("assistant", '[Called the tool ls (c1) with {"path": "/"}]'),
        Message("user", "[Result of the tool c1]\nbin etc"),
        Message("assistant", "Done."),
    )


def test_a_tool_call_follows_what_was_said_with_it() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    request = chat(user("a"), assistant("Looking.", tool_calls=[call, call]), user("b"))
    called = "[Called the tool ls (c1) with {}]"
    assert request.messages[1].text == f"Looking.\n\n{called}\n\n{called}"


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"name": "ls"}, "ls"), ({"tool_call_id": "c1"}, "c1"), ({"name": "ls", "tool_call_id": "c1"}, "ls")],
)
@pytest.mark.parametrize("role", ["tool", "function"])
def test_a_tools_result_is_named(role: str, fields: Json, name: str) -> None:
    request = chat({"role": role, "content": "x", **fields}, user("b"))
    assert request.messages[0] == Message("user", f"[Result of the tool {name}]\nx")


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.2, "top_p": 1, "seed": 7, "user": "u", "max_tokens": 5, "metadata": {}},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "parallel_tool_calls": True},
        {"n": 1},
        {"n": None},
        {"logprobs": False, "top_logprobs": 0},
        {"modalities": ["text"]},
        {"tool_choice": "auto", "function_call": "none"},
        {"response_format": {"type": "text"}},
        {"response_format": None},
        {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
        {"something_new": {"a": [1]}},
    ],
)
def test_what_changes_nothing_is_tolerated(fields: Json) -> None:
    assert chat(user("hi"), **fields).prompt == "hi"


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("n", 2),
        ("n", 0),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("modalities", ["text", "audio"]),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("function_call", {"name": "f"}),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("response_format", {}),
        ("response_format", 5),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(param: str, value: Any) -> None:
    error = refused(user("hi"), **{param: value})
    assert error.param == param
    assert error.message.startswith(f"{param}:")
    assert error.status == 400


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([{"role": "system", "content": "x"}], "messages[0]"),
        ([user("a"), assistant("b")], "messages[1]"),
        ([user("")], "messages[0]"),
        ([user("  \n")], "messages[0]"),
        ([user(None)], "messages[0]"),
        ([user([])], "messages[0]"),
        ([user("a"), user([{"type": "text", "text": " "}])], "messages[1]"),
        ([user("a"), {"role": "tool", "content": "x"}], "messages[1]"),
        ([user([{"type": "image_url", "image_url": {"url": "data:"}}])], "messages[0].content[0].type"),
        ([user("a"), user([{"type": "text", "text": "x"}, {"type": "input_audio"}])], "messages[1].content[1].type"),
        ([user([{"type": "text"}])], "messages[0].content[0].text"),
        ([user([{"type": "text", "text": None}])], "messages[0].content[0].text"),
    ],
)
def test_a_wrong_message_is_refused_by_its_place(messages: list[Json], param: str) -> None:
    error = refused(*messages)
    assert error.param == param
    assert error.message.startswith(f"{param}:")


def test_the_name_of_an_unknown_part_is_cut() -> None:
    assert len(refused(user([{"type": "x" * 10_000}])).message) < 200


@pytest.mark.parametrize(
    ("messages", "size"),
    [
        ([user("12345")], 5),
        ([user("ää")], 4),
        ([user("😀")], 4),
        ([{"role": "system", "content": "123"}, user("ab"), assistant("c"), user("d")], 7),
    ],
)
def test_the_limit_counts_bytes_of_everything(messages: list[Json], size: int) -> None:
    assert chat(*messages, max_bytes=size)
    with pytest.raises(TooLarge, match=f"{size} bytes") as caught:
        chat(*messages, max_bytes=size - 1)
    assert (caught.value.param, caught.value.status) == ("messages", 413)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [(None, False), ({}, False), ({"include_usage": None}, False), ({"include_usage": True}, True)],
)
def test_usage_is_wanted_when_it_is_asked_for(options: Json | None, wanted: bool) -> None:
    body = msgspec.convert({"messages": [], "stream_options": options}, ChatBody)
    assert body.include_usage is wanted


# OpenAI's chat: the stream.


class Frame:
    """One frame, as a client reads it."""

    def __init__(self, text: str) -> None:
        fields = dict(line.split(": ", 1) for line in text.split("\n"))
        self.id = int(fields["id"]) if "id" in fields else None
        self.event = fields.get("event")
        self.text = fields.get("data", "")
        self.comment = fields.get("")

    @property
    def data(self) -> Any:
        return json.loads(self.text)


def frames(stream: bytes) -> list[Frame]:
    if not stream:
        return []
    text = stream.decode()
    assert text.endswith("\n\n")
    return [Frame(each) for each in text.removesuffix("\n\n").split("\n\n")]


def only(stream: bytes) -> Frame:
    (frame,) = frames(stream)
    return frame


def chat_stream(**fields: Any) -> ChatStream:
    return ChatStream(**{"run_id": RUN_ID, "created": 1700000000, "model": "m", "label": "Claude", **fields})


def rendered(dialect: Dialect, event: AnyEvent | Unrecognised) -> list[Frame]:
    return frames(dialect.render(event, events.encode(event) if isinstance(event, events.Event) else b"{}"))


def content(frame: Frame) -> str:
    (choice,) = frame.data["choices"]
    assert choice["finish_reason"] is None
    return str(choice["delta"]["content"])


TEXT_MODE = {"progress": "text"}


def test_a_chunk_has_the_form_of_the_specification() -> None:
    (frame,) = rendered(chat_stream(), events.Text(seq=3, text="Hello"))
    assert frame.id == 3
    assert frame.data == {
        "id": f"chatcmpl-{RUN_ID}",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}],
    }


@given(SAFE_TEXT, SAFE_TEXT)
def test_any_text_and_any_model_name_arrive_in_one_frame(text: str, model: str) -> None:
    (frame,) = rendered(chat_stream(model=model), events.Text(seq=1, text=text))
    assert content(frame) == text
    assert frame.data["model"] == model


def test_the_opening_names_the_role() -> None:
    assert only(chat_stream().opening(resumed=False)).data["choices"][0]["delta"] == {
        "role": "assistant",
        "content": "",
    }


@pytest.mark.parametrize(("language", "line"), [("en", "[Starting Claude …]"), ("de", "[Claude wird gestartet …]")])
def test_the_opening_says_what_starts_where_progress_is_wanted(language: str, line: str) -> None:
    first, second = frames(chat_stream(language=language, progress="text").opening(resumed=False))
    assert first.data["choices"][0]["delta"]["role"] == "assistant"
    assert content(second) == f"{PROGRESS_MARK}{line}\n\n"


@pytest.mark.parametrize("progress", ["none", "text"])
def test_a_resumed_stream_does_not_open_twice(progress: str) -> None:
    assert only(chat_stream(progress=progress).opening(resumed=True)).comment == "resumed"


SILENT_EVENTS: list[AnyEvent | Unrecognised] = [
    events.Started(worker="w"),
    events.Session(session_id="s", model="m"),
    events.Reasoning(text="Hm."),
    events.ToolFinished(tool_id="t", output="secret"),
    SUB_TOOL,
    Unrecognised(run_id=RUN_ID, seq=9),
]


@pytest.mark.parametrize("progress", ["none", "text"])
@pytest.mark.parametrize("event", SILENT_EVENTS, ids=lambda event: type(event).__name__)
def test_what_is_not_the_readers_business_is_not_rendered(progress: str, event: AnyEvent) -> None:
    assert rendered(chat_stream(progress=progress), event) == []


NOTES: list[tuple[AnyEvent, str, str]] = [
    (TOOL, "[Bash] ls -l", "[Bash] ls -l"),
    (
        events.ApiRetry(seq=4, attempt=1, max_attempts=10, delay_seconds=1.6, http_status=529),
        "[The model's API does not answer (529); next attempt in 2 s …]",
        "[Die API des Modells antwortet nicht (529); nächster Versuch in 2 s …]",
    ),
    (
        events.ApiRetry(seq=4, attempt=1, max_attempts=10, delay_seconds=0.4),
        "[The model's API does not answer (no answer); next attempt in 0 s …]",
        "[Die API des Modells antwortet nicht (keine Antwort); nächster Versuch in 0 s …]",
    ),
    (
        events.Compacting(seq=4),
        "[Shortening the conversation to fit the model …]",
        "[Die Unterhaltung wird gekürzt, damit sie ins Modell passt …]",
    ),
]


@pytest.mark.parametrize(("event", "english", "german"), NOTES)
def test_progress_is_a_paragraph_of_its_own_where_it_is_wanted(event: AnyEvent, english: str, german: str) -> None:
    for language, line in (("en", english), ("de", german)):
        (frame,) = rendered(chat_stream(progress="text", language=language), event)
        assert content(frame) == f"\n\n{PROGRESS_MARK}{line}\n\n"
        assert frame.id == 4


@pytest.mark.parametrize("event", [note[0] for note in NOTES])
def test_progress_is_nothing_where_it_is_not_wanted(event: AnyEvent) -> None:
    assert rendered(chat_stream(), event) == []


@pytest.mark.parametrize("progress", ["none", "text"])
@pytest.mark.parametrize(("language", "word"), [("en", "starts this part again"), ("de", "beginnt von vorn")])
def test_a_retraction_is_told_to_every_reader(progress: str, language: str, word: str) -> None:
    (frame,) = rendered(chat_stream(progress=progress, language=language), events.Retracted(seq=5, characters=9))
    assert word in content(frame)
    assert frame.id == 5


def test_waiting_in_line_is_told_where_progress_is_wanted() -> None:
    line = "[Waiting: place 3 in the queue …]"
    assert content(only(chat_stream(progress="text").queued(3))) == f"\n\n{PROGRESS_MARK}{line}\n\n"


def test_waiting_in_line_is_a_comment_otherwise() -> None:
    assert only(chat_stream().queued(3)).comment == "queued, place 3"


def test_taking_turns_is_told_where_progress_is_wanted() -> None:
    assert "this one is next" in content(only(chat_stream(progress="text").taking_turns()))
    assert "diese ist die nächste" in content(only(chat_stream(progress="text", language="de").taking_turns()))
    comment = only(chat_stream().taking_turns()).comment
    assert comment is not None
    assert "conversation" in comment


REASONING_MODE = {"progress": "reasoning"}


@pytest.mark.parametrize(("event", "english", "german"), NOTES)
def test_progress_can_stand_beside_the_answer(event: AnyEvent, english: str, german: str) -> None:
    for language, line in (("en", english), ("de", german)):
        (frame,) = rendered(chat_stream(**REASONING_MODE, language=language), event)
        (choice,) = frame.data["choices"]
        assert choice["delta"] == {"reasoning_content": f"\n\n{line}\n\n"}


def test_thoughts_are_shown_beside_the_answer_where_that_is_wanted() -> None:
    (frame,) = rendered(chat_stream(**REASONING_MODE), events.Reasoning(seq=4, text="Hm."))
    assert frame.data["choices"][0]["delta"] == {"reasoning_content": "Hm."}
    assert rendered(chat_stream(**TEXT_MODE), events.Reasoning(seq=4, text="Hm.")) == []


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=PROGRESS_MARK))
LINES: list[AnyEvent] = [
    TOOL,
    events.ToolStarted(tool_id="t", name="Bash\n\n", summary="a\nb\u2028c", input="{}"),
    events.Compacting(),
    events.ApiRetry(attempt=1, max_attempts=10, delay_seconds=1),
]


@given(st.lists(st.one_of(WORDS.map(lambda text: events.Text(text=text)), st.sampled_from(LINES))), st.booleans())
def test_lines_about_the_work_can_be_taken_out_of_an_answer_again(log: list[AnyEvent], stripped: bool) -> None:
    stream = chat_stream(progress="text")
    read = "".join(content(frame) for frame in frames(stream.opening(resumed=False)))
    read += "".join(content(frame) for event in log for frame in rendered(stream, event))
    said = "".join(event.text for event in log if isinstance(event, events.Text))
    if stripped:  # as clients do that tidy what they keep
        assert without_progress(read.strip()).strip() == said.strip()
    else:
        assert without_progress(read) == said


def test_a_heartbeat_is_a_comment() -> None:
    assert only(chat_stream().heartbeat()).comment == "heartbeat"


def test_a_heartbeat_can_be_a_dot_for_clients_that_count_only_content() -> None:
    frame = only(chat_stream(heartbeat_style="dot").heartbeat())
    assert content(frame) == " ."
    assert frame.id is None


@pytest.mark.parametrize(
    ("stop_reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("refusal", "content_filter"),
        ("?", "stop"),
    ],
)
def test_the_end_gives_the_reason_in_openais_words(stop_reason: str, finish: str) -> None:
    last, done = rendered(chat_stream(), events.Completed(seq=9, stop_reason=stop_reason, usage=USAGE))
    assert last.data["choices"] == [{"index": 0, "delta": {}, "finish_reason": finish}]
    assert last.id == 9
    assert "usage" not in last.data
    assert done.text == "[DONE]"


def test_usage_has_a_chunk_of_its_own_before_the_end_when_asked_for() -> None:
    last, usage, done = rendered(chat_stream(include_usage=True), events.Completed(seq=9, usage=USAGE))
    assert last.data["choices"][0]["finish_reason"] == "stop"
    assert usage.data["choices"] == []
    assert usage.data["id"] == last.data["id"]
    assert usage.data["usage"] == {
        "prompt_tokens": 60,
        "completion_tokens": 7,
        "total_tokens": 67,
        "prompt_tokens_details": {"cached_tokens": 20},
        "cost_usd": 0.25,
    }
    assert done.text == "[DONE]"


ENDINGS: list[tuple[AnyEvent, str, str]] = [
    (events.Failed(seq=9, code="timeout", message="Too long."), "timeout", "Too long."),
    (events.Cancelled(seq=9, reason="client"), "cancelled", "This run was stopped."),
]


@pytest.mark.parametrize(("event", "code", "message"), ENDINGS)
def test_an_error_is_a_chunk_without_choices_and_ends_the_stream(event: AnyEvent, code: str, message: str) -> None:
    error, done = rendered(chat_stream(include_usage=True), event)
    assert error.data == {"error": {"message": message, "type": "server_error", "param": None, "code": code}}
    assert error.id == 9
    assert done.text == "[DONE]"


def test_a_lost_log_is_an_error_that_ends_the_stream() -> None:
    error, done = frames(chat_stream(language="de").lost())
    assert error.data["error"]["code"] == "log_lost"
    assert "verloren" in error.data["error"]["message"]
    assert error.id is None
    assert done.text == "[DONE]"


@pytest.mark.parametrize("event", EVERY_EVENT, ids=lambda event: type(event).__name__)
def test_no_chunk_makes_the_client_run_a_tool(event: AnyEvent) -> None:
    assert b"tool_calls" not in chat_stream(progress="text").render(event, events.encode(event))


def test_streams_that_render_alike_are_equal_and_others_are_not() -> None:
    assert chat_stream() == chat_stream()
    assert hash(chat_stream()) == hash(chat_stream())
    for other in ({"model": "n"}, {"include_usage": True}, TEXT_MODE, {"language": "de"}, {"heartbeat_style": "dot"}):
        assert chat_stream(**other) != chat_stream()


def test_the_whole_answer_has_the_form_of_the_specification() -> None:
    run = Run(id=RUN_ID, owner="o", profile="p", model="m", created_at=1700000000.9)
    assert openai_chat.completion(run, "Hello", events.Completed(stop_reason="max_tokens", usage=USAGE)) == {
        "id": f"chatcmpl-{RUN_ID}",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": openai_chat.usage_object(USAGE),
    }


# The native dialect.


@pytest.mark.parametrize("event", EVERY_EVENT, ids=lambda event: type(event).__name__)
def test_a_native_frame_is_the_event_as_it_stands_in_the_log(event: AnyEvent) -> None:
    frame = only(NativeStream().render(event, events.encode(event)))
    assert frame.id == event.seq
    assert frame.event == frame.data["type"]
    assert events.decode(frame.text.encode()) == event


@given(SAFE_TEXT)
def test_a_native_frame_holds_any_text(text: str) -> None:
    event = events.Text(run_id=RUN_ID, seq=1, at=1.5, text=text)
    assert events.decode(only(NativeStream().render(event, events.encode(event))).text.encode()) == event


def test_an_event_of_a_newer_version_is_passed_on_as_it_is() -> None:
    data = b'{"type":"telepathy","run_id":"r","seq":7,"at":1.5,"strength":9}'
    frame = only(NativeStream().render(events.decode(data), data))
    assert (frame.id, frame.event, frame.data["strength"]) == (7, "unrecognised", 9)


@pytest.mark.parametrize(("resumed", "word"), [(True, "resumed"), (False, "watching")])
def test_a_native_stream_opens_with_a_comment(resumed: bool, word: str) -> None:
    assert only(NativeStream().opening(resumed=resumed)).comment == word


@pytest.mark.parametrize(
    ("stream", "event", "data"),
    [
        (NativeStream().queued(2), "queued", {"place": 2}),
        (NativeStream().taking_turns(), "queued", {"place": None, "waits_for": "conversation"}),
        (native.reset(7), "reset", {"last_seq": 7}),
        (NativeStream().lost(), "lost", {"message": "The server lost the record of this run. Please ask again."}),
    ],
)
def test_what_is_no_event_has_a_name_and_no_id(stream: bytes, event: str, data: Json) -> None:
    frame = only(stream)
    assert (frame.id, frame.event, frame.data) == (None, event, data)


def test_a_native_heartbeat_is_a_comment() -> None:
    assert only(NativeStream().heartbeat()).comment == "heartbeat"


def native_request(max_bytes: int = LARGE, **fields: Any) -> RunRequest:
    return native.parse(msgspec.json.decode(json.dumps(fields).encode(), type=RunBody), max_bytes)


TURNS = [{"role": "user", "text": "a"}, {"role": "assistant", "text": "b"}, {"role": "user", "text": "c"}]


def test_a_prompt_is_one_message() -> None:
    assert native_request(prompt="hi", system="s") == RunRequest(messages=(Message("user", "hi"),), system="s")


def test_messages_are_taken_as_they_are() -> None:
    assert [message.text for message in native_request(messages=TURNS).messages] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"messages": []}, "prompt"),
        ({"prompt": "hi", "messages": TURNS}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "  "}, "prompt"),
        ({"messages": TURNS[:2]}, "messages"),
        ({"messages": [{"role": "system", "text": "x"}, TURNS[0]]}, "messages[0].role"),
        ({"messages": [TURNS[0], {"role": "tool", "text": "x"}]}, "messages[1].role"),
    ],
)
def test_a_wrong_run_is_refused_by_name(fields: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        native_request(**fields)
    assert caught.value.param == param


def test_a_run_that_is_too_large_is_refused() -> None:
    with pytest.raises(TooLarge):
        native_request(5, prompt="abc", system="def")


def test_a_run_is_described_without_its_owner_and_its_worker() -> None:
    run = Run(
        id=RUN_ID,
        owner="alice",
        profile="p",
        model="m",
        created_at=1.0,
        status=Status.RUNNING,
        started_at=2.0,
        worker="w",
    )
    assert native.describe(run) == {
        "id": RUN_ID,
        "object": "run",
        "status": "running",
        "model": "m",
        "profile": "p",
        "detach": False,
        "created_at": 1.0,
        "started_at": 2.0,
        "ended_at": None,
    }


# Whoever waits for the whole.


@pytest.mark.parametrize("event", EVERY_EVENT, ids=lambda event: type(event).__name__)
def test_who_waits_for_the_whole_reads_nothing_but_white_space(event: AnyEvent) -> None:
    silent = Silent()
    said = silent.opening(resumed=False) + silent.queued(1) + silent.taking_turns()
    said += silent.render(event, b"{}") + silent.lost()
    assert said == b""
    assert silent.heartbeat().strip() == b""
    assert silent.heartbeat() != b""
