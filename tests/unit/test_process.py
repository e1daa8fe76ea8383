"""One CLI process: its lines arrive, its end is noticed, and nothing of it stays behind.

Real processes, of the stand-in for the CLI; every test counts threads, descriptors and processes.
"""

import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.run import new_id
from tests.deployment import eventually, eventually_none
from tests.doubles import fake_claude
from worker import process as process_module
from worker.process import MARK, MAX_STDERR_BYTES, OWNER, Lines, Process, marked, sweep

Json = dict[str, Any]
Start = Callable[..., Process]

FAKE = (sys.executable, "-S", str(Path(fake_claude.__file__)))
SECONDS = 30.0  # nothing here takes as long, unless it hangs


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Fails a test that leaves a thread, a descriptor or a child process."""
    me = psutil.Process()

    def held() -> tuple[int, int, int]:
        return threading.active_count(), me.num_fds(), len(me.children())

    before = held()
    yield

    def left() -> list[str]:
        """More than before: what a test before this one has left to the collector may go meanwhile."""
        return [f"{was}, now {now}" for was, now in zip(before, held(), strict=True) if now > was]

    assert eventually_none(left) == []


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts processes, and closes those that the test has not closed."""
    started: list[Process] = []

    def start(*argv: str, stdin: bytes = b"", run_id: str = "", **environment: str) -> Process:
        process = Process(argv, stdin=stdin, cwd=folder, environment=environment, run_id=run_id or new_id())
        started.append(process)
        return process

    yield start
    for process in started:
        process.close(SECONDS)


@pytest.fixture
def claude(start: Start) -> Start:
    """Starts the stand-in with a command, as its docstring lists them."""

    def claude(run_id: str = "", **command: Any) -> Process:
        return start(*FAKE, stdin=prompt(json.dumps(command)), run_id=run_id)

    return claude


def prompt(text: str) -> bytes:
    message = {"role": "user", "content": [{"type": "text", "text": text}]}
    return json.dumps({"type": "user", "message": message}).encode() + b"\n"


def code(text: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", text)


def all_lines(process: Process) -> list[bytes]:
    """Everything it prints, until its output ends."""
    found: list[bytes] = []
    while (lines := process.lines(SECONDS)) is not None:
        assert lines, "it neither printed anything nor ended"
        found += lines
    return found


def until(process: Process, kind: str) -> list[Json]:
    """The lines up to the first of this type or subtype; the process may go on."""
    found: list[Json] = []
    while lines := process.lines(SECONDS):
        found += map(json.loads, lines)
        if any(kind in (said["type"], said.get("subtype")) for said in found):
            return found
    raise AssertionError(f"its output ended without a line {kind}")


def child_of(process: Process) -> int:
    """The child that the stand-in was told to start, some lines before its result."""
    return next(int(said["task_id"]) for said in until(process, "result") if said.get("subtype") == "task_started")


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# Lines.


def test_lines_come_in_order_and_whole(start: Start) -> None:
    process = start(*code("for i in range(1000): print(i)"))
    assert all_lines(process) == [b"%d\n" % i for i in range(1000)]


def test_a_conversation_comes_from_the_first_line_to_the_result(claude: Start) -> None:
    process = claude(text=["Hel", "lo"])
    process.finish_input()
    kinds = [json.loads(line)["type"] for line in all_lines(process)]
    assert (kinds[0], kinds[-1]) == ("system", "result")


def test_a_line_comes_while_the_process_goes_on(claude: Start) -> None:
    process = claude(text=["one", "two"], interval=60)
    assert until(process, "stream_event")[0]["type"] == "system"
    assert process.returncode is None


def test_the_end_stays_the_end(start: Start) -> None:
    process = start(*code("print(1)"))
    assert all_lines(process) == [b"1\n"]
    assert [process.lines(SECONDS) for _ in range(3)] == [None] * 3


def test_a_last_line_without_a_newline_is_a_line(start: Start) -> None:
    assert all_lines(start(*code("print('a'); print('b', end='')"))) == [b"a\n", b"b"]


def test_empty_lines_are_lines(start: Start) -> None:
    assert all_lines(start(*code("print(); print('a')"))) == [b"\n", b"a\n"]


def test_a_line_of_megabytes_is_whole(claude: Start) -> None:
    process = claude(huge_line=8_000_000, text=["ok"])
    process.finish_input()
    lengths = [len(line) for line in all_lines(process)]
    assert max(lengths) == 8_000_001


@pytest.mark.parametrize(
    ("printed", "read"),
    [
        ("'x' * 99 + '\\n'", [b"x" * 99 + b"\n"]),
        ("'x' * 100 + '\\n'", [b"\n"]),
        ("'x' * 1000 + '\\n'", [b"\n"]),
        ("'x' * 100", [b"\n"]),
        ("'x' * 99", [b"x" * 99]),
    ],
)
def test_a_line_beyond_the_limit_is_skipped_and_the_next_is_read(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, printed: str, read: list[bytes]
) -> None:
    monkeypatch.setattr(process_module, "MAX_LINE_BYTES", 100)
    process = start(*code(f"import sys; print('a'); sys.stdout.write({printed})"))
    assert all_lines(process) == [b"a\n", *read]
    assert ("cli_line_skipped" in caplog.text) is (read == [b"\n"])
    assert "xxx" not in caplog.text


def test_a_line_after_one_beyond_the_limit_is_read(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "MAX_LINE_BYTES", 100)
    assert all_lines(start(*code("print('x' * 250); print('b')"))) == [b"\n", b"b\n"]


def test_a_slow_reader_loses_nothing(start: Start) -> None:
    process = start(*code("for i in range(20000): print(i)"))
    assert process.lines(SECONDS)
    assert all_lines(process)[-1] == b"19999\n"


def test_waking_one_whose_lines_nobody_reads_blocks_nobody(start: Start) -> None:
    process = start(*code("while True: print('x' * 1000)"))
    for _ in range(1000):
        process.wake()
    assert process.lines(SECONDS) is not None


def test_lines_returns_empty_handed_when_the_time_is_up(start: Start) -> None:
    process = start(*code("input()"))
    assert process.lines(0) == []
    assert process.lines(-5) == []
    assert process.lines(0.01) == []


def test_waking_ends_the_wait_without_a_line(start: Start) -> None:
    process = start(*code("input()"))
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(process.lines(SECONDS)))
    waiting.start()
    process.wake()
    waiting.join(SECONDS)
    assert found == [[]]


