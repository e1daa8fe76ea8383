#!/usr/bin/env python3
"""A stand-in for the Claude CLI in stream-json mode, for unit tests, faults and load.

Owns a faithful imitation of the CLI's lines, their order, its exit codes and its answers to signals, stdin
and interrupts, as seen in CLI 2.1.329. Never reaches for a network, a model or a file.

A prompt is echoed word by word, unless it is a JSON object; then it is a command, all of it optional, and
obeyed in this order:

    ignore_sigint: true             that signal has no effect; ignore_sigterm likewise
    sleep_before: seconds           of silence before the first line
    stderr: text                    is printed there, and then as many bytes as stderr_bytes says
    child: seconds                  starts `sleep` in a session of its own, as the CLI does with its tools;
                                    its pid is the task_id of a task_started line; nothing here ever stops it
    raw: [line, ...]                are printed as they are; "\\udcff" stands for the byte ff
    huge_line: bytes                one valid JSON line of that length and of an unknown type
    tool: {name, input, output, seconds}
                                    a tool call that takes so long
    text: [delta, ...]              is the answer; repeat: N says it N times, interval: seconds pauses between
                                    deltas, size: bytes makes each delta (of ASCII) that long; "@now" in a
                                    delta becomes the Unix time in seconds
    error: message                  is an API error, after the text if there is one
    no_result: true                 exits here: the output ends without a result
    hang_after_result: seconds      stays that long, even when stdin is closed
    exit: code                      instead of 0, or 1 after an error
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import uuid
from collections import deque
from contextlib import suppress
from itertools import chain, repeat
from typing import Any, NoReturn

Json = dict[str, Any]

VERSION = "2.1.329 (Claude Code)"
MODEL = "claude-sonnet-5-5"
INPUT_TOKENS, OUTPUT_TOKENS, COST_USD = 10, 7, 0.00009  # of each message
REFUSAL = "The user doesn't want to proceed with this tool use. The tool use was rejected."


class Interrupted(Exception):
    """The run has to stop: by SIGINT, or by the interrupt line `request_id`."""

    def __init__(self, request_id: str | None = None) -> None:
        super().__init__(request_id)
        self.request_id = request_id


class Inbox:
    """Stdin and SIGINT: prompts wait for their turn, interrupts are raised from whatever waits."""

    def __init__(self) -> None:
        self._prompts: deque[str] = deque()
        self._partial = b""
        self._closed = False
        self._interrupt_id: str | None = None
        self._signals, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGINT, lambda *_: None)
        self.heeds_sigint = True

    def next_prompt(self) -> str | None:
        """The next prompt, or None when stdin is closed."""
        while not self._prompts and not self._closed:
            self._listen(None)
        return self._prompts.popleft() if self._prompts else None

    def pause(self, seconds: float) -> None:
        """Let time pass; raise Interrupted when an interrupt arrives meanwhile."""
        deadline = time.monotonic() + seconds
        remaining = seconds
        while remaining >= 0:
            self._listen(remaining)
            remaining = deadline - time.monotonic()

    def _listen(self, seconds: float | None) -> None:
        sources = [self._signals] if self._closed else [self._signals, sys.stdin.fileno()]
        ready, _, _ = select.select(sources, [], [], seconds)
        if self._signals in ready and signal.SIGINT in os.read(self._signals, 64) and self.heeds_sigint:
            raise Interrupted
        if sys.stdin.fileno() in ready:
            self._read()

    def _read(self) -> None:
        data = os.read(sys.stdin.fileno(), 1 << 16)
        self._closed = not data
        *lines, self._partial = (self._partial + (data or b"\n")).split(b"\n")
        for line in filter(bytes.strip, lines):
            self._hear(json.loads(line))
        if self._interrupt_id is not None:
            request_id, self._interrupt_id = self._interrupt_id, None
            raise Interrupted(request_id)

    def _hear(self, said: Json) -> None:
        if said["type"] == "user":
            self._prompts.append(_text(said["message"]["content"]))
        elif said["type"] == "control_request" and said["request"]["subtype"] == "interrupt":
            self._interrupt_id = said["request_id"]


class FakeClaude:
    """One CLI process: takes prompts until stdin closes, and prints what the CLI would."""

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self._inbox = Inbox()
        self._results = 0
        self._code = 0
        self._begin()
        self._busy = False

    def _begin(self) -> None:
        self._busy = True
        self._started = time.monotonic()
        self._messages = 0
        self._tool_id: str | None = None  # of the tool that runs
        self._message: Json | None = None  # that is being streamed
        self._said: list[str] = []

    def run(self) -> int:
        """Take turns until stdin closes; the exit code is that of the last turn."""
        while True:
            try:
                prompt = self._inbox.next_prompt()
                if prompt is None:
                    return self._code
                self._begin()
                self._obey(_command(prompt))
            except Interrupted as interrupt:
                self._abort(interrupt)

    def _obey(self, command: Json) -> None:
        self._inbox.heeds_sigint = not command.get("ignore_sigint", False)
        signal.signal(signal.SIGTERM, _ignore if command.get("ignore_sigterm") else _terminate)
        self._inbox.pause(command.get("sleep_before", 0))
        self._disturb(command)
        if "tool" in command:
            self._use_tool(**command["tool"])
        if "text" in command or "error" not in command:
            self._answer(command)
        if command.get("no_result"):
            raise SystemExit(command.get("exit", 0))
        if "error" in command:
            self._fail(command["error"])
        else:
            answer = "".join(self._said)
            self._result("success", result=answer, terminal_reason="completed", api_error_status=None)
        self._code = command.get("exit", self._code)
        self._inbox.pause(command.get("hang_after_result", 0))

    # Parts of a turn.

    def _disturb(self, command: Json) -> None:
        """The first line, and what a run seldom prints."""
        sys.stderr.write(command.get("stderr", "") + "e" * command.get("stderr_bytes", 0))
        sys.stderr.flush()
        self._say(
            "system",
            subtype="init",
            cwd=os.getcwd(),
            tools=["Bash", "Read", "Task"],
            mcp_servers=[],
            model=MODEL,
            permissionMode="dontAsk",
            apiKeySource="ANTHROPIC_API_KEY",
            claude_code_version=VERSION.partition(" ")[0],
        )
        if "child" in command:
            self._start_child(str(command["child"]))
        for line in command.get("raw", []):
            _write(line.encode(errors="surrogateescape"))
        if "huge_line" in command:
            frame = len('{"type":"huge","filler":""}')
            _print({"type": "huge", "filler": "x" * (command["huge_line"] - frame)})

    def _start_child(self, seconds: str) -> None:
        with open(os.devnull, "r+b") as null:
            child = subprocess.Popen(["sleep", seconds], start_new_session=True, stdin=null, stdout=null, stderr=null)
        self._say(
            "system",
            subtype="task_started",
            task_id=str(child.pid),
            description=f"sleep {seconds}",
            is_backgrounded=True,
            task_type="local_bash",
        )

    def _use_tool(self, name: str, input: Json, output: str = "", seconds: float = 0) -> None:
        self._tool_id = f"toolu_{uuid.uuid4().hex}"
        block = {"type": "tool_use", "id": self._tool_id, "name": name, "input": input}
        self._open_message(block | {"input": {}})
        self._delta(type="input_json_delta", partial_json=json.dumps(input))
        self._assistant(block)
        self._close_message("tool_use")
        self._inbox.pause(seconds)
        echo = {"stdout": output, "stderr": "", "interrupted": False}
        self._tool_result(output, is_error=False, tool_use_result=echo)

    def _answer(self, command: Json) -> None:
        self._open_message({"type": "text", "text": ""})
        pieces = command.get("text", ["x" if "size" in command else "ok"])
        size: int | None = command.get("size")
        for piece in chain.from_iterable(repeat(pieces, command.get("repeat", 1))):
            self._inbox.pause(command.get("interval", 0) if self._said else 0)
            piece = piece.replace("@now", repr(time.time()))
            self._said.append(piece if size is None else (piece * size)[:size])
            self._delta(type="text_delta", text=self._said[-1])
        self._assistant(self._text_block())
        self._close_message("end_turn")

    def _fail(self, reason: str) -> None:
        """An API error as the CLI reports it: an answer that it made up, and a "success" that is an error."""
        text = f"API Error: 400 {reason}"
        self._status()
        message: Json = {
            "id": str(uuid.uuid4()),
            "type": "message",
            "role": "assistant",
            "model": "<synthetic>",
            "content": [{"type": "text", "text": text}],
            "stop_reason": "stop_sequence",
            "stop_sequence": "",
            "usage": _usage(0),
        }
        self._say(
            "assistant",
            message=message,
            parent_tool_use_id=None,
            error="unknown",
            is_api_error_message=True,
            api_error_status=400,
            api_error_type="invalid_request_error",
        )
        self._result(
            "success",
            is_error=True,
            result=text,
            terminal_reason="api_error",
            stop_reason="stop_sequence",
            api_error_status=400,
            api_error_type="invalid_request_error",
        )

    def _abort(self, interrupt: Interrupted) -> None:
        if interrupt.request_id is not None:
            receipt = {"subtype": "success", "request_id": interrupt.request_id}
            _print({"type": "control_response", "response": receipt | {"response": {"still_queued": []}}})
        if self._busy and self._tool_id:
            self._tool_result(REFUSAL, is_error=True, tool_use_result="User rejected tool use")
            self._note("[Request interrupted by user for tool use]")
            self._aborted("aborted_tools", "tool_use")
        elif self._busy:
            if self._message and self._said:
                self._assistant(self._text_block())
            self._note("[Request interrupted by user]")
            if self._message:
                self._close_message(None)
            self._aborted("aborted_streaming", None)
        if interrupt.request_id is None:
            raise SystemExit(0)

    def _note(self, text: str) -> None:
        note = {"role": "user", "content": [{"type": "text", "text": text}]}
        self._say("user", message=note, parent_tool_use_id=None)

    def _aborted(self, terminal_reason: str, stop_reason: str | None) -> None:
        self._result(
            "error_during_execution",
            is_error=True,
            errors=[f"[ede_diagnostic] result_type=user stop_reason={stop_reason}"],
            stop_reason=stop_reason,
            terminal_reason=terminal_reason,
        )

    # Messages.

    def _open_message(self, block: Json) -> None:
        self._messages += 1
        self._status()
        self._message = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": MODEL,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": INPUT_TOKENS, "output_tokens": 1},
        }
        self._event("message_start", message=self._message)
        self._event("content_block_start", index=0, content_block=block)

    def _delta(self, **delta: str) -> None:
        self._event("content_block_delta", index=0, delta=delta)

    def _assistant(self, block: Json) -> None:
        self._say("assistant", message=(self._message or {}) | {"content": [block]}, parent_tool_use_id=None)

    def _text_block(self) -> Json:
        return {"type": "text", "text": "".join(self._said)}

    def _close_message(self, stop_reason: str | None) -> None:
        self._event("content_block_stop", index=0)
        delta = {"stop_reason": stop_reason, "stop_sequence": None}
        self._event("message_delta", delta=delta, usage={"output_tokens": OUTPUT_TOKENS})
        self._event("message_stop")
        self._message = None

    def _tool_result(self, content: str, *, is_error: bool, tool_use_result: Json | str) -> None:
        result = {
            "tool_use_id": self._tool_id,
            "type": "tool_result",
            "content": content,
            "is_error": is_error,
        }
        self._tool_id = None
        self._say(
            "user",
            message={"role": "user", "content": [result]},
            parent_tool_use_id=None,
            tool_use_result=tool_use_result,
        )

    # Lines.

    def _status(self) -> None:
        self._say("system", subtype="status", status="requesting")

    def _event(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, **fields}
        message_id = self._message["id"] if self._message else None
        self._say("stream_event", event=event, parent_tool_use_id=None, api_message_id=message_id)

    def _result(self, subtype: str, *, is_error: bool = False, **fields: Any) -> None:
        milliseconds = int((time.monotonic() - self._started) * 1000)
        self._say(
            "result",
            **{"subtype": subtype, "is_error": is_error, "stop_reason": "end_turn", **fields},
            duration_ms=milliseconds,
            duration_api_ms=milliseconds,
            num_turns=self._messages or 1,
            total_cost_usd=self._messages * COST_USD,
            usage=_usage(self._messages),
            modelUsage=_model_usage(self._messages),
            permission_denials=[],
            queued_turn_count=0,
            result_index=self._results,
        )
        self._results += 1
        self._code = int(is_error)
        self._busy = False

    def _say(self, kind: str, **fields: Any) -> None:
        _print({"type": kind, **fields, "session_id": self._session_id, "uuid": str(uuid.uuid4())})


def _text(content: str | list[Json]) -> str:
    if isinstance(content, str):
        return content
    return "".join(block["text"] for block in content if block["type"] == "text")


def _command(prompt: str) -> Json:
    if prompt.strip().startswith("{"):
        with suppress(json.JSONDecodeError):
            command: Json = json.loads(prompt)
            return command
    return {"text": re.findall(r"\s*\S+|\s+$", prompt)}


def _usage(messages: int) -> Json:
    return {
        "input_tokens": messages * INPUT_TOKENS,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": messages * OUTPUT_TOKENS,
    }


def _model_usage(messages: int) -> Json:
    if not messages:
        return {}
    return {
        MODEL: {
            "inputTokens": messages * INPUT_TOKENS,
            "outputTokens": messages * OUTPUT_TOKENS,
            "cacheReadInputTokens": 0,
            "cacheCreationInputTokens": 0,
            "webSearchRequests": 0,
            "costUSD": messages * COST_USD,
            "contextWindow": 1000000,
        }
    }


def _print(line: Json) -> None:
    text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
    _write(text.encode(errors="backslashreplace"))  # half an emoji stays the JSON escape that it came as


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def _ignore(*_: object) -> None:
    pass


def _terminate(*_: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


def main() -> int:
    """Read the flags that matter here, accept all others, and run."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument("--session-id", default=str(uuid.uuid4()))
    flags, _ = parser.parse_known_args()
    signal.signal(signal.SIGTERM, _terminate)
    return FakeClaude(flags.session_id).run()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # the reader has gone; keep the interpreter from flushing into the broken pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
