"""The Claude CLI's stream-json, line by line, into events. Pure: bytes in, events out.

What the CLI prints is seen with 2.1.329: `system/init`, then per message of the model
`stream_event` lines (deltas), one `assistant` line per finished content block that repeats it, `user`
lines with the tools' results, and one `result`. Lines of sub-agents carry `parent_tool_use_id`.
"""

import json
import logging
from typing import Any

import msgspec

from core import events
from core.events import Event, Usage

logger = logging.getLogger(__name__)

MAX_SUMMARY_CHARACTERS = 200
_SUMMARY_FIELDS = (
    "file_path", "notebook_path", "path", "command", "pattern", "url", "query", "description", "prompt",
)  # fmt: skip


class Line(msgspec.Struct, frozen=True):
    """What is read of a line. A field that is missing or null stays at its default."""

    type: str = ""
    subtype: str | None = None
    session_id: str | None = None
    parent_tool_use_id: str | None = None
    event: dict[str, Any] | None = None
    message: dict[str, Any] | None = None
    # system
    model: str | None = None
    status: str | None = None
    attempt: int = 0
    max_retries: int = 0
    retry_delay_ms: float = 0
    error_status: int | None = None
    # result
    is_error: bool = False
    result: str | None = None
    errors: tuple[Any, ...] = ()
    stop_reason: str | None = None
    num_turns: int = 0
    total_cost_usd: float | None = None
    usage: dict[str, Any] | None = None
    terminal_reason: str | None = None
    api_error_status: int | None = None


_decode = msgspec.json.Decoder(Line).decode


