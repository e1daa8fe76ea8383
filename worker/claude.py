"""The Claude CLI's stream-json, line by line, into events. Pure: bytes in, events out.

What the CLI prints is seen with 2.1.329: `system/init`, then per message of the model
`stream_event` lines (deltas), one `assistant` line per finished content block that repeats it, `user`
lines with the tools' results, and one `result`. Lines of sub-agents carry `parent_tool_use_id`.
"""

import itertools
import json
import logging
from collections.abc import Iterable
from typing import Any

import msgspec

from core import events
from core.events import Event, Usage

logger = logging.getLogger(__name__)

MAX_SUMMARY_CHARACTERS = 200
_STRUCTURED_OUTPUT = "StructuredOutput"
"""The tool that the CLI gives the model to answer in JSON: what it is given is the answer, not work on the way."""

_SUMMARY_FIELDS = (
    "file_path", "notebook_path", "path", "command", "pattern", "url", "query", "description", "prompt",
)  # fmt: skip


class Delta(msgspec.Struct, frozen=True):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None


class Block(msgspec.Struct, frozen=True):
    """A content block of a message: text, thinking, tool_use or tool_result."""

    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None
    tool_use_id: str | None = None
    content: Any = None
    is_error: bool | None = None


class Message(msgspec.Struct, frozen=True):
    id: str | None = None
    model: str | None = None
    content: str | tuple[Block, ...] | None = None
    usage: Any = None

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self.content if isinstance(self.content, tuple) else ()


class StreamEvent(msgspec.Struct, frozen=True):
    type: str | None = None
    message: Message | None = None
    delta: Delta | None = None
    usage: Any = None


class Tokens(msgspec.Struct, frozen=True):
    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens: int | None = None

    @property
    def all_input(self) -> int:
        """Anthropic counts cached input apart, we count it in."""
        return (self.input_tokens or 0) + (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)


class Line(msgspec.Struct, frozen=True):
    """What is read of a line; every field may be missing or null."""

    type: str | None = None
    subtype: str | None = None
    uuid: str | None = None
    session_id: str | None = None
    parent_tool_use_id: str | None = None
    event: StreamEvent | None = None
    message: Message | None = None
    # system
    model: str | None = None
    status: str | None = None
    attempt: int | None = None
    max_retries: int | None = None
    retry_delay_ms: float | None = None
    error_status: int | None = None
    # result
    is_error: bool | None = None
    result: str | None = None
    structured_output: msgspec.Raw = msgspec.Raw()
    errors: tuple[Any, ...] | None = None
    stop_reason: str | None = None
    num_turns: int | None = None
    total_cost_usd: float | None = None
    usage: Tokens | None = None

    @property
    def structured(self) -> str:
        """The structured output as JSON text, to the letter; nothing when there is none."""
        text = bytes(self.structured_output).decode("utf-8", "replace")
        return "" if text == "null" else text


class _Kind(msgspec.Struct, frozen=True):
    type: str | None = None


_decode = msgspec.json.Decoder(Line).decode
_decode_kind = msgspec.json.Decoder(_Kind).decode
_KINDS = {"stream_event", "assistant", "user", "system", "result"}


def decode(line: bytes) -> Line:
    """One line. Raises `ValueError` for what is no JSON object, or has a field of another type."""
    try:
        return _decode(line)
    except msgspec.ValidationError:
        if _decode_kind(line).type not in _KINDS:
            return Line()  # a kind that is not ours to read may use our words for other things
        raise
    except msgspec.DecodeError:
        return _decode_torn(line)


def _decode_torn(line: bytes) -> Line:
    """The CLI is JavaScript and may print half of a surrogate pair, which only the standard library reads.

    In a delta its other half may follow: there it stays; anywhere else it becomes a replacement character.
    """
    torn = json.loads(line)
    whole = _decode(json.dumps(torn, ensure_ascii=False).encode("utf-8", "replace"))
    if whole.event is None or whole.event.delta is None:
        return whole
    delta = msgspec.convert(torn["event"]["delta"], Delta)
    return msgspec.structs.replace(whole, event=msgspec.structs.replace(whole.event, delta=delta))


def from_init(lines: Iterable[bytes]) -> list[bytes]:
    """The lines from the one on with which the CLI begins a turn; none when it is not among them."""
    return list(itertools.dropwhile(lambda line: not _begins(line), lines))


