"""What a good client relies on: the shape of every answer, streams that can be resumed, and honest health."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from app.dialects.openai_chat import PROGRESS_MARK
from tests.deployment import PROJECT, Deployment, Part, chat, eventually

CHAT, RUNS = "/v1/chat/completions", "/v1/runs"
MODELS = ["chat", "agent", "hasty", "heartline-diagnostic"]
PLAIN, ENGLISH, GERMAN = 0, 1, 2  # replicas of one deployment that differ in how they write
HEARTBEAT_SECONDS = 0.2
SLOW = {"sleep_before": 1}  # five heartbeats long


@pytest.fixture(scope="module")
def heartline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("heartline"), heartbeat_seconds=HEARTBEAT_SECONDS) as deployment:
        deployment.start_replica(progress="text", language="en", heartbeat_style="dot")
        deployment.start_replica(progress="text", language="de")
        deployment.wait_until_ready()
        yield deployment


@pytest.fixture
def client(heartline: Deployment) -> Iterator[httpx.Client]:
    with heartline.http() as http:
        yield http


def command(**fields: Any) -> str:
    """A prompt that the fake CLI obeys."""
    return json.dumps(fields)


# --- reading streams ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """One event of a stream, or (with `comment`) a line that clients ignore."""

    data: str = ""
    event: str = "message"
    id: int | None = None
    comment: str | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.data)


def frames(text: str) -> list[Frame]:
    """An event stream's frames; fails on one that is not whole."""
    assert text.endswith("\n\n")
    return [_frame(block.split("\n")) for block in text[:-2].split("\n\n")]


def _frame(lines: list[str]) -> Frame:
    if lines[0].startswith("retry: "):
        lines = lines[1:]
    if lines[0].startswith(":"):
        assert len(lines) == 1
        return Frame(comment=lines[0][1:].strip())
    fields = dict(line.split(": ", 1) for line in lines)
    assert len(fields) == len(lines)
    assert set(fields) <= {"id", "event", "data"}
    return Frame(fields["data"], fields.get("event", "message"), int(fields["id"]) if "id" in fields else None)


def ask(client: httpx.Client, prompt: str, **fields: Any) -> httpx.Response:
    """A streamed chat, read to its end."""
    answer = client.post(CHAT, json=chat(prompt, stream=True, **fields))
    assert answer.status_code == 200, answer.text
    return answer


def chunks(answer: httpx.Response) -> list[Any]:
    """The JSON of a chat's chunks, without the closing `[DONE]`."""
    events = [frame for frame in frames(answer.text) if frame.comment is None]
    assert events[-1].data == "[DONE]"
    return [frame.json for frame in events[:-1]]


def content(answer: httpx.Response) -> str:
    return "".join(choice["delta"].get("content", "") for chunk in chunks(answer) for choice in chunk["choices"])


def finished_run(client: httpx.Client, prompt: str) -> tuple[str, list[Frame]]:
    """A run of the native API that has ended, and its events."""
    created = client.post(RUNS, json={"prompt": prompt})
    assert created.status_code == 201, created.text
    run_id: str = created.json()["id"]
    return run_id, events_of(client, run_id)


def events_of(client: httpx.Client, run_id: str, headers: dict[str, str] | None = None, **query: Any) -> list[Frame]:
    """A run's events to the end of the stream, without comments and places in the queue."""
    answer = client.get(f"{RUNS}/{run_id}/events", params=query, headers=headers)
    assert answer.status_code == 200, answer.text
    return [frame for frame in frames(answer.text) if frame.comment is None and frame.event != "queued"]


# --- models ---------------------------------------------------------------------------------------


def test_lists_the_models_in_the_order_of_the_file(client: httpx.Client) -> None:
    answer = client.get("/v1/models").json()
    assert answer["object"] == "list"
    assert [model["id"] for model in answer["data"]] == MODELS
    assert {model["object"] for model in answer["data"]} == {"model"}
    assert [model["name"] for model in answer["data"]][:2] == ["Test Chat", "Test Agent"]


