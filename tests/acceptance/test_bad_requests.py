"""Every way to ask wrongly: refused with a clear error in OpenAI's form, without a trace in queue or logs."""

import contextlib
import http.client
import json
import math
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.deployment import KEYS, Deployment, chat, eventually

MAX_BODY_BYTES, MAX_PROMPT_BYTES = 200_000, 50_000
CHAT, RUNS = "/v1/chat/completions", "/v1/runs"
PROMPT = "prompt-marker-5e1f"
ANSWER = "answer-marker-c07d"
WRONG_KEY = "wrong-key-marker-77aa"
NO_RUN = "0" * 32


@pytest.fixture(scope="module")
def heartline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(
        tmp_path_factory.mktemp("heartline"), max_body_bytes=MAX_BODY_BYTES, max_prompt_bytes=MAX_PROMPT_BYTES
    ) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def alices_run(heartline: Deployment) -> str:
    """A run of alice's that has ended."""
    with heartline.http() as client:
        run_id: str = client.post(RUNS, json={"prompt": PROMPT}).json()["id"]
    eventually(lambda: heartline.run(run_id)["ended_at"])
    return run_id


# --- asking, and what must hold -------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def ask(
    heartline: Deployment,
    method: str,
    path: str,
    body: bytes | Iterator[bytes] = b"",
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request, its path and headers sent exactly as they are; an iterator's body goes out in chunks."""
    address = urlsplit(heartline.replicas[0].url)
    given = {"Authorization": f"Bearer {KEYS['alice']}", "Content-Type": "application/json", **(headers or {})}
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    try:
        connection.request(method, path, body, {name: value for name, value in given.items() if value != ABSENT})
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


ABSENT = "(this header is not sent)"


def left_behind(heartline: Deployment) -> list[bytes]:
    """What an accepted request leaves in Redis: runs, jobs, and what stands in line."""
    found: list[bytes] = [
        key for pattern in ("heartline:*:run", "rq:job:*") for key in heartline.redis.scan_iter(pattern, count=1000)
    ]
    return sorted(found) + heartline.redis.lrange("rq:queue:heartline", 0, -1)


