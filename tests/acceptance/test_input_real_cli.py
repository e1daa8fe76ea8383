"""Pictures, effort, a form for the answer, and going on: what reaches the model when the real CLI is in between."""

import base64
import json
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tests import sse
from tests.deployment import Deployment, chat
from tests.doubles.anthropic_api import ScriptedApi, Text, ToolUse, Turn

Json = dict[str, Any]

GIF = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
WEBP = "UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA"
ADDRESS = "https://pictures.example/a.png?size=1"
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
}


def png(width: int, height: int, *, noise: bool = False) -> str:
    """A picture in base64: of one colour, or of noise, which no compression makes smaller."""
    pixels = random.Random(1)
    rows = b"".join(b"\0" + (pixels.randbytes(3 * width) if noise else b"\xff\0\0" * width) for _ in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode()


@pytest.fixture(scope="module")
def api() -> Iterator[ScriptedApi]:
    with ScriptedApi() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def heartline(tmp_path_factory: pytest.TempPathFactory, claude_bin: str, api: ScriptedApi) -> Iterator[Deployment]:
    with Deployment(
        tmp_path_factory.mktemp("heartline"),
        claude_bin=claude_bin,
        environment={"ANTHROPIC_BASE_URL": api.base_url, "CLAUDE_CODE_MAX_RETRIES": "1"},
        image_urls="on",
    ) as deployment:
        yield deployment


def post(heartline: Deployment, body: Json, path: str = "/v1/chat/completions") -> Any:
    with heartline.http() as client:
        return client.post(path, json=body)


def ask(heartline: Deployment, messages: list[Json], **fields: Any) -> str:
    answer = post(heartline, {"messages": messages, **fields})
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def native(heartline: Deployment, run_id: str) -> list[Json]:
    with heartline.http() as client, client.stream("GET", f"/v1/runs/{run_id}/events") as answer:
        return [frame.json for frame in sse.of(answer) if frame.id]


def user(*parts: Json) -> Json:
    return {"role": "user", "content": list(parts)}


def text(said: str) -> Json:
    return {"type": "text", "text": said}


def picture(data: str, media_type: str = "image/png") -> Json:
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}", "detail": "high"}}


def source(data: str, media_type: str = "image/png") -> Json:
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def turns(api: ScriptedApi, marker: str) -> list[tuple[str, list[Json]]]:
    """What the model was shown in its last request for `marker`: roles and blocks, less what only steers a cache, and
    less the CLI's note of where its tools find a picture."""
    found = []
    for message in api.requests_for(marker)[-1].body["messages"]:
        content = message["content"]
        blocks = [text(content)] if isinstance(content, str) else content
        if message["role"] != "system":
            found.append((message["role"], [_plain(b) for b in blocks if "[Image: source: " not in b.get("text", "")]))
    return found


def _plain(block: Json) -> Json:
    plain = {name: value for name, value in block.items() if name != "cache_control"}
    return plain | ({"text": plain["text"].removesuffix("\n")} if "text" in plain else {})


# Pictures.


def test_pictures_reach_the_model_byte_for_byte_now_and_later(heartline: Deployment, api: ScriptedApi) -> None:
    api.script("what is it", Turn(Text("A square.")))
    red, noise = png(4, 4), png(200, 200, noise=True)
    shown = user(text("what is it"), picture(red), picture(GIF, "image/gif"), picture(WEBP, "image/webp"))
    assert ask(heartline, [shown]) == "A square."
    now = [source(red), source(GIF, "image/gif"), source(WEBP, "image/webp"), text("what is it")]
    assert turns(api, "what is it") == [("user", now)]

    api.script("and these", Turn(Text("Noise.")))
    again = user(picture(noise), text("and these"))
    assert ask(heartline, [shown, {"role": "assistant", "content": "A square."}, again]) == "Noise."
    assert turns(api, "and these") == [
        ("user", now),
        ("assistant", [text("A square.")]),
        ("user", [source(noise), text("and these")]),
    ]


def test_a_picture_alone_is_a_question(heartline: Deployment, api: ScriptedApi) -> None:
    api.script("the first question", Turn(Text("Go on.")))
    shown = user(picture(png(5, 5)))
    earlier = [{"role": "user", "content": "the first question"}, {"role": "assistant", "content": "Show me."}]
    assert ask(heartline, [*earlier, shown]) == "Go on."
    assert turns(api, "the first question")[-1] == ("user", [source(png(5, 5))])


def test_a_command_behind_a_picture_is_a_text_like_any_other(heartline: Deployment, api: ScriptedApi) -> None:
    api.script("/clear the view", Turn(Text("Done.")))
    assert ask(heartline, [user(text("/clear the view"), picture(png(4, 4)))]) == "Done."


def test_what_kind_a_picture_is_its_bytes_say(heartline: Deployment, api: ScriptedApi) -> None:
    api.script("mislabelled", Turn(Text("A square.")))
    shown = user(text("mislabelled"), picture(png(4, 4), "image/jpeg"))
    assert ask(heartline, [shown, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}])
    assert turns(api, "mislabelled")[0] == ("user", [source(png(4, 4)), text("mislabelled")])


