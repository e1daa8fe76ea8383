"""The doubles keep their promises, and the real CLI, where there is one, believes the scripted API."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from tests.doubles import fake_claude
from tests.doubles.anthropic_api import (
    ApiError,
    Cut,
    Gate,
    ScriptedApi,
    Silence,
    Text,
    Thinking,
    ToolUse,
    Turn,
    Unfinished,
)

Json = dict[str, Any]

SECONDS = 20.0  # nothing here takes as long, unless it hangs
MESSAGES = "/v1/messages?beta=true"


# The scripted API.


@contextmanager
def asked(api: ScriptedApi, *prompts: str, stream: bool = True) -> Iterator[http.client.HTTPResponse]:
    """The response to a conversation that consists of these user messages."""
    messages = [{"role": "user", "content": [{"type": "text", "text": prompt}]} for prompt in prompts]
    messages.append({"role": "system", "content": [{"type": "text", "text": "count sheep"}]})
    body = json.dumps({"model": "m", "stream": stream, "messages": messages})
    connection = http.client.HTTPConnection(urlsplit(api.base_url).netloc, timeout=SECONDS)
    try:
        connection.request("POST", MESSAGES, body, {"X-Api-Key": "any"})
        yield connection.getresponse()
    finally:
        connection.close()


def reply(api: ScriptedApi, *prompts: str) -> Json:
    """The same conversation, answered as one JSON message."""
    with asked(api, *prompts, stream=False) as response:
        return cast(Json, json.load(response))


def said(api: ScriptedApi, *prompts: str) -> str:
    return cast(str, reply(api, *prompts)["content"][0]["text"])


def events(response: http.client.HTTPResponse) -> Iterator[Json]:
    for line in response:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


def test_a_turn_is_streamed_block_by_block() -> None:
    turn = Turn(Thinking("Hm."), Text("Hello", pieces=("Hel", "lo")), ToolUse("Bash", {"command": "ls"}), usage=(3, 4))
    with ScriptedApi() as api:
        api.script("hi", turn)
        with asked(api, "hi") as response:
            got = list(events(response))
    assert [event["type"] for event in got[:2]] == ["message_start", "content_block_start"]
    assert [event["delta"] for event in got if event["type"] == "content_block_delta"] == [
        {"type": "thinking_delta", "thinking": "Hm."},
        {"type": "signature_delta", "signature": "signed"},
        {"type": "text_delta", "text": "Hel"},
        {"type": "text_delta", "text": "lo"},
        {"type": "input_json_delta", "partial_json": '{"command": "ls"}'},
    ]
    assert got[0]["message"]["usage"] == {"input_tokens": 3, "output_tokens": 1}
    assert got[-2]["delta"]["stop_reason"] == "tool_use"
    assert got[-2]["usage"] == {"output_tokens": 4}
    assert got[-1] == {"type": "message_stop"}


def test_turns_follow_each_other_and_the_last_repeats() -> None:
    with ScriptedApi() as api:
        api.script("hi", Turn(Text("one")), Turn(Text("two")))
        assert [said(api, "hi") for _ in range(3)] == ["one", "two", "two"]


def test_the_latest_then_longest_marker_decides() -> None:
    with ScriptedApi() as api:
        api.script("count", Turn(Text("short")))
        api.script("count sheep", Turn(Text("long")))
        api.script("name birds", Turn(Text("birds")))
        assert said(api, "please count sheep") == "long"
        assert said(api, "name birds", "count to three") == "short"
        assert said(api, "count sheep", "name birds", "and more?") == "birds"
        assert said(api, "anything") == "No script for this conversation."
        assert len(api.requests_for("name birds")) == 1
        assert len(api.requests) == 4
        assert api.requests[0].path == MESSAGES
        assert api.requests[0].headers["x-api-key"] == "any"


def test_one_json_message_instead_of_a_stream() -> None:
    with ScriptedApi() as api:
        api.script("hi", Turn(Silence(0), Text("Hello"), ToolUse("Bash", {}, id="toolu_1")))
        message = reply(api, "hi")
    assert message["content"] == [
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {}},
    ]
    assert message["stop_reason"] == "tool_use"
    assert message["usage"] == {"input_tokens": 10, "output_tokens": 7}


def test_an_error_comes_in_anthropics_form() -> None:
    with ScriptedApi() as api:
        api.script("hi", Turn(ApiError(529, "Overloaded", "overloaded_error")))
        with asked(api, "hi") as response:
            assert response.status == 529
            error = {"type": "overloaded_error", "message": "Overloaded"}
            assert json.load(response) == {"type": "error", "error": error}
    with pytest.raises(ValueError, match="first step"):
        Turn(Text("Hello"), ApiError(400, "too late"))


def test_a_cut_breaks_the_stream_inside_a_block() -> None:
    with ScriptedApi() as api:
        api.script("hi", Turn(Unfinished(Text("par")), Cut()))
        with asked(api, "hi") as response, pytest.raises(http.client.IncompleteRead) as broken:
            response.read()
    assert b"content_block_delta" in broken.value.partial
    assert b"content_block_stop" not in broken.value.partial


def test_a_gate_holds_the_stream_until_it_opens() -> None:
    gate = threading.Event()
    with ScriptedApi() as api:
        api.script("hi", Turn(Text("before"), Gate(gate), Text("after")))
        with asked(api, "hi") as response:
            stream = events(response)
            assert [next(stream)["type"] for _ in range(4)][-1] == "content_block_stop"
            gate.set()
            assert [event["delta"]["text"] for event in stream if event["type"] == "content_block_delta"] == ["after"]


def test_a_gate_that_stays_shut_ends_in_a_cut() -> None:
    with ScriptedApi() as api:
        api.script("hi", Turn(Gate(threading.Event(), timeout=0)))
        with asked(api, "hi") as response, pytest.raises(http.client.IncompleteRead):
            response.read()


@pytest.mark.parametrize("step", [Silence(3600), Gate(threading.Event(), timeout=3600)])
def test_closing_interrupts_what_waits_and_leaves_no_thread(step: Silence | Gate) -> None:
    before = set(threading.enumerate())
    with ScriptedApi() as api:
        api.script("hi", Turn(Text("Hello"), step))
        with asked(api, "hi") as response:
            next(events(response))
            api.close()
            with pytest.raises(http.client.IncompleteRead):
                response.read()
        with pytest.raises(ConnectionRefusedError), asked(api, "hi"):
            pass
    assert set(threading.enumerate()) == before


def test_a_client_that_leaves_is_no_news(capfd: pytest.CaptureFixture[str]) -> None:
    gate = threading.Event()
    with ScriptedApi() as api:
        api.script("hi", Turn(Text("Hello"), Gate(gate), *[Text("x" * 100_000)] * 100))
        with asked(api, "hi") as response:
            next(events(response))
        gate.set()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("HEAD", "/", 200, b""),
        ("GET", "/", 200, b""),
        ("POST", "/v1/messages/count_tokens?beta=true", 200, b'{"input_tokens": 5}'),
        ("GET", "/nowhere", 404, None),
        ("POST", "/nowhere", 404, None),
    ],
)
def test_the_other_paths(method: str, path: str, status: int, body: bytes | None) -> None:
    with ScriptedApi() as api:
        connection = http.client.HTTPConnection(urlsplit(api.base_url).netloc, timeout=SECONDS)
        connection.request(method, path, b"{}" if method == "POST" else None)
        response = connection.getresponse()
        assert response.status == status
        answer = response.read()
        assert json.loads(answer)["type"] == "error" if body is None else answer == body
        connection.close()


# The fake CLI.


class Cli:
    """A CLI process in stream-json mode; gone when the block ends, however it ends."""

    def __init__(self, *argv: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
        self.process = subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="surrogateescape",
        )
        self._watchdog = threading.Timer(SECONDS, self.process.kill)
        self._watchdog.start()

    def __enter__(self) -> Cli:
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        self._watchdog.join()
        with self.process:
            self.process.kill()

    def send(self, line: Json) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()

    def ask(self, prompt: str | Json) -> None:
        text = prompt if isinstance(prompt, str) else json.dumps(prompt)
        content = [{"type": "text", "text": text}]
        self.send({"type": "user", "message": {"role": "user", "content": content}})

    def lines_until(self, kind: str) -> list[Json]:
        assert self.process.stdout
        lines: list[Json] = []
        for line in self.process.stdout:
            lines.append(json.loads(line))
            if kind in (lines[-1]["type"], lines[-1].get("event", {}).get("type")):
                return lines
        pytest.fail(f"The output ended without {kind}.")

    def finish(self) -> tuple[int, str, str]:
        """Close stdin; exit code, the rest of stdout, stderr."""
        assert self.process.stdin
        assert self.process.stdout
        assert self.process.stderr
        self.process.stdin.close()
        out, err = self.process.stdout.read(), self.process.stderr.read()
        return self.process.wait(SECONDS), out, err


def fake(*flags: str) -> Cli:
    return Cli(sys.executable, fake_claude.__file__, "-p", "--verbose", *flags)


def kinds(lines: list[Json]) -> list[str]:
    return [line.get("subtype") or line.get("event", {}).get("type") or line["type"] for line in lines]


INTERRUPT = {"type": "control_request", "request_id": "r1", "request": {"subtype": "interrupt"}}
MESSAGE = ["status", "message_start", "content_block_start", "content_block_delta", "assistant"]
MESSAGE += ["content_block_stop", "message_delta", "message_stop"]


def deltas(lines: list[Json]) -> list[str]:
    blocks = (line["event"].get("delta", {}) for line in lines if line["type"] == "stream_event")
    return [delta["text"] for delta in blocks if delta.get("type") == "text_delta"]


def test_fake_echoes_word_by_word_and_waits_for_the_end_of_stdin() -> None:
    with fake("--session-id", "s-1") as cli:
        cli.ask("zwei  Wörter\n")
        lines = cli.lines_until("result")
        assert deltas(lines) == ["zwei", "  Wörter", "\n"]
        assert lines[-1]["result"] == "zwei  Wörter\n"
        assert {line["session_id"] for line in lines} == {"s-1"}
        assert cli.process.poll() is None
        cli.ask("again")
        assert cli.lines_until("result")[-1]["result_index"] == 1
        assert cli.finish() == (0, "", "")


def test_fake_runs_a_tool() -> None:
    with fake() as cli:
        cli.ask({"tool": {"name": "Bash", "input": {"command": "ls"}, "output": "a.txt"}, "text": ["done"]})
        lines = cli.lines_until("result")
        assert kinds(lines) == ["init", *MESSAGE, "user", *MESSAGE, "success"]
        call = next(line for line in lines if line["type"] == "assistant")["message"]["content"][0]
        result = next(line for line in lines if line["type"] == "user")["message"]["content"][0]
        assert call["input"] == {"command": "ls"}
        assert (result["tool_use_id"], result["content"]) == (call["id"], "a.txt")
        assert lines[-1]["num_turns"] == 2


def test_fake_reports_an_api_error_as_the_cli_does() -> None:
    with fake() as cli:
        cli.ask({"error": "no credit"})
        lines = cli.lines_until("result")
        assert kinds(lines) == ["init", "status", "assistant", "success"]
        assert lines[-2]["message"]["model"] == "<synthetic>"
        assert (lines[-1]["is_error"], lines[-1]["api_error_status"]) == (True, 400)
        assert cli.finish()[0] == 1


def test_fake_aborts_a_tool_on_an_interrupt_line() -> None:
    with fake() as cli:
        cli.ask({"tool": {"name": "Bash", "input": {}, "seconds": 3600}})
        cli.lines_until("message_stop")
        cli.send(INTERRUPT)
        lines = cli.lines_until("result")
        assert kinds(lines) == ["control_response", "user", "user", "error_during_execution"]
        assert (lines[-1]["is_error"], lines[-1]["terminal_reason"]) == (True, "aborted_tools")
        assert cli.finish()[0] == 1


def test_fake_ends_its_answer_on_sigint() -> None:
    with fake() as cli:
        cli.ask({"text": ["a", "b"], "interval": 3600})
        cli.lines_until("content_block_delta")
        cli.process.send_signal(signal.SIGINT)
        lines = cli.lines_until("result")
        assert kinds(lines)[:3] == ["assistant", "user", "content_block_stop"]
        assert lines[-1]["terminal_reason"] == "aborted_streaming"
        assert cli.process.wait(SECONDS) == 0


def test_fake_ignores_the_signals_it_is_told_to_ignore() -> None:
    with fake() as cli:
        cli.ask({"ignore_sigint": True, "ignore_sigterm": True, "text": ["a", "b"], "interval": 3600})
        cli.lines_until("content_block_delta")
        cli.process.send_signal(signal.SIGINT)
        cli.process.send_signal(signal.SIGTERM)
        cli.send(INTERRUPT)
        assert cli.lines_until("result")[0]["type"] == "control_response"
        assert cli.finish()[0] == 1


def test_fake_dies_of_sigterm_as_the_cli_does() -> None:
    with fake() as cli:
        cli.ask({"text": ["a", "b"], "interval": 3600})
        cli.lines_until("content_block_delta")
        cli.process.send_signal(signal.SIGTERM)
        assert cli.process.wait(SECONDS) == 143


def test_fake_breaks_off_without_a_result() -> None:
    with fake() as cli:
        cli.ask({"raw": ["not json \udcff"], "stderr": "oh", "stderr_bytes": 3, "no_result": True, "exit": 3})
        code, out, err = cli.finish()
    assert (code, err) == (3, "oheee")
    assert "not json \udcff" in out.splitlines()
    assert json.loads(out.splitlines()[-1])["event"] == {"type": "message_stop"}


def test_fake_prints_as_much_as_it_is_told() -> None:
    with fake() as cli:
        cli.ask({"huge_line": 1_000_000, "text": ["a", "bc"], "size": 4, "repeat": 2})
        lines = cli.lines_until("result")
    assert len(json.dumps(lines[1], separators=(",", ":"))) == 1_000_000
    assert deltas(lines) == ["aaaa", "bcbc"] * 2


def test_fake_leaves_its_child_behind() -> None:
    with fake() as cli:
        cli.ask({"child": 3600})
        child = int(next(line for line in cli.lines_until("result") if "task_id" in line)["task_id"])
        try:
            assert os.getsid(child) == child
            assert cli.finish()[0] == 0
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)


def test_fake_knows_its_version() -> None:
    with fake("--version") as cli:
        assert cli.finish() == (0, "2.1.329 (Claude Code)\n", "")


# The real CLI.


def real_cli(binary: str, api: ScriptedApi, tmp_path: Path) -> Cli:
    """The real CLI, at home in tmp_path."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "ANTHROPIC_BASE_URL": api.base_url,
        "ANTHROPIC_API_KEY": "any",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    flags = "-p --verbose --include-partial-messages --input-format stream-json --output-format stream-json"
    return Cli(binary, *flags.split(), "--allowedTools", "Bash", env=env, cwd=tmp_path)