def error_of(status: int, content_type: str, body: bytes) -> dict[str, Any]:
    """The error object, after asserting that the answer is of OpenAI's form."""
    assert status >= 400, body[:300]
    assert content_type == "application/json"
    answer = json.loads(body)
    assert list(answer) == ["error"]
    error: dict[str, Any] = answer["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"].strip()
    assert isinstance(error["type"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    return error


# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bad:
    """A request and how it must be refused; `says` is a word of the message."""

    id: str
    says: str
    body: Any = b""  # bytes, or what becomes JSON
    method: str = "POST"
    path: str = CHAT
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 400
    param: str | None = None
    code: str | None = None

    @property
    def data(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def messages(*turns: Any) -> dict[str, Any]:
    return {"messages": list(turns)}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def bearer(value: str) -> dict[str, str]:
    return {"Authorization": value}


VALID = json.dumps(chat(PROMPT)).encode()
TEXT = {"type": "text", "text": PROMPT}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}

NOT_JSON = [
    Bad("json_truncated", "JSON", VALID[:-9]),
    Bad("json_empty_body", "JSON", b""),
    Bad("json_blank_body", "JSON", b" \r\n\t"),
    Bad("json_nan", "JSON", VALID[:-1] + b', "temperature": NaN}'),
    Bad("json_infinity", "JSON", VALID[:-1] + b', "temperature": -Infinity}'),
    Bad("json_trailing_garbage", "JSON", VALID + b" x"),
    Bad("json_two_values", "JSON", VALID + VALID),
    Bad("json_trailing_comma", "JSON", VALID[:-1] + b",}"),
    Bad("json_single_quotes", "JSON", b"{'messages': []}"),
    Bad("json_comment", "JSON", b"/* hello */" + VALID),
    Bad("json_form", "JSON", b"messages=hello", headers={"Content-Type": "application/x-www-form-urlencoded"}),
    Bad("json_invalid_utf8", "JSON", VALID.replace(b"5e1f", b"\xff\xfe")),
    Bad("json_overlong_utf8", "JSON", VALID.replace(b"5e1f", b"\xc0\xaf")),
    Bad("json_lone_surrogate", "JSON", VALID.replace(b"5e1f", b"\\ud800")),
    Bad("json_lone_low_surrogate", "JSON", VALID.replace(b"5e1f", b"\\udc00 ")),
    Bad("json_control_character", "JSON", VALID.replace(b"5e1f", b"\x00")),
    Bad("json_bom", "JSON", b"\xef\xbb\xbf" + VALID),
    Bad("json_utf16", "JSON", VALID.decode().encode("utf-16")),
    Bad("json_deep_objects", "JSON", b'{"a":' * 33_000),
    Bad("json_deep_in_unread_field", "JSON", VALID[:-1] + b', "x": ' + b"[" * 90_000 + b"]" * 90_000 + b"}"),
    Bad("json_deep_in_read_field", "JSON", VALID[:-1] + b', "tool_choice": ' + b"[" * 90_000 + b"]" * 90_000 + b"}"),
    Bad("json_deep_top_level", "array", b"[" * 100_000),
    Bad("json_null", "object", b"null"),
    Bad("json_array", "object", b"[" + VALID + b"]"),
    Bad("json_string", "object", json.dumps(PROMPT).encode()),
    Bad("json_number", "object", b"42"),
    Bad("json_true", "object", b"true"),
]

WRONG_TYPES = [
    Bad("messages_string", "array", {"messages": PROMPT}, param="messages"),
    Bad("messages_object", "array", {"messages": user(PROMPT)}, param="messages"),
    Bad("messages_null", "array", {"messages": None}, param="messages"),
    Bad("message_null", "object", messages(None), param="messages[0]"),
    Bad("message_string", "object", messages(PROMPT), param="messages[0]"),
    Bad("message_role_number", "str", messages({"role": 1, "content": PROMPT}), param="messages[0].role"),
    Bad("message_content_number", "content", messages(user(5)), param="messages[0].content"),
    Bad("message_content_object", "content", messages(user(TEXT)), param="messages[0].content"),
    Bad("message_name_number", "name", messages({**user(PROMPT), "name": 5}), param="messages[0].name"),
    Bad("part_string", "object", messages(user([PROMPT])), param="messages[0].content[0]"),
    Bad("part_text_number", "text", messages(user([{**TEXT, "text": 5}])), param="messages[0].content[0].text"),
    Bad("part_text_missing", "text", messages(user([{"type": "text"}])), param="messages[0].content[0].text"),
    Bad("tool_calls_string", "array", messages({**user(PROMPT), "tool_calls": "x"}), param="messages[0].tool_calls"),
    Bad("stream_string", "bool", chat(PROMPT, stream="true"), param="stream"),
    Bad("stream_number", "bool", chat(PROMPT, stream=1), param="stream"),
    Bad("stream_options_list", "object", chat(PROMPT, stream_options=[]), param="stream_options"),
    Bad(
        "include_usage_string",
        "bool",
        chat(PROMPT, stream_options={"include_usage": "yes"}),
        param="stream_options.include_usage",
    ),
    Bad("model_number", "model", chat(PROMPT, model=5), param="model"),
    Bad("model_list", "model", chat(PROMPT, model=["chat"]), param="model"),
    Bad("n_string", "int", chat(PROMPT, n="1"), param="n"),
    Bad("n_true", "int", chat(PROMPT, n=True), param="n"),
    Bad("n_fraction", "int", chat(PROMPT, n=1.5), param="n"),
    Bad("n_beyond_all_integers", "n", VALID[:-1] + b', "n": ' + b"9" * 5000 + b"}", param="n"),
    Bad("n_beyond_all_floats", "n", VALID[:-1] + b', "n": 1e999}', param="n"),
    Bad("logprobs_string", "bool", chat(PROMPT, logprobs="yes"), param="logprobs"),
    Bad("top_logprobs_string", "int", chat(PROMPT, top_logprobs="5"), param="top_logprobs"),
    Bad("modalities_string", "array", chat(PROMPT, modalities="text"), param="modalities"),
]

WRONG_MESSAGES = [
    Bad("messages_missing", "messages", {"model": "chat"}, param="messages"),
    Bad("messages_empty", "at least one", messages(), param="messages"),
    Bad("role_missing", "role", messages({"content": PROMPT}), param="messages[0].role"),
    Bad("role_unknown", "king", messages({"role": "king", "content": PROMPT}), param="messages[0].role"),
    Bad("role_in_capitals", "USER", messages({"role": "USER", "content": PROMPT}), param="messages[0].role"),
    Bad("content_missing", "not empty", messages({"role": "user"}), param="messages[0]"),
    Bad("content_null", "not empty", messages(user(None)), param="messages[0]"),
    Bad("content_empty", "not empty", messages(user("")), param="messages[0]"),
    Bad("content_blank", "not empty", messages(user(" \n\t\u00a0\u2003")), param="messages[0]"),
    Bad("content_no_parts", "not empty", messages(user([])), param="messages[0]"),
    Bad("content_blank_parts", "not empty", messages(user([{**TEXT, "text": " "}])), param="messages[0]"),
    Bad("blank_before_nothing", "user", messages(user(" "), {"role": "assistant", "content": ""}), param="messages[0]"),
    Bad("last_is_a_tools", "user", messages(user(PROMPT), {"role": "tool", "content": "y"}), param="messages[1]"),
    Bad("last_is_blank", "not empty", messages(user(PROMPT), user("  ")), param="messages[1]"),
    Bad("only_a_system_message", "user", messages({"role": "system", "content": PROMPT}), param="messages[0]"),
    Bad("part_type_missing", "type", messages(user([{"text": PROMPT}])), param="messages[0].content[0].type"),
    Bad("part_type_unknown", "hologram", messages(user([{"type": "hologram"}])), param="messages[0].content[0].type"),
    Bad(
        "part_image_no_picture",
        "PNG",
        messages(user([TEXT, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}])),
        param="messages[0].content[1].image_url.url",
    ),
    Bad(
        "part_image_by_its_address",
        "HEARTLINE_IMAGE_URLS",
        messages(user([TEXT, {"type": "image_url", "image_url": {"url": "http://127.0.0.1:6379/"}}])),
        param="messages[0].content[1].image_url.url",
    ),
    Bad(
        "part_image_without_url",
        "url",
        messages(user([TEXT, {"type": "image_url", "image_url": {"detail": "low"}}])),
        param="messages[0].content[1].image_url.url",
    ),
    Bad(
        "part_image_number",
        "object",
        messages(user([TEXT, {"type": "image_url", "image_url": 5}])),
        param="messages[0].content[1].image_url",
    ),
    Bad(
        "part_image_of_an_earlier_turn",
        "image_url",
        messages(user([{"type": "image_url"}]), {"role": "assistant", "content": "nice"}, user(PROMPT)),
        param="messages[0].content[0].image_url",
    ),
    Bad("too_many_images", "HEARTLINE_MAX_IMAGES", messages(user([PICTURE] * 21)), param="messages"),
    Bad(
        "part_audio",
        "input_audio",
        messages(user([TEXT, {"type": "input_audio"}])),
        param="messages[0].content[1].type",
    ),
    Bad("part_file", "file", messages(user([TEXT, {"type": "file"}])), param="messages[0].content[1].type"),
]

WHAT_CANNOT_BE_HONOURED = [
    Bad("n_zero", "one answer", chat(PROMPT, n=0), param="n"),
    Bad("n_two", "one answer", chat(PROMPT, n=2), param="n"),
    Bad("n_negative", "one answer", chat(PROMPT, n=-1), param="n"),
    Bad("logprobs", "probabilities", chat(PROMPT, logprobs=True), param="logprobs"),
    Bad("top_logprobs", "probabilities", chat(PROMPT, top_logprobs=3), param="top_logprobs"),
    Bad("audio", "text", chat(PROMPT, modalities=["text", "audio"]), param="modalities"),
    Bad("tool_choice_required", "tools", chat(PROMPT, tool_choice="required"), param="tool_choice"),
    Bad(
        "tool_choice_named",
        "tools",
        chat(PROMPT, tool_choice={"type": "function", "function": {"name": "f"}}),
        param="tool_choice",
    ),
    Bad("tool_choice_odd", "tools", chat(PROMPT, tool_choice=[[]]), param="tool_choice"),
    Bad("function_call_named", "functions", chat(PROMPT, function_call={"name": "f"}), param="function_call"),
    Bad(
        "json_schema",
        "object",
        chat(PROMPT, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}),
        param="response_format.json_schema.schema.type",
    ),
    Bad("reasoning_effort_odd", "xhigh", chat(PROMPT, reasoning_effort="odd"), param="reasoning_effort"),
    Bad("reasoning_effort_number", "str", chat(PROMPT, reasoning_effort=5), param="reasoning_effort"),
    Bad("reasoning_odd", "xhigh", chat(PROMPT, reasoning={"effort": "odd"}), param="reasoning.effort"),
    Bad("reasoning_string", "object", chat(PROMPT, reasoning="high"), param="reasoning"),
    Bad("response_format_odd", "response_format", chat(PROMPT, response_format={"type": []}), param="response_format"),
    Bad("model_unknown", "chat, agent", chat(PROMPT, model="gpt-4"), status=404, param="model", code="model_not_found"),
    Bad("model_case", "chat, agent", chat(PROMPT, model="Chat"), status=404, param="model", code="model_not_found"),
    Bad("model_odd", "Known", chat(PROMPT, model="a\r\nb\0"), status=404, param="model", code="model_not_found"),
    Bad("model_huge", "Known", chat(PROMPT, model="m" * 99_999), status=404, param="model", code="model_not_found"),
    Bad(
        "model_by_id",
        "Known models",
        method="GET",
        path="/v1/models/gpt-4",
        status=404,
        param="model",
        code="model_not_found",
    ),
]