def test_the_largest_picture_is_no_trouble_in_the_next_turn(heartline: Deployment, api: ScriptedApi) -> None:
    """The CLI makes a large picture smaller when it is new; in an earlier turn it refuses what is too large."""
    api.script("a large one", Turn(Text("Seen.")))
    plain = base64.b64decode(png(4, 4))
    largest = base64.b64encode(plain.ljust(5 * 1024 * 1024 // 4 * 3, b"\0")).decode()
    shown = user(text("a large one"), picture(largest))
    assert ask(heartline, [shown]) == "Seen."
    elsewhere = {"role": "assistant", "content": "An answer of another model's."}  # so there is no session
    assert ask(heartline, [shown, elsewhere, {"role": "user", "content": "c"}]) == "Seen."
    assert turns(api, "a large one")[0] == ("user", [source(largest), text("a large one")])
    larger = base64.b64encode(plain.ljust(5 * 1024 * 1024 // 4 * 3 + 1, b"\0")).decode()
    refused = post(heartline, {"messages": [user(text("a large one"), picture(larger))]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages[0].content[1].image_url.url")


def test_the_model_fetches_an_address_itself_where_that_is_allowed(heartline: Deployment, api: ScriptedApi) -> None:
    api.script("look there", Turn(Text("Seen.")))
    shown = user(text("look there"), {"type": "image_url", "image_url": {"url": ADDRESS}})
    away = {"type": "image", "source": {"type": "url", "url": ADDRESS}}
    assert ask(heartline, [shown, {"role": "assistant", "content": "b"}, shown]) == "Seen."
    found = [(role, [away, text("look there")]) for role in ("user",)]
    assert turns(api, "look there") == [*found, ("assistant", [text("b")]), *found]


def test_a_native_run_takes_pictures_too(heartline: Deployment, api: ScriptedApi) -> None:
    api.script("natively", Turn(Text("Seen.")))
    shown = {"role": "user", "text": "natively", "images": [{"media_type": "image/png", "data": png(4, 4)}]}
    created = post(heartline, {"messages": [shown]}, "/v1/runs")
    assert native(heartline, created.json()["id"])[-1]["type"] == "completed"
    assert turns(api, "natively") == [("user", [source(png(4, 4)), text("natively")])]


# Going on, and what tools did.


def test_an_answer_is_gone_on_with(heartline: Deployment, api: ScriptedApi) -> None:
    api.script("tell a tale", Turn(Text(" a time.")))
    spoken = [{"role": "user", "content": "tell a tale"}, {"role": "assistant", "content": "Once upon"}]
    assert ask(heartline, spoken) == " a time."
    first, second, third = turns(api, "tell a tale")
    assert (first, second) == (("user", [text("tell a tale")]), ("assistant", [text("Once upon")]))
    assert third[0] == "user"
    assert "exactly where it stops" in third[1][0]["text"]


def test_what_a_clients_tools_did_is_read_in_its_order(heartline: Deployment, api: ScriptedApi) -> None:
    api.script("and now", Turn(Text("Done.")))
    call = {"id": "c1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "list"},
        {"role": "assistant", "content": "Looking.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "bin etc"},
        {"role": "assistant", "content": "Two folders."},
        {"role": "user", "content": "and now"},
    ]
    assert ask(heartline, messages) == "Done."
    assert turns(api, "and now") == [
        ("user", [text("list")]),
        ("assistant", [text("Looking.\n\n[Called the tool ls (c1) with {}]")]),
        ("user", [text("[Result of the tool c1]\nbin etc")]),
        ("assistant", [text("Two folders.")]),
        ("user", [text("and now")]),
    ]


# Effort.


@pytest.mark.parametrize(("word", "effort"), [("none", "low"), ("high", "high"), ("xhigh", "xhigh"), ("max", "max")])
def test_the_effort_reaches_the_model(heartline: Deployment, api: ScriptedApi, word: str, effort: str) -> None:
    prompt = f"with effort {word}"
    api.script(prompt, Turn(Text("Done.")))
    assert ask(heartline, [{"role": "user", "content": prompt}], reasoning_effort=word) == "Done."
    assert api.requests_for(prompt)[-1].body["output_config"]["effort"] == effort


# The form of the answer.


def formed(prompt: str, schema: Json = SCHEMA, **fields: Any) -> Json:
    json_schema = {"name": "person", "strict": True, "schema": schema}
    return chat(prompt, response_format={"type": "json_schema", "json_schema": json_schema}, **fields)


def structured(**given: Any) -> ToolUse:
    return ToolUse("StructuredOutput", given)


@pytest.mark.parametrize("model", ["chat", "agent"])
def test_the_answer_is_the_json_and_nothing_else(heartline: Deployment, api: ScriptedApi, model: str) -> None:
    prompt = f"who is it, {model}"
    api.script(prompt, Turn(Text("Let me see."), structured(age=9)), Turn(structured(name="Ä😀", age=9)))
    with (
        heartline.http() as client,
        client.stream("POST", "/v1/chat/completions", json=formed(prompt, model=model, stream=True)) as answer,
    ):
        run_id = answer.headers["X-Run-Id"]
        frames = list(sse.of(answer))
    assert sse.contents(frames) == '{"name":"Ä😀","age":9}'
    assert frames[-1].data == "[DONE]"
    kinds = [event["type"] for event in native(heartline, run_id)]
    assert kinds == ["started", "session", "reasoning", "text", "completed"]
    assert heartline.run(run_id)["answer"] == '{"name":"Ä😀","age":9}'
    (tool,) = [tool for tool in api.requests_for(prompt)[0].body["tools"] if tool["name"] == "StructuredOutput"]
    assert tool["input_schema"] == {key: value for key, value in SCHEMA.items() if key != "$schema"}


def test_an_agent_works_before_it_answers_in_json(heartline: Deployment, api: ScriptedApi) -> None:
    api.script("count them", Turn(ToolUse("Bash", {"command": "echo 3"})), Turn(structured(name="three")))
    answer = post(heartline, formed("count them", model="agent"))
    assert json.loads(answer.json()["choices"][0]["message"]["content"]) == {"name": "three"}
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    tools = [event for event in native(heartline, answer.headers["X-Run-Id"]) if event["type"] == "tool_started"]
    assert [tool["name"] for tool in tools] == ["Bash"]


class Pet(BaseModel):
    kind: str
    age: int | None = None


class Owner(BaseModel):
    name: str
    pets: list[Pet]


def test_the_official_client_gets_its_own_type(heartline: Deployment, api: ScriptedApi) -> None:
    api.script("who has a cat", Turn(structured(name="Eve", pets=[{"kind": "cat", "age": None}])))
    with heartline.openai() as client:
        answer = client.chat.completions.parse(
            model="chat", messages=[{"role": "user", "content": "who has a cat"}], response_format=Owner
        )
    assert answer.choices[0].message.parsed == Owner(name="Eve", pets=[Pet(kind="cat")])


def test_any_json_object_may_be_asked_for(heartline: Deployment, api: ScriptedApi) -> None:
    api.script("as an object", Turn(structured(anything=[1, None])))
    body = chat("as an object", response_format={"type": "json_object"})
    assert post(heartline, body).json()["choices"][0]["message"]["content"] == '{"anything":[1,null]}'


def test_a_history_and_a_picture_go_with_a_schema(heartline: Deployment, api: ScriptedApi) -> None:
    api.script("the one in the picture", Turn(structured(name="Eve")))
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        user(text("the one in the picture"), picture(png(4, 4))),
    ]
    assert post(heartline, formed("") | {"messages": messages}).json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("prompt", "turn", "requests"),
    [("never", Turn(Text("I just say it.")), 2), ("never right", Turn(structured(age="old")), 5)],
)
def test_a_model_that_does_not_comply_is_a_failure(
    heartline: Deployment, api: ScriptedApi, prompt: str, turn: Turn, requests: int
) -> None:
    api.script(prompt, turn)
    answer = post(heartline, formed(prompt))
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "no_structured_answer"
    assert len(api.requests_for(prompt)) == requests
    assert "text" not in [event["type"] for event in native(heartline, answer.headers["X-Run-Id"])]


def test_a_schema_that_the_cli_refuses_is_a_failure_that_says_why(heartline: Deployment) -> None:
    answer = post(heartline, formed("odd", {"type": "object", "oddity": True}))
    assert answer.json()["error"]["code"] == "schema_refused"
    assert "oddity" in answer.json()["error"]["message"]


def test_a_schema_of_the_largest_size_is_no_trouble(heartline: Deployment, api: ScriptedApi) -> None:
    api.script("much form", Turn(structured(name="x")))
    rest = len('{"type":"object","title":""}')
    large = {"type": "object", "title": "x" * (64 * 1024 - rest)}
    assert post(heartline, formed("much form", large)).status_code == 200
    refused = post(heartline, formed("much form", {**large, "title": large["title"] + "x"}))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_format.json_schema.schema")


# With the fake CLI, which prints what it is told.


def printed(**fields: Any) -> Json:
    """A chat whose CLI prints this as its last word."""
    last = {"type": "result", "subtype": "success", "is_error": False, **fields}
    prompt = json.dumps({"raw": [json.dumps(last)], "no_result": True})
    return chat(prompt, response_format={"type": "json_object"})


def test_json_beyond_the_limit_is_a_failure_and_not_cut(tmp_path: Path) -> None:
    with Deployment(tmp_path, max_answer_bytes=1024) as heartline:
        fits, too_long = ({"a": "x" * (1024 - len(json.dumps({"a": ""})) + more)} for more in (0, 1))
        assert json.loads(post(heartline, printed(structured_output=fits)).json()["choices"][0]["message"]["content"])
        answer = post(heartline, printed(structured_output=too_long))
        assert answer.json()["error"]["code"] == "answer_too_long"
        assert heartline.run(answer.headers["X-Run-Id"])["answer"] == ""
