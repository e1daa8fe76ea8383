"""Reads a chat's stream as Open WebUI 0.12.4 does, for tests of what its users end up with.

Owns what its `utils/middleware.py` and `utils/response.py` were seen to do with chunks: the list of items that
an answer becomes, what it takes for tags, and what it would do when the stream ends. Never makes requests.
"""

import re
from typing import Any

Json = dict[str, Any]

THINKING = re.compile(r"<(?:think|thinking|reason|reasoning|thought|Thought)(?:\s.*?)?>|<\|begin_of_thought\|>|◁think▷")
COMMANDS = re.compile(r"<\|begin_of_solution\|>|<code_interpreter(?:\s.*?)?>")
DETAILS = re.compile(r"^<details(\s+[^>]*)?>\n", re.MULTILINE)
CARDS = {"tool_calls", "reasoning", "code_interpreter"}


class Answer:
    """One assistant's message while its stream is read."""

    def __init__(self) -> None:
        self.items: list[Json] = []
        self.statuses: list[Json] = []
        self.usage: Json = {}
        self.error: Json | None = None
        self.swallowed = ""  # what was taken for a tag, and would not be shown as it is

    def read(self, chunk: Json) -> None:
        """One `data:` line."""
        if "event" in chunk:
            assert chunk["event"]["type"] == "status", chunk
            self.statuses.append(chunk["event"]["data"])
        if chunk.get("type", "").startswith("response."):
            self._take(chunk)
            return
        self.usage |= chunk.get("usage") or {}
        choices = chunk.get("choices") or []
        if not choices:
            self.error = chunk.get("error") or self.error
            return
        delta = choices[0]["delta"]
        assert "tool_calls" not in delta
        assert "reasoning_content" not in delta  # it would go where the first thought is
        if delta.get("content"):
            self._write(delta["content"])

    def _take(self, chunk: Json) -> None:
        if chunk["type"] == "response.output_item.added":
            self._add(chunk["output_index"], chunk["item"])
        else:
            assert chunk["type"] == "response.reasoning_text.delta", chunk
            assert "output_index" not in chunk
            item = self.items[-1]  # the server's rule; the page goes by the id
            assert (item["type"], item["id"]) == ("reasoning", chunk["item_id"])
            item["content"][chunk["content_index"]]["text"] += chunk["delta"]

    def _add(self, index: int, item: Json) -> None:
        for place, known in enumerate(self.items):
            if known["id"] == item["id"]:
                self.items[place] = item
                return
        self.items.insert(index, item) if index < len(self.items) else self.items.append(item)

    def _write(self, text: str) -> None:
        if not self.items or self.items[-1]["type"] != "message":
            if self.items and self.items[-1]["type"] == "reasoning":
                assert self.items[-1]["status"] == "completed", "the text would go into the thought"
            self.items.append({"type": "message", "id": f"own-{len(self.items)}", "content": [{"text": ""}]})
        part = self.items[-1]["content"][-1]
        part["text"] += text
        plain = any(item.get("attributes", {}).get("type") == "reasoning_content" for item in self.items)
        if not plain and (found := THINKING.search(part["text"])):
            self.swallowed += found[0]
        if found := COMMANDS.search(part["text"]):
            self.swallowed += found[0]

    # --- what it has become -----------------------------------------------------------------------

    @property
    def texts(self) -> list[str]:
        return [text_of(item) for item in self.items if item["type"] == "message"]

    @property
    def text(self) -> str:
        """All that was said, as the model said it."""
        return "".join(self.texts).replace("\u200b", "")

    @property
    def outline(self) -> list[str]:
        """The items in order, one word and their content each; texts that are empty are not shown."""
        found = []
        for item in self.items:
            match item["type"]:
                case "message" if text_of(item).strip():
                    found.append(f"text {text_of(item)}")
                case "reasoning":
                    found.append(f"thought {text_of(item)}")
                case "function_call":
                    found.append(f"call {item['name']}")
                case "function_call_output":
                    found.append(f"output {item['output'][0]['text']}")
        return found

    @property
    def open_calls(self) -> set[str]:
        """The calls that Open WebUI would perform itself, were this the end of the stream."""
        closed = {item["call_id"] for item in self.items if item["type"] == "function_call_output"}
        return {item["call_id"] for item in self.items if item["type"] == "function_call"} - closed

    @property
    def status(self) -> str | None:
        """The line above the answer, if one is shown."""
        last = self.statuses[-1] if self.statuses else {}
        return None if last.get("hidden", False) else last.get("description")

    @property
    def forged(self) -> list[str]:
        """The cards that its page would make of texts and thoughts."""
        found = []
        for item in self.items:
            if item["type"] in ("message", "reasoning"):
                for tag in DETAILS.finditer(text_of(item)):
                    kinds = re.findall(r'(\w+)="(.*?)"', tag[0])
                    found += [kind for name, kind in kinds if name == "type" and kind in CARDS]
        return found


def text_of(item: Json) -> str:
    return "".join(part["text"] for part in item["content"])