TOO_LARGE = [
    Bad("body_too_large", "HEARTLINE_MAX_BODY_BYTES", chat("a" * MAX_BODY_BYTES), status=413, code="request_too_large"),
    Bad("body_much_too_large", "HEARTLINE_MAX_BODY_BYTES", chat("a" * 5_000_000), status=413, code="request_too_large"),
    Bad(
        "body_of_white_space_too_large",
        "HEARTLINE_MAX_BODY_BYTES",
        VALID + b" " * MAX_BODY_BYTES,
        status=413,
        code="request_too_large",
    ),
    Bad(
        "native_body_too_large",
        "HEARTLINE_MAX_BODY_BYTES",
        {"prompt": "a" * MAX_BODY_BYTES},
        path=RUNS,
        status=413,
        code="request_too_large",
    ),
    Bad(
        "prompt_too_large",
        "HEARTLINE_MAX_PROMPT_BYTES",
        chat("a" * (MAX_PROMPT_BYTES + 1)),
        status=413,
        param="messages",
        code="request_too_large",
    ),
    Bad(
        "prompt_too_large_in_bytes_not_characters",
        str(MAX_PROMPT_BYTES + 2),
        chat("ä" * (MAX_PROMPT_BYTES // 2 + 1)),
        status=413,
        param="messages",
        code="request_too_large",
    ),
    Bad(
        "prompt_too_large_in_sum",
        "HEARTLINE_MAX_PROMPT_BYTES",
        messages({"role": "system", "content": "a" * 30_000}, user("b" * 30_000)),
        status=413,
        param="messages",
        code="request_too_large",
    ),
]

NO_KEY = [
    Bad(f"key_{name}", "API key", VALID, headers=bearer(value), status=401, code="invalid_api_key")
    for name, value in {
        "absent": ABSENT,
        "wrong": f"Bearer {WRONG_KEY}",
        "almost": f"Bearer {KEYS['alice'][:-1]}",
        "in_capitals": f"Bearer {KEYS['alice'].upper()}",
        "with_more_behind": f"Bearer {KEYS['alice']} {WRONG_KEY}",
        "of_basic_scheme": f"Basic {KEYS['alice']}",
        "without_scheme": KEYS["alice"],
        "empty_header": "",
        "scheme_only": "Bearer",
        "scheme_and_blank": "Bearer ",
        "non_ascii": "Bearer schlüssel-äöü-ÿ-0123456789",
        "very_long": f"Bearer {WRONG_KEY}{'k' * 7000}",
    }.items()
] + [
    Bad(
        f"no_key_for_{method}_{path}",
        "API key",
        method=method,
        path=path,
        headers=bearer(ABSENT),
        status=401,
        code="invalid_api_key",
    )
    for method, path in (
        ("GET", "/v1/models"),
        ("GET", "/v1/models/chat"),
        ("GET", RUNS),
        ("POST", RUNS),
        ("GET", f"{RUNS}/{NO_RUN}"),
        ("GET", f"{RUNS}/{NO_RUN}/events"),
    )
]
KEY_ELSEWHERE = [
    Bad("key_in_the_url", "API key", VALID, path=f"{CHAT}?api_key={KEYS['alice']}", headers=bearer(ABSENT), status=401),
    Bad("key_in_x_api_key", "API key", VALID, headers=bearer(ABSENT) | {"X-Api-Key": KEYS["alice"]}, status=401),
]

UNKNOWN_RUNS = [
    Bad(f"run_{name}", "", method="GET", path=f"{RUNS}/{run_id}", status=404, code="run_not_found")
    for name, run_id in {
        "unknown": NO_RUN,
        "unknown_events": f"{NO_RUN}/events",
        "not_an_id": "x",
        "dots": "..",
        "dots_encoded": "%2e%2e",
        "nul": "%00",
        "newline": "%0d%0aX-Evil:%20yes",
        "invalid_utf8": "%ff%fe",
        "percent": "%",
        "not_hexadecimal": "%zz",
        "star": "*",
        "braces": "%7B%7D",
        "emoji": "%F0%9F%92%A9",
        "path_parameter": f"{NO_RUN};a=b",
        "long": "a" * 3000,
    }.items()
]

UNKNOWN_PATHS = [
    Bad(f"path_{path}", "/v1", method="GET", path=path, status=404, code="not_found")
    for path in (
        "/v1",
        "/v1/",
        "/v2/models",
        "/v1/chat",
        "/v1/completions",
        "/v1/chat/completions/",
        "/v1/runs/",
        "/v1/runs/../models",
        "/v1/runs/..%2f..%2fhealthz",
        "/v1/runs/%2e%2e/models",
        f"/v1/runs/{NO_RUN}/events/1",
        "/static/x",
        "/favicon.ico",
        "/.env",
    )
]

WRONG_METHODS = [
    Bad(f"method_{method}_{path}", method, method=method, path=path, status=405, code="method_not_allowed")
    for method, path in (
        ("GET", CHAT),
        ("PUT", CHAT),
        ("DELETE", CHAT),
        ("PATCH", CHAT),
        ("TRACE", CHAT),
        ("BREW", CHAT),
        ("POST", "/v1/models"),
        ("DELETE", "/v1/models/chat"),
        ("PUT", RUNS),
        ("DELETE", RUNS),
        ("POST", f"{RUNS}/{NO_RUN}"),
        ("PUT", f"{RUNS}/{NO_RUN}"),
        ("POST", f"{RUNS}/{NO_RUN}/events"),
        ("POST", "/healthz"),
        ("DELETE", "/readyz"),
    )
]

NO_NUMBERS = [
    "x",
    "-1",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "1" + "0" * 30,
    "0x1",
    "1_0",
    "%D9%A1",
    "%00",
    "%ff",
    "1%202",
]
WRONG_QUERIES = [
    *(Bad(f"limit_{text}", "limit", method="GET", path=f"{RUNS}?limit={text}", param="limit") for text in NO_NUMBERS),
    Bad("limit_zero", "from 1 to", method="GET", path=f"{RUNS}?limit=0", param="limit"),
    Bad("limit_too_high", "to 100", method="GET", path=f"{RUNS}?limit=101", param="limit"),
    *(
        Bad(f"before_{text}", "before", method="GET", path=f"{RUNS}?before={text}", param="before")
        for text in NO_NUMBERS
        if text != "1.5"
    ),
]

NATIVE = [
    Bad(
        "native_both",
        "either",
        {"prompt": PROMPT, "messages": [{"role": "user", "text": "x"}]},
        path=RUNS,
        param="prompt",
    ),
    Bad("native_neither", "either", {}, path=RUNS, param="prompt"),
    Bad("native_prompt_null", "either", {"prompt": None}, path=RUNS, param="prompt"),
    Bad("native_no_messages", "either", {"messages": []}, path=RUNS, param="prompt"),
    Bad("native_prompt_empty", "not empty", {"prompt": ""}, path=RUNS, param="prompt"),
    Bad("native_prompt_blank", "not empty", {"prompt": " \n"}, path=RUNS, param="prompt"),
    Bad("native_prompt_number", "str", {"prompt": 5}, path=RUNS, param="prompt"),
    Bad("native_system_number", "str", {"prompt": PROMPT, "system": 5}, path=RUNS, param="system"),
    Bad("native_messages_object", "array", {"messages": {}}, path=RUNS, param="messages"),
    Bad("native_text_missing", "text", {"messages": [user(PROMPT)]}, path=RUNS, param="messages[0].text"),
    Bad(
        "native_role_system",
        "role",
        {"messages": [{"role": "system", "text": "x"}]},
        path=RUNS,
        param="messages[0].role",
    ),
    Bad(
        "native_last_is_assistants",
        "last message",
        {"messages": [{"role": "user", "text": PROMPT}, {"role": "assistant", "text": "y"}]},
        path=RUNS,
        param="messages",
    ),
    Bad("native_not_json", "JSON", b"{", path=RUNS),
    Bad("native_empty_body", "JSON", b"", path=RUNS),
    Bad("native_array", "object", b"[]", path=RUNS),
    Bad(
        "native_model_unknown",
        "chat, agent",
        {"prompt": PROMPT, "model": "gpt-4"},
        path=RUNS,
        status=404,
        param="model",
        code="model_not_found",
    ),
    Bad(
        "native_prompt_too_large",
        "HEARTLINE_MAX_PROMPT_BYTES",
        {"prompt": "a" * (MAX_PROMPT_BYTES + 1)},
        path=RUNS,
        status=413,
        param="prompt",
        code="request_too_large",
    ),
]

TABLE = [
    *NOT_JSON, *WRONG_TYPES, *WRONG_MESSAGES, *WHAT_CANNOT_BE_HONOURED, *TOO_LARGE, *NO_KEY, *UNKNOWN_RUNS,
    *UNKNOWN_PATHS, *WRONG_METHODS, *WRONG_QUERIES, *NATIVE,
]  # fmt: skip


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.id)
def test_is_refused_and_leaves_nothing_behind(heartline: Deployment, bad: Bad) -> None:
    before = left_behind(heartline)
    answer = ask(heartline, bad.method, bad.path, bad.data, bad.headers)
    error = error_of(answer.status, answer.headers["Content-Type"], answer.body)
    assert (answer.status, error["param"], error["code"]) == (bad.status, bad.param, bad.code), error
    assert error["type"] == "invalid_request_error"
    assert bad.says in error["message"]
    assert len(error["message"]) < 4500  # never the whole of what was sent
    assert answer.headers["WWW-Authenticate"] == ("Bearer" if bad.status == 401 else None)
    assert left_behind(heartline) == before


@pytest.mark.parametrize("bad", KEY_ELSEWHERE, ids=lambda bad: bad.id)
def test_takes_a_key_from_the_authorization_header_only(heartline: Deployment, bad: Bad) -> None:
    assert ask(heartline, bad.method, bad.path, bad.data, bad.headers).status == 401


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (CHAT, {"POST", "OPTIONS"}),
        (RUNS, {"GET", "HEAD", "POST", "OPTIONS"}),
        ("/v1/models", {"GET", "HEAD", "OPTIONS"}),
        (f"{RUNS}/{NO_RUN}/events", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_says_which_methods_are_possible(heartline: Deployment, path: str, allowed: set[str]) -> None:
    refused = ask(heartline, "PATCH", path)
    assert refused.status == 405
    assert set(refused.headers["Allow"].split(", ")) == allowed


# --- what does not fit into the table -------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, RUNS])
@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b'{"messages":[{"role":"user","content":"', *[b"a" * 5000] * 60, b'"}]}'], id="of_text"),
        pytest.param([VALID, *[b" " * 5000] * 60], id="of_white_space"),
        pytest.param([VALID.ljust(MAX_BODY_BYTES), b" "], id="by_one_byte"),
        pytest.param([VALID.ljust(MAX_BODY_BYTES), b"x"], id="by_one_byte_that_makes_it_invalid"),
    ],
)
def test_a_chunked_body_that_is_too_large_is_refused(heartline: Deployment, path: str, pieces: list[bytes]) -> None:
    before = left_behind(heartline)
    answer = ask(heartline, "POST", path, iter(pieces))
    error = error_of(answer.status, answer.headers["Content-Type"], answer.body)
    assert (answer.status, error["code"]) == (413, "request_too_large"), error
    assert f"{MAX_BODY_BYTES} bytes (HEARTLINE_MAX_BODY_BYTES)" in error["message"]
    assert left_behind(heartline) == before