def test_shows_one_model(client: httpx.Client) -> None:
    assert client.get("/v1/models/agent").json() == client.get("/v1/models").json()["data"][1]


def test_models_start_no_run(heartline: Deployment, client: httpx.Client) -> None:
    before = set(heartline.redis.keys("heartline:*:run")) | set(heartline.redis.keys("rq:job:*"))
    assert client.get("/v1/models").status_code == client.get("/v1/models/chat").status_code == 200
    assert set(heartline.redis.keys("heartline:*:run")) | set(heartline.redis.keys("rq:job:*")) == before


def test_the_official_client_finds_the_models(heartline: Deployment) -> None:
    with heartline.openai() as official:
        assert [model.id for model in official.models.list()] == MODELS
        assert official.models.retrieve("hasty").owned_by == "heartline"
        with pytest.raises(openai.NotFoundError, match="Known models: chat"):
            official.models.retrieve("nothing")


# --- chat -----------------------------------------------------------------------------------------


def test_the_official_client_gets_a_whole_answer(heartline: Deployment) -> None:
    with heartline.openai() as official:
        answer = official.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": "Say  it\nagain."}]
        )
    assert answer.choices[0].message.content == "Say  it\nagain."
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "chat"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (10, 7, 17)


def test_the_official_client_streams_an_answer(heartline: Deployment) -> None:
    with heartline.openai() as official:
        stream = official.chat.completions.create(
            model="agent", messages=[{"role": "user", "content": "Ein Wörtchen, 一二三 🎉!"}], stream=True
        )
        received = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in received) == "Ein Wörtchen, 一二三 🎉!"
    assert received[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in received] == [None] * (len(received) - 1) + ["stop"]
    assert {(chunk.id, chunk.model, chunk.object) for chunk in received} == {
        (received[0].id, "agent", "chat.completion.chunk")
    }


def test_the_official_client_learns_why_a_key_is_refused(heartline: Deployment) -> None:
    with (
        openai.OpenAI(
            base_url=f"{heartline.replicas[PLAIN].url}/v1", api_key="no-key-of-ours", max_retries=0
        ) as official,
        pytest.raises(openai.AuthenticationError, match="No valid API key"),
    ):
        official.models.list()


def test_stream_headers_keep_proxies_from_holding_it_back(heartline: Deployment, client: httpx.Client) -> None:
    answer = ask(client, "hello")
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert "no-cache" in answer.headers["Cache-Control"]
    assert "no-transform" in answer.headers["Cache-Control"]
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert "Content-Length" not in answer.headers
    assert heartline.run(answer.headers["X-Run-Id"])["answer"] == "hello"
    assert chunks(answer)[0]["id"] == f"chatcmpl-{answer.headers['X-Run-Id']}"


def test_a_stream_begins_with_the_role_counts_upwards_and_ends_with_done(client: httpx.Client) -> None:
    answer = ask(client, command(text=["one ", "two ", "three"], interval=0.05))
    received = [frame for frame in frames(answer.text) if frame.comment is None]
    assert received[0].json["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert received[-1].data == "[DONE]"
    assert received[-2].json["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}
    ids = [frame.id for frame in received if frame.id is not None]
    assert len(ids) >= 2
    assert all(earlier < later for earlier, later in pairwise(ids))
    assert content(answer) == "one two three"


def test_the_ids_of_a_chat_stream_are_the_seqs_of_its_run(client: httpx.Client) -> None:
    answer = ask(client, "the same numbers")
    texts = {frame.id: frame.json for frame in events_of(client, answer.headers["X-Run-Id"]) if frame.event == "text"}
    streamed = {
        frame.id: frame.json["choices"][0]["delta"]["content"]
        for frame in frames(answer.text)
        if frame.id is not None and frame.json["choices"][0]["delta"]
    }
    assert streamed == {seq: event["text"] for seq, event in texts.items()}


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None}])
def test_usage_is_left_out_of_a_stream_unless_asked_for(client: httpx.Client, options: Any) -> None:
    assert not any(chunk.get("usage") for chunk in chunks(ask(client, "hello", stream_options=options)))


