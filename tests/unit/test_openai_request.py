"""What OpenAI's clients send becomes what to run."""

import json
from typing import Any

import msgspec
import pytest

from app.dialects import openai_request
from app.dialects.openai_request import CONTINUE, ChatBody
from app.dialects.response_format import ANY_OBJECT, MAX_BYTES, schema_of
from core.errors import InvalidRequest, TooLarge
from core.run import Image, Message, RunRequest
from core.settings import Settings

Json = dict[str, Any]

PNG, GIF = "iVBORw0KGgo=", "R0lGODlh"  # their signatures
ASKED_TO_GO_ON = Message("user", CONTINUE)


def chat(*messages: Json, settings: Settings | None = None, **fields: Any) -> RunRequest:
    """What to run, from the JSON of a body."""
    data = json.dumps({"messages": messages, **fields}).encode()
    return openai_request.parse(msgspec.json.decode(data, type=ChatBody), settings or Settings())


def user(content: Any) -> Json:
    return {"role": "user", "content": content}


def assistant(content: Any, **fields: Any) -> Json:
    return {"role": "assistant", "content": content, **fields}


def picture(url: str, **fields: Any) -> Json:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def text(text: str) -> Json:
    return {"type": "text", "text": text}


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
    assert chat(user("  a\n\n b ")).prompt[-1].text == "  a\n\n b "


def test_empty_turns_and_empty_system_text_are_left_out() -> None:
    request = chat({"role": "system", "content": ""}, user(" "), assistant(None), assistant([]), user("hi"))
    assert request == RunRequest(messages=(Message("user", "hi"),))


def test_parts_are_paragraphs() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}, {"type": "output_text", "text": "c"}]
    assert chat(user(parts)).prompt[-1].text == "a\n\nb\n\nc"


def test_an_earlier_refusal_is_part_of_the_history() -> None:
    request = chat(user("a"), assistant([{"type": "refusal", "refusal": "I cannot do that."}]), user("b"))
    assert Message("assistant", "I cannot do that.") in request.messages


CALL = {"id": "c1", "type": "function", "function": {"name": "ls", "arguments": '{"path": "/"}'}}
CALLED = Message("assistant", '[Called the tool ls (c1) with {"path": "/"}]', tool=True)
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "bin etc"}
RETURNED = Message("user", "[Result of the tool c1]\nbin etc", tool=True)


@pytest.mark.parametrize("nothing", [None, "", []])
def test_earlier_tool_calls_and_results_are_written_out(nothing: Any) -> None:
    request = chat(user("a"), assistant(nothing, tool_calls=[CALL]), RESULT, assistant("Done."), user("b"))
    assert request.history == (Message("user", "a"), CALLED, RETURNED, Message("assistant", "Done."))


def test_what_was_said_with_a_tool_call_stays_a_message_of_its_own() -> None:
    request = chat(user("a"), assistant(" Looking.\n", tool_calls=[CALL, CALL]), RESULT, RESULT, user("b"))
    said = Message("assistant", " Looking.\n")
    assert request.messages == (Message("user", "a"), said, CALLED, CALLED, RETURNED, RETURNED, Message("user", "b"))


def test_a_function_call_of_the_old_kind_is_written_out() -> None:
    old = {"name": "ls", "arguments": "{}"}
    request = chat(user("a"), assistant(None, function_call=old), {"role": "function", "name": "ls"}, user("b"))
    assert [message.text for message in request.history[1:]] == [
        "[Called the tool ls with {}]",
        "[Result of the tool ls]\n",
    ]


def test_a_file_in_a_text_survives_whole() -> None:
    file = '<source id="1" name="a.txt">\n' + "line\u2028 of ]] text\n" * 10_000 + "</source>"
    assert chat(user(file)).prompt[-1].text == file


# Going on.


SPOKEN = (Message("user", "a"), Message("assistant", "Once upon"))


@pytest.mark.parametrize(
    ("messages", "history"),
    [
        ([user("a"), assistant("Once upon")], SPOKEN),
        ([user("a"), assistant([text("Once upon")])], SPOKEN),
        ([user("a"), assistant("Once upon"), assistant("")], SPOKEN),
        ([user("a"), assistant("Once upon"), {"role": "system", "content": ""}], SPOKEN),
        ([user("a"), assistant("Once upon", tool_calls=[CALL])], (*SPOKEN, CALLED)),
        ([user("a"), assistant("Once upon", tool_calls=[CALL]), RESULT], (*SPOKEN, CALLED, RETURNED)),
        ([assistant("Once upon")], SPOKEN[1:]),
    ],
)
def test_a_last_message_of_the_assistants_is_gone_on_with(messages: list[Json], history: tuple[Message, ...]) -> None:
    assert chat(*messages) == RunRequest(messages=(*history, ASKED_TO_GO_ON), continues=True)