@pytest.mark.parametrize("chunked", [False, True])
def test_limits_are_taken_at_their_word(heartline: Deployment, chunked: bool) -> None:
    largest = json.dumps(chat(PROMPT.ljust(MAX_PROMPT_BYTES, "a"))).encode().ljust(MAX_BODY_BYTES)
    answer = ask(heartline, "POST", CHAT, iter([largest[:70_000], largest[70_000:]]) if chunked else largest)
    assert answer.status == 200, answer.body
    assert len(json.loads(answer.body)["choices"][0]["message"]["content"]) == MAX_PROMPT_BYTES


@pytest.mark.parametrize(
    ("method", "rest"),
    [("GET", ""), ("HEAD", ""), ("DELETE", ""), ("GET", "/events"), ("HEAD", "/events"), ("POST", "/cancel")],
)
def test_another_keys_run_is_like_one_that_never_existed(
    heartline: Deployment, alices_run: str, method: str, rest: str
) -> None:
    bob = {"Authorization": f"Bearer {KEYS['bob']}"}
    theirs = ask(heartline, method, f"{RUNS}/{alices_run}{rest}", headers=bob)
    nobodys = ask(heartline, method, f"{RUNS}/{NO_RUN}{rest}", headers=bob)
    assert theirs.status in (404, 405)
    assert theirs.status == nobodys.status
    assert theirs.body.replace(alices_run.encode(), NO_RUN.encode()) == nobodys.body
    assert _without_date(theirs) == _without_date(nobodys)


