"""Open WebUI's own form of a chat: cards for tools, thoughts in their place, a status line, and the text.

Open WebUI (0.12.4) keeps an answer as a list of items: texts, thoughts, tool calls, their outputs. It makes them
of OpenAI's chunks, and of chunks that carry an event of the Responses API, which it puts into the list as they
are (`utils/middleware.py`, `utils/response.py`: `handle_responses_streaming_event`). An item that is *added* under
the id of one that is there takes its place.

What comes from the model or from a tool goes into values, and never chooses a key, a type or an id.
"""

import re
from typing import Any, ClassVar

import msgspec

from app import sse
from app.dialects.openai_chat import HEARTBEAT, PROGRESS_MARK, Chunks, error, retry, usage_object
from app.dialects.tag_guard import TagGuard
from core import events
from core.events import AnyEvent, Unrecognised, Usage
from core.sentences import sentence

Item = dict[str, Any]

AT_THE_END = 1_000_000
"""The index of an item that goes behind all others. Without an index, server and page do not agree."""

PARAGRAPH = "\n\n"

PLAIN = {"type": "reasoning_content"}
"""Attributes of our items. Where one item has them, Open WebUI no longer takes `<think>` and the like out of
texts (`tag_output_handler`); and it puts no text into a thought that has them."""

CLOSER = 0.8
"""A run's place in the queue is shown again when it is at most this part of the one shown before: each status
line is a transaction on the whole chat there."""


class OpenWebUIStream:
    """A run as one Open WebUI reads it. Knows what it has written, and so belongs to one client."""

    resumable: ClassVar[bool] = False

    def __init__(self, chunks: Chunks, label: str, language: str = "en") -> None:
        """`label` is the profile's display name."""
        self._chunks = chunks
        self._label = label
        self._language = language
        self._place: int | None = None
        self._status: str | None = None  # the line that is shown
        self._open_tools: dict[str, None] = {}  # calls whose output is to come, in order
        self._has_spoken = False
        self._block: TextBlock | ThoughtBlock | None = None  # the text or thought that is the newest item

    def opening(self, *, resumed: bool) -> bytes:
        return sse.comment(b"resumed") if resumed else self._chunks.opening()

    def queued(self, place: int) -> bytes:
        if self._place is not None and place > 1 and place > self._place * CLOSER:
            return b""
        self._place = place
        return self._show("queued", place=place)

    def taking_turns(self) -> bytes:
        return self._show("taking_turns")

    def heartbeat(self) -> bytes:
        return HEARTBEAT  # Open WebUI counts bytes, not chunks: a comment will do, whatever the style

    def farewell(self) -> bytes:
        return self._failed("replica_shutdown", sentence(self._language, "replica_shutdown"))

    def lost(self) -> bytes:
        return self._failed("log_lost", sentence(self._language, "log_lost"))

    def render(self, event: AnyEvent | Unrecognised, data: bytes) -> bytes:
        match event:
            case events.Started():
                return self._show("starting", event.seq, model=self._label)
            case events.Text():
                return self._text(event)
            case events.Reasoning():
                return self._thought(event)
            case events.ToolStarted():
                return self._tool_started(event)
            case events.ToolFinished():
                return self._tool_finished(event)
            case events.Retracted():
                return self._retracted(event)
            case events.ApiRetry():
                return self._show("retrying", event.seq, **retry(event, self._language))
            case events.Compacting():
                return self._show("compacting", event.seq)
            case events.Completed():
                return self._end(event.at) + self._chunks.finish(event, include_usage=True)
            case events.Failed():
                return self._failed(event.code, event.message, event)
            case events.Cancelled():
                return self._failed("cancelled", sentence(self._language, "cancelled"), event)
            case _:
                return b""

    # --- text and thoughts ------------------------------------------------------------------------

    def _text(self, event: events.Text) -> bytes:
        opened, block = self._hide_status(), self._block
        if not isinstance(block, TextBlock):
            opened += self._close_thought(event.at)
            block = self._block = TextBlock(f"msg_{self._chunks.run_id}_{event.seq}", follows=self._has_spoken)
            self._has_spoken = True
            opened += self._added(block.item())
        return opened + self._chunks.content(block.write(event.text), event.seq)

    def _thought(self, event: events.Reasoning) -> bytes:
        hidden, block = self._hide_status(), self._block
        if not isinstance(block, ThoughtBlock):
            block = self._block = ThoughtBlock(f"rs_{self._chunks.run_id}_{event.seq}", event.at)
            block.write(event.text)
            return hidden + self._added(block.item(), event.seq)
        # Without an index: the server puts it into the newest item, the page into the one of this id.
        piece = {"item_id": block.id, "content_index": 0, "delta": block.write(event.text)}
        return hidden + self._chunks.aside({"type": "response.reasoning_text.delta", **piece}, event.seq)

    def _close_thought(self, at: float | None) -> bytes:
        """A thought that is not the newest item any more: how long it took is known now."""
        block, self._block = self._block, None
        return self._added(block.item(ended_at=at or block.started_at)) if isinstance(block, ThoughtBlock) else b""

    def _retracted(self, event: events.Retracted) -> bytes:
        """Takes the void text back where it is the newest item's. What lies before that stays, and is told."""
        if isinstance(self._block, TextBlock) and self._block.take_back(event.characters):
            return self._added(self._block.item(), event.seq) + self._show("restarted")
        told = f"\n\n{PROGRESS_MARK}[{sentence(self._language, 'restarted')}]\n\n"
        return self._text(events.Text(seq=event.seq, at=event.at, text=told))

    # --- the tools --------------------------------------------------------------------------------

    def _tool_started(self, event: events.ToolStarted) -> bytes:
        self._open_tools[event.tool_id] = None
        name = re.sub(r"[^A-Za-z0-9_-]", "_", event.name)
        call = {
            "type": "function_call",
            "id": event.tool_id,
            "call_id": event.tool_id,
            "name": (f"subagent_{name}" if event.parent_tool_id is not None else name)[:64],
            "arguments": valid_json(event.input, self._language),
            "status": "completed",  # says that the arguments are; a card without its output is running
        }
        return self._hide_status() + self._close_thought(event.at) + self._added(call, event.seq)

    def _tool_finished(self, event: events.ToolFinished) -> bytes:
        if event.tool_id not in self._open_tools:
            return b""
        output = f"{event.output}\n{sentence(self._language, 'cut')}" if event.truncated else event.output
        closed = self._close_thought(event.at)
        return closed + self._output(event.tool_id, output, is_error=event.is_error, seq=event.seq)

    def _output(self, tool_id: str, text: str, *, is_error: bool, seq: int | None = None) -> bytes:
        """A tool's output, which closes its card. Open WebUI knows an error by the word that it begins with."""
        del self._open_tools[tool_id]
        if is_error and not text.lower().startswith("error:"):
            text = f"Error: {text}"
        output = {
            "type": "function_call_output",
            "id": f"{tool_id}_output",
            "call_id": tool_id,
            "output": [{"type": "input_text", "text": text}],
            "status": "failed" if is_error else "completed",
        }
        return self._added(output, seq)

    # --- the end ----------------------------------------------------------------------------------

    def _end(self, at: float | None = None) -> bytes:
        """Leaves nothing open. Open WebUI would perform a call without an output itself, and ask again."""
        unfinished = sentence(self._language, "unfinished")
        cards = [self._output(tool_id, unfinished, is_error=True) for tool_id in list(self._open_tools)]
        return self._hide_status() + self._close_thought(at) + b"".join(cards)

    def _failed(self, code: str, message: str, event: events.Failed | events.Cancelled | None = None) -> bytes:
        if event is None:
            return self._end() + error(code, message)
        known = {"usage": usage_object(event.usage)} if event.usage != Usage() else {}
        return self._end(event.at) + error(code, message, event.seq, **known)

    # --- the chunks -------------------------------------------------------------------------------

    def _added(self, item: Item, seq: int | None = None) -> bytes:
        added = {"type": "response.output_item.added", "output_index": AT_THE_END, "item": item}
        return self._chunks.aside(added, seq)

    def _show(self, key: str, seq: int | None = None, **values: object) -> bytes:
        """The status line, until something else happens."""
        line = sentence(self._language, key, **values)
        if line == self._status:
            return b""
        self._status = line
        return self._status_event(line, seq, done=False)

    def _hide_status(self) -> bytes:
        line, self._status = self._status, None
        return b"" if line is None else self._status_event(line, done=True, hidden=True)

    def _status_event(self, line: str, seq: int | None = None, **flags: bool) -> bytes:
        return self._chunks.aside({"event": {"type": "status", "data": {"description": line, **flags}}}, seq)


