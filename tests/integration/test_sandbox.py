"""The sandbox with the real bubblewrap: small programs in the CLI's place try to get out."""

import contextlib
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from core.profiles import Profile
from core.run import Run as Owned
from core.run import new_id
from core.settings import Settings
from tests.conftest import skip_unless_ci
from tests.deployment import eventually
from worker.command import Command
from worker.process import Process, marked
from worker.sandbox import Sandbox, choose
from worker.workspace import Workspaces

SECONDS = 20.0
SECRET = "nobody-else-may-read-this"
PLAIN = Profile(id="plain")
SHELL = "/bin/bash"

Run = Callable[..., Process]


@pytest.fixture
def state(folder: Path) -> Path:
    """A state folder with everything in it that is not a run's business."""
    made = folder / "state"
    made.mkdir()
    (made / "api-keys").write_text(SECRET)
    return made


@pytest.fixture
def sandbox(state: Path) -> Sandbox:
    found = choose(Settings(state_dir=str(state)), {**os.environ, "HOME": str(state.parent / "home")})
    if found.describe() != "bwrap":
        skip_unless_ci(f"no whole sandbox here: {found.describe()}")
    return found


@pytest.fixture
def run(sandbox: Sandbox, state: Path) -> Iterator[Run]:
    """Starts a shell script in the sandbox, as a run with folders of its own."""
    workspaces = Workspaces(state, 1000, 1 << 30)
    started: list[tuple[Owned, Process]] = []

    def run(script: str, profile: Profile = PLAIN, tool: bool = False, **environment: str) -> Process:
        owned = Owned(id=new_id(), owner="alice", profile="plain", model="plain", created_at=1.0)
        workspace, private = workspaces.open(owned), workspaces.private(owned.id)
        argv = ("/bin/sh", "-c", '/heartline/tool-shell "$0"', script) if tool else (SHELL, "-c", script)
        command = Command(argv, b"", {"PATH": os.environ["PATH"], **environment})
        confined = sandbox.wrap(command, workspace=workspace, private=private, profile=profile)
        process = Process(confined.argv, stdin=b"", cwd=workspace, environment=confined.environment, run_id=owned.id)
        started.append((owned, process))
        return process

    yield run
    for owned, process in started:
        process.close(2)
        workspaces.close(owned)
        workspaces.remove(owned.id)
        assert list(marked(owned.id)) == []


def output(process: Process) -> str:
    """All that it prints; its errors, too."""
    found: list[bytes] = []
    while (lines := process.lines(SECONDS)) is not None:
        assert lines, "it neither printed anything nor ended"
        found += lines
    return b"".join(found).decode() + process.stderr(SECONDS)


both = pytest.mark.parametrize("tool", [False, True], ids=["cli", "tool"])


@both
def test_it_is_at_home_in_its_workspace_which_is_always_at_the_same_path(run: Run, state: Path, tool: bool) -> None:
    process = run("pwd; echo mine > file; cat /workspace/file", tool=tool)
    assert output(process) == "/workspace\nmine\n"
    assert [file.read_text() for file in state.glob("workspaces/*/files/file")] == ["mine\n"]


@both
@pytest.mark.parametrize("program", ["bash --version", "git --version", "python3 --version", "bwrap --version"])
def test_what_agents_use_is_there(run: Run, program: str, tool: bool) -> None:
    process = run(f"PATH=/usr/bin:/bin {program} > /dev/null && echo fine", tool=tool)
    assert output(process) == "fine\n"


@both
def test_names_and_the_time_zone_are_known(run: Run, tool: bool) -> None:
    script = (
        "PATH=/usr/bin:/bin; getent hosts localhost > /dev/null && getent passwd root > /dev/null && date && echo fine"
    )
    assert output(run(script, tool=tool)).endswith("fine\n")


@both
def test_the_state_folder_is_not_there(run: Run, state: Path, tool: bool) -> None:
    other = state / "workspaces" / new_id()
    other.mkdir(parents=True)
    (other / "file").write_text(SECRET)
    for path in (state / "api-keys", other / "file", state, other):
        said = output(run(f"cat {path} || ls {path}", tool=tool))
        assert SECRET not in said
        assert "No such file" in said