def decode(line: bytes) -> Line:
    """One line. The CLI is JavaScript and may print half of a surrogate pair, which only the standard
    library reads. Raises `ValueError` for what is no JSON, or has a field of another type."""
    try:
        return _decode(line)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return msgspec.convert(json.loads(line), Line)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How the CLI says that it ended. `reason` is its own sentence when it failed."""

    is_error: bool
    kind: str
    reason: str
    stop_reason: str
    usage: Usage


class Translator:
    """Turns one run's lines into events. `result` is set once the CLI has given its last word."""

    def __init__(self, run_id: str, max_tool_output_bytes: int) -> None:
        self._run_id = run_id
        self._max_tool_output = max_tool_output_bytes
        self._streamed: set[str] = set()  # ids of messages whose deltas came: their blocks are repetitions
        self._unconfirmed = 0  # characters of text that no finished block has confirmed yet
        self._characters = 0  # of the answer so far
        self._block_open = False  # whether the next text belongs to the block that is being written
        self._half = ""  # the first half of a character that came in two deltas
        self._session = ""
        self.answer_bytes = 0
        self.result: Result | None = None

    def feed(self, line: bytes) -> list[Event]:
        """The events of one line; none for a line that is empty, unknown or broken."""
        if not line.strip():
            return []
        try:
            return self._translate(decode(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            kind = type(error).__name__  # never the error's text: it can quote the line
            logger.warning("cli_line_unreadable run_id=%s bytes=%d error=%s", self._run_id, len(line), kind)
            return []

    def _translate(self, line: Line) -> list[Event]:
        match line.type:
            case "stream_event" if line.parent_tool_use_id is None:
                return self._stream_event(line.event or {})
            case "assistant":
                return self._assistant(line.message or {}, line.parent_tool_use_id)
            case "user":
                return self._tool_results(line.message or {}, line.parent_tool_use_id)
            case "system":
                return self._system(line)
            case "result" if self.result is None:
                return self._result(line)
            case _:
                return []

    # --- the model's words ------------------------------------------------------------------------

    def _stream_event(self, event: dict[str, Any]) -> list[Event]:
        match event.get("type"):
            case "message_start":
                self._streamed.add(event["message"]["id"])
                return self._retract()
            case "content_block_start":
                self._block_open = False
            case "content_block_delta":
                return self._delta(event["delta"])
        return []

    def _delta(self, delta: dict[str, Any]) -> list[Event]:
        match delta.get("type"):
            case "text_delta":
                text = self._text(delta["text"])
                self._unconfirmed += sum(len(piece.text) for piece in text)
                return list(text)
            case "thinking_delta" if delta["thinking"]:
                return [events.Reasoning(text=_clean(delta["thinking"]))]
        return []

    def _text(self, text: str) -> list[events.Text]:
        """Blocks of text are paragraphs of the answer: what the CLI prints apart is not glued together."""
        text, self._half = _join_halves(self._half + text)
        if not text:
            return []
        if self._characters and not self._block_open:
            text = "\n\n" + text
        self._block_open = True
        self._characters += len(text)
        self.answer_bytes += len(text.encode())
        return [events.Text(text=text)]

    def _retract(self) -> list[Event]:
        """The CLI asks the model again: what came since the last finished block is void."""
        void, self._unconfirmed = self._unconfirmed, 0
        self._characters -= void
        self._block_open = False
        return [events.Retracted(characters=void)] if void else []

    def _assistant(self, message: dict[str, Any], parent: str | None) -> list[Event]:
        found: list[Event] = []
        streamed = message.get("id") in self._streamed
        failed = message.get("model") == "<synthetic>"
        for block in _blocks(message):
            match block.get("type"):
                case "tool_use":
                    found.append(self._tool_started(block, parent))
                case "text" if parent is None and streamed:
                    self._unconfirmed = 0
                case "text" if parent is None and not failed:
                    found += self._retract()
                    self._block_open = False
                    found += self._text(block["text"])
                case "thinking" if parent is None and not streamed and block.get("thinking"):
                    found.append(events.Reasoning(text=_clean(block["thinking"])))
        return found

    # --- the tools --------------------------------------------------------------------------------

    def _tool_started(self, block: dict[str, Any], parent: str | None) -> Event:
        given = block.get("input") or {}
        return events.ToolStarted(
            tool_id=block["id"],
            name=block["name"],
            summary=summary(given),
            input=self._cut(json.dumps(given, ensure_ascii=False))[0],
            parent_tool_id=parent,
        )

    def _tool_results(self, message: dict[str, Any], parent: str | None) -> list[Event]:
        return [self._tool_finished(block, parent) for block in _blocks(message) if block.get("type") == "tool_result"]

    def _tool_finished(self, block: dict[str, Any], parent: str | None) -> Event:
        output, truncated = self._cut(_plain(block.get("content")))
        return events.ToolFinished(
            tool_id=block["tool_use_id"],
            output=output,
            is_error=bool(block.get("is_error")),
            truncated=truncated,
            parent_tool_id=parent,
        )

    def _cut(self, text: str) -> tuple[str, bool]:
        data = text.encode("utf-8", "replace")
        whole = len(data) <= self._max_tool_output
        return (data.decode() if whole else data[: self._max_tool_output].decode("utf-8", "ignore")), not whole

    # --- the CLI's own words ----------------------------------------------------------------------

    def _system(self, line: Line) -> list[Event]:
        match line.subtype:
            case "init" if line.session_id and line.session_id != self._session:
                self._session = line.session_id
                return [events.Session(session_id=line.session_id, model=line.model or "")]
            case "api_retry":
                retry = events.ApiRetry(
                    attempt=line.attempt,
                    max_attempts=line.max_retries,
                    delay_seconds=line.retry_delay_ms / 1000,
                    http_status=line.error_status,
                )
                return [*self._retract(), retry]
            case "status" if line.status == "compacting":
                return [events.Compacting()]
        return []

    def _result(self, line: Line) -> list[Event]:
        kind: str = line.subtype or ""
        failed = line.is_error or kind.startswith("error")
        reason = line.result or "; ".join(map(str, line.errors)) or kind or "unknown"
        self.result = Result(
            is_error=failed,
            kind=kind,
            reason=reason,
            stop_reason=line.stop_reason or "end_turn",
            usage=usage(line),
        )
        if failed or self._characters or not line.result:
            return []
        return list(self._text(line.result))  # some answers, a local command's for one, come only here


def usage(line: Line) -> Usage:
    """The result line's numbers; Anthropic counts cached input apart, we count it in."""
    numbers = line.usage or {}
    cached = numbers.get("cache_read_input_tokens") or 0
    written = numbers.get("cache_creation_input_tokens") or 0
    return Usage(
        input_tokens=(numbers.get("input_tokens") or 0) + cached + written,
        cached_input_tokens=cached,
        output_tokens=numbers.get("output_tokens") or 0,
        cost_usd=line.total_cost_usd or 0.0,
        turns=line.num_turns,
    )


def summary(given: dict[str, Any]) -> str:
    """What a tool was asked, as one short line: its most telling field."""
    for name in _SUMMARY_FIELDS:
        value = given.get(name)
        if isinstance(value, str) and value.strip():
            line = " ".join(_clean(value).split())
            cut = len(line) > MAX_SUMMARY_CHARACTERS
            return line[: MAX_SUMMARY_CHARACTERS - 1] + "…" if cut else line
    return ""


def _clean(text: str) -> str:
    """Without lone surrogates, which are valid in JSON and in Python, and nowhere else."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _join_halves(text: str) -> tuple[str, str]:
    """Text with its surrogate pairs joined, and the half that is still alone at its end."""
    if text.isascii():
        return text, ""
    half = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
    whole = text[: len(text) - len(half)]
    return whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"), half


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


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
