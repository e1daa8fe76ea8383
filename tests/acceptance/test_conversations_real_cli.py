"""Conversations with the real CLI: the next turn goes on from the session of the answer that it follows."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests import sse
from tests.deployment import Deployment, chat, eventually
from tests.doubles.anthropic_api import ApiError, Gate, ScriptedApi, Text, ToolUse, Turn

Json = dict[str, Any]


@pytest.fixture(scope="module")
def api() -> Iterator[ScriptedApi]:
    with ScriptedApi() as scripted:
        yield scripted


@pytest.fixture(scope="module", params=[("bwrap", 4), ("off", 0)], ids=str)
def heartline(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, claude_bin: str, api: ScriptedApi
) -> Iterator[Deployment]:
    """The same with CLIs that wait and without: nobody can tell the difference."""
    sandbox, warm = request.param
    if sandbox == "bwrap" and shutil.which("bwrap") is None:
        pytest.skip("there is no bwrap on PATH")
    with Deployment(
        tmp_path_factory.mktemp("heartline"),
        claude_bin=claude_bin,
        sandbox=sandbox,
        warm_processes=warm,
        environment={"ANTHROPIC_BASE_URL": api.base_url, "CLAUDE_CODE_MAX_RETRIES": "1"},
    ) as deployment:
        yield deployment
    left = [
        path
        for name in ("state/runs", "state/spares", "home/.claude/projects")
        for path in (deployment.folder / name).glob("*")
    ]
    assert left == []


class Chat:
    """A chat as Open WebUI keeps it: who sends the whole history with every turn, and ids with it."""

    def __init__(self, heartline: Deployment, name: str, *, model: str = "agent", owner: str = "alice") -> None:
        self._heartline = heartline
        self.name = f"{name} {os.urandom(4).hex()}"
        self._model = model
        self._owner = owner
        self.run_id = ""

    def ask(self, history: list[Json], text: str, message: str, parent: str = "", **headers: str) -> str:
        """The answer; `history` grows by the question and by it."""
        history.append({"role": "user", "content": text})
        history.append({"role": "assistant", "content": self.send(history, message, parent, **headers)})
        found: str = history[-1]["content"]
        return found

    def send(self, messages: list[Json], message: str, parent: str = "", **headers: str) -> str:
        given = {
            "X-OpenWebUI-Chat-Id": self.name,
            "X-OpenWebUI-Message-Id": message,
            "X-OpenWebUI-User-Message-Parent-Id": parent,
            "X-OpenWebUI-User-Id": "u1",
            **headers,
        }
        body = {"model": self._model, "messages": messages}
        with self._heartline.http(self._owner) as client:
            answer = client.post("/v1/chat/completions", json=body, headers={k: v for k, v in given.items() if v})
        self.run_id = answer.headers.get("X-Run-Id", "")
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert "choices" in found, found
        text: str = found["choices"][0]["message"]["content"]
        return text


def asked(api: ScriptedApi, marker: str) -> list[tuple[str, str]]:
    """The turns of the last request for `marker`: who, and what, tools included; less the CLI's own notes."""
    turns = []
    for message in api.requests_for(marker)[-1].body["messages"]:
        blocks = message["content"]
        blocks = [{"type": "text", "text": blocks}] if isinstance(blocks, str) else blocks
        for block in blocks:
            if message["role"] == "system" or block.get("text", "").startswith("<system-reminder>"):
                continue
            content = block.get("text") or block.get("input") or block.get("content") or ""
            turns.append((f"{message['role']}/{block['type']}", content if isinstance(content, str) else str(content)))
    return turns


def marker(name: str) -> str:
    return f"{name} {os.urandom(4).hex()}"


def test_the_next_turn_remembers_what_tools_did_and_sends_only_what_is_new(
    heartline: Deployment, api: ScriptedApi
) -> None:
    first, second = marker("note it"), marker("what was it")
    api.script(first, Turn(ToolUse("Bash", {"command": "echo 42 > note; cat note"})), Turn(Text("Noted.")))
    api.script(second, Turn(ToolUse("Bash", {"command": "cat note"})), Turn(Text("42.")))
    here, history = Chat(heartline, "memory"), list[Json]()
    assert here.ask(history, first, "m1") == "Noted."
    parent = heartline.run(here.run_id)
    assert here.ask(history, second, "m2", "m1") == "42."
    run = heartline.run(here.run_id)
    assert run["parent"] == parent["id"]
    assert run["conversation"] == parent["conversation"]
    turns = asked(api, second)
    assert [kind for kind, _ in turns[:5]] == [
        "user/text", "assistant/tool_use", "user/tool_result", "assistant/text", "user/text",
    ]  # fmt: skip
    assert turns[2][1] == "42"
    assert turns[4][1] == second
    assert turns[6] == ("user/tool_result", "42")  # the file is still there