class TextBlock:
    """A stretch of the answer, as one item. The paragraph break in front of one that `follows` another is the
    worker's, for clients to whom all is one text."""

    def __init__(self, item_id: str, *, follows: bool) -> None:
        self.id = item_id
        self._follows = follows
        self._pieces: list[str] = []
        self._guard = TagGuard()

    def write(self, text: str) -> str:
        """Adds to it; what is to be shown."""
        first = not any(self._pieces)
        self._pieces.append(text)
        return self._guard.passed(self._shown(text) if first else text)

    def _shown(self, text: str) -> str:
        return text.removeprefix(PARAGRAPH) if self._follows else text

    def take_back(self, characters: int) -> bool:
        """Takes characters off its end. Does nothing when it has not so many."""
        text = "".join(self._pieces)
        if characters > len(text):
            return False
        self._pieces = [text[: len(text) - characters]]
        return True

    def item(self) -> Item:
        """All of it; from here on more can be written."""
        self._guard = TagGuard()
        text = self._guard.passed(self._shown("".join(self._pieces)))
        return {
            "type": "message",
            "id": self.id,
            "status": "in_progress",
            "role": "assistant",
            "content": [{"type": "output_text", "text": text}],
            "attributes": PLAIN,
        }


class ThoughtBlock:
    """A stretch of the model's thinking, as one item. Times are Unix seconds."""

    def __init__(self, item_id: str, started_at: float) -> None:
        self.id = item_id
        self.started_at = started_at
        self._shown: list[str] = []
        self._guard = TagGuard()

    def write(self, text: str) -> str:
        """Adds to it; what is to be shown."""
        self._shown.append(self._guard.passed(text))
        return self._shown[-1]

    def item(self, ended_at: float | None = None) -> Item:
        took = {} if ended_at is None else {"ended_at": ended_at, "duration": int(ended_at - self.started_at)}
        return {
            "type": "reasoning",
            "id": self.id,
            "status": "in_progress" if ended_at is None else "completed",
            "start_tag": "<think>",
            "end_tag": "</think>",
            "attributes": PLAIN,
            "content": [{"type": "output_text", "text": "".join(self._shown)}],
            "summary": None,
            "started_at": self.started_at,
            **took,
        }


def valid_json(text: str, language: str) -> str:
    """A tool's input as the JSON of an object: what was cut is none any more."""
    try:
        msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError:
        return msgspec.json.encode({"input": f"{text} {sentence(language, 'cut')}"}).decode()
    return text