@both
def test_the_valkey_cannot_be_reached(run: Run, redis_url: str, tool: bool) -> None:
    path = redis_url.removeprefix("unix://")
    assert Path(path).is_socket()
    code = f"import socket; socket.socket(socket.AF_UNIX).connect({path!r})"
    assert "FileNotFoundError" in output(run(f'/usr/bin/python3 -c "{code}"', tool=tool))


@both
def test_homes_sockets_and_logs_are_not_there(run: Run, tool: bool) -> None:
    said = output(
        run("for each in /root /home /run /var/run /var/log /srv /mnt /etc/shadow; do ls -d $each; done", tool=tool)
    )
    assert said.count("No such file") == 8, said


@both
def test_no_process_but_its_own_is_seen(run: Run, tool: bool) -> None:
    process = run(
        "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; ls -d /proc/[0-9]*", tool=tool
    )
    said = output(process)
    assert "-m\npytest\n" not in said
    assert str(Path(sys.executable).parent / "pytest") not in said
    assert f"/proc/{os.getpid()}\n" not in said
    assert len(re.findall(r"^/proc/\d+$", said, re.MULTILINE)) < 10


@both
@pytest.mark.parametrize(
    "path", ["/usr/x", "/etc/x", "/x", "/bin/x", "/heartline/x", "/proc/sys/kernel/hostname", "/opt/x"]
)
def test_nothing_outside_can_be_written(run: Run, path: str, tool: bool) -> None:
    said = output(run(f"echo x > {path} && echo done", tool=tool))
    assert "done" not in said