def test_regenerate_edit_and_branch_fork_from_the_same_answer(heartline: Deployment, api: ScriptedApi) -> None:
    first, second, edited = marker("first"), marker("second"), marker("edited")
    api.script(first, Turn(Text("One.")))
    api.script(second, Turn(Text("Two.")), Turn(Text("Two again.")))
    api.script(edited, Turn(Text("Other.")))
    here, root = Chat(heartline, "tree"), list[Json]()
    here.ask(root, first, "m1")
    node = here.run_id
    told = [("user/text", first), ("assistant/text", "One.")]
    for message, text, answer in (("m2", second, "Two."), ("m3", second, "Two again."), ("m4", edited, "Other.")):
        branch = [*root]
        assert here.ask(branch, text, message, "m1") == answer
        assert heartline.run(here.run_id)["parent"] == node
        assert asked(api, text) == [*told, ("user/text", text)]


def test_continue_goes_on_from_the_answer_itself(heartline: Deployment, api: ScriptedApi) -> None:
    first = marker("count")
    api.script(first, Turn(Text("One, two,")), Turn(Text(" three.")))
    here, history = Chat(heartline, "continue"), list[Json]()
    here.ask(history, first, "m1")
    node = here.run_id
    assert here.send(history, "m1") == " three."
    assert heartline.run(here.run_id)["parent"] == node
    turns = asked(api, first)
    assert turns[:2] == [("user/text", first), ("assistant/text", "One, two,")]
    assert len(turns) == 3


def test_an_edited_answer_is_handed_over_as_the_user_has_it(heartline: Deployment, api: ScriptedApi) -> None:
    first, second = marker("first"), marker("second")
    api.script(first, Turn(Text("Blue.")))
    api.script(second, Turn(Text("I see.")))
    here, history = Chat(heartline, "edited"), list[Json]()
    here.ask(history, first, "m1")
    history[-1]["content"] = "Red, I insist."
    here.ask(history, second, "m2", "m1")
    assert heartline.run(here.run_id)["parent"] is None
    assert asked(api, second) == [("user/text", first), ("assistant/text", "Red, I insist."), ("user/text", second)]
    assert "conversation=text_differs" in heartline.replicas[0].log.read_text()


def test_a_session_that_is_gone_is_made_up_for_by_the_history(heartline: Deployment, api: ScriptedApi) -> None:
    first, second = marker("first"), marker("second")
    api.script(first, Turn(Text("Blue.")))
    api.script(second, Turn(Text("Still blue.")))
    here, history = Chat(heartline, "gone"), list[Json]()
    here.ask(history, first, "m1")
    eventually(lambda: list(heartline.folder.glob(f"state/workspaces/*/sessions/{here.run_id}.jsonl")))
    for session in heartline.folder.glob("state/workspaces/*/sessions/*"):
        session.unlink()
    assert here.ask(history, second, "m2", "m1") == "Still blue."
    assert asked(api, second) == [("user/text", first), ("assistant/text", "Blue."), ("user/text", second)]
    assert f"session_not_here run_id={here.run_id}" in heartline.workers[0].log.read_text()


def test_a_failed_turn_is_no_node(heartline: Deployment, api: ScriptedApi) -> None:
    first, second, third = marker("first"), marker("second"), marker("and the third")
    api.script(first, Turn(Text("Blue.")))
    api.script(second, Turn(ApiError(400, "No.")))
    api.script(third, Turn(Text("Yes.")))
    here, history = Chat(heartline, "failed"), list[Json]()
    here.ask(history, first, "m1")
    with heartline.http() as client:
        answer = client.post(
            "/v1/chat/completions",
            json={"model": "agent", "messages": [*history, {"role": "user", "content": second}]},
            headers={"X-OpenWebUI-Chat-Id": here.name, "X-OpenWebUI-Message-Id": "m2", "X-OpenWebUI-User-Id": "u1"},
        )
    assert "error" in answer.json()
    history += [{"role": "user", "content": second}, {"role": "assistant", "content": ""}]
    here.ask(history, third, "m3", "m2")
    assert heartline.run(here.run_id)["parent"] is None
    assert [text for _, text in asked(api, third)] == [first, "Blue.", f"{second}\n\n{third}"]


def test_another_system_prompt_counts_from_the_next_turn_on(heartline: Deployment, api: ScriptedApi) -> None:
    first, second = marker("first"), marker("second")
    api.script(first, Turn(Text("Ahoy.")))
    api.script(second, Turn(Text("Good day.")))
    here, system = Chat(heartline, "system", model="chat"), {"role": "system", "content": "Speak like a pirate."}
    history: list[Json] = [system]
    here.ask(history, first, "m1")
    system["content"] = "Speak like a butler."
    here.ask(history, second, "m2", "m1")
    assert heartline.run(here.run_id)["parent"]
    told = json.dumps(api.requests_for(second)[-1].body["system"])
    assert "butler" in told
    assert "pirate" not in told


