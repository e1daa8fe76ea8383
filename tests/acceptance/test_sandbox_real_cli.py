"""What a model's commands can reach, with the real CLI; with the sandbox, and what works without one."""

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from rq.command import send_stop_job_command
from rq.serializers import JSONSerializer

from core.profiles import Profile
from core.run import Message, Run, RunRequest, new_id
from core.settings import Settings
from tests.conftest import skip_unless_ci
from tests.deployment import Deployment, chat, eventually
from tests.doubles.anthropic_api import ScriptedApi, Text, ToolUse, Turn
from worker.command import prepare
from worker.process import Process, marked
from worker.sandbox import MIGRATED, NoSandbox, Sandbox, choose
from worker.workspace import Workspaces

KEY = "the-operators-key-0123456789"
SECRET = "nobody-else-may-read-this"


@pytest.fixture(scope="module")
def api() -> Iterator[ScriptedApi]:
    with ScriptedApi() as scripted:
        yield scripted


def deployment(folder: Path, claude_bin: str, api: ScriptedApi, sandbox: str) -> Deployment:
    """One whose state folder holds a secret; with a profile `offline` where that can be."""
    agent = {
        "model": "sonnet",
        "allowed_tools": ["Bash", "Read", "Write", "Grep", "WebFetch"],
        "system_prompt": "Be terse.",
    }
    profiles = [{"id": "agent", **agent}, {"id": "free", **agent, "permission_mode": "bypassPermissions"}]
    if sandbox == "bwrap":
        (folder / "docs").mkdir()
        (folder / "docs" / "page").write_text("a page of the docs")
        profiles.append({"id": "offline", **agent, "network": False})
        profiles.append({"id": "reader", **agent, "read_only_folders": [str(folder / "docs")]})
    models = folder / "models.yaml"
    models.write_text(yaml.safe_dump({"profiles": profiles, "defaults": {"absent": "agent"}}))
    other = folder / "state" / "workspaces" / ("0" * 32)
    other.mkdir(parents=True)
    for path in (folder / "state" / "api-keys", other / "file", folder / "outside"):
        path.write_text(SECRET)
    return Deployment(
        folder,
        claude_bin=claude_bin,
        environment={"ANTHROPIC_BASE_URL": api.base_url, "ANTHROPIC_API_KEY": KEY},
        models_file=models,
        sandbox=sandbox,
    )


@pytest.fixture(scope="module", params=["bwrap", "off"])
def heartline(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, claude_bin: str, api: ScriptedApi
) -> Iterator[Deployment]:
    """With the sandbox, and without."""
    with _deployed(tmp_path_factory.mktemp("heartline"), claude_bin, api, request.param) as running:
        yield running


@pytest.fixture(scope="module")
def confined(tmp_path_factory: pytest.TempPathFactory, claude_bin: str, api: ScriptedApi) -> Iterator[Deployment]:
    """With the sandbox only: without it, nothing is promised."""
    with _deployed(tmp_path_factory.mktemp("confined"), claude_bin, api, "bwrap") as running:
        yield running


def _deployed(folder: Path, claude_bin: str, api: ScriptedApi, sandbox: str) -> Deployment:
    if sandbox == "bwrap":
        _whole(folder, claude_bin)
    return deployment(folder, claude_bin, api, sandbox)


def _whole(folder: Path, claude_bin: str) -> Sandbox:
    found = choose(Settings(state_dir=str(folder / "trial")), os.environ, claude_bin)
    if found.describe() != "bwrap":
        skip_unless_ci(f"no whole sandbox here: {found.describe()}")
    return found


def answered(heartline: Deployment, prompt: str, **fields: object) -> str:
    with heartline.http() as client:
        answer = client.post("/v1/chat/completions", json=chat(prompt, **fields))
    assert answer.status_code == 200, answer.text
    assert "choices" in answer.json(), answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def tried(heartline: Deployment, api: ScriptedApi, *tools: ToolUse, model: str = "agent") -> str:
    """What the model is told that its tools have found."""
    marker = f"try {os.urandom(4).hex()}"
    api.script(marker, *(Turn(tool) for tool in tools), Turn(Text("Tried.")))
    assert answered(heartline, marker, model=model) == "Tried."
    results = [
        str(block["content"])
        for message in api.requests_for(marker)[-1].body["messages"]
        if isinstance(message["content"], list)
        for block in message["content"]
        if block["type"] == "tool_result"
    ]
    assert len(results) == len(tools)
    return "\n".join(results)