def test_a_wake_before_the_wait_is_not_forgotten(start: Start) -> None:
    process = start(*code("input()"))
    process.wake()
    assert process.lines(SECONDS) == []


# Standard input, standard error, environment.


def test_two_megabytes_of_prompt_block_nobody(start: Start) -> None:
    text = ("x" * 65_535 + " ") * 32
    process = start(*FAKE, stdin=prompt(text))
    process.finish_input()
    assert until(process, "result")[-1]["result"] == text


def test_a_process_that_does_not_read_its_prompt_can_still_be_closed(start: Start) -> None:
    process = start(*code("import time; print('up', flush=True); time.sleep(60)"), stdin=b"x" * 2_000_000)
    assert process.lines(SECONDS) == [b"up\n"]
    process.close(SECONDS)
    assert process.returncode == -signal.SIGINT


def test_a_process_that_ends_before_it_was_fed_is_no_error(start: Start) -> None:
    process = start(*code("pass"), stdin=b"x" * 2_000_000)
    assert all_lines(process) == []


def test_the_input_stays_open_until_it_is_finished(start: Start) -> None:
    process = start(
        *code("import sys; print(len(sys.stdin.readline()), flush=True); print(sys.stdin.read())"), stdin=b"a\n"
    )
    assert process.lines(SECONDS) == [b"2\n"]
    assert process.lines(0) == []
    process.finish_input()
    assert all_lines(process) == [b"\n"]


def test_of_standard_error_only_the_end_is_kept(claude: Start) -> None:
    process = claude(stderr="beginning", stderr_bytes=1_000_000, no_result=True, exit=3)
    all_lines(process)
    assert process.wait(SECONDS)
    process.close(SECONDS)
    assert process.stderr(SECONDS) == "e" * MAX_STDERR_BYTES
    assert process.returncode == 3


def test_standard_error_need_not_be_text(start: Start) -> None:
    process = start(*code("import os; os.write(2, b'bad \\xff\\n')"))
    all_lines(process)
    assert process.wait(SECONDS)
    process.close(SECONDS)
    assert process.stderr(SECONDS) == "bad \ufffd"


def test_the_process_sees_its_environment_its_mark_and_nothing_else(start: Start, folder: Path) -> None:
    run_id = new_id()
    text = "import os, json; print(json.dumps([dict(os.environ), os.getcwd()]))"
    (line,) = all_lines(start(*code(text), run_id=run_id, GIVEN="1"))
    environment, cwd = json.loads(line)
    assert environment.pop("LC_CTYPE", None) in (None, "C.UTF-8")  # Python's own, PEP 538
    assert environment == {"GIVEN": "1", MARK: run_id, OWNER: str(os.getpid())}
    assert Path(cwd) == folder.resolve()


def test_the_process_has_a_session_of_its_own(start: Start) -> None:
    (line,) = all_lines(start(*code("import os; print(os.getsid(0) == os.getpid())")))
    assert line == b"True\n"