@both
@pytest.mark.parametrize("path", ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern"])
def test_the_machine_cannot_be_changed(run: Run, path: str, tool: bool) -> None:
    assert "done" not in output(run(f"test -w {path} && echo done", tool=tool))  # too dangerous to try


@both
def test_it_cannot_mount_or_change_what_it_was_given(run: Run, tool: bool) -> None:
    tries = (
        "mount -t tmpfs x /workspace", "mount -o remount,rw /", "umount /heartline", "mknod /tmp/x b 8 0",
        "umount /proc/sys",
    )  # fmt: skip
    script = ";".join(f"{each} && echo done" for each in tries)
    assert "done" not in output(run(script, tool=tool))


def test_its_temporary_folder_is_its_own(run: Run) -> None:
    assert output(run("echo x > /tmp/heartline-probe; ls /tmp")) == "heartline-probe\n"
    assert not Path("/tmp/heartline-probe").exists()  # noqa: S108
    assert output(run("ls /tmp")) == ""


def test_the_environment_is_what_it_was_given(run: Run) -> None:
    said = output(run("/usr/bin/env", GIVEN="1", HOME="/root"))
    found = dict(line.split("=", 1) for line in said.splitlines())
    assert found.pop("HEARTLINE_RUN_ID")
    assert found.pop("HEARTLINE_WORKER_PID")
    assert set(found) - {"PWD", "SHLVL", "_"} == {
        "PATH", "GIVEN", "HOME", "TMPDIR", "CLAUDE_CONFIG_DIR", "CLAUDE_CODE_TMPDIR", "CLAUDE_CODE_SHELL_PREFIX",
    }  # fmt: skip
    assert found["HOME"] == "/heartline/home"


def test_a_tool_has_neither_the_key_nor_a_way_to_it(run: Run) -> None:
    script = (
        "echo $HOME; /usr/bin/env; ls -A /heartline; cat /heartline/tool-shell; "
        "cat /proc/[0-9]*/environ | tr '\\0' '\\n'; /usr/bin/python3 -c \"open('/proc/2/mem', 'rb')\""
    )
    said = output(run(script, tool=True, ANTHROPIC_API_KEY=SECRET, ANTHROPIC_BASE_URL="http://x"))
    assert said.startswith("/workspace\n")
    assert "ANTHROPIC_BASE_URL=http://x" in said
    assert SECRET not in said
    assert "Permission denied: '/proc/2/mem'" in said or "PermissionError" in said


def test_the_cli_has_its_login_and_tools_do_not(run: Run, state: Path) -> None:
    login = state.parent / "home" / ".claude" / ".credentials.json"
    login.parent.mkdir(parents=True)
    login.write_text(SECRET)
    inside = "/heartline/home/.claude/.credentials.json"
    assert output(run(f"cat {inside}")) == SECRET
    assert "denied" in (said := output(run(f"echo x > {inside} && echo done"))) or "Read-only" in said
    assert SECRET not in output(run(f"cat {inside}", tool=True))
    assert login.read_text() == SECRET


def test_the_private_folder_is_read_only(run: Run, state: Path) -> None:
    process = run("read; cat /heartline/given; echo x > /heartline/given && echo done")
    (private,) = state.glob("runs/*")
    (private / "given").write_text("for the CLI\n")
    process.finish_input()
    said = output(process)
    assert said.startswith("for the CLI\n")
    assert "done" not in said


def test_a_profiles_folders_are_there_as_it_says(run: Run, folder: Path) -> None:
    for name in ("docs", "data"):
        (folder / name).mkdir()
        (folder / name / "file").write_text(f"{name}\n")
    profile = Profile(id="p", read_only_folders=(str(folder / "docs"),), writable_folders=(str(folder / "data"),))
    script = f"cat {folder}/docs/file {folder}/data/file; echo new > {folder}/data/new; touch {folder}/docs/new"
    said = output(run(script, profile, tool=True))
    assert said.startswith("docs\ndata\n")
    assert (folder / "data" / "new").read_text() == "new\n"
    assert not (folder / "docs" / "new").exists()


@pytest.mark.parametrize("network", [True, False])
def test_a_tool_reaches_the_network_only_if_the_profile_lets_it(run: Run, network: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 5); print('reached')"
        profile = Profile(id="p", network=network)
        said = output(run(f'/usr/bin/python3 -c "{code}"', profile, tool=True))
        assert ("reached" in said) is network
        assert ("ConnectionRefusedError" in said) is not network
        assert output(run(f'/usr/bin/python3 -c "{code}"', profile)) == "reached\n"  # the CLI itself always does


# The end.


@pytest.fixture
def daemon(run: Run) -> tuple[Process, list[psutil.Process]]:
    """A run that has left a daemon of its own and one of a tool's, and goes on."""
    inner = "setsid nohup sleep 302 > /dev/null 2>&1 < /dev/null &"
    process = run(f"setsid nohup sleep 301 > /dev/null 2>&1 & /heartline/tool-shell '{inner}'; echo up; read")
    assert process.lines(SECONDS) == [b"up\n"]
    mark = psutil.Process(process.pid).environ()["HEARTLINE_RUN_ID"]

    def daemons() -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [each for each in marked(mark) if each.name() == "sleep"]
        return []

    eventually(lambda: len(daemons()) == 2, what="the daemons' mark is seen from outside")
    return process, daemons()


def gone(processes: list[psutil.Process]) -> bool:
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_all_of_it(daemon: tuple[Process, list[psutil.Process]], number: signal.Signals) -> None:
    process, daemons = daemon
    os.kill(process.pid, number)
    assert process.wait(SECONDS)
    eventually(lambda: gone(daemons), 5)


def test_with_the_program_ends_all_of_it(daemon: tuple[Process, list[psutil.Process]]) -> None:
    process, daemons = daemon
    process.finish_input()
    assert process.wait(SECONDS)
    eventually(lambda: gone(daemons), 5)


def test_with_the_thread_that_started_it_ends_all_of_it(run: Run) -> None:
    started: list[Process] = []

    def start() -> None:
        started.append(run("echo up; sleep 300"))
        assert started[0].lines(SECONDS) == [b"up\n"]  # bwrap asks for its end once it runs

    thread = threading.Thread(target=start)
    thread.start()
    thread.join(SECONDS)
    assert started[0].wait(SECONDS)


def test_closing_leaves_nothing(run: Run) -> None:
    me = psutil.Process()
    before = (threading.active_count(), me.num_fds())
    process = run("trap '' INT TERM; sleep 300 & echo up; wait")
    assert process.lines(SECONDS) == [b"up\n"]
    process.close(2)
    assert process.returncode is not None
    eventually(lambda: (threading.active_count(), me.num_fds()) == before, 5)