def bash(command: str) -> ToolUse:
    return ToolUse("Bash", {"command": command})


def test_a_tool_runs_and_its_files_stay(heartline: Deployment, api: ScriptedApi) -> None:
    quoting = "printf '%s\\n' \"it's \\$HOME\" 'a\"b' > 'a file'; echo $((6 * 7)) >> 'a file'; cat 'a file'"
    said = tried(heartline, api, bash(quoting), ToolUse("Write", {"file_path": "b", "content": "x"}))
    assert "it's $HOME\na\"b\n42" in said
    assert [file.read_text() for file in heartline.folder.glob("state/workspaces/*/files/a file")] == [
        "it's $HOME\na\"b\n42\n"
    ]


def test_the_directory_that_a_command_changes_to_is_kept(heartline: Deployment, api: ScriptedApi) -> None:
    assert "/inner" in tried(heartline, api, bash("mkdir inner; cd inner"), bash("pwd"))


def test_a_command_that_fails_says_how(heartline: Deployment, api: ScriptedApi) -> None:
    said = tried(heartline, api, bash("echo out; echo err >&2; exit 7"))
    assert all(part in said for part in ("out", "err", "7"))


def test_a_run_leaves_nothing_of_what_it_was_given(heartline: Deployment, api: ScriptedApi) -> None:
    tried(heartline, api, bash("true"))
    eventually(lambda: not list(heartline.folder.glob("state/runs/*")))


def test_history_and_system_text_arrive(heartline: Deployment, api: ScriptedApi) -> None:
    marker = f"the third {os.urandom(4).hex()}"
    api.script(marker, Turn(Text("Three.")))
    turns = [("system", "Count."), ("user", "the first"), ("assistant", "One."), ("user", marker)]
    with heartline.http() as client:
        messages = [{"role": role, "content": content} for role, content in turns]
        answer = client.post("/v1/chat/completions", json={"messages": messages})
    assert answer.json()["choices"][0]["message"]["content"] == "Three."
    body = api.requests_for(marker)[-1].body
    spoken = [message for message in body["messages"] if message["role"] != "system"]
    assert [message["role"] for message in spoken] == ["user", "assistant", "user"]
    assert "One." in str(spoken[1])
    assert "Be terse.\\n\\nCount." in str(body["system"])


def test_a_daemon_is_gone_with_its_run(heartline: Deployment, api: ScriptedApi) -> None:
    tried(heartline, api, bash("setsid nohup sleep 311 > /dev/null 2>&1 < /dev/null & true"))
    assert heartline.marked_processes() == []


def test_a_daemon_outlives_its_command(heartline: Deployment, api: ScriptedApi) -> None:
    start = "setsid nohup sleep 312 > /dev/null 2>&1 < /dev/null & echo $! > pid"
    assert "alive" in tried(heartline, api, bash(start), bash("kill -0 $(cat pid) && echo alive"))


def test_a_stopped_runs_tool_is_gone(heartline: Deployment, api: ScriptedApi) -> None:
    marker = f"work {os.urandom(4).hex()}"
    api.script(marker, Turn(Text("I begin."), bash("true && sleep 313")), Turn(Text("never")))
    with heartline.http() as client:
        run_id = client.post("/v1/runs", json={"prompt": marker}).json()["id"]
    # Started, session, text, tool: a `sleep` alone may be an earlier run's, about to be swept.
    eventually(lambda: heartline.run(run_id)["last_seq"] >= 4)
    eventually(lambda: any("sleep" in each for each in heartline.marked_now()))
    send_stop_job_command(heartline.redis, run_id, serializer=JSONSerializer)
    eventually(lambda: heartline.run(run_id)["status"] == "cancelled")
    assert heartline.marked_processes() == []