def _begins(line: bytes) -> bool:
    try:
        found = decode(line)
    except (ValueError, RecursionError):
        return False
    return (found.type, found.subtype) == ("system", "init")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How the CLI says that it ended. `reason` is its own sentence when it failed, `text` its last words,
    `structured` the JSON that it was asked for with a schema."""

    is_error: bool
    kind: str
    reason: str
    text: str
    structured: str = ""
    stop_reason: str
    usage: Usage


class Translator:
    """Turns one run's lines into events. `result` is set once the CLI has given its last word."""

    def __init__(self, run_id: str, max_tool_output_bytes: int, cost_before: float = 0.0) -> None:
        """`cost_before`: what the CLI's process has cost (US dollars) with the runs that it performed before."""
        self._run_id = run_id
        self._cost_before = cost_before
        self._max_tool_output = max_tool_output_bytes
        self._streamed: set[str] = set()  # ids of messages whose deltas came: their blocks are repetitions
        self._unconfirmed = 0  # characters of text that no finished block has confirmed yet
        self._characters = 0  # of the answer so far
        self._block_open = False  # whether the next text belongs to the block that is being written
        self._half = ""  # the first half of a character that came in two deltas
        self._session = ""
        self._structuring: set[str] = set()  # ids of the CLI's own calls by which the model hands in JSON
        self.answer_bytes = 0
        self.spent = Usage()
        """What the model's messages have consumed so far: all there is to know of a run that ends without its
        `result`. The cost is not in it."""
        self.result: Result | None = None
        self.last_entry = ""
        """The uuid under which the CLI's session holds the last of the model's messages."""
        self.cost_after = cost_before

    def feed(self, line: bytes) -> list[Event]:
        """The events of one line; none for a line that is empty, unknown or broken."""
        if not line.strip():
            return []
        try:
            return self._translate(decode(line))
        except (ValueError, RecursionError) as error:
            kind = type(error).__name__  # never the error's text: it can quote the line
            logger.warning("cli_line_unreadable run_id=%s bytes=%d error=%s", self._run_id, len(line), kind)
            return []

    def _translate(self, line: Line) -> list[Event]:
        match line.type:
            case "stream_event" if line.parent_tool_use_id is None and line.event:
                return self._stream_event(line.event)
            case "assistant" if line.message:
                if line.parent_tool_use_id is None:
                    self.last_entry = line.uuid or ""
                return self._assistant(line.message, line.parent_tool_use_id)
            case "user" if line.message:
                return self._tool_results(line.message, line.parent_tool_use_id)
            case "system":
                return self._system(line)
            case "result" if self.result is None:
                return self._result(line)
            case _:
                return []

    # --- the model's words ------------------------------------------------------------------------

    def _stream_event(self, event: StreamEvent) -> list[Event]:
        match event.type:
            case "message_start" if event.message and event.message.id:
                self._streamed.add(event.message.id)
                self._spend(event.message.usage, turns=1, with_output=False)
                return self._retract()
            case "message_delta":
                self._spend(event.usage, with_input=False)
            case "content_block_start":
                self._begin_block()
            case "content_block_delta" if event.delta:
                return self._delta(event.delta)
        return []

    def _spend(self, usage: Any, *, turns: int = 0, with_input: bool = True, with_output: bool = True) -> None:
        """A message tells what it has read at its start, and what it has written with its end."""
        tokens, before = _tokens(usage), self.spent
        self.spent = Usage(
            input_tokens=before.input_tokens + with_input * tokens.all_input,
            cached_input_tokens=before.cached_input_tokens + with_input * (tokens.cache_read_input_tokens or 0),
            output_tokens=before.output_tokens + with_output * (tokens.output_tokens or 0),
            turns=before.turns + turns,
        )

    def _begin_block(self) -> None:
        self._block_open = False
        self._half = ""

    def _delta(self, delta: Delta) -> list[Event]:
        whole, self._half = _join_halves(self._half + (delta.text or delta.thinking or ""))
        if not whole:
            return []
        if delta.type == "thinking_delta":
            return [events.Reasoning(text=whole)]
        text = self._text(whole)
        self._unconfirmed += len(text.text)
        return [text]

    def _text(self, text: str) -> events.Text:
        """Blocks of text are paragraphs of the answer: what the CLI prints apart is not glued together."""
        if self._characters and not self._block_open:
            text = "\n\n" + text
        self._block_open = True
        self._characters += len(text)
        self.answer_bytes += len(text.encode())
        return events.Text(text=text)

    def _retract(self) -> list[Event]:
        """The CLI asks the model again: what came since the last finished block is void."""
        void, self._unconfirmed = self._unconfirmed, 0
        self._characters -= void
        self._begin_block()
        return [events.Retracted(characters=void)] if void else []

    def _assistant(self, message: Message, parent: str | None) -> list[Event]:
        found: list[Event] = []
        streamed = message.id in self._streamed
        made_up = message.model == "<synthetic>"  # the CLI's own words: its `result` repeats them
        for block in message.blocks:
            match block.type:
                case "tool_use" if block.id and block.name == _STRUCTURED_OUTPUT:
                    self._structuring.add(block.id)
                case "tool_use" if block.id:
                    found.append(self._tool_started(block, parent))
                case "text" if parent is None and streamed:
                    self._unconfirmed = 0
                case "text" if parent is None and block.text and not made_up:
                    found += self._retract()
                    found.append(self._text(block.text))
                case "thinking" if parent is None and block.thinking and not streamed:
                    found.append(events.Reasoning(text=block.thinking))
        return found

    # --- the tools --------------------------------------------------------------------------------

    def _tool_started(self, block: Block, parent: str | None) -> Event:
        given = block.input if isinstance(block.input, dict) else {}
        return events.ToolStarted(
            tool_id=block.id or "",
            name=block.name or "",
            summary=summary(given),
            input=self._cut(json.dumps(given, ensure_ascii=False))[0],
            parent_tool_id=parent,
        )

    def _tool_results(self, message: Message, parent: str | None) -> list[Event]:
        return [
            self._tool_finished(block, parent)
            for block in message.blocks
            if block.type == "tool_result" and block.tool_use_id and block.tool_use_id not in self._structuring
        ]

    def _tool_finished(self, block: Block, parent: str | None) -> Event:
        output, truncated = self._cut(_plain(block.content))
        return events.ToolFinished(
            tool_id=block.tool_use_id or "",
            output=output,
            is_error=bool(block.is_error),
            truncated=truncated,
            parent_tool_id=parent,
        )

    def _cut(self, text: str) -> tuple[str, bool]:
        data = text.encode()
        whole = len(data) <= self._max_tool_output
        return (text if whole else data[: self._max_tool_output].decode("utf-8", "ignore")), not whole

    # --- the CLI's own words ----------------------------------------------------------------------

    def _system(self, line: Line) -> list[Event]:
        match line.subtype:
            case "init" if line.session_id and line.session_id != self._session:
                self._session = line.session_id
                return [events.Session(session_id=line.session_id, model=line.model or "")]
            case "api_retry":
                retry = events.ApiRetry(
                    attempt=line.attempt or 0,
                    max_attempts=line.max_retries or 0,
                    delay_seconds=(line.retry_delay_ms or 0) / 1000,
                    http_status=line.error_status,
                )
                return [*self._retract(), retry]
            case "status" if line.status == "compacting":
                return [events.Compacting()]
        return []

    def _result(self, line: Line) -> list[Event]:
        kind = line.subtype or ""
        failed = bool(line.is_error) or kind.startswith("error")
        self.cost_after = max(self._cost_before, line.total_cost_usd or 0.0)  # the CLI counts all its turns together
        reason = line.result or "; ".join(map(str, line.errors or ())) or kind or "unknown"
        self.result = Result(
            is_error=failed,
            kind=kind,
            reason=reason,
            text=line.result or "",
            structured=line.structured,
            stop_reason=line.stop_reason or "end_turn",
            usage=usage(line, self._cost_before),
        )
        if failed or self._characters or line.structured or not line.result:
            return []
        return [self._text(line.result)]  # some answers, a local command's for one, come only here