def test_usage_comes_in_a_last_chunk_of_its_own_when_asked_for(client: httpx.Client) -> None:
    *others, last = chunks(ask(client, "hello", stream_options={"include_usage": True}))
    assert last["choices"] == []
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (10, 7)
    assert not any(chunk.get("usage") for chunk in others)


def test_a_silent_stream_has_heartbeats_that_clients_do_not_see(client: httpx.Client) -> None:
    answer = ask(client, command(**SLOW, text=["at last"]))
    assert [frame.comment for frame in frames(answer.text)].count("heartbeat") >= 1
    assert content(answer) == "at last"


def test_a_whole_answer_is_kept_alive_with_white_space_and_is_still_json(heartline: Deployment) -> None:
    with (
        heartline.http() as client,
        client.stream("POST", CHAT, json=chat(command(**SLOW, text=["at last"]), stream=False)) as answer,
    ):
        pieces = list(answer.iter_raw())
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert pieces[0].strip() == b""
    body = b"".join(pieces)
    assert body[: body.index(b"{")].isspace()
    assert json.loads(body)["choices"][0]["message"]["content"] == "at last"
    assert json.loads(body)["id"] == f"chatcmpl-{answer.headers['X-Run-Id']}"


def test_the_official_client_waits_for_a_slow_whole_answer(heartline: Deployment) -> None:
    with heartline.openai() as official:
        answer = official.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": command(**SLOW, text=["at last"])}]
        )
    assert answer.choices[0].message.content == "at last"


def test_a_quick_whole_answer_is_plain_json(client: httpx.Client) -> None:
    answer = client.post(CHAT, json=chat("hello"))
    assert answer.text.lstrip().startswith("{")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json()["object"] == "chat.completion"
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Run-Id"])


# --- chat that fails ------------------------------------------------------------------------------


def test_a_failed_stream_ends_with_an_error_and_done(client: httpx.Client) -> None:
    answer = ask(client, command(text=["a part"], error="the model is on strike"))
    last = chunks(answer)[-1]
    assert "choices" not in last
    assert "the model is on strike" in last["error"]["message"]
    assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "cli_error")
    assert '"a part"' in answer.text


def test_the_official_client_raises_what_a_stream_failed_with(heartline: Deployment) -> None:
    with heartline.openai() as official:
        stream = official.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": command(error="the model is on strike")}], stream=True
        )
        with pytest.raises(openai.APIError, match=r"Claude ended with an error: .*the model is on strike"):
            list(stream)


def test_a_whole_answer_that_fails_early_is_status_502(tmp_path: Path) -> None:
    with Deployment(tmp_path) as heartline, heartline.http() as client, heartline.openai() as official:
        answer = client.post(CHAT, json=chat(command(error="the model is on strike")))
        assert answer.status_code == 502
        assert answer.headers["Content-Type"] == "application/json"
        assert heartline.run(answer.headers["X-Run-Id"])["status"] == "failed"
        error = answer.json()["error"]
        assert "the model is on strike" in error["message"]
        assert (error["type"], error["param"], error["code"]) == ("server_error", None, "cli_error")
        with pytest.raises(openai.InternalServerError, match="the model is on strike"):
            official.chat.completions.create(
                model="chat", messages=[{"role": "user", "content": command(error="the model is on strike")}]
            )


def test_a_whole_answer_that_fails_late_is_still_an_error_object(client: httpx.Client) -> None:
    answer = client.post(CHAT, json=chat(command(**SLOW, text=["a part"], error="the model is on strike")))
    assert answer.status_code == 200  # it was sent with the first heartbeat
    assert list(answer.json()) == ["error"]
    assert "the model is on strike" in answer.json()["error"]["message"]


def test_a_cli_that_ends_without_a_result_is_a_failure_with_its_reason(client: httpx.Client) -> None:
    answer = ask(client, command(stderr="out of paper", no_result=True, exit=3))
    error = chunks(answer)[-1]["error"]
    assert error["code"] == "no_result"
    assert "exit code 3: out of paper" in error["message"]