@pytest.mark.parametrize("nothing", [None, "", " \n", [], [text("")]])
def test_an_empty_last_message_of_the_assistants_is_dropped(nothing: Any) -> None:
    assert chat(user("a"), assistant(nothing)) == RunRequest(messages=(Message("user", "a"),))
    assert chat(user("a"), assistant(nothing), assistant(nothing)).messages == (Message("user", "a"),)


def test_system_text_may_come_last() -> None:
    assert chat(user("a"), {"role": "system", "content": "x"}) == RunRequest(
        messages=(Message("user", "a"),), system="x"
    )


# Pictures.


def test_pictures_are_read_from_data_uris() -> None:
    parts = [text("this"), picture(f"data:image/png;base64,{PNG}", detail="low"), text("and that")]
    parts += [{"type": "input_image", "image_url": f"data:image/gif;base64,{GIF}", "detail": "auto"}]
    (message,) = chat(user(parts)).messages
    assert message == Message("user", "this\n\nand that", images=(Image("image/png", PNG), Image("image/gif", GIF)))


def test_a_picture_needs_no_words() -> None:
    shown = user([picture(f"data:image/png;base64,{PNG}")])
    request = chat(shown, assistant("Red."), shown)
    assert [(message.role, len(message.images)) for message in request.messages] == [
        ("user", 1),
        ("assistant", 0),
        ("user", 1),
    ]


def test_a_tools_picture_stays_with_its_result() -> None:
    result = {**RESULT, "content": [text("shot"), picture(f"data:image/png;base64,{PNG}")]}
    request = chat(user("a"), assistant(None, tool_calls=[CALL]), result, user("b"))
    assert request.messages[2] == Message(
        "user", "[Result of the tool c1]\nshot", tool=True, images=(Image("image/png", PNG),)
    )


def test_an_address_is_taken_only_where_the_operator_allows_it() -> None:
    shown = user([picture("https://pictures.example/a.png")])
    error = refused(shown)
    assert (error.param, error.status) == ("messages[0].content[0].image_url.url", 400)
    assert "HEARTLINE_IMAGE_URLS" in error.message
    (message,) = chat(shown, settings=Settings(image_urls="on")).messages
    assert message.images == (Image(url="https://pictures.example/a.png"),)


def test_pictures_are_counted_over_all_messages() -> None:
    shown, settings = user([picture(f"data:image/png;base64,{PNG}")] * 2), Settings(max_images=4)
    assert chat(shown, assistant("b"), shown, settings=settings)
    error = refused(shown, assistant("b"), shown, shown, settings=settings)
    assert error.param == "messages"
    assert "HEARTLINE_MAX_IMAGES" in error.message
    assert refused(shown, settings=Settings(max_images=0)).param == "messages"


# Effort and form.


@pytest.mark.parametrize(
    ("word", "effort"),
    [
        ("none", "low"),
        ("minimal", "low"),
        ("low", "low"),
        ("medium", "medium"),
        ("high", "high"),
        ("xhigh", "xhigh"),
        ("max", "max"),
        (None, None),
    ],
)
def test_the_effort_is_the_clis(word: str | None, effort: str | None) -> None:
    assert chat(user("a"), reasoning_effort=word).effort == effort
    assert chat(user("a"), reasoning={"effort": word, "summary": "auto"}).effort == effort
    assert chat(user("a"), reasoning_effort=word, reasoning={"effort": "medium"}).effort == (effort or "medium")


@pytest.mark.parametrize("word", ["", "extreme", "HIGH", "--model"])
def test_an_unknown_effort_is_refused_by_name(word: str) -> None:
    assert refused(user("a"), reasoning_effort=word).param == "reasoning_effort"
    error = refused(user("a"), reasoning={"effort": word})
    assert error.param == "reasoning.effort"
    assert "xhigh" in error.message


def schema_format(schema: Any) -> Json:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        (None, ""),
        ({"type": "text"}, ""),
        ({"type": "json_object"}, '{"type":"object"}'),
        (schema_format({"type": "object", "title": "Ä\u0000"}), '{"type":"object","title":"Ä\\u0000"}'),
        (schema_format({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}), ANY_OBJECT),
        (
            schema_format({"type": "object", "properties": {"$schema": {"type": "string"}}}),
            '{"type":"object","properties":{"$schema":{"type":"string"}}}',
        ),
    ],
)
def test_a_response_format_is_a_schema(response_format: Json | None, schema: str) -> None:
    assert chat(user("a"), response_format=response_format).schema == schema


