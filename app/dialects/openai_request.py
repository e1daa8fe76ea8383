"""What OpenAI's clients send to have a chat completed, and what is run for it.

https://platform.openai.com/docs/api-reference/chat/create
"""

from typing import Any, Literal

import msgspec

from app import images
from app.dialects.native import checked
from app.dialects.openai_chat import without_progress
from app.dialects.response_format import schema_of
from core.errors import InvalidRequest
from core.run import Image, Message, RunRequest
from core.settings import Settings

CONTINUE = (
    "Continue your last message exactly where it stops. Write only what comes next: "
    "repeat nothing of it, and say nothing about it."
)
"""What the model is asked when the last message is its own."""

_EFFORTS = {"none": "low", "minimal": "low", **{level: level for level in ("low", "medium", "high", "xhigh", "max")}}
"""OpenAI's words, and the CLI's `--effort` for them: it knows none below low, and takes no notice of a word that it
does not know (seen with 2.1.329)."""


class ImageUrl(msgspec.Struct, frozen=True):
    url: str


class Part(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | ImageUrl | None = None


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
    function_call: Function | None = None
    tool_call_id: str | None = None
    name: str | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class Reasoning(msgspec.Struct, frozen=True):
    effort: str | None = None


class ChatBody(msgspec.Struct, frozen=True):
    """What is read of a request's body; fields that are not here are tolerated and change nothing."""

    messages: tuple[ChatMessage, ...]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    reasoning_effort: str | None = None
    reasoning: Reasoning | None = None
    response_format: Any = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    modalities: tuple[str, ...] | None = None
    tool_choice: Any = None
    function_call: Any = None
    user: str | None = None
    tools: Any = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


def parse(body: ChatBody, settings: Settings) -> RunRequest:
    """What to run. Raises `InvalidRequest` or `TooLarge`, naming the field."""
    _refuse_what_cannot_be_honoured(body)
    if not body.messages:
        raise InvalidRequest("messages: expected at least one message.", param="messages")
    system: list[str] = []
    turns: list[Message] = []
    last, where = "", f"messages[{len(body.messages) - 1}]"  # the role that spoke last, unless it said nothing
    for i, message in enumerate(body.messages):
        text, pictures = _content(message, f"messages[{i}]", settings)
        if message.role in ("system", "developer"):
            system.append(text)
            continue
        said = _turns(message, text, pictures)
        turns += said
        if said or message.role == "user":
            last, where = (message.role if said else ""), f"messages[{i}]"
    continues = bool(last) and last != "user" and any(turn.role == "assistant" for turn in turns)
    if last != "user" and not continues:
        raise InvalidRequest(f"{where}: the last message must be a user's, and not empty.", param=where)
    request = RunRequest(
        messages=(*turns, Message("user", CONTINUE)) if continues else tuple(turns),
        system="\n\n".join(filter(None, system)),
        effort=_effort(body),
        schema=schema_of(body.response_format),
        continues=continues,
    )
    return checked(request, settings)


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
    }
    for name, why in refused.items():
        if why:
            raise InvalidRequest(f"{name}: this value cannot be honoured: {why}", param=name)


def _effort(body: ChatBody) -> str | None:
    given = {
        "reasoning_effort": body.reasoning_effort,
        "reasoning.effort": body.reasoning.effort if body.reasoning else None,
    }
    for where, word in given.items():
        if word is not None and word not in _EFFORTS:
            raise InvalidRequest(f"{where}: expected one of {', '.join(_EFFORTS)}.", param=where)
    word = next((word for word in given.values() if word is not None), None)
    return None if word is None else _EFFORTS[word]


def _turns(message: ChatMessage, text: str, pictures: tuple[Image, ...]) -> list[Message]:
    """What a message adds to the conversation. The CLI's history has no place for a client's tools: what they were
    asked and answered is written out, in messages of its own."""
    match message.role:
        case "tool" | "function":
            result = f"[Result of the tool {message.name or message.tool_call_id or ''}]\n{text}"
            return [Message("user", result, tool=True, images=pictures)]
        case "assistant":
            text = without_progress(text)  # which are no words of the model's
            said = [Message("assistant", text)] if text.strip() else []
            return said + [Message("assistant", called, tool=True) for called in _called(message)]
        case _:
            return [Message("user", text, images=pictures)] if text.strip() or pictures else []


def _called(message: ChatMessage) -> list[str]:
    calls = [(f"{call.function.name} ({call.id})", call.function.arguments) for call in message.tool_calls or ()]
    if message.function_call is not None:
        calls.append((message.function_call.name, message.function_call.arguments))
    return [f"[Called the tool {name} with {arguments}]" for name, arguments in calls]


def _content(message: ChatMessage, where: str, settings: Settings) -> tuple[str, tuple[Image, ...]]:
    """A message's text and its pictures."""
    if isinstance(message.content, str):
        return message.content, ()
    texts: list[str] = []
    pictures: list[Image] = []
    for i, part in enumerate(message.content or ()):
        place = f"{where}.content[{i}]"
        match part.type:
            case "text" | "input_text" | "output_text":
                if part.text is None:
                    raise InvalidRequest(f"{place}.text: expected a string.", param=f"{place}.text")
                texts.append(part.text)
            case "refusal":
                texts.append(part.refusal or "")
            case "image_url" | "input_image" if message.role in ("user", "tool", "function"):
                pictures.append(_picture(part, place, settings))
            case "image_url" | "input_image":
                raise InvalidRequest(f"{place}.type: pictures belong into a user's message.", param=f"{place}.type")
            case _:
                raise InvalidRequest(
                    f"{place}.type: '{part.type[:40]}' is not supported; send text or pictures.", param=f"{place}.type"
                )
    return "\n\n".join(texts), tuple(pictures)


def _picture(part: Part, place: str, settings: Settings) -> Image:
    match part.image_url:
        case None:
            raise InvalidRequest(f"{place}.image_url: expected a picture's URL.", param=f"{place}.image_url")
        case str(url):
            where = f"{place}.image_url"
        case ImageUrl(url=url):
            where = f"{place}.image_url.url"
    return images.from_url(url, where, addresses_allowed=settings.image_urls == "on")
