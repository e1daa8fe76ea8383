"""The wire formats: an event becomes what the client reads; and a native run's body what to run."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dialects import Dialect, native, openai_chat
from app.dialects.native import NativeStream, RunBody
from app.dialects.openai_chat import PROGRESS_MARK, ChatStream, without_progress
from app.whole import Silent
from core import events
from core.errors import InvalidRequest, TooLarge
from core.events import AnyEvent, Unrecognised, Usage
from core.run import Image, Message, Place, Run, RunRequest, Status
from core.settings import Settings

Json = dict[str, Any]

RUN_ID = "0123456789abcdef0123456789abcdef"
SETTINGS = Settings()
PNG = "iVBORw0KGgo="  # its signature
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


def native_request(settings: Settings = SETTINGS, **fields: Any) -> RunRequest:
    return native.parse(msgspec.json.decode(json.dumps(fields).encode(), type=RunBody), settings)


TURNS = [{"role": "user", "text": "a"}, {"role": "assistant", "text": "b"}, {"role": "user", "text": "c"}]


def test_a_prompt_is_one_message() -> None:
    assert native_request(prompt="hi", system="s") == RunRequest(messages=(Message("user", "hi"),), system="s")


def test_messages_are_taken_as_they_are() -> None:
    assert [message.text for message in native_request(messages=TURNS).messages] == ["a", "b", "c"]


def test_messages_may_have_pictures() -> None:
    picture = {"media_type": "image/png", "data": PNG}
    (message,) = native_request(messages=[{"role": "user", "text": "", "images": [picture]}]).messages
    assert message == Message("user", "", images=(Image("image/png", PNG),))


def test_a_picture_may_be_an_address_where_that_is_allowed() -> None:
    address = "https://pictures.example/a.png"
    turn = {"role": "user", "text": "hi", "images": [{"url": address}]}
    (message,) = native_request(Settings(image_urls="on"), messages=[turn]).messages
    assert message.images == (Image(url=address),)


def looking(*pictures: Json, role: str = "user") -> Json:
    return {"messages": [{"role": role, "text": "hi", "images": list(pictures)}, TURNS[0]]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        (looking({}), "messages[0].images[0].data"),
        (looking({"data": PNG}, {"data": "?"}), "messages[0].images[1].data"),
        (looking({"url": "https://pictures.example/a.png"}), "messages[0].images[0].url"),
        (looking({"data": PNG, "url": "https://pictures.example/a.png"}), "messages[0].images[0]"),
        (looking({"data": PNG}, role="assistant"), "messages[0].images"),
        (looking(*([{"data": PNG}] * 21)), "messages"),
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
        native_request(Settings(max_prompt_bytes=5), prompt="abc", system="def")


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
        place=Place(conversation="c" * 32, parent="p" * 32, scope="secret"),
    )
    assert native.describe(run) == {
        "id": RUN_ID,
        "object": "run",
        "status": "running",
        "model": "m",
        "profile": "p",
        "detach": False,
        "conversation": "c" * 32,
        "parent": "p" * 32,
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
