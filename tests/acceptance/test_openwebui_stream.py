"""What Open WebUI is told while an agent works, with the real CLI: cards open and close, on every way out."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests import sse
from tests.deployment import Deployment, chat, eventually
from tests.doubles.anthropic_api import Cut, Gate, ScriptedApi, Text, Thinking, ToolUse, Turn, Unfinished
from tests.doubles.openwebui import Answer

HEADERS = {"X-OpenWebUI-Chat-Id": "c"}
UNTIL_GO = "touch waiting; until [ -e go ]; do sleep 0.05; done; echo went"
ENDLESS = "touch waiting; sleep 600"


@pytest.fixture(scope="module")
def api() -> Iterator[ScriptedApi]:
    with ScriptedApi() as scripted:
        scripted.script("work for ever", Turn(Text("I begin."), ToolUse("Bash", {"command": ENDLESS})))
        yield scripted


@contextlib.contextmanager
def deployed(folder: Path, claude_bin: str, api: ScriptedApi, **settings: object) -> Iterator[Deployment]:
    environment = {"ANTHROPIC_BASE_URL": api.base_url, "CLAUDE_CODE_MAX_RETRIES": "1"}
    with Deployment(folder, claude_bin=claude_bin, environment=environment, **settings) as heartline:
        yield heartline


@pytest.fixture(scope="module")
def heartline(tmp_path_factory: pytest.TempPathFactory, claude_bin: str, api: ScriptedApi) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("heartline"), claude_bin, api) as deployment:
        yield deployment


class Reader:
    """Reads one chat as Open WebUI does."""

    def __init__(self, response: httpx.Response) -> None:
        assert response.status_code == 200
        self.run_id: str = response.headers["X-Run-Id"]
        self.answer = Answer()
        self.ended = False
        self._frames = sse.of(response)

    def until(self, reached: Callable[[Answer], object] = lambda answer: False) -> Answer:
        """Reads on until that is so, or to the end."""
        for frame in self._frames:
            if frame.data == "[DONE]":
                self.ended = True
            elif frame.data is not None:
                self.answer.read(frame.json)
            if reached(self.answer):
                break
        return self.answer


@contextlib.contextmanager
def asking(heartline: Deployment, prompt: str) -> Iterator[Reader]:
    body = chat(prompt, model="agent", stream=True)
    with (
        heartline.http() as client,
        client.stream("POST", "/v1/chat/completions", json=body, headers=HEADERS) as response,
    ):
        yield Reader(response)


def where_a_tool_waits(heartline: Deployment) -> Path:
    """The folder in which one runs."""
    workspaces = heartline.folder / "state" / "workspaces"  # elsewhere the CLI's files come and go meanwhile
    return eventually(lambda: next(workspaces.rglob("waiting"), None)).parent  # type: ignore[union-attr]


def test_a_card_is_open_while_its_tool_runs_and_everything_is_in_order(heartline: Deployment, api: ScriptedApi) -> None:
    api.script(
        "use a tool",
        Turn(Thinking("What first?"), Text("I look."), ToolUse("Bash", {"command": UNTIL_GO})),
        Turn(Thinking("And now?"), ToolUse("Bash", {"command": "echo one"}), ToolUse("Bash", {"command": "exit 3"})),
        Turn(Text("That is all.")),
    )
    with asking(heartline, "use a tool") as reader:
        reader.until(lambda answer: answer.open_calls)
        folder = where_a_tool_waits(heartline)
        assert reader.answer.outline == ["thought What first?", "text I look.", "call Bash"]
        (folder / "go").touch()
        reader.until(lambda answer: not answer.open_calls)
        assert reader.answer.outline[-1] == "output went"
        answer = reader.until()
    assert reader.ended
    assert answer.outline[4:7] == ["thought And now?", "call Bash", "call Bash"]
    assert sorted(answer.outline[7:9]) == ["output Error: Exit code 3", "output one"]
    assert answer.texts == ["I look.", "That is all."]
    assert answer.outline[9:] == [f"text {answer.texts[-1]}"]
    assert (answer.status, answer.error) == (None, None)
    assert answer.statuses[0]["description"] in ("Starting Test Agent …", "Waiting: place 1 in the queue …")
    assert answer.usage["completion_tokens"] == 21


def test_a_subagents_tool_is_a_card_of_its_own_and_marked(heartline: Deployment, api: ScriptedApi) -> None:
    given = {"description": "look", "prompt": "look around for me", "subagent_type": "general-purpose"}
    api.script("send somebody", Turn(Text("I send one."), ToolUse("Task", given)), Turn(Text("All done.")))
    api.script("look around for me", Turn(ToolUse("Bash", {"command": "echo seen"})), Turn(Text("It is there.")))
    with asking(heartline, "send somebody") as reader:
        answer = reader.until()
    assert answer.outline[:4] == ["text I send one.", "call Task", "call subagent_Bash", "output seen"]
    assert "It is there." in answer.outline[4]
    assert answer.texts == ["I send one.", "All done."]
    assert answer.open_calls == set()


def test_text_that_is_void_is_taken_back(heartline: Deployment, api: ScriptedApi) -> None:
    seen = threading.Event()
    api.script(
        "break off",
        Turn(Unfinished(Text("The sk")), Gate(seen), Cut()),
        Turn(Text("The sky is blue.")),
    )
    with asking(heartline, "break off") as reader:
        reader.until(lambda answer: answer.text == "The sk")
        seen.set()
        answer = reader.until()
    assert answer.texts == ["The sky is blue."]
    assert answer.error is None


def test_nothing_of_it_reaches_other_clients_unless_they_ask(heartline: Deployment, api: ScriptedApi) -> None:
    api.script("be plain", Turn(Thinking("Hm."), ToolUse("Bash", {"command": "echo x"})), Turn(Text("Plain.")))
    with heartline.openai() as client:
        ask = client.chat.completions.create
        message = {"role": "user", "content": "be plain"}
        for extra, text in (({}, "Plain."), ({"X-Heartline-Progress": "none", **HEADERS}, "Plain.")):
            chunks = list(ask(model="agent", messages=[message], stream=True, extra_headers=extra))  # type: ignore[call-overload]
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
            assert not any("type" in (chunk.model_extra or {}) for chunk in chunks)


def cancel(heartline: Deployment, run_id: str) -> None:
    with heartline.http() as client:
        assert client.post(f"/v1/runs/{run_id}/cancel").status_code == 200


def stop_worker(heartline: Deployment, run_id: str) -> None:
    heartline.workers[0].stop(signal.SIGTERM)


def kill_worker(heartline: Deployment, run_id: str) -> None:
    heartline.workers[0].stop(signal.SIGKILL)
    heartline.parts.remove(heartline.workers[0])
    heartline.start_worker()  # which sweeps, where there is no sandbox


def stop_replica(heartline: Deployment, run_id: str) -> None:
    heartline.replicas[0].process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("way_out", "code"),
    [
        (cancel, "cancelled"),
        (stop_worker, "worker_shutdown"),
        (kill_worker, "worker_lost"),
        (stop_replica, "replica_shutdown"),
    ],
)
def test_every_way_out_closes_the_card_and_keeps_the_text(
    tmp_path: Path, claude_bin: str, api: ScriptedApi, way_out: Callable[[Deployment, str], None], code: str
) -> None:
    with (
        deployed(tmp_path, claude_bin, api, drain_seconds=2, stop_grace_seconds=1) as heartline,
        asking(heartline, "work for ever") as reader,
    ):
        reader.until(lambda answer: answer.open_calls)
        where_a_tool_waits(heartline)
        way_out(heartline, reader.run_id)
        answer = reader.until()
        assert reader.ended
        assert answer.error is not None
        assert answer.error["code"] == code
        assert answer.open_calls == set()
        assert answer.outline[:2] == ["text I begin.", "call Bash"]
        assert answer.outline[2].startswith("output Error: ")
