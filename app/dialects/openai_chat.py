"""OpenAI's chat completions as clients read them: the chunks of a stream, the whole message.

https://platform.openai.com/docs/api-reference/chat-streaming
"""

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


@dataclass(frozen=True)
class ChatStream:
    """A run as `chat.completion.chunk`s."""

    run_id: str
    created: int
    model: str
    label: str  # the profile's display name
    include_usage: bool = False
    progress: Literal["none", "text"] = "none"
    heartbeat_style: Literal["comment", "dot"] = "comment"
    language: str = "en"
    resumable: ClassVar[bool] = False
    _head: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        head = {
            "id": completion_id(self.run_id),
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
        }
        object.__setattr__(self, "_head", msgspec.json.encode(head)[:-1])

    def opening(self, *, resumed: bool) -> bytes:
        if resumed:
            return sse.comment(b"resumed")
        opening = self._chunk({"role": "assistant", "content": ""})
        if self.progress == "text":
            opening += self._content(f"[{sentence(self.language, 'starting', model=self.label)}]\n\n")
        return opening

    def queued(self, place: int) -> bytes:
        return self._note("queued", place=place) or sse.comment(b"queued, place %d" % place)

    def heartbeat(self) -> bytes:
        return self._content(" .") if self.heartbeat_style == "dot" else HEARTBEAT

    def farewell(self) -> bytes:
        return self._error("replica_shutdown", sentence(self.language, "replica_shutdown"), None)

    def lost(self) -> bytes:
        return self._error("log_lost", sentence(self.language, "log_lost"), None)

    def render(self, event: AnyEvent | Unrecognised, data: bytes) -> bytes:
        match event:
            case events.Text():
                return self._content(event.text, event.seq)
            case events.Retracted():
                # What a client has read cannot be unsaid; the whole message (stream: false) leaves it out.
                return self._content(f"\n\n[{sentence(self.language, 'restarted')}]\n\n", event.seq)
            case events.ToolStarted() if event.parent_tool_id is None:
                return self._line(f"[{event.name}] {event.summary}", event.seq)
            case events.ApiRetry():
                reason = event.http_status or sentence(self.language, "no_answer")
                return self._note("retrying", event.seq, reason=reason, seconds=round(event.delay_seconds))
            case events.Compacting():
                return self._note("compacting", event.seq)
            case events.Completed():
                finish = self._chunk({}, event.seq, finish_reason(event.stop_reason))
                return finish + self._usage(event.usage) + DONE
            case events.Failed():
                return self._error(event.code, event.message, event.seq)
            case events.Cancelled():
                return self._error("cancelled", sentence(self.language, "cancelled"), event.seq)
            case _:
                return b""

    def _note(self, key: str, seq: int | None = None, **values: object) -> bytes:
        return self._line(f"[{sentence(self.language, key, **values)}]", seq)

    def _line(self, line: str, seq: int | None) -> bytes:
        """A line about the work, in a paragraph of its own, where the client wants such lines."""
        return self._content(f"\n\n{line}\n\n", seq) if self.progress == "text" else b""

    def _content(self, text: str, seq: int | None = None) -> bytes:
        return self._chunk({"content": text}, seq)

    def _chunk(self, delta: dict[str, str], seq: int | None = None, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return sse.frame(self._head + b',"choices":[' + msgspec.json.encode(choice) + b"]}", seq=seq)

    def _usage(self, usage: Usage) -> bytes:
        if not self.include_usage:
            return b""
        numbers = msgspec.json.encode(usage_object(usage))
        return sse.frame(self._head + b',"choices":[],"usage":' + numbers + b"}")

    def _error(self, code: str, message: str, seq: int | None) -> bytes:
        return sse.frame(msgspec.json.encode(error_object(code, message)), seq=seq) + DONE


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
