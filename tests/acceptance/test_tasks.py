"""Tasks and usage with real processes: a lane of their own, recognised, turned off; and what each key has consumed."""

import concurrent.futures
import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import sse
from tests.deployment import Deployment, chat, eventually
from tests.doubles.anthropic_api import ScriptedApi, Text, Turn

ON = """
defaults: {absent: agent, task: small}
profiles:
  - {id: agent, model: sonnet, allowed_tools: [Bash]}
  - {id: small, model: haiku, tools: [], max_turns: 1, run_timeout_seconds: 30,
     system_prompt_mode: replace, system_prompt: You do small tasks.}
"""
OFF = "profiles: [{id: agent, model: sonnet}]"
LONG = json.dumps({"text": ["begun "], "repeat": 2, "interval": 600, "child": 600})
TITLE = (
    '### Task:\nGenerate a title.\n### Output:\nJSON format: { "title": "your title" }\n'
    "### Chat History:\n<chat_history>\nUSER: How do I bake bread?\nASSISTANT: With flour.\n</chat_history>"
)
NAMED = {"X-OpenWebUI-Task": "title_generation"}
SLOTS = 2


def models(folder: Path, text: str) -> Path:
    path = folder / "models.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def heartline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("heartline")
    with Deployment(
        folder,
        replicas=2,
        models_file=models(folder, ON),
        worker_slots=SLOTS,
        task_slots=1,
        disconnect_grace_seconds=0.2,
        progress="text",
        heartbeat_style="dot",
        heartbeat_seconds=0.5,
    ) as running:
        yield running


