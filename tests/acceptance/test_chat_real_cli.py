"""A question through every real part: HTTP, queue, worker, the Claude CLI, log, channel, relay."""

from collections.abc import Iterator

import pytest

from tests.deployment import Deployment, chat
from tests.doubles.anthropic_api import ScriptedApi, Text, ToolUse, Turn


@pytest.fixture(scope="module")
def api() -> Iterator[ScriptedApi]:
    with ScriptedApi() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def heartline(tmp_path_factory: pytest.TempPathFactory, claude_bin: str, api: ScriptedApi) -> Iterator[Deployment]:
    with Deployment(
        tmp_path_factory.mktemp("heartline"),
        claude_bin=claude_bin,
        replicas=2,
        environment={"ANTHROPIC_BASE_URL": api.base_url, "CLAUDE_CODE_MAX_RETRIES": "1"},
        heartbeat_seconds=0.5,
    ) as deployment:
        yield deployment


def test_streams_an_answer_to_the_official_client(heartline: Deployment, api: ScriptedApi) -> None:
    api.script("stream me", Turn(Text("Hello there.", pieces=("Hel", "lo ", "there."))))
    with heartline.openai() as client:
        chunks = list(
            client.chat.completions.create(
                model="chat",
                messages=[{"role": "user", "content": "stream me"}],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(pieces) == "Hello there."
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (10, 7)
    assert len({chunk.id for chunk in chunks}) == 1


def test_runs_a_tool_for_real(heartline: Deployment, api: ScriptedApi) -> None:
    api.script(
        "use the tool",
        Turn(Text("Looking."), ToolUse("Bash", {"command": "echo $((6 * 7)) > answer.txt; cat answer.txt"})),
        Turn(Text("It is 42.")),
    )
    with heartline.http() as client:
        answer = client.post("/v1/chat/completions", json=chat("use the tool", model="agent"))
    assert answer.json()["choices"][0]["message"]["content"] == "Looking.\n\nIt is 42."
    run_id = answer.headers["X-Run-Id"]
    sent_back = api.requests_for("use the tool")[-1].body["messages"]
    assert any("42" in str(message["content"]) for message in sent_back if message["role"] == "user")
    assert heartline.run(run_id)["status"] == "completed"