def usage(line: Line, cost_before: float = 0.0) -> Usage:
    """The result line's numbers. Of these, only the cost is that of all the process's turns (seen with 2.1.329)."""
    tokens = line.usage or Tokens()
    return Usage(
        input_tokens=tokens.all_input,
        cached_input_tokens=tokens.cache_read_input_tokens or 0,
        output_tokens=tokens.output_tokens or 0,
        cost_usd=max(0.0, (line.total_cost_usd or 0.0) - cost_before),
        turns=line.num_turns or 0,
    )


def _tokens(usage: Any) -> Tokens:
    """A message's numbers, of which no text must depend: what is none is nothing."""
    try:
        return msgspec.convert(usage, Tokens)
    except msgspec.ValidationError:
        return Tokens()


def summary(given: dict[str, Any]) -> str:
    """What a tool was asked, as one short line: its most telling field."""
    for name in _SUMMARY_FIELDS:
        value = given.get(name)
        if isinstance(value, str) and value.strip():
            line = " ".join(value.split())
            cut = len(line) > MAX_SUMMARY_CHARACTERS
            return line[: MAX_SUMMARY_CHARACTERS - 1] + "…" if cut else line
    return ""


def _join_halves(text: str) -> tuple[str, str]:
    """Text with its surrogate pairs joined, and the half that is still alone at its end."""
    if text.isascii():
        return text, ""
    half = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
    whole = text[: len(text) - len(half)]
    return whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"), half


def _plain(content: Any) -> str:
    """A tool result's content as text: a string, or a list of blocks of which some are pictures."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(
        str(block.get("text", "")) if block.get("type") == "text" else f"[{block.get('type', 'content')}]"
        for block in content
        if isinstance(block, dict)
    )