def test_nothing_lives_on_when_the_worker_is_killed(confined: Deployment, api: ScriptedApi) -> None:
    api.script("be orphaned", Turn(bash("setsid nohup sleep 314 & true && sleep 315")))
    with confined.http() as client:
        client.post("/v1/runs", json={"prompt": "be orphaned"})
    eventually(lambda: sum("sleep" in each for each in confined.marked_now()) == 2)
    confined.workers[0].process.kill()
    eventually(lambda: not confined.marked_now())
    confined.workers[0].process.wait()
    confined.parts.remove(confined.workers[0])
    confined.start_worker()
    confined.wait_until_ready()


# Ways out.


def test_what_is_not_the_runs_is_not_there(confined: Deployment, api: ScriptedApi) -> None:
    state = confined.folder / "state"
    paths = [state / "api-keys", state / "workspaces" / ("0" * 32) / "file", confined.folder / "outside"]
    said = tried(
        confined,
        api,
        *(bash(f"cat {path}; true") for path in paths),
        *(ToolUse("Read", {"file_path": str(path)}) for path in paths),
        bash(f"ls {state}/valkey; true"),
    )
    assert SECRET not in said
    assert said.count("No such file") == 4
    assert said.count("does not exist") == 3


def test_the_system_cannot_be_changed(confined: Deployment, api: ScriptedApi) -> None:
    said = tried(
        confined,
        api,
        bash("touch /usr/x; true"),
        ToolUse("Write", {"file_path": "/usr/x", "content": "x"}),
        model="free",
    )
    assert "Read-only file system" in said
    assert not Path("/usr/x").exists()


@pytest.mark.parametrize("model", ["agent", "free"])
def test_no_tool_finds_the_key(confined: Deployment, api: ScriptedApi, model: str) -> None:
    said = tried(
        confined,
        api,
        bash("env; env | grep -c ANTHROPIC_API_KEY; true"),
        bash("cat /proc/1/environ; true"),
        bash("/usr/bin/python3 -c \"import glob; print([open(p).read() for p in glob.glob('/pr*/1/env*')])\"; true"),
        bash("/usr/bin/python3 -c \"import os; os.symlink('/pr' + 'oc/2/environ', 'key')\"; true"),
        ToolUse("Read", {"file_path": "/proc/2/environ"}),
        ToolUse("Read", {"file_path": "/proc/self/environ"}),
        ToolUse("Read", {"file_path": "/workspace/key"}),
        ToolUse("Grep", {"pattern": "KEY", "path": "/proc/self/environ", "output_mode": "content"}),
        ToolUse("Grep", {"pattern": "KEY", "path": "/workspace/key", "output_mode": "content"}),
        model=model,
    )
    assert KEY not in said
    assert "ANTHROPIC_BASE_URL=" in said


@pytest.mark.parametrize("model", ["agent", "free"])
def test_no_tool_changes_what_is_the_clis(confined: Deployment, api: ScriptedApi, model: str) -> None:
    said = tried(
        confined,
        api,
        ToolUse("Write", {"file_path": "/heartline/home/.bashrc", "content": "touch /workspace/pwned"}),
        ToolUse("Write", {"file_path": "/heartline/home/.claude/settings.json", "content": "{}"}),
        ToolUse("Read", {"file_path": "/heartline/system-prompt.txt"}),
        ToolUse("Read", {"file_path": "/heartline/home/.claude/.credentials.json"}),
        model=model,
    )
    assert said.count("denied") == 4


def test_a_profiles_folder_can_be_read_and_not_changed(confined: Deployment, api: ScriptedApi) -> None:
    page = confined.folder / "docs" / "page"
    said = tried(
        confined,
        api,
        bash(f"cat {page}; echo x > {page}; true"),
        ToolUse("Read", {"file_path": str(page)}),
        model="reader",
    )
    assert said.count("a page of the docs") == 2
    assert page.read_text() == "a page of the docs"


@pytest.mark.parametrize(("model", "reached"), [("agent", True), ("offline", False)])
def test_the_network_is_there_for_those_who_may_use_it(
    confined: Deployment, api: ScriptedApi, model: str, reached: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5); print('got through')"
        said = tried(confined, api, bash(f'/usr/bin/python3 -c "{code}"; echo "$?"'), model=model)
    assert ("got through" in said) is reached
    assert ("refused" in said) is not reached