def _without_date(answer: Answer) -> list[tuple[str, str]]:
    return [(name, value) for name, value in answer.headers.items() if name != "Date"]


def test_another_keys_runs_are_not_listed(heartline: Deployment, alices_run: str) -> None:
    with heartline.http() as alice, heartline.http("bob") as bob:
        assert alices_run in alice.get(RUNS).text
        assert bob.get(RUNS).json()["data"] == []


@pytest.mark.parametrize("change", [str.upper, lambda run_id: run_id + "%00", lambda run_id: run_id + "%20"])
def test_only_a_runs_exact_id_finds_it(heartline: Deployment, alices_run: str, change: Any) -> None:
    answer = ask(heartline, "GET", f"{RUNS}/{change(alices_run)}")
    error = error_of(answer.status, answer.headers["Content-Type"], answer.body)
    assert (answer.status, error["code"]) == (404, "run_not_found")


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_a_cursor_that_is_no_whole_number_is_refused(heartline: Deployment, alices_run: str, text: str) -> None:
    answer = ask(heartline, "GET", f"{RUNS}/{alices_run}/events?after={text}")
    error = error_of(answer.status, answer.headers["Content-Type"], answer.body)
    assert (answer.status, error["param"]) == (400, "after")
    assert "after" in error["message"]