# --- what is tolerated ----------------------------------------------------------------------------


def test_unknown_fields_are_tolerated(client: httpx.Client) -> None:
    body = chat("hello", chat_id="x", session_id="y", background_tasks={"title": True}, metadata={}, x=[{"y": None}])
    body["messages"][0] |= {"id": "z", "timestamp": 1}
    answer = client.post(CHAT, json=body)
    assert answer.json()["choices"][0]["message"]["content"] == "hello"


def test_knobs_of_sampling_are_accepted_and_change_nothing(heartline: Deployment) -> None:
    with heartline.openai() as official:
        answer = official.chat.completions.create(
            model="chat",
            messages=[{"role": "user", "content": "hello"}],
            temperature=0.1,
            top_p=0.2,
            max_tokens=5,
            max_completion_tokens=5,
            presence_penalty=1,
            frequency_penalty=-1,
            logit_bias={"1": 2},
            stop=["x"],
            seed=7,
            n=1,
            logprobs=False,
            user="somebody",
            response_format={"type": "text"},
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
            tool_choice="auto",
            parallel_tool_calls=True,
        )
    assert answer.choices[0].message.content == "hello"


@pytest.mark.parametrize(
    "field", ["model", "stream", "stream_options", "n", "logprobs", "tool_choice", "response_format"]
)
def test_null_is_like_absent(client: httpx.Client, field: str) -> None:
    answer = client.post(CHAT, json=chat("hello", **{field: None}))
    assert answer.json()["choices"][0]["message"]["content"] == "hello"


def test_a_conversation_of_all_roles_is_accepted_and_its_last_message_answered(client: httpx.Client) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": "What is the weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        {"role": "assistant", "content": "Sunny."},
        {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "text", "text": "tomorrow?"}]},
    ]
    answer = client.post(CHAT, json={"model": "chat", "messages": turns})
    assert answer.json()["choices"][0]["message"]["content"] == "And\n\ntomorrow?"


# --- runs -----------------------------------------------------------------------------------------


def test_a_created_run_says_where_it_is(client: httpx.Client) -> None:
    created = client.post(RUNS, json={"prompt": "hello", "model": "agent"})
    run = created.json()
    assert created.status_code == 201
    assert created.headers["Location"] == f"{RUNS}/{run['id']}"
    assert created.headers["X-Run-Id"] == run["id"]
    assert (run["object"], run["status"], run["model"], run["profile"]) == ("run", "queued", "agent", "agent")
    assert run["started_at"] is run["ended_at"] is None
    assert client.get(created.headers["Location"]).json()["id"] == run["id"]


def test_an_ended_run_can_be_inspected(client: httpx.Client) -> None:
    run_id, events = finished_run(client, "hello")
    run = client.get(f"{RUNS}/{run_id}").json()
    assert (run["status"], run["answer"], run["error"]) == ("completed", "hello", None)
    assert run["created_at"] <= run["started_at"] <= run["ended_at"]
    assert (run["usage"]["input_tokens"], run["usage"]["output_tokens"]) == (10, 7)
    assert run["last_seq"] == events[-1].id


def test_a_failed_run_says_why_and_keeps_its_text(client: httpx.Client) -> None:
    run_id, events = finished_run(client, command(text=["a part"], error="the model is on strike"))
    run = client.get(f"{RUNS}/{run_id}").json()
    assert (run["status"], run["answer"], run["error"]["code"]) == ("failed", "a part", "cli_error")
    assert "the model is on strike" in run["error"]["message"]
    assert (events[-1].event, events[-1].json["message"]) == ("failed", run["error"]["message"])


def test_a_run_takes_messages_too(client: httpx.Client) -> None:
    turns = [{"role": "user", "text": "Hi."}, {"role": "assistant", "text": "Hello."}, {"role": "user", "text": "Bye."}]
    created = client.post(RUNS, json={"messages": turns, "system": "Be brief."})
    assert created.status_code == 201
    events_of(client, created.json()["id"])
    assert client.get(created.headers["Location"]).json()["answer"] == "Bye."