def test_a_client_that_sends_no_ids_is_known_by_what_was_said(heartline: Deployment, api: ScriptedApi) -> None:
    first, second = marker("first"), marker("second")
    api.script(first, Turn(ToolUse("Bash", {"command": "echo 7 > seven"})), Turn(Text("Done.\n\nAll of it.")))
    api.script(second, Turn(ToolUse("Bash", {"command": "cat seven"})), Turn(Text("Seven.")))
    with heartline.openai() as client:
        messages: list[Any] = [{"role": "user", "content": first}]
        for text in (second, None):
            answer = client.chat.completions.create(model="agent", messages=messages)
            messages.append({"role": "assistant", "content": f" {answer.choices[0].message.content}\n"})
            if text:
                messages.append({"role": "user", "content": text})
    assert messages[-1]["content"].strip() == "Seven."
    assert ("user/tool_result", "7") in asked(api, second)


def test_the_native_api_goes_on_from_a_run(heartline: Deployment, api: ScriptedApi) -> None:
    first, second = marker("first"), marker("second")
    api.script(first, Turn(ToolUse("Bash", {"command": "echo 9 > nine"})), Turn(Text("Done.")))
    api.script(second, Turn(Text("Nine.")))

    def run(**body: object) -> Json:
        with heartline.http() as client:
            made = client.post("/v1/runs", json=body)
            assert made.status_code == 201, made.text
            with client.stream("GET", f"/v1/runs/{made.json()['id']}/events") as events:
                list(sse.of(events))
        return heartline.run(made.json()["id"])

    parent = run(model="agent", prompt=first)
    child = run(parent=parent["id"], prompt=second)
    assert (child["model"], child["parent"], child["conversation"]) == ("agent", parent["id"], parent["conversation"])
    assert [kind for kind, _ in asked(api, second)] == [
        "user/text", "assistant/tool_use", "user/tool_result", "assistant/text", "user/text",
    ]  # fmt: skip
    elsewhere = run(parent=parent["id"], prompt=second, model="chat")
    assert elsewhere["parent"] is None
    assert asked(api, second) == [("user/text", first), ("assistant/text", "Done."), ("user/text", second)]
    with heartline.http("bob") as client:
        assert client.post("/v1/runs", json={"prompt": "x", "parent": parent["id"]}).status_code == 404
    with heartline.http() as client:
        wrong = client.post("/v1/runs", json={"messages": [{"role": "user", "text": "x"}], "parent": parent["id"]})
        assert wrong.json()["error"]["param"] == "messages"


def test_runs_that_share_a_workspace_take_turns(heartline: Deployment, api: ScriptedApi) -> None:
    """The second waits for the first, while another conversation's run passes by."""
    first, second, third = marker("first"), marker("second"), marker("third")
    go_on = threading.Event()
    api.script(first, Turn(Gate(go_on), Text("One.")))
    api.script(second, Turn(Text("Two.")))
    api.script(third, Turn(Text("Three.")))
    here, answers = Chat(heartline, "turns"), list[str]()
    threads = [threading.Thread(target=lambda: answers.append(here.ask([], first, "m1")))]
    threads[0].start()
    eventually(lambda: api.requests_for(first))
    other = Chat(heartline, "turns")
    other.name = here.name
    threads.append(threading.Thread(target=lambda: answers.append(other.ask([], second, "m2"))))
    threads[1].start()
    ids = {"X-OpenWebUI-Chat-Id": here.name, "X-OpenWebUI-Message-Id": "m3", "X-OpenWebUI-User-Id": "u1"}
    body = chat(second, model="agent", stream=True)
    with heartline.http() as client, client.stream("POST", "/v1/chat/completions", json=body, headers=ids) as answer:
        assert any("another answer of this conversation" in frame.data for frame in sse.of(answer) if frame.data)
    eventually(lambda: heartline.redis.scard("heartline:taking-turns"))
    assert Chat(heartline, "elsewhere").ask([], third, "m1") == "Three."
    assert answers == []
    assert not api.requests_for(second)
    go_on.set()
    for thread in threads:
        thread.join()
    assert answers == ["One.", "Two."]
    eventually(lambda: not heartline.redis.scard("heartline:taking-turns"))


def test_nothing_is_left_in_the_operators_own_folder(heartline: Deployment, api: ScriptedApi) -> None:
    question = marker("once")
    api.script(question, Turn(Text("Once.")))
    here = Chat(heartline, "clean")
    here.ask([], question, "m1")
    eventually(lambda: list(heartline.folder.glob(f"state/workspaces/*/sessions/{here.run_id}.jsonl")))
    if not heartline.warm:  # else with the CLI that waits: see the fixture
        eventually(lambda: not list((heartline.folder / "home").glob(".claude/projects/*")))
        eventually(lambda: not list((heartline.folder / "state/runs").glob("*")))


def test_a_task_without_a_conversation_keeps_nothing(heartline: Deployment) -> None:
    with heartline.http() as client:
        answer = client.post("/v1/chat/completions", json=chat("count", model="heartline-diagnostic"))
    run_id = answer.headers["X-Run-Id"]
    assert heartline.run(run_id)["conversation"] is None
    eventually(lambda: not list(heartline.folder.glob(f"state/workspaces/{run_id}")))