@pytest.mark.parametrize("text", [*(text for text in NO_NUMBERS if "%" not in text), "1 2", "+1", "²", "1,2"])
def test_a_last_event_id_that_is_no_whole_number_is_refused(heartline: Deployment, alices_run: str, text: str) -> None:
    answer = ask(heartline, "GET", f"{RUNS}/{alices_run}/events", headers={"Last-Event-ID": text})
    error = error_of(answer.status, answer.headers["Content-Type"], answer.body)
    assert (answer.status, error["param"]) == (400, "Last-Event-ID")
    assert "whole number" in error["message"]


# --- what is not even HTTP ------------------------------------------------------------------------


def raw(head: str, *, line: str = f"POST {CHAT} HTTP/1.1", body: bytes = b"") -> bytes:
    """A request with the right key; `head` is what is wrong with it."""
    start = f"{line}\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {KEYS['alice']}\r\n{head}\r\n"
    return start.encode() + body


NOT_HTTP = {
    "nothing": b"",
    "blank_lines": b"\r\n\r\n\r\n",
    "tls_handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "http_2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no_version": raw("", line="GET /v1/models"),
    "unknown_version": raw("", line="GET /v1/models HTTP/9.9"),
    "half_a_request_line": b"POST /v1/chat/comp",
    "half_a_header": raw("")[:60],
    "nul_in_method": raw("", line="G\0T /v1/models HTTP/1.1"),
    "nul_in_path": raw("", line=f"GET {RUNS}/\0 HTTP/1.1"),
    "run_id_of_10000_characters": raw("", line=f"GET {RUNS}/{'a' * 10_000} HTTP/1.1"),
    "cursor_of_5000_digits": raw("", line=f"GET {RUNS}/{NO_RUN}/events?after={'9' * 5000} HTTP/1.1"),
    "key_of_100000_characters": raw(f"Authorization: Bearer {'k' * 100_000}\r\n", line="GET /v1/models HTTP/1.1"),
    "key_twice": raw(f"Authorization: Bearer {KEYS['bob']}\r\n", line="GET /v1/models HTTP/1.1"),
    "emoji_key": "GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer 🔑\r\nConnection: close\r\n\r\n".encode(),
    "two_hundred_headers": raw("".join(f"X-{i}: y\r\n" for i in range(200)), line="GET /v1/models HTTP/1.1"),
    "folded_header": raw("X: a\r\n b\r\n", line="GET /v1/models HTTP/1.1"),
    "header_name_with_blank": raw("X : a\r\n", line="GET /v1/models HTTP/1.1"),
    "script_name_header": raw("SCRIPT_NAME: /elsewhere\r\n", line="GET /v1/nothing HTTP/1.1"),
    "contradicting_proxy_headers": raw("X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n"),
    "content_length_negative": raw("Content-Length: -5\r\n", body=VALID),
    "content_length_word": raw("Content-Length: many\r\n", body=VALID),
    "content_length_twice": raw("Content-Length: 5\r\nContent-Length: 6\r\n", body=VALID),
    "content_length_astronomic": raw(f"Content-Length: {'9' * 30}\r\n", body=VALID),
    "content_length_and_chunks": raw("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", body=b"0\r\n\r\n"),
    "body_cut_off": raw(f"Content-Length: {len(VALID)}\r\n", body=VALID[:-20]),
    "chunk_size_word": raw("Transfer-Encoding: chunked\r\n", body=b"zz\r\nhello\r\n0\r\n\r\n"),
    "chunk_size_negative": raw("Transfer-Encoding: chunked\r\n", body=b"-5\r\nhello\r\n0\r\n\r\n"),
    "chunk_size_astronomic": raw("Transfer-Encoding: chunked\r\n", body=b"F" * 18 + b"\r\nhello\r\n0\r\n\r\n"),
    "chunk_longer_than_its_size": raw("Transfer-Encoding: chunked\r\n", body=b"2\r\nhello\r\n0\r\n\r\n"),
    "chunk_cut_off": raw("Transfer-Encoding: chunked\r\n", body=b"%x\r\n%s" % (len(VALID) + 9, VALID)),
    "unknown_expectation": raw("Expect: miracles\r\n"),
}  # fmt: skip


