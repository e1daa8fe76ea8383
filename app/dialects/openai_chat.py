"""OpenAI's chat completions as clients read them: the chunks of a stream, the whole message.

https://platform.openai.com/docs/api-reference/chat-streaming
"""

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import msgspec

from app import sse
from core import events
from core.events import AnyEvent, Unrecognised, Usage
from core.run import Run
from core.sentences import sentence

DONE = sse.frame(b"[DONE]")
HEARTBEAT = sse.comment(b"heartbeat")

_FINISH_REASONS = {"max_tokens": "length", "refusal": "content_filter"}


PROGRESS_MARK = "\u2063"
"""INVISIBLE SEPARATOR: begins each line about the work that is written into an answer."""

_PROGRESS_LINE = re.compile(rf"(?:\A|\n\n){PROGRESS_MARK}[^\n]*(?:\n\n|\n?\Z)")


@dataclass(frozen=True)
class Chunks:
    """The forms that a run's chunks can have, in any dialect that begins with OpenAI's."""

    run_id: str
    created: int
    model: str
    _head: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        head = {
            "id": completion_id(self.run_id),
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
        }
        object.__setattr__(self, "_head", msgspec.json.encode(head)[:-1])

    def opening(self) -> bytes:
        return self.delta({"role": "assistant", "content": ""})

    def content(self, text: str, seq: int | None = None) -> bytes:
        return self.delta({"content": text}, seq)

    def delta(self, delta: dict[str, str], seq: int | None = None, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return sse.frame(self._head + b',"choices":[' + msgspec.json.encode(choice) + b"]}", seq=seq)

    def aside(self, fields: dict[str, Any], seq: int | None = None) -> bytes:
        """A chunk without choices: `fields` are what it carries instead."""
        return sse.frame(self._head + b',"choices":[],' + msgspec.json.encode(fields)[1:], seq=seq)

    def finish(self, completed: events.Completed, *, include_usage: bool) -> bytes:
        """The end of an answer that is whole."""
        finish = self.delta({}, completed.seq, finish_reason(completed.stop_reason))
        return finish + (self.aside({"usage": usage_object(completed.usage)}) if include_usage else b"") + DONE


@dataclass(frozen=True)
class ChatStream:
    """A run as `chat.completion.chunk`s.

    `progress`: where lines about the work are written. `text` is into the answer, `reasoning` beside it, as
    `reasoning_content`, together with what the model thinks.
    """

    run_id: str
    created: int
    model: str
    label: str  # the profile's display name
    include_usage: bool = False
    progress: Literal["none", "text", "reasoning"] = "none"
    heartbeat_style: Literal["comment", "dot"] = "comment"
    language: str = "en"
    resumable: ClassVar[bool] = False
    _chunks: Chunks = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_chunks", Chunks(self.run_id, self.created, self.model))

    def opening(self, *, resumed: bool) -> bytes:
        if resumed:
            return sse.comment(b"resumed")
        line = f"[{sentence(self.language, 'starting', model=self.label)}]"
        return self._chunks.opening() + self._line(line, None, before="")

    def queued(self, place: int) -> bytes:
        return self._note("queued", place=place) or sse.comment(b"queued, place %d" % place)

    def taking_turns(self) -> bytes:
        return self._note("taking_turns") or sse.comment(b"queued, another run of this conversation is at work")

    def heartbeat(self) -> bytes:
        return self._chunks.content(" .") if self.heartbeat_style == "dot" else HEARTBEAT

    def farewell(self) -> bytes:
        return error("replica_shutdown", sentence(self.language, "replica_shutdown"))

    def lost(self) -> bytes:
        return error("log_lost", sentence(self.language, "log_lost"))

    def render(self, event: AnyEvent | Unrecognised, data: bytes) -> bytes:
        match event:
            case events.Text():
                return self._chunks.content(event.text, event.seq)
            case events.Reasoning() if self.progress == "reasoning":
                return self._chunks.delta({"reasoning_content": event.text}, event.seq)
            case events.Retracted():
                # What a client has read cannot be unsaid; the whole message (stream: false) leaves it out.
                line = f"\n\n{PROGRESS_MARK}[{sentence(self.language, 'restarted')}]\n\n"
                return self._chunks.content(line, event.seq)
            case events.ToolStarted() if event.parent_tool_id is None:
                return self._line(f"[{event.name}] {event.summary}", event.seq)
            case events.ApiRetry():
                return self._note("retrying", event.seq, **retry(event, self.language))
            case events.Compacting():
                return self._note("compacting", event.seq)
            case events.Completed():
                return self._chunks.finish(event, include_usage=self.include_usage)
            case events.Failed():
                return error(event.code, event.message, event.seq)
            case events.Cancelled():
                return error("cancelled", sentence(self.language, "cancelled"), event.seq)
            case _:
                return b""

    def _note(self, key: str, seq: int | None = None, **values: object) -> bytes:
        return self._line(f"[{sentence(self.language, key, **values)}]", seq)

    def _line(self, line: str, seq: int | None, before: str = "\n\n") -> bytes:
        """A line about the work, in a paragraph of its own, where the client wants such lines."""
        line = " ".join(line.splitlines())
        match self.progress:
            case "text":
                return self._chunks.content(f"{before}{PROGRESS_MARK}{line}\n\n", seq)
            case "reasoning":
                return self._chunks.delta({"reasoning_content": f"{before}{line}\n\n"}, seq)
            case _:
                return b""


def without_progress(text: str) -> str:
    """An answer without the lines about the work that were written into it, and the blank lines around them.

    For an answer that comes back as history: what is left is what the model wrote.
    """
    return _PROGRESS_LINE.sub("", text)


def retry(event: events.ApiRetry, language: str) -> dict[str, object]:
    """What the sentence `retrying` is filled in with."""
    reason = event.http_status or sentence(language, "no_answer")
    return {"reason": reason, "seconds": round(event.delay_seconds)}


def error(code: str, message: str, seq: int | None = None, **fields: Any) -> bytes:
    """The end of a stream without a whole answer; `fields` stand beside the error."""
    return sse.frame(msgspec.json.encode({**error_object(code, message), **fields}), seq=seq) + DONE


def completion(run: Run, text: str, terminal: events.Completed) -> dict[str, Any]:
    """The whole answer as a `chat.completion`."""
    return {
        "id": completion_id(run.id),
        "object": "chat.completion",
        "created": int(run.created_at),
        "model": run.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": finish_reason(terminal.stop_reason),
            }
        ],
        "usage": usage_object(terminal.usage),
    }


def completion_id(run_id: str) -> str:
    return f"chatcmpl-{run_id}"


def finish_reason(stop_reason: str) -> str:
    """OpenAI's word for Anthropic's stop reason."""
    return _FINISH_REASONS.get(stop_reason, "stop")


def usage_object(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage, and what the run cost as the CLI reckons it."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "cost_usd": usage.cost_usd,
    }


def error_object(code: str, message: str) -> dict[str, Any]:
    """OpenAI's error for a run that failed."""
    return {"error": {"message": message, "type": "server_error", "param": None, "code": code}}