def test_runs_are_listed_newest_first_page_by_page(heartline: Deployment) -> None:
    with heartline.http("bob") as bob:
        created = [bob.post(RUNS, json={"prompt": f"run {i}"}).json()["id"] for i in range(5)]
        first = bob.get(RUNS, params={"limit": 2}).json()
        second = bob.get(RUNS, params={"limit": 2, "before": first["data"][-1]["created_at"]}).json()
        rest = bob.get(RUNS, params={"before": second["data"][-1]["created_at"]}).json()
        everything = bob.get(RUNS).json()
        for run_id in created:
            events_of(bob, run_id)
    assert first["object"] == "list"
    pages = [[run["id"] for run in page["data"]] for page in (first, second, rest)]
    assert pages == [created[:-3:-1], created[2:0:-1], created[:1]]
    assert [run["id"] for run in everything["data"]] == created[::-1]


def test_the_events_of_a_run_are_named_numbered_without_a_hole_and_replayed_alike(client: httpx.Client) -> None:
    prompt = command(
        tool={"name": "Bash", "input": {"command": "ls"}, "output": "a.txt"}, text=["one ", "two"], interval=0.1
    )
    run_id, live = finished_run(client, prompt)
    assert [frame.id for frame in live] == list(range(1, len(live) + 1))
    assert [frame.json["seq"] for frame in live] == [frame.id for frame in live]
    assert {frame.json["run_id"] for frame in live} == {run_id}
    assert all(frame.json["type"] == frame.event for frame in live)
    names = [name for name, following in pairwise([*(frame.event for frame in live), ""]) if name != following]
    assert names == ["started", "session", "tool_started", "tool_finished", "text", "completed"]
    assert events_of(client, run_id) == live


def test_any_replica_serves_any_run_and_goes_on_where_another_stopped(heartline: Deployment) -> None:
    with heartline.http(replica=PLAIN) as one, heartline.http(replica=GERMAN) as other:
        run_id, live = finished_run(one, "hello")
        assert events_of(other, run_id) == live
        assert events_of(other, run_id, {"Last-Event-ID": "2"}) == live[2:]
        assert other.get(f"{RUNS}/{run_id}").json() == one.get(f"{RUNS}/{run_id}").json()


def test_a_watch_is_resumed_behind_any_event(client: httpx.Client) -> None:
    run_id, live = finished_run(client, command(text=["one ", "two"], interval=0.1))
    for seq in range(1, len(live)):
        assert events_of(client, run_id, after=seq) == live[seq:]
        assert events_of(client, run_id, {"Last-Event-ID": str(seq)}) == live[seq:]
    assert events_of(client, run_id, {"Last-Event-ID": str(len(live))}, after=1) == live[1:]  # the URL wins
    assert events_of(client, run_id, after=0) == live


def test_a_watch_is_resumed_while_the_run_works(client: httpx.Client) -> None:
    run_id: str = client.post(RUNS, json={"prompt": command(**SLOW, text=["at last"])}).json()["id"]
    resumed = events_of(client, run_id, after=0)
    assert resumed == events_of(client, run_id)
    assert resumed[-1].event == "completed"


def test_no_content_tells_a_client_that_nothing_will_follow(client: httpx.Client) -> None:
    run_id, live = finished_run(client, "hello")
    by_query = client.get(f"{RUNS}/{run_id}/events", params={"after": len(live)})
    by_header = client.get(f"{RUNS}/{run_id}/events", headers={"Last-Event-ID": str(len(live))})
    assert (by_query.status_code, by_query.content) == (204, b"")
    assert (by_header.status_code, by_header.content) == (204, b"")


