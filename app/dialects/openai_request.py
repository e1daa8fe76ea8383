"""What OpenAI's clients send to have a chat completed, and what is run for it.

https://platform.openai.com/docs/api-reference/chat/create
"""

from typing import Any, Literal

import msgspec

from app.dialects.native import checked
from core.errors import InvalidRequest
from core.run import Message, RunRequest


class Part(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None
    refusal: str | None = None


class Function(msgspec.Struct, frozen=True):
    name: str = ""
    arguments: str = ""


class ToolCall(msgspec.Struct, frozen=True):
    id: str = ""
    function: Function = Function()


class ChatMessage(msgspec.Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | tuple[Part, ...] | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class ChatBody(msgspec.Struct, frozen=True):
    """What is read of a request's body; fields that are not here are tolerated and change nothing."""

    messages: tuple[ChatMessage, ...]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    modalities: tuple[str, ...] | None = None
    tool_choice: Any = None
    function_call: Any = None
    response_format: Any = None
    user: str | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


def parse(body: ChatBody, max_prompt_bytes: int) -> RunRequest:
    """What to run. Raises `InvalidRequest` or `TooLarge`, naming the field."""
    _refuse_what_cannot_be_honoured(body)
    if not body.messages:
        raise InvalidRequest("messages: expected at least one message.", param="messages")
    system: list[str] = []
    turns: list[Message] = []
    for i, message in enumerate(body.messages):
        text = _text(message, f"messages[{i}]")
        if message.role in ("system", "developer"):
            system.append(text)
        elif text.strip():
            turns.append(Message("assistant" if message.role == "assistant" else "user", text))
    last = body.messages[-1]
    if last.role != "user" or not turns or not _text(last, "messages").strip():
        where = f"messages[{len(body.messages) - 1}]"
        raise InvalidRequest(f"{where}: the last message must be a user's, and not empty.", param=where)
    return checked(RunRequest(messages=tuple(turns), system="\n\n".join(filter(None, system))), max_prompt_bytes)


def _refuse_what_cannot_be_honoured(body: ChatBody) -> None:
    refused = {
        "n": body.n not in (None, 1) and "Heartline gives one answer per request.",
        "logprobs": body.logprobs and "the Claude CLI does not report probabilities.",
        "top_logprobs": body.top_logprobs and "the Claude CLI does not report probabilities.",
        "modalities": "audio" in (body.modalities or ()) and "answers are text.",
        "tool_choice": body.tool_choice not in (None, "auto", "none")
        and "the agent uses its own tools; functions of the client cannot be forced.",
        "function_call": body.function_call not in (None, "auto", "none")
        and "the agent uses its own tools; functions of the client cannot be forced.",
        "response_format": _format_type(body.response_format) != "text"
        and "answers are text; ask for JSON in the prompt.",
    }
    for name, why in refused.items():
        if why:
            raise InvalidRequest(f"{name}: this value cannot be honoured: {why}", param=name)


def _format_type(response_format: Any) -> Any:
    if response_format is None:
        return "text"
    return response_format.get("type") if isinstance(response_format, dict) else response_format


def _text(message: ChatMessage, where: str) -> str:
    """A message as plain text; what has no place in the CLI's history is written out, faithfully."""
    if isinstance(message.content, str):
        text = message.content
    else:
        parts = message.content or ()
        text = "\n\n".join(_part(part, f"{where}.content[{i}]") for i, part in enumerate(parts))
    for call in message.tool_calls or ():
        text += f"\n\n[Called the tool {call.function.name} ({call.id}) with {call.function.arguments}]"
    if message.role in ("tool", "function"):
        text = f"[Result of the tool {message.name or message.tool_call_id or ''}]\n{text}"
    return text.strip() if message.tool_calls else text


def _part(part: Part, where: str) -> str:
    if part.type == "refusal":
        return part.refusal or ""
    if part.type in ("text", "input_text", "output_text"):
        if part.text is None:
            raise InvalidRequest(f"{where}.text: expected a string.", param=f"{where}.text")
        return part.text
    raise InvalidRequest(f"{where}.type: '{part.type[:40]}' is not supported; send text.", param=f"{where}.type")