@pytest.mark.parametrize("argv", ["/nonexistent/claude", "/"])
def test_a_program_that_cannot_be_started_is_an_error_and_leaves_nothing(folder: Path, argv: str) -> None:
    with pytest.raises(OSError, match=argv):
        Process((argv,), stdin=b"", cwd=folder, environment={}, run_id=new_id())


def test_a_working_directory_that_is_gone_is_an_error(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Process(code("pass"), stdin=b"", cwd=folder / "gone", environment={}, run_id=new_id())


# The end.


def test_the_exit_code_is_told(start: Start) -> None:
    process = start(*code("raise SystemExit(7)"))
    assert process.wait(SECONDS)
    assert process.returncode == 7


def test_waiting_for_one_that_goes_on_says_so(start: Start) -> None:
    process = start(*code("input()"))
    assert process.wait(0.01) is False
    assert process.returncode is None


def test_closing_one_that_has_ended_changes_nothing(start: Start) -> None:
    process = start(*code("raise SystemExit(7)"))
    assert process.wait(SECONDS)
    process.close(SECONDS)
    process.close(SECONDS)
    assert process.returncode == 7


def test_with_patience_it_may_end_by_itself(claude: Start) -> None:
    process = claude(text=["ok"])
    until(process, "result")
    process.close(SECONDS, SECONDS)
    assert process.returncode == 0


def test_closing_asks_before_it_kills(claude: Start) -> None:
    process = claude(text=["a", "b"], interval=60)
    until(process, "stream_event")
    process.close(SECONDS)
    assert process.returncode == 0  # it has heeded SIGINT, and ended by itself


def test_closing_ends_one_that_ignores_sigint(claude: Start) -> None:
    process = claude(ignore_sigint=True, ignore_sigterm=True, text=["ok"], hang_after_result=60)
    until(process, "result")
    process.close(0.1)
    assert process.returncode == -signal.SIGKILL
    assert not alive(process.pid)


def test_closing_ends_one_whose_lines_nobody_reads(start: Start) -> None:
    process = start(*code("while True: print('x' * 1000)"))
    assert process.lines(SECONDS)
    process.close(SECONDS)
    assert process.returncode is not None


def test_closing_sweeps_a_child_in_a_session_of_its_own(claude: Start) -> None:
    process = claude(child=60, text=["ok"], hang_after_result=60)
    child = child_of(process)
    assert alive(child)
    process.close(SECONDS)
    assert not alive(child)


def test_closing_sweeps_a_child_that_outlived_its_parent(claude: Start) -> None:
    process = claude(child=60, text=["ok"])
    child = child_of(process)
    process.finish_input()
    assert process.wait(SECONDS)
    assert alive(child)
    process.close(SECONDS)
    assert not alive(child)


def test_a_child_that_holds_the_output_open_does_not_hold_up_the_end(start: Start) -> None:
    script = (
        "import subprocess; subprocess.Popen(['/bin/sleep', '60'], start_new_session=True); print('up', flush=True)"
    )
    process = start(*code(script))
    assert process.lines(SECONDS) == [b"up\n"]
    assert process.wait(SECONDS)
    process.close(SECONDS)
    assert process.lines(0) in ([], None)


def test_closing_does_not_wait_for_a_stranger_that_holds_the_output_open(start: Start) -> None:
    """A process without the mark, which no sweep can find, has inherited the pipes."""
    script = (
        "import subprocess; p = subprocess.Popen(['/bin/sleep', '60'], start_new_session=True, env={}); print(p.pid)"
    )
    process = start(*code(script))
    (line,) = process.lines(SECONDS) or []
    stranger = psutil.Process(int(line))
    closing = threading.Thread(target=process.close, args=(0.1,))
    try:
        closing.start()
        closing.join(5)
        assert not closing.is_alive(), "close() hangs"
    finally:
        stranger.kill()
        closing.join(SECONDS)


def test_sweeping_one_run_leaves_the_others_alone(claude: Start) -> None:
    mine, other = new_id(), new_id()
    one = claude(run_id=mine, child=60, text=["ok"], hang_after_result=60)
    two = claude(run_id=other, child=60, text=["ok"], hang_after_result=60)
    children = [child_of(one), child_of(two)]
    eventually(lambda: {each.pid for each in marked(mine)} == {one.pid, children[0]})
    one.close(SECONDS)
    assert [alive(child) for child in children] == [False, True]
    assert list(marked(mine)) == []
    eventually(lambda: {each.pid for each in marked(other)} == {two.pid, children[1]})


def test_sweeping_counts_what_it_found(claude: Start) -> None:
    run_id = new_id()
    process = claude(run_id=run_id, child=60, text=["ok"], hang_after_result=60)
    until(process, "result")
    eventually(lambda: len(list(marked(run_id))) == 2)
    assert sweep(run_id, SECONDS) == 2
    assert sweep(run_id, SECONDS) == 0


def test_sweeping_without_time_and_without_anything_to_sweep_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    assert sweep(new_id(), 0) == 0
    assert caplog.records == []


class Exec:
    """A process in the middle of its exec: the kernel shows its environment only a moment later."""

    pid = -1

    def __init__(self, run_id: str) -> None:
        self._environment = {MARK: run_id}
        self._looks = 0
        self.killed = False

    def is_running(self) -> bool:
        return True

    def status(self) -> str:
        return psutil.STATUS_ZOMBIE if self.killed else psutil.STATUS_RUNNING

    def looked_at(self) -> bool:
        self._looks += 1
        return self._looks > 1

    def environ(self) -> dict[str, str]:
        return self._environment

    def kill(self) -> None:
        self.killed = True


def test_sweeping_finds_a_process_that_was_just_about_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = new_id()
    starting = Exec(run_id)
    monkeypatch.setattr(psutil, "process_iter", lambda *_: iter([starting]))
    monkeypatch.setattr("worker.process._is_marked", Exec.looked_at)
    monkeypatch.setattr(psutil, "wait_procs", lambda *_, **__: ([], []))
    sweep(run_id, SECONDS)
    assert starting.killed


def test_the_worker_itself_is_never_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = new_id()
    monkeypatch.setenv(MARK, run_id)
    assert os.getpid() not in {each.pid for each in marked(run_id)}


def test_closing_from_several_threads_at_once_is_safe(claude: Start) -> None:
    process = claude(text=["a", "b"], interval=60)
    until(process, "stream_event")
    closing = [threading.Thread(target=process.close, args=(SECONDS,)) for _ in range(3)]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join(SECONDS)
    assert process.returncode is not None


@given(st.binary(max_size=300), st.lists(st.integers(1, 40)))
def test_lines_are_the_same_however_they_are_read(printed: bytes, sizes: list[int]) -> None:
    lines, read, left = Lines("run"), [], printed
    for size in [*sizes, len(printed) + 1]:
        read += lines.feed(left[:size])
        left = left[size:]
    read += lines.end()
    assert read == io.BytesIO(printed).readlines()
    assert lines.end() == []


def test_what_nobody_reads_any_more_does_not_hold_up_its_end(start: Start) -> None:
    script = "import sys\nprint('up', flush=True)\nsys.stdin.read()\nprint('x' * 1_000_000)"
    process = start(*code(script))
    assert process.lines(SECONDS) == [b"up\n"]
    process.close(SECONDS, SECONDS)
    assert process.returncode == 0


def test_waking_is_heard_also_while_a_line_is_not_whole(start: Start) -> None:
    process = start(*code("import time\nprint('half', end='', flush=True)\ntime.sleep(60)"))
    assert process.lines(0.1) == []
    process.wake()
    assert process.lines(SECONDS) == []
    process.close(SECONDS)
    process.wake()


# One that waits.


def test_it_can_be_asked_again(start: Start) -> None:
    process = start(*FAKE)
    assert process.is_quiet()
    for text in ("one", "two"):
        process.write(prompt(text))
        found: list[bytes] = []
        while not any(b'"result"' in line for line in found):
            found += process.lines(SECONDS) or []
        assert any(text.encode() in line for line in found)
    assert process.is_quiet()


def test_one_that_has_more_to_say_or_has_ended_is_not_quiet(start: Start) -> None:
    talking = start(*code("print('x', flush=True); input()"))
    eventually(lambda: not talking.is_quiet())
    ended = start(*code("pass"))
    eventually(lambda: not ended.is_quiet())
    assert not ended.is_quiet()


def test_one_with_a_child_or_a_daemon_is_not_alone(start: Start, claude: Start) -> None:
    assert start(*code("input()")).is_alone(0)
    parent = claude(child=60)
    eventually(lambda: not parent.is_alone(0))
    assert parent.is_alone(1)
    daemon = (
        "import subprocess, sys; subprocess.Popen(['sh', '-c', 'setsid sleep 60 &']).wait(); print(flush=True); input()"
    )
    orphaned = start(*code(daemon), PATH=os.environ["PATH"])
    assert orphaned.lines(SECONDS) == [b"\n"]
    assert not orphaned.is_alone(0)


def test_its_memory_is_that_of_the_whole_tree(start: Start) -> None:
    one = start(*code("input()"))
    two = start(
        *code("import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])")
    )
    assert two.lines(SECONDS) == [b"1\n"]
    assert two.memory() > 1.5 * one.memory() > 0
    one.close(SECONDS)
    assert one.memory() == 0