def test_a_cursor_beyond_the_end_is_told_so_and_starts_over(client: httpx.Client) -> None:
    run_id, live = finished_run(client, "hello")
    for beyond in (len(live) + 1, 10**15):
        reset, *replayed = events_of(client, run_id, after=beyond)
        assert (reset.event, reset.id, reset.json) == ("reset", None, {"last_seq": len(live)})
        assert replayed == live


def test_head_does_not_stream(client: httpx.Client) -> None:
    run_id: str = client.post(RUNS, json={"prompt": command(**SLOW)}).json()["id"]
    answer = client.head(f"{RUNS}/{run_id}/events")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["X-Run-Id"] == run_id
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    events_of(client, run_id)


# --- progress -------------------------------------------------------------------------------------

USES_A_TOOL = command(
    tool={"name": "Bash", "input": {"command": "ls  -la\n/tmp", "description": "lists"}, "output": "secret.txt"},
    text=["Done."],
)


@pytest.mark.parametrize(
    ("replica", "starting"), [(ENGLISH, "Starting Test Chat …"), (GERMAN, "Test Chat wird gestartet …")]
)
def test_progress_is_text_in_paragraphs_of_its_own_in_the_servers_language(
    heartline: Deployment, replica: int, starting: str
) -> None:
    with heartline.http(replica=replica) as client:
        text = content(ask(client, USES_A_TOOL))
    paragraphs = [paragraph for paragraph in re.split(r"\n\n+| \.", text) if paragraph]
    assert paragraphs[0] == f"{PROGRESS_MARK}[{starting}]"
    assert paragraphs[-2:] == [f"{PROGRESS_MARK}[Bash] ls -la /tmp", "Done."]
    assert "secret.txt" not in text


def test_progress_stays_out_of_whole_answers_and_of_the_run(heartline: Deployment) -> None:
    with heartline.http(replica=ENGLISH) as client:
        answer = client.post(CHAT, json=chat(USES_A_TOOL))
        assert answer.json()["choices"][0]["message"]["content"] == "Done."
        assert client.get(f"{RUNS}/{answer.headers['X-Run-Id']}").json()["answer"] == "Done."


def test_progress_is_off_unless_set(client: httpx.Client) -> None:
    assert content(ask(client, USES_A_TOOL)) == "Done."


def test_a_request_can_say_what_progress_it_wants(client: httpx.Client) -> None:
    def streamed(progress: str) -> httpx.Response:
        return client.post(CHAT, json=chat(USES_A_TOOL, stream=True), headers={"X-Heartline-Progress": progress})

    assert "[Bash] ls -la /tmp" in content(streamed("text"))
    beside = streamed("reasoning")
    assert content(beside) == "Done."
    assert "[Bash] ls -la /tmp" in beside.text
    refused = streamed("loud")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "X-Heartline-Progress")


def test_dots_can_be_heartbeats_for_proxies_that_drop_comments(heartline: Deployment) -> None:
    with heartline.http(replica=ENGLISH) as client:
        answer = ask(client, command(**SLOW, text=["At last."]))
    assert re.fullmatch(rf"(?s){PROGRESS_MARK}\[Starting Test Chat …\].*( \.)+At last\.", content(answer))
    assert "heartbeat" not in answer.text


# --- health ---------------------------------------------------------------------------------------


def test_health_and_readiness_need_no_key(heartline: Deployment) -> None:
    with heartline.http(owner="") as nobody:
        assert "Authorization" not in nobody.headers
        assert nobody.get("/healthz").json() == {"status": "ok"}
        ready = nobody.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"status": "ok", "redis": "ok", "workers": 1})


def stop(part: Part) -> None:
    assert part.stop() == 0


def test_without_a_worker_it_lives_lists_models_and_is_not_ready(tmp_path: Path) -> None:
    with Deployment(tmp_path) as heartline, heartline.http() as client:
        stop(heartline.workers[0])
        ready = eventually(lambda: (answer := client.get("/readyz")).status_code == 503 and answer, what="not ready")
        assert ready.json() == {"status": "unavailable", "redis": "ok", "workers": 0}
        assert client.get("/healthz").status_code == 200
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == MODELS
        assert client.post(RUNS, json={"prompt": "hello"}).status_code == 201
        heartline.start_worker()
        assert eventually(lambda: client.get("/readyz").status_code == 200)
        run_id = client.get(RUNS).json()["data"][0]["id"]
        assert events_of(client, run_id)[-1].event == "completed"  # it has waited for the worker