def ask(client: httpx.Client, prompt: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    return client.post("/v1/chat/completions", json=chat(prompt, **fields), headers=headers)


def answer_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    found: str = response.json()["choices"][0]["message"]["content"]
    return found


def code_of(response: httpx.Response) -> str:
    """The error in the body: behind the first heartbeat, the status is 200 whatever comes."""
    assert response.status_code in (200, 502)
    found: str = response.json()["error"]["code"]
    return found


@contextlib.contextmanager
def held_up(heartline: Deployment) -> Iterator[list[str]]:
    """Every slot for runs is at work, and one more run waits; yields the ids of all."""
    with heartline.http() as client:
        runs = [client.post("/v1/runs", json={"prompt": LONG}).json()["id"] for _ in range(SLOTS + 1)]
        eventually(lambda: [heartline.run(run_id)["status"] for run_id in runs].count("running") == SLOTS)
        try:
            yield runs
        finally:
            for run_id in runs:
                client.post(f"/v1/runs/{run_id}/cancel")
            eventually(lambda: all(heartline.run(run_id)["ended_at"] for run_id in runs))


def test_a_task_is_answered_while_agents_hold_every_slot(heartline: Deployment) -> None:
    with held_up(heartline) as agents, heartline.http(replica=1) as client:
        recognised = ask(client, TITLE, model="agent")
        named = ask(client, '{"text": ["a title"]}', NAMED, model="never heard of")
        assert answer_of(named) == "a title"
        assert answer_of(recognised) == TITLE  # the fake CLI echoes
        assert [response.json()["model"] for response in (recognised, named)] == ["agent", "never heard of"]
        assert [heartline.run(run_id)["status"] for run_id in agents] == ["running", "running", "queued"]
        for response in (recognised, named):
            run = heartline.run(response.headers["X-Run-Id"])
            assert (run["profile"], run["status"]) == ("small", "completed")


def test_agents_go_on_while_tasks_hold_their_slots(heartline: Deployment) -> None:
    with heartline.http(timeout=600) as client, concurrent.futures.ThreadPoolExecutor() as pool:
        held = [pool.submit(ask, client, LONG, NAMED) for _ in range(2)]

        def theirs() -> list[dict[str, Any]]:
            runs = client.get("/v1/runs?limit=2").json()["data"]
            return [run for run in runs if run["profile"] == "small" and not run["ended_at"]]

        eventually(lambda: sorted(run["status"] for run in theirs()) == ["queued", "running"])
        tasks = theirs()
        assert answer_of(ask(client, "hello agent")) == "hello agent"
        for run in tasks:
            client.post(f"/v1/runs/{run['id']}/cancel")
        assert [code_of(future.result(30)) for future in held] == ["cancelled", "cancelled"]


def test_a_tasks_client_that_leaves_ends_it(heartline: Deployment) -> None:
    with (
        heartline.http() as client,
        client.stream("POST", "/v1/chat/completions", json=chat(LONG, stream=True), headers=NAMED) as answer,
    ):
        next(frame for frame in sse.of(answer) if sse.contents([frame]))
    run_id = answer.headers["X-Run-Id"]
    eventually(lambda: heartline.run(run_id)["status"] == "cancelled")
    assert heartline.marked_processes() == []


def test_a_streamed_task_is_nothing_but_its_answer(heartline: Deployment) -> None:
    """Whatever people see of the work in their chats, a program that parses JSON must not."""
    prompt = json.dumps({"text": ['{"title":', '"x"}'], "interval": 1.5})
    with (
        heartline.http() as client,
        client.stream("POST", "/v1/chat/completions", json=chat(prompt, stream=True), headers=NAMED) as answer,
    ):
        frames = list(sse.of(answer))
    assert json.loads(sse.contents(frames)) == {"title": "x"}
    assert frames[-1].data == "[DONE]"


@pytest.mark.parametrize(
    ("prompt", "headers", "fields"),
    [
        ("What is the capital of France?", {}, {}),
        (TITLE, {}, {"tools": [{"type": "function", "function": {"name": "x"}}]}),
        ("Merge these answers.", {"X-OpenWebUI-Task": "moa_response_generation"}, {}),
        ("What?", {"X-OpenWebUI-Task": ""}, {}),
        (f"### Task:\nAnswer from the context.\n<context>\n{TITLE}\n</context>\nWhat?", {}, {}),
    ],
)
def test_a_question_is_no_task(
    heartline: Deployment, prompt: str, headers: dict[str, str], fields: dict[str, Any]
) -> None:
    with heartline.http() as client:
        response = ask(client, prompt, headers, model="agent", **fields)
    assert heartline.run(response.headers["X-Run-Id"])["profile"] == "agent"


def test_the_task_profile_is_no_model(heartline: Deployment) -> None:
    with heartline.http() as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["agent"]
        for response in (
            client.get("/v1/models/small"),
            ask(client, "hello", model="small"),
            client.post("/v1/runs", json={"prompt": "hello", "model": "small"}),
        ):
            assert response.status_code == 404
            assert response.json()["error"]["code"] == "model_not_found"
            assert "Known models: agent." in response.json()["error"]["message"]


def test_a_failed_task_is_an_error_of_its_own(heartline: Deployment) -> None:
    with heartline.http() as client, held_up(heartline) as agents:
        failed = ask(client, '{"error": "overloaded"}', NAMED)
        assert code_of(failed) == "cli_error"
        assert [heartline.run(run_id)["status"] for run_id in agents] == ["running", "running", "queued"]


def test_turned_off_a_task_is_answered_without_worker_and_redis(tmp_path: Path) -> None:
    with Deployment(tmp_path, models_file=models(tmp_path, OFF)) as heartline, heartline.http() as client:
        heartline.workers[0].stop()
        heartline.valkey.stop()
        whole = ask(client, TITLE, model="agent")
        assert json.loads(answer_of(whole)) == {"title": "How do I bake bread?"}
        assert whole.json()["usage"]["total_tokens"] == 0
        assert whole.json()["model"] == "agent"
        assert "X-Run-Id" not in whole.headers
        assert json.loads(answer_of(ask(client, "x", {"X-OpenWebUI-Task": "tags_generation"}))) == {"tags": []}
        body = chat(TITLE, stream=True, stream_options={"include_usage": True})
        with client.stream("POST", "/v1/chat/completions", json=body, headers=NAMED) as answer:
            frames = list(sse.of(answer))
        assert json.loads(sse.contents(frames)) == {"title": "How do I bake bread?"}
        assert frames[-1].data == "[DONE]"
        assert frames[-2].json["usage"]["total_tokens"] == 0
        assert frames[-3].json["choices"][0]["finish_reason"] == "stop"
        heartline.start_again(heartline.valkey)
        heartline.start_again(heartline.workers[0])
        heartline.wait_until_ready()


# --- usage ----------------------------------------------------------------------------------------


def usage(heartline: Deployment, owner: str, **query: str) -> dict[str, Any]:
    with heartline.http(owner) as client:
        answer = client.get("/v1/usage", params=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


def profiles_of(found: dict[str, Any]) -> dict[str, int]:
    """How many runs of each profile were completed."""
    counts: dict[str, int] = {}
    for day in found["days"]:
        for name, numbers in day["profiles"].items():
            counts[name] = counts.get(name, 0) + numbers["completed"]
    return counts


def test_each_key_sees_what_its_own_runs_consumed(tmp_path: Path) -> None:
    with (
        Deployment(tmp_path, models_file=models(tmp_path, ON)) as heartline,
        heartline.http("alice") as alice,
        heartline.http("bob") as bob,
    ):
        assert usage(heartline, "alice")["days"] == []
        assert usage(heartline, "alice")["totals"]["runs"] == 0
        for client, prompts in ((alice, ["one", "two"]), (bob, ["three"])):
            for prompt in prompts:
                answer_of(ask(client, prompt))
        answer_of(ask(alice, TITLE))
        ask(bob, '{"error": "overloaded"}')
        eventually(lambda: usage(heartline, "alice")["totals"]["runs"] == 3)
        eventually(lambda: usage(heartline, "bob")["totals"]["runs"] == 2)
        of_alice, of_bob = usage(heartline, "alice"), usage(heartline, "bob")
        assert profiles_of(of_alice) == {"agent": 2, "small": 1}
        assert of_alice["totals"] == {
            "runs": 3,
            "completed": 3,
            "failed": 0,
            "cancelled": 0,
            "input_tokens": 30,
            "cached_input_tokens": 0,
            "output_tokens": 21,
            "cost_usd": 0.00027,
        }
        assert (of_bob["totals"]["completed"], of_bob["totals"]["failed"]) == (1, 1)


def test_a_run_that_is_stopped_has_consumed_what_its_model_had_read(heartline: Deployment) -> None:
    with heartline.http("bob") as client:
        run_id = client.post("/v1/runs", json={"prompt": LONG}).json()["id"]
        eventually(lambda: heartline.run(run_id, "bob")["answer"])
        client.post(f"/v1/runs/{run_id}/cancel")
    eventually(lambda: heartline.run(run_id, "bob")["status"] == "cancelled")
    assert heartline.run(run_id, "bob")["usage"]["input_tokens"] == 10
    eventually(lambda: usage(heartline, "bob")["totals"]["cancelled"] == 1)
    assert usage(heartline, "bob")["totals"]["input_tokens"] == 10


def test_usage_is_asked_for_by_the_day(heartline: Deployment) -> None:
    with heartline.http() as client:
        answer_of(ask(client, "hello"))
    eventually(lambda: usage(heartline, "alice")["days"])
    found = usage(heartline, "alice")
    today = datetime.now(UTC).date()
    assert found["to"] in (str(today), str(today - timedelta(days=1)))
    days = [datetime.fromisoformat(found[end]) for end in ("from", "to")]
    assert days[1] - days[0] == timedelta(days=29)
    assert usage(heartline, "alice", **{"from": "2020-01-01", "to": "2020-12-31"})["days"] == []
    assert usage(heartline, "alice", to="2020-01-30")["from"] == "2020-01-01"
    one_day = found["days"][-1]["date"]
    assert usage(heartline, "alice", **{"from": one_day, "to": one_day})["days"] == found["days"][-1:]


@pytest.mark.parametrize(
    ("query", "names", "says"),
    [
        ("from=yesterday", "from", "2026-01-31"),
        ("to=20260131", "to", "2026-01-31"),
        ("to=2026-02-30", "to", "2026-01-31"),
        ("to=0001-01-01", "to", "2026-01-31"),
        ("from=2026-01-01T00:00", "from", "2026-01-31"),
        ("from=２０２６-01-01", "from", "2026-01-31"),
        ("from=2026-01-02&to=2026-01-01", "from", "later than to=2026-01-01"),
        ("from=2020-01-01&to=2026-01-01", "from", "at most 400 days"),
    ],
)
def test_a_wrong_day_is_named(heartline: Deployment, query: str, names: str, says: str) -> None:
    with heartline.http() as client:
        answer = client.get(f"/v1/usage?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == names
    assert says in answer.json()["error"]["message"]


def test_usage_wants_a_key(heartline: Deployment) -> None:
    with heartline.http(owner="") as client:
        assert client.get("/v1/usage").status_code == 401


# --- the real CLI ---------------------------------------------------------------------------------


def test_the_real_cli_performs_a_task_with_the_small_model_and_no_tools(tmp_path: Path, claude_bin: str) -> None:
    with (
        ScriptedApi() as api,
        Deployment(
            tmp_path,
            claude_bin=claude_bin,
            models_file=models(tmp_path, ON),
            environment={"ANTHROPIC_BASE_URL": api.base_url},
        ) as heartline,
        heartline.http() as client,
    ):
        api.script("How do I bake bread?", Turn(Text('{"title": "Bread"}')))
        assert json.loads(answer_of(ask(client, TITLE, model="agent"))) == {"title": "Bread"}
        (asked,) = api.requests_for("How do I bake bread?")
        assert "haiku" in asked.body["model"]
        assert not asked.body.get("tools")
        assert "You do small tasks." in json.dumps(asked.body["system"])
        eventually(lambda: usage(heartline, "alice")["totals"]["runs"] == 1)
        totals = usage(heartline, "alice")["totals"]
        assert (totals["input_tokens"], totals["output_tokens"]) == (10, 7)
        assert totals["cost_usd"] > 0
        eventually(lambda: not list((tmp_path / "state" / "workspaces").glob("*")))