def test_without_network_the_clis_own_online_tools_are_denied(confined: Deployment, api: ScriptedApi) -> None:
    fetch = ToolUse("WebFetch", {"url": "http://127.0.0.1:9/", "prompt": "x"})
    assert "disabled" in tried(confined, api, fetch, model="offline")


def test_a_new_home_is_as_up_to_date_as_the_cli_would_make_it(
    tmp_path: Path, claude_bin: str, api: ScriptedApi
) -> None:
    api.script("for the first time", Turn(Text("hello")))
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ANTHROPIC_BASE_URL": api.base_url}
    environ["ANTHROPIC_API_KEY"] = KEY
    asked = [claude_bin, "-p", "for the first time"]
    done = subprocess.run(asked, env=environ, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "hello\n"
    own = json.loads((tmp_path / ".claude.json").read_text())
    assert own["migrationVersion"] == json.loads(MIGRATED)["migrationVersion"]


@pytest.mark.parametrize("sandbox", ["bwrap", "off"])
def test_a_stop_lets_the_cli_end_by_itself(tmp_path: Path, claude_bin: str, api: ScriptedApi, sandbox: str) -> None:
    """Asked on its standard input, it aborts its tool; no signal has to end it, nor what it runs in."""
    marker = f"stop {os.urandom(4).hex()}"
    api.script(marker, Turn(bash("true && sleep 316")), Turn(Text("never")))
    confined = _whole(tmp_path, claude_bin) if sandbox == "bwrap" else NoSandbox("for comparison")
    run_id = new_id()
    run = Run(id=run_id, owner="alice", profile="agent", model="agent", created_at=1.0)
    workspaces = Workspaces(tmp_path, 1000, 1 << 30)
    workspace, private = workspaces.open(run), workspaces.private(run_id)
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ANTHROPIC_BASE_URL": api.base_url}
    environ["ANTHROPIC_API_KEY"] = KEY
    profile = Profile(id="agent", model="sonnet", allowed_tools=("Bash",))
    request = RunRequest(messages=(Message("user", marker),))
    seen_at = confined.inside(private)
    command = prepare(run_id, request, profile, claude_bin, private, environ, seen_at=seen_at)
    command = confined.wrap(command, workspace=workspace, private=private, profile=profile)
    process = Process(
        command.argv,
        stdin=command.stdin,
        cwd=workspace,
        environment=command.environment,
        run_id=run_id,
        farewell=command.farewell,
    )
    try:
        eventually(lambda: any("sleep" in name for name in names(run_id)))
    finally:
        process.close(10)
    assert process.returncode in (0, 1)
    assert list(marked(run_id)) == []


def names(run_id: str) -> list[str]:
    """Of the run's processes that are alive."""
    found = []
    for process in marked(run_id):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(process.name())
    return found


# Before anything starts.


@pytest.mark.parametrize(
    ("sandbox", "says"), [("off", "models.yaml: profile 'offline', network: "), ("bwrap", "HEARTLINE_SANDBOX=bwrap: ")]
)
def test_a_worker_does_not_start_with_less_than_was_asked_for(
    tmp_path: Path, claude_bin: str, api: ScriptedApi, sandbox: str, says: str
) -> None:
    heartline = deployment(tmp_path, claude_bin, api, "bwrap")
    tools = tmp_path / "tools"
    tools.mkdir()
    heartline.environment.update({"PATH": str(tools), "HEARTLINE_SANDBOX": sandbox})
    worker = heartline.start_worker()
    assert worker.process.wait(30) == 2
    (line,) = worker.log.read_text().splitlines()
    assert line.startswith(f"heartline: {says}")


def test_the_worker_says_how_runs_are_confined(heartline: Deployment) -> None:
    log = heartline.workers[0].log.read_text()
    expected = "bwrap" if heartline.environment["HEARTLINE_SANDBOX"] == "bwrap" else "none (turned off)"
    assert f"sandbox={expected}" in log