def test_without_redis_it_lives_and_says_so(tmp_path: Path) -> None:
    with Deployment(tmp_path) as heartline, heartline.http() as client:
        stop(heartline.workers[0])
        stop(next(part for part in heartline.parts if part.name == "valkey"))
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json() == {"status": "unavailable", "redis": "unreachable", "workers": 0}
        assert client.get("/healthz").status_code == 200
        assert client.get("/v1/models").status_code == 200
        for refused in (client.post(CHAT, json=chat("hello")), client.post(CHAT, json=chat("hello", stream=True))):
            assert refused.status_code == 503
            assert int(refused.headers["Retry-After"]) > 0
            assert (refused.json()["error"]["type"], refused.json()["error"]["code"]) == ("server_error", "unavailable")
        assert client.get(RUNS).status_code == 503
        assert "Traceback" not in heartline.replicas[0].log.read_text()


# --- settings -------------------------------------------------------------------------------------

WRONG_EVERYWHERE = {
    "HEARTLINE_HEARTBEAT_SECONDS": "soon",
    "HEARTLINE_RUN_TIMEOUT_SECONDS": "nan",
    "HEARTLINE_PROXY_IDLE_SECONDS": "1",  # shorter than the heartbeat
    "HEARTLINE_DRAIN_SECONDS": "2",  # shorter than the stop grace
    "HEARTLINE_WORKER_SLOTS": "0",
    "HEARTLINE_MAX_PROMPT_BYTES": "8MB",
    "HEARTLINE_BIND": "127.0.0.1:99999",
    "HEARTLINE_LANGUAGE": "fr",
    "HEARTLINE_LOG_LEVEL": "loud\nand clear",
    "HEARTLINE_NO_SUCH_SETTING": "1",
    "HEARTLINE_REDIS_URL": "",
    "HEARTLINE_MODELS_FILE": "/nowhere/models.yaml",
}
WRONG_SETTINGS = [
    *((part, name, value) for part in ("app", "worker") for name, value in WRONG_EVERYWHERE.items()),
    *(
        (part, "HEARTLINE_REDIS_URL", value)
        for part in ("app", "worker")
        for value in ("http://localhost:6379", "redis://localhost:port", "redis://[x")
    ),
    ("app", "HEARTLINE_API_KEYS", "alice:short"),
    ("app", "HEARTLINE_API_KEYS", "no-name-in-front-of-this-key"),
    ("app", "HEARTLINE_API_KEYS", ""),
    ("worker", "HEARTLINE_CLAUDE_BIN", "/nowhere/claude"),
    ("worker", "HEARTLINE_CLAUDE_BIN", "/bin/true"),
]


@pytest.mark.parametrize(("part", "name", "value"), WRONG_SETTINGS)
def test_a_wrong_setting_stops_the_start_with_one_line_that_names_it(
    tmp_path: Path, part: str, name: str, value: str
) -> None:
    right = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(PROJECT),
        "HEARTLINE_REDIS_URL": f"unix://{tmp_path}/nobody.sock",
        "HEARTLINE_MODELS_FILE": str(PROJECT / "tests" / "models.yaml"),
        "HEARTLINE_CLAUDE_BIN": str(PROJECT / "tests" / "doubles" / "fake_claude.py"),
        "HEARTLINE_API_KEYS": "alice:key-of-alice-0123456789",
    }
    ended = subprocess.run(
        [sys.executable, "-m", part],
        cwd=tmp_path,
        env={**right, name: value},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.endswith("\n")
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert ended.stderr.startswith("heartline: ")
    assert name in ended.stderr
    assert name != "HEARTLINE_API_KEYS" or not value or value not in ended.stderr  # a key is never shown