def send(heartline: Deployment, data: bytes) -> bytes:
    """Bytes on a socket of their own; what comes back until the server closes it."""
    address = urlsplit(heartline.replicas[0].url)
    received = b""
    with (
        contextlib.suppress(OSError),  # a server that has read enough may close it at any moment
        socket.create_connection((address.hostname, address.port), timeout=60) as connection,
    ):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            received += piece
    return received


@pytest.mark.parametrize("name", NOT_HTTP)
def test_lives_on_after_what_is_not_even_http(heartline: Deployment, name: str) -> None:
    before = left_behind(heartline)
    answer = send(heartline, NOT_HTTP[name])
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer[:300]
    assert left_behind(heartline) == before
    with heartline.http() as client:
        assert client.get("/healthz").status_code == 200


def test_lives_on_after_an_unknown_transfer_coding(heartline: Deployment) -> None:
    """For which HTTP has a status of its own: 501."""
    assert send(heartline, raw("Transfer-Encoding: rot13\r\n", body=VALID)).startswith(b"HTTP/1.1 501 ")
    with heartline.http() as client:
        assert client.get("/healthz").status_code == 200


def test_a_key_in_a_broken_header_is_not_logged(heartline: Deployment) -> None:
    key = "broken-header-key-marker"
    answer = send(heartline, f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization Bearer {key}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert key not in heartline.replicas[0].log.read_text()


# --- anything -------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)  # lone surrogates too
    | st.sampled_from(["", "user", "assistant", "system", "tool", "auto", "none", "text", "chat", "agent", 0, 1, 2]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)

CHAT_BODY: dict[str, Any] = {
    "model": "chat",
    "messages": [
        {"role": "system", "content": PROMPT},
        {"role": "user", "content": [TEXT, TEXT]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "x"},
        {"role": "user", "content": PROMPT, "name": "alice"},
    ],
    "stream": True,
    "stream_options": {"include_usage": True},
    "n": 1,
    "logprobs": False,
    "top_logprobs": 0,
    "modalities": ["text"],
    "tool_choice": "auto",
    "function_call": "auto",
    "response_format": {"type": "text"},
    "temperature": 1,
}
RUN_BODY: dict[str, Any] = {
    "model": "chat",
    "messages": [{"role": "user", "text": "x"}, {"role": "assistant", "text": "y"}, {"role": "user", "text": PROMPT}],
    "system": PROMPT,
}


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield value, key
        yield from places(inner)


@st.composite
def mutated(draw: st.DrawFn, valid: dict[str, Any]) -> bytes:
    """A valid body with something replaced or missing, and sometimes a broken byte."""
    body = json.loads(json.dumps(valid))
    for _ in range(draw(st.integers(0, 3))):
        container, key = draw(st.sampled_from(list(places(body))))
        if draw(st.booleans()):
            container[key] = draw(json_values)
        else:
            del container[key]
        if not body:
            break
    data = json.dumps(body).encode()
    if draw(st.integers(0, 9)) == 0:
        i = draw(st.integers(0, len(data)))
        data = data[:i] + draw(st.binary(max_size=3)) + data[i + draw(st.integers(0, 2)) :]
    return data


def bodies(valid: dict[str, Any]) -> st.SearchStrategy[bytes]:
    return mutated(valid) | json_values.map(lambda value: json.dumps(value).encode())


fuzz = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@settings(fuzz, max_examples=150)
@given(body=bodies(CHAT_BODY))
def test_any_chat_body_is_answered_or_refused(heartline: Deployment, body: bytes) -> None:
    with heartline.http() as client:
        answer = client.post(CHAT, content=body)
    if answer.status_code != 200:
        assert_refused(answer)
    elif answer.headers["Content-Type"].startswith("text/event-stream"):
        assert answer.text.endswith("data: [DONE]\n\n")
        assert '"finish_reason":"stop"' in answer.text
    else:
        assert answer.json()["choices"][0]["finish_reason"] == "stop"


@settings(fuzz, max_examples=60)
@given(body=bodies(RUN_BODY))
def test_any_run_body_is_answered_or_refused(heartline: Deployment, body: bytes) -> None:
    with heartline.http() as client:
        answer = client.post(RUNS, content=body)
        if answer.status_code == 201:
            assert "event: completed" in client.get(f"{answer.headers['Location']}/events").text
        else:
            assert_refused(answer)


def assert_refused(answer: httpx.Response) -> None:
    assert 400 <= answer.status_code < 500, answer.text
    error = error_of(answer.status_code, answer.headers["Content-Type"], answer.content)
    assert error["type"] == "invalid_request_error"


@settings(fuzz, max_examples=60)
@given(number=st.integers() | st.floats() | st.sampled_from([0.0, -0.0, 1e11, 1e15, math.inf, math.nan]))
def test_any_number_pages_or_is_refused(heartline: Deployment, alices_run: str, number: float) -> None:
    with heartline.http() as client:
        for path, name in ((RUNS, "before"), (RUNS, "limit"), (f"{RUNS}/{alices_run}/events", "after")):
            answer = client.get(path, params={name: str(number)})
            assert answer.status_code in (200, 204, 400), answer.text
            if answer.status_code == 400:
                assert answer.json()["error"]["param"] == name


# --- at the end -----------------------------------------------------------------------------------


def test_after_all_this_no_log_has_a_traceback_or_anyones_words_and_keys(heartline: Deployment) -> None:
    with heartline.http() as client:
        for command in ({"text": [ANSWER]}, {"error": ANSWER}, {"stderr": ANSWER, "no_result": True}):
            assert ANSWER in client.post(CHAT, json=chat(json.dumps(command), stream=True)).text
    logs = {part.log.name: part.log.read_text(errors="replace") for part in heartline.parts}
    assert all(part.process.poll() is None for part in heartline.parts)
    assert "run_ended" in "".join(logs.values())
    for name, text in logs.items():
        for forbidden in ("Traceback", PROMPT, ANSWER, WRONG_KEY, *KEYS.values()):
            assert forbidden not in text, f"{forbidden!r} in {name}"