def test_the_real_cli_streams_text_and_runs_a_tool(claude_bin: str, tmp_path: Path) -> None:
    call = ToolUse("Bash", {"command": "echo hi"}, id="toolu_1")
    with ScriptedApi() as api, real_cli(claude_bin, api, tmp_path) as cli:
        api.script("say hi", Turn(Text("Let me see.", ("Let me ", "see.")), call), Turn(Text("It said hi.")))
        cli.ask("say hi")
        lines = cli.lines_until("result")
        assert cli.finish()[0] == 0
        sent = api.requests_for("say hi")
    assert deltas(lines) == ["Let me ", "see.", "It said hi."]
    result = next(line for line in lines if line["type"] == "user")["message"]["content"][0]
    assert (result["tool_use_id"], result["content"]) == ("toolu_1", "hi")
    assert (lines[-1]["result"], lines[-1]["is_error"]) == ("It said hi.", False)
    assert len(sent) == 2
    assert all(request.body["stream"] for request in sent)


def test_the_real_cli_resumes_a_stream_that_was_cut(claude_bin: str, tmp_path: Path) -> None:
    seen = threading.Event()
    with ScriptedApi() as api, real_cli(claude_bin, api, tmp_path) as cli:
        api.script("go", Turn(Text("First."), Unfinished(Text("Sec")), Gate(seen), Cut()), Turn(Text("Then.")))
        cli.ask("go")
        lines: list[Json] = []
        while "Sec" not in deltas(lines):
            lines += cli.lines_until("content_block_delta")
        seen.set()
        lines += cli.lines_until("result")
        assert cli.finish()[0] == 0
    assert deltas(lines) == ["First.", "Sec", "Then."]
    assert len(api.requests_for("go")) == 2
