"""Profiles with an answer file: what the agent wrote there is the answer, and only what this run wrote."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import sse
from tests.deployment import Deployment, chat, eventually
from tests.doubles.anthropic_api import Gate, ScriptedApi, Text, ToolUse, Turn

MAX_BYTES = 10_000
MODELS_TEXT = """\
profiles:
  - id: writer
    model: sonnet
    permission_mode: acceptEdits
    allowed_tools: [Bash, Write]
    system_prompt_mode: replace
    system_prompt: Answer in {answer_file}, nowhere else.
    answer_file: output/response.md
"""
PATH = "output/$HEARTLINE_RUN_ID/response.md"
"""To the agent's shell, its own answer file."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "models.yaml"
    path.write_text(MODELS_TEXT)
    return path


@pytest.fixture(scope="module")
def api() -> Iterator[ScriptedApi]:
    with ScriptedApi() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def heartline(
    tmp_path_factory: pytest.TempPathFactory, claude_bin: str, api: ScriptedApi, models: Path
) -> Iterator[Deployment]:
    with Deployment(
        tmp_path_factory.mktemp("heartline"),
        claude_bin=claude_bin,
        environment={"ANTHROPIC_BASE_URL": api.base_url},
        models_file=models,
        max_answer_bytes=MAX_BYTES,
    ) as deployment:
        yield deployment


def post(heartline: Deployment, prompt: str, chat_id: str = "") -> Any:
    """Questions of one chat are worked on in one folder."""
    headers = {"X-OpenWebUI-Chat-Id": chat_id} if chat_id else {}
    with heartline.http() as client:
        return client.post("/v1/chat/completions", json=chat(prompt, model="writer"), headers=headers)


def ask(heartline: Deployment, prompt: str, chat_id: str = "") -> str:
    answer = post(heartline, prompt, chat_id)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def native(heartline: Deployment, run_id: str) -> list[dict[str, Any]]:
    with heartline.http() as client, client.stream("GET", f"/v1/runs/{run_id}/events") as answer:
        return [frame.json for frame in sse.of(answer) if frame.id]


def bash(command: str) -> ToolUse:
    return ToolUse("Bash", {"command": command, "description": "Write the answer"})


def test_what_the_write_tool_wrote_is_the_answer_streamed(heartline: Deployment, api: ScriptedApi) -> None:
    known, tool = threading.Event(), ToolUse("Write", {})
    api.script("write it", Turn(Text("I begin."), Gate(known), tool), Turn(Text("It is written.")))
    with (
        heartline.http() as client,
        client.stream("POST", "/v1/chat/completions", json=chat("write it", model="writer", stream=True)) as answer,
    ):
        run_id = answer.headers["X-Run-Id"]
        workspace = heartline.folder / "state" / "workspaces" / run_id / "files"
        eventually(workspace.is_dir)
        tool.input.update(file_path=f"output/{run_id}/response.md", content="# Grüße\n\n🌱\n")
        known.set()
        assert sse.contents(sse.of(answer)) == "# Grüße\n\n🌱\n"
    prompt = str(api.requests_for("write it")[0].body["system"])
    assert f"Answer in output/{run_id}/response.md, nowhere else." in prompt


def test_what_the_model_says_on_the_way_is_reasoning(heartline: Deployment, api: ScriptedApi) -> None:
    api.script("speak and write", Turn(Text("Let me see."), bash(f"echo whole > {PATH}")), Turn(Text("Done.")))
    answer = post(heartline, "speak and write")
    assert answer.json()["choices"][0]["message"]["content"] == "whole\n"
    events = native(heartline, answer.headers["X-Run-Id"])
    assert [event["text"] for event in events if event["type"] == "text"] == ["whole\n"]
    aloud = "".join(event["text"] for event in events if event["type"] == "reasoning")
    assert "Let me see." in aloud
    assert "Done." in aloud
    assert heartline.run(answer.headers["X-Run-Id"])["answer"] == "whole\n"


def test_without_a_file_the_last_words_are_the_answer(heartline: Deployment, api: ScriptedApi) -> None:
    api.script("do not write", Turn(Text("On the way."), bash("true")), Turn(Text("These are my last words.")))
    assert ask(heartline, "do not write") == "These are my last words."


def test_a_link_to_a_file_of_the_machine_is_nothing(heartline: Deployment, api: ScriptedApi) -> None:
    api.script("link it", Turn(bash(f"ln -s /etc/passwd {PATH}")), Turn(Text("Linked.")))
    assert ask(heartline, "link it") == "Linked."


def test_an_older_runs_file_cannot_show_up(heartline: Deployment, api: ScriptedApi) -> None:
    api.script("the first", Turn(bash(f"echo older > {PATH}; echo older > output/response.md")), Turn(Text("1")))
    first = post(heartline, "the first", "c1")
    assert first.json()["choices"][0]["message"]["content"] == "older\n"
    (older,) = heartline.folder.glob(f"state/workspaces/*/files/output/{first.headers['X-Run-Id']}/response.md")
    assert older.read_text() == "older\n"
    api.script("the second", Turn(Text("The second says this.")))
    assert ask(heartline, "the second", "c1") == "The second says this."
    api.script("the third", Turn(bash(f"ln -s {older} {PATH}")), Turn(Text("The third says this.")))
    assert ask(heartline, "the third", "c1") == "The third says this."
    link = f"rmdir output/$HEARTLINE_RUN_ID && ln -s {older.parent} output/$HEARTLINE_RUN_ID"
    api.script("the fourth", Turn(bash(link)), Turn(Text("The fourth says this.")))
    assert ask(heartline, "the fourth", "c1") == "The fourth says this."
    elsewhere = heartline.folder / "elsewhere"
    elsewhere.mkdir()
    api.script("the fifth", Turn(bash(f"mv output before; ln -s {elsewhere} output")), Turn(Text("The fifth.")))
    ask(heartline, "the fifth", "c1")
    refused = post(heartline, "the sixth", "c1")
    assert "is a link" in refused.json()["error"]["message"]
    assert list(elsewhere.iterdir()) == []


def test_a_file_that_is_too_large_is_cut(heartline: Deployment, api: ScriptedApi) -> None:
    write = f"head -c {5 * MAX_BYTES} /dev/zero | tr '\\0' x > {PATH}"
    api.script("write much", Turn(bash(write)), Turn(Text("That was much.")))
    assert ask(heartline, "write much") == "x" * MAX_BYTES


# --- with the fake CLI, which writes nothing ------------------------------------------------------


def test_neither_a_file_nor_a_word_is_a_failure(tmp_path: Path, models: Path) -> None:
    with Deployment(tmp_path, models_file=models) as heartline:
        answer = post(heartline, '{"text": []}')
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "no_answer_file"
        assert answer.json()["error"]["message"]
        assert ask(heartline, '{"text": ["said"]}') == "said"
        failed = post(heartline, '{"text": ["half an answer"], "error": "out of credit"}')
        assert failed.json()["error"]["code"] == "cli_error"
        events = native(heartline, failed.headers["X-Run-Id"])
        assert not [event for event in events if event["type"] == "text"]  # a failed run has no answer
