"""CLIs that wait, with the real one: who gets which, that no run can tell, and that none is left."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.acceptance.test_conversations_real_cli import Chat, asked, marker
from tests.conftest import skip_unless_ci
from tests.deployment import KEYS, Deployment, eventually
from tests.doubles.anthropic_api import ApiError, Gate, ScriptedApi, Text, ToolUse, Turn
from tests.sse import Watcher
from worker.process import marked

Json = dict[str, Any]

MODELS = """
defaults: {absent: agent, task: tasks}
profiles:
  - {id: agent, model: sonnet, allowed_tools: [Bash, Read, Write]}
  - {id: editor, model: sonnet, permission_mode: acceptEdits, allowed_tools: ["Bash(pwd)"]}
  - {id: writer, model: sonnet, allowed_tools: [Bash, Write], answer_file: output/response.md}
  - {id: limited, model: sonnet, allowed_tools: [Bash], max_turns: 2}
  - {id: thrifty, model: sonnet, tools: [], max_budget_usd: 5}
  - {id: tasks, model: haiku, tools: [], max_turns: 1}
"""
WARM = 5


@pytest.fixture(scope="module")
def api() -> Iterator[ScriptedApi]:
    with ScriptedApi() as scripted:
        yield scripted


def deployed(folder: Path, claude_bin: str, api: ScriptedApi, **settings: object) -> Deployment:
    (folder / "models.yaml").write_text(MODELS)
    given = {
        "models_file": folder / "models.yaml",
        "warm_processes": WARM,
        "warm_memory_bytes": 4 << 30,
        "stop_grace_seconds": 1,
        **settings,
    }
    environment = {"ANTHROPIC_BASE_URL": api.base_url, "CLAUDE_CODE_MAX_RETRIES": "1"}
    return Deployment(folder, claude_bin=claude_bin, environment=environment, **given)


@pytest.fixture(scope="module", params=["bwrap", "off"])
def heartline(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, claude_bin: str, api: ScriptedApi
) -> Iterator[Deployment]:
    if request.param == "bwrap" and shutil.which("bwrap") is None:
        skip_unless_ci("there is no bwrap on PATH")
    with deployed(tmp_path_factory.mktemp("heartline"), claude_bin, api, sandbox=request.param) as deployment:
        yield deployment


@pytest.fixture
def ready(heartline: Deployment) -> Deployment:
    """All spares are up that there is room for."""
    eventually(lambda: heartline.waiting("spare") + heartline.waiting("kept") == WARM)
    return heartline


def how(heartline: Deployment, chat: Chat) -> str:
    return heartline.cli_of(chat.run_id)[1]


def events(heartline: Deployment, run_id: str) -> list[Json]:
    watcher = Watcher(run_id, KEYS["alice"])
    watcher.connect(heartline.replicas[0].url)
    watcher.join()
    return watcher.seen


def same(event: Json) -> Json:
    """What does not differ from run to run."""
    return {
        name: value for name, value in event.items() if name not in ("run_id", "at", "session_id", "tool_id", "worker")
    }


def test_a_new_chat_gets_a_spare_and_the_next_turn_the_one_that_answered(ready: Deployment, api: ScriptedApi) -> None:
    first, second = marker("first"), marker("second")
    api.script(first, Turn(ToolUse("Bash", {"command": "echo 42 > note; pwd"})), Turn(Text("Noted.")))
    api.script(second, Turn(ToolUse("Bash", {"command": "cat note; pwd"})), Turn(Text("42.")))
    here, history = Chat(ready, "warm"), list[Json]()
    assert here.ask(history, first, "m1") == "Noted."
    assert how(ready, here) == "spare"
    workspace = ready.folder / "state/workspaces" / ready.run(here.run_id)["conversation"] / "files"
    assert (workspace / "note").read_text() == "42\n"
    assert here.ask(history, second, "m2", "m1") == "42."
    assert how(ready, here) == "kept"
    assert asked(api, second)[-1] == ("user/tool_result", asked(api, second)[-1][1])
    assert asked(api, second)[-1][1].startswith("42\n")


def test_a_run_cannot_tell_whether_its_cli_had_waited(ready: Deployment, api: ScriptedApi) -> None:
    """The same chat twice, once with a CLI that had waited for each turn and once with cold ones."""

    def chat(*, cold: bool) -> tuple[list[str], list[list[Json]], list[Any], list[Json]]:
        first, second = marker("one"), marker("two")
        for text in (first, second):
            api.script(text, Turn(Text("Let me see."), ToolUse("Bash", {"command": "echo x"})), Turn(Text("Done.")))
        here, history = Chat(ready, "same"), list[Json]()
        hows, streams, usages = [], [], []
        for number, text in enumerate((first, second)):
            if cold:
                end_all_that_wait(ready)
            here.ask(history, text, f"m{number}", f"m{number - 1}" if number else "")
            hows.append(how(ready, here))
            streams.append([same(event) for event in events(ready, here.run_id)])
            usages.append({**ready.run(here.run_id)["usage"]})
        return hows, streams, [turn for turn in asked(api, second) if turn[0] != "user/text"], usages

    warm = eventually(lambda: (found := chat(cold=False))[0] == ["spare", "kept"] and found)
    cold = chat(cold=True)
    assert cold[0] == ["cold", "cold"]
    assert warm[1:] == cold[1:]
    assert warm[3][0]["cost_usd"] == pytest.approx(warm[3][1]["cost_usd"])  # the second's own, not both turns'


def end_all_that_wait(heartline: Deployment) -> None:
    """So that the next run finds none: kill the processes, and do not give the worker the time for others."""
    for process in psutil.Process(heartline.workers[0].process.pid).children():
        process.kill()


def test_one_that_died_is_never_asked(ready: Deployment, api: ScriptedApi) -> None:
    question = marker("dead")
    api.script(question, Turn(Text("Alive.")))
    here = Chat(ready, "dead")
    end_all_that_wait(ready)
    assert here.ask([], question, "m1") == "Alive."
    assert how(ready, here) == "cold"


def test_an_older_answer_is_gone_on_from_in_a_process_of_its_own(ready: Deployment, api: ScriptedApi) -> None:
    """Regenerated: the one that is kept has gone beyond that answer."""
    first, second = marker("first"), marker("second")
    api.script(first, Turn(Text("One.")))
    api.script(second, Turn(Text("Two.")), Turn(Text("Two again.")))
    here, root = Chat(ready, "tree"), list[Json]()
    here.ask(root, first, "m1")
    assert here.ask([*root], second, "m2", "m1") == "Two."
    assert how(ready, here) == "kept"
    assert here.ask([*root], second, "m3", "m1") == "Two again."
    assert how(ready, here) == "cold"
    assert asked(api, second) == [("user/text", first), ("assistant/text", "One."), ("user/text", second)]


def test_nobody_gets_one_that_another_key_has_used(ready: Deployment, api: ScriptedApi) -> None:
    first, second = marker("secret"), marker("what was it")
    api.script(first, Turn(Text("A secret.")))
    api.script(second, Turn(Text("I do not know.")))
    alice = Chat(ready, "shared")
    alice.ask([], first, "m1")
    bob = Chat(ready, "other", owner="bob")
    bob.name = alice.name
    assert bob.ask([], second, "m2", "m1") == "I do not know."
    assert ready.cli_of(bob.run_id)[0] != ready.cli_of(alice.run_id)[0]
    assert asked(api, second) == [("user/text", second)]


def test_one_is_not_kept_after_an_error(ready: Deployment, api: ScriptedApi) -> None:
    question, again = marker("breaks"), marker("again")
    api.script(question, Turn(ApiError(400, "no")))
    api.script(again, Turn(Text("Yes.")))
    here = Chat(ready, "error")
    with pytest.raises(AssertionError):
        here.ask([], question, "m1")
    eventually(lambda: not list(marked(ready.cli_of(here.run_id)[0])))


def test_one_that_left_something_running_is_not_kept(ready: Deployment, api: ScriptedApi) -> None:
    first, second = marker("daemon"), marker("after")
    command = "setsid nohup sleep 4243 > /dev/null 2>&1 & true"
    api.script(first, Turn(ToolUse("Bash", {"command": command})), Turn(Text("Started.")))
    api.script(second, Turn(Text("After.")))
    here, history = Chat(ready, "daemon"), list[Json]()
    here.ask(history, first, "m1")
    cli_id, _ = ready.cli_of(here.run_id)
    eventually(lambda: not [p for p in psutil.process_iter(["cmdline"]) if "4243" in (p.info["cmdline"] or [])])
    eventually(lambda: not list(marked(cli_id)))
    assert here.ask(history, second, "m2", "m1") == "After."
    assert how(ready, here) == "cold"


def test_another_system_prompt_or_effort_gets_another_process(ready: Deployment, api: ScriptedApi) -> None:
    first, second = marker("first"), marker("second")
    api.script(first, Turn(Text("One.")))
    api.script(second, Turn(Text("Two.")))
    here, history = Chat(ready, "system"), list[Json]()
    here.ask(history, first, "m1")
    history.insert(0, {"role": "system", "content": "Speak like a pirate."})
    assert here.ask(history, second, "m2", "m1") == "Two."
    assert how(ready, here) == "cold"
    assert "Speak like a pirate." in str(api.requests_for(second)[-1].body["system"])


def test_what_was_asked_for_waits_next_time(ready: Deployment, api: ScriptedApi) -> None:
    question, system = marker("pirate"), {"role": "system", "content": f"You are {marker('a pirate')}."}
    api.script(question, Turn(Text("Arr.")))
    here = Chat(ready, "pirate")
    assert here.ask([system], question, "m1") == "Arr."
    assert how(ready, here) == "cold"

    def asked_again() -> bool:
        again = Chat(ready, "pirate again")
        again.ask([system], question, "m1")
        return how(ready, again) == "spare"

    eventually(asked_again, what="a spare with this system prompt")
    assert system["content"] in str(api.requests_for(question)[-1].body["system"])


@pytest.mark.parametrize(("model", "hows"), [("limited", ["spare", "kept"]), ("thrifty", ["spare", "cold"])])
def test_a_limit_of_turns_or_of_cost_counts_for_each_run(
    ready: Deployment, api: ScriptedApi, model: str, hows: list[str]
) -> None:
    def chat() -> list[str]:
        here, history, found = Chat(ready, model, model=model), list[Json](), []
        for number in range(2):
            question = marker(f"{model} {number}")
            use = [] if model == "thrifty" else [Turn(ToolUse("Bash", {"command": "true"}))]
            api.script(question, *use, Turn(Text(f"Answer {number}.")))
            assert here.ask(history, question, f"m{number}", f"m{number - 1}" if number else "") == f"Answer {number}."
            assert ready.run(here.run_id)["status"] == "completed"
            found.append(how(ready, here))
        return found

    eventually(lambda: chat() == hows)


def test_one_that_went_to_another_folder_is_not_kept(ready: Deployment, api: ScriptedApi) -> None:
    """Where the next command begins must not depend on who performs it."""
    first, second = marker("go there"), marker("where")
    api.script(first, Turn(ToolUse("Bash", {"command": "mkdir sub && cd sub && pwd"})), Turn(Text("There.")))
    api.script(second, Turn(ToolUse("Bash", {"command": "pwd"})), Turn(Text("Here.")))
    here, history = Chat(ready, "moved"), list[Json]()
    here.ask(history, first, "m1")
    assert here.ask(history, second, "m2", "m1") == "Here."
    assert how(ready, here) == "cold"
    assert not asked(api, second)[-1][1].endswith("sub")


def test_files_are_written_where_a_spare_moved_in(ready: Deployment, api: ScriptedApi) -> None:
    """By their whole path, as models like to, which the CLI checks against the folder that it knows."""

    def chat() -> list[str]:
        first, second = marker("write there"), marker("write again")
        note = Turn(ToolUse("Write", {"file_path": "note.txt", "content": "x"}))
        api.script(first, Turn(ToolUse("Bash", {"command": "pwd"})), note, Turn(Text("Written.")))
        here, history = Chat(ready, "writes", model="editor"), list[Json]()
        here.ask(history, first, "m1")
        found = [how(ready, here)]
        files = ready.folder / "state/workspaces" / ready.run(here.run_id)["conversation"] / "files"
        assert (files / "note.txt").read_text() == "x"
        two = f"{asked(api, first)[-3][1].strip()}/two.txt"
        api.script(second, Turn(ToolUse("Write", {"file_path": two, "content": "y"})), Turn(Text("Done.")))
        here.ask(history, second, "m2", "m1")
        assert (files / "two.txt").read_text() == "y"
        return [*found, how(ready, here)]

    eventually(lambda: chat() == ["spare", "kept"])


def test_who_logs_in_is_logged_in(tmp_path: Path, claude_bin: str, api: ScriptedApi) -> None:
    """A CLI that was started before the login would not know of it."""
    question = marker("logged in")
    api.script(question, Turn(Text("Yes.")))
    with deployed(tmp_path, claude_bin, api, warm_processes=1) as heartline:
        eventually(lambda: heartline.waiting("spare") == 1)
        login = heartline.folder / "home/.claude/.credentials.json"
        login.parent.mkdir(exist_ok=True)
        login.write_text("{}")
        here = Chat(heartline, "logged in")
        here.ask([], question, "m1")
        assert how(heartline, here) == "cold"


def test_an_answer_file_is_a_cold_run(ready: Deployment, api: ScriptedApi) -> None:
    question = marker("write it")
    api.script(question, Turn(Text("Here.")))
    here = Chat(ready, "writer", model="writer")
    assert here.ask([], question, "m1") == "Here."
    assert how(ready, here) == "cold"


def test_a_task_gets_a_spare_and_keeps_nothing(tmp_path: Path, claude_bin: str, api: ScriptedApi) -> None:
    question = f"### Task:\nGenerate a title. {os.urandom(4).hex()}"
    api.script(question, Turn(Text('{"title": "A title"}')))
    with deployed(tmp_path, claude_bin, api) as heartline:
        eventually(lambda: heartline.waiting("spare") == WARM, what="one of each kind")
        with heartline.http() as client:
            body = {"messages": [{"role": "user", "content": question}], "stream": False}
            headers = {"X-OpenWebUI-Task": "title_generation"}
            answer = client.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.json()["choices"][0]["message"]["content"] == '{"title": "A title"}'
        cli_id, how = heartline.cli_of(answer.headers["X-Run-Id"])
        assert how == "spare"
        eventually(lambda: not list(marked(cli_id)))
        eventually(lambda: not list(heartline.folder.glob(f"state/*/{cli_id}")))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("sandbox", ["auto", "off"])
def test_none_outlives_its_worker(
    tmp_path: Path, claude_bin: str, api: ScriptedApi, sandbox: str, number: signal.Signals
) -> None:
    question = marker("kept")
    api.script(question, Turn(Text("Kept.")))
    with deployed(tmp_path, claude_bin, api, sandbox=sandbox, warm_processes=2) as heartline:
        Chat(heartline, "kept").ask([], question, "m1")
        eventually(lambda: (heartline.waiting("spare"), heartline.waiting("kept")) == (1, 1))
        assert heartline.marked_now()
        heartline.workers[0].stop(number)
        assert heartline.marked_processes() == []
        heartline.parts.remove(heartline.workers[0])


@pytest.mark.parametrize("turn", ["spare", "kept"])
def test_its_run_ends_in_the_drain_time_whoever_has_started_it(
    tmp_path: Path, claude_bin: str, api: ScriptedApi, turn: str
) -> None:
    """bubblewrap ends a CLI with the thread that has started it, which was another one than performs the run."""
    first, second, go_on = marker("first"), marker("second"), threading.Event()
    long = [Text("Wait."), Gate(go_on), Text("Done.")]
    api.script(first, Turn(*long) if turn == "spare" else Turn(Text("One.")))
    api.script(second, Turn(*long))
    with deployed(tmp_path, claude_bin, api, drain_seconds=25, worker_slots=3, warm_processes=2) as heartline:
        eventually(lambda: heartline.waiting("spare") == 2)
        with heartline.http() as client:

            def start(prompt: str, parent: str | None) -> str:
                system = "Be kept." if turn == "kept" else ""  # nobody has asked for that: a slot starts it
                body = {"prompt": prompt, "model": "agent", "detach": True, "parent": parent, "system": system}
                return str(client.post("/v1/runs", json={k: v for k, v in body.items() if v}).json()["id"])

            run_id = start(first, None)
            if turn == "kept":
                eventually(lambda: heartline.waiting("kept") == 1)
                run_id = start(second, run_id)
        eventually(lambda: heartline.run(run_id)["answer"] == "Wait.")
        assert heartline.cli_of(run_id)[1] == turn
        heartline.workers[0].process.send_signal(signal.SIGTERM)
        time.sleep(3)  # the slots without a run stop meanwhile, and the pool
        go_on.set()
        eventually(lambda: heartline.run(run_id)["ended_at"])
        assert heartline.run(run_id)["answer"] == "Wait.\n\nDone."


def test_one_that_has_waited_long_enough_ends(tmp_path: Path, claude_bin: str, api: ScriptedApi) -> None:
    question = marker("expires")
    api.script(question, Turn(Text("Yes.")))
    with deployed(tmp_path, claude_bin, api, warm_processes=2, warm_seconds=1) as heartline:
        here = Chat(heartline, "expires")
        here.ask([], question, "m1")
        cli_id, _ = heartline.cli_of(here.run_id)
        eventually(lambda: not list(marked(cli_id)))


def test_off_is_off(tmp_path: Path, claude_bin: str, api: ScriptedApi) -> None:
    question = marker("cold")
    api.script(question, Turn(Text("Cold.")))
    with deployed(tmp_path, claude_bin, api, warm_processes=0) as heartline:
        here = Chat(heartline, "cold")
        here.ask([], question, "m1")
        assert how(heartline, here) == "cold"
        assert heartline.marked_processes() == []
        assert not (heartline.folder / "state/spares").exists()