@pytest.mark.parametrize(
    ("response_format", "param"),
    [
        (5, ""),
        ("json_object", ""),
        ([], ""),
        ({}, ""),
        ({"type": "grammar"}, ""),
        ({"type": None}, ""),
        ({"type": "json_schema"}, ".json_schema.schema"),
        ({"type": "json_schema", "json_schema": None}, ".json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, ".json_schema.schema"),
        (schema_format("{}"), ".json_schema.schema"),
        (schema_format([]), ".json_schema.schema"),
        (schema_format({}), ".json_schema.schema.type"),
        (schema_format({"type": "array"}), ".json_schema.schema.type"),
        (schema_format({"type": ["object"]}), ".json_schema.schema.type"),
        (schema_format({"type": "object", "title": "x" * MAX_BYTES}), ".json_schema.schema"),
        (schema_format({"type": "object", "title": "ä" * (MAX_BYTES // 2)}), ".json_schema.schema"),
    ],
)
def test_a_response_format_that_is_none_is_refused_by_its_place(response_format: Any, param: str) -> None:
    error = refused(user("a"), response_format=response_format)
    assert error.param == f"response_format{param}"
    assert error.message.startswith(f"{error.param}:")
    assert error.status == 400


def test_a_schema_that_is_nested_too_deeply_is_refused() -> None:
    schema: Json = {"type": "object"}
    for _ in range(100_000):
        schema = {"type": "object", "not": schema}
    with pytest.raises(InvalidRequest) as caught:
        schema_of(schema_format(schema))
    assert caught.value.param == "response_format.json_schema.schema"


def test_a_schema_of_the_largest_size_is_taken() -> None:
    rest = len('{"type":"object","title":""}')
    response_format = schema_format({"type": "object", "title": "x" * (MAX_BYTES - rest)})
    assert len(chat(user("a"), response_format=response_format).schema) == MAX_BYTES


# The rest.


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"name": "ls"}, "ls"), ({"tool_call_id": "c1"}, "c1"), ({"name": "ls", "tool_call_id": "c1"}, "ls")],
)
@pytest.mark.parametrize("role", ["tool", "function"])
def test_a_tools_result_is_named(role: str, fields: Json, name: str) -> None:
    request = chat({"role": role, "content": "x", **fields}, user("b"))
    assert request.messages[0] == Message("user", f"[Result of the tool {name}]\nx", tool=True)


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
    assert chat(user("hi"), **fields).prompt[-1].text == "hi"


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
        ([user(""), assistant("")], "messages[0]"),
        ([user("a"), assistant("b"), user("")], "messages[2]"),
        ([assistant("")], "messages[0]"),
        ([user("")], "messages[0]"),
        ([user("  \n")], "messages[0]"),
        ([user(None)], "messages[0]"),
        ([user([])], "messages[0]"),
        ([user("a"), user([{"type": "text", "text": " "}])], "messages[1]"),
        ([user("a"), {"role": "tool", "content": "x"}], "messages[1]"),
        ([user([picture("data:")])], "messages[0].content[0].image_url.url"),
        ([user("a"), user([text("x"), picture("data:image/png;base64,")])], "messages[1].content[1].image_url.url"),
        ([user([{"type": "input_image", "image_url": "data:,x"}])], "messages[0].content[0].image_url"),
        ([user([{"type": "input_image", "file_id": "f"}])], "messages[0].content[0].image_url"),
        ([assistant([picture(f"data:image/png;base64,{PNG}")]), user("a")], "messages[0].content[0].type"),
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
        ([user([text("123"), picture(f"data:image/png;base64,{PNG}")])], 3 + len(PNG)),
    ],
)
def test_the_limit_counts_bytes_of_everything(messages: list[Json], size: int) -> None:
    assert chat(*messages, settings=Settings(max_prompt_bytes=size))
    with pytest.raises(TooLarge, match=f"{size} bytes") as caught:
        chat(*messages, settings=Settings(max_prompt_bytes=size - 1))
    assert (caught.value.param, caught.value.status) == ("messages", 413)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [(None, False), ({}, False), ({"include_usage": None}, False), ({"include_usage": True}, True)],
)
def test_usage_is_wanted_when_it_is_asked_for(options: Json | None, wanted: bool) -> None:
    body = msgspec.convert({"messages": [], "stream_options": options}, ChatBody)
    assert body.include_usage is wanted
