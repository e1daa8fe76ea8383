"""Open WebUI as a real process, and a user of it who does over HTTP what the browser does.

Source of the requests: Open WebUI 0.12.4, `main.py` (chat_completion), `models/chats.py` (insert_chat_turn) and
what its front end sends. The server keeps the tree of a chat; the browser names the new nodes.
"""

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from tests.deployment import PROJECT, eventually, free_port

Json = dict[str, Any]

START_SECONDS = 180.0  # the first start of a machine compiles some hundred modules
ANSWER_SECONDS = 60.0
GLANCE_SECONDS = 0.1  # Open WebUI has one thread for everybody
TASKS = {"title_generation": True, "tags_generation": True, "follow_up_generation": True}
HEADERS = {
    "X-OpenWebUI-Chat-Id": "{{CHAT_ID}}",
    "X-OpenWebUI-Message-Id": "{{MESSAGE_ID}}",
    "X-OpenWebUI-User-Message-Id": "{{USER_MESSAGE_ID}}",
    "X-OpenWebUI-User-Message-Parent-Id": "{{USER_MESSAGE_PARENT_ID}}",
    "X-OpenWebUI-Task": "{{TASK}}",
    "X-OpenWebUI-User-Id": "{{USER_ID}}",
}
"""What the README tells operators to set, so that Heartline knows who is asking."""


def program() -> Path:
    """The installed Open WebUI: `make e2e` puts it there; OPEN_WEBUI names another."""
    return Path(os.environ.get("OPEN_WEBUI") or PROJECT / ".e2e" / "open-webui" / "bin" / "open-webui")


@dataclass(frozen=True)
class Card:
    """A tool card. `output` is None while the tool runs."""

    name: str
    arguments: str
    output: str | None


class Message:
    """One message of a chat, as Open WebUI stores it and shows it."""

    def __init__(self, stored: Json) -> None:
        self.stored = stored

    def __repr__(self) -> str:
        return f"Message(done={self.done}, blocks={self.blocks}, error={self.error!r}, statuses={self.statuses})"

    @property
    def done(self) -> bool:
        return bool(self.stored.get("done"))

    @property
    def error(self) -> str:
        """The text in the red box, or nothing."""
        error = self.stored.get("error") or ""
        if isinstance(error, dict):
            error = error.get("content") or error
        if isinstance(error, dict):
            error = error.get("message") or error
        return str(error)

    @property
    def blocks(self) -> list[str | Card]:
        """What the user reads, from top to bottom: paragraphs of text and tool cards. Reasoning is left out."""
        items = self.stored.get("output") or []
        if not items:
            return [self.stored["content"]] if self.stored.get("content") else []
        results = {
            item["call_id"]: "".join(part.get("text", "") for part in item["output"])
            for item in items
            if item["type"] == "function_call_output"
        }
        found: list[str | Card] = []
        for item in items:
            if item["type"] == "message":
                text = "".join(part.get("text") or "" for part in item["content"])
                if text.strip():
                    found.append(text)
            elif item["type"] == "function_call":
                found.append(Card(item["name"], item["arguments"], results.get(item["call_id"])))
        return found

    @property
    def text(self) -> str:
        """All text, without the cards."""
        return "".join(block for block in self.blocks if isinstance(block, str))

    @property
    def cards(self) -> list[Card]:
        return [block for block in self.blocks if isinstance(block, Card)]

    @property
    def reasoning(self) -> str:
        """What "Thinking…" unfolds to."""
        items = [item for item in self.stored.get("output") or [] if item["type"] == "reasoning"]
        return "".join(part.get("text") or "" for item in items for part in item.get("content") or [])

    @property
    def statuses(self) -> list[str]:
        """The lines that have stood above the answer, oldest first."""
        return [status.get("description", "") for status in self.stored.get("statusHistory") or []]

    @property
    def status(self) -> str:
        """The line that stands above the answer now, or nothing."""
        history = self.stored.get("statusHistory") or []
        return self.statuses[-1] if history and not history[-1].get("hidden") else ""

    @property
    def usage(self) -> Json:
        found: Json = self.stored.get("usage") or {}
        return found

    @property
    def follow_ups(self) -> list[str]:
        return list(self.stored.get("followUps") or [])


@dataclass(frozen=True)
class Connection:
    """An entry of Open WebUI's Admin settings → Connections. The prefix is put before its models' ids."""

    base_url: str
    key: str
    headers: Mapping[str, str] = field(default_factory=lambda: HEADERS)
    prefix: str = ""

    def config(self) -> Json:
        return {"headers": dict(self.headers), **({"prefix_id": self.prefix} if self.prefix else {})}


class OpenWebUI:
    """`with OpenWebUI(folder, Connection("http://…/v1", key)) as web: web.chat("agent").ask("…")`"""

    def __init__(self, folder: Path, *connections: Connection) -> None:
        self.folder = folder
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.log = folder / "open-webui.log"
        (folder / "data").mkdir()
        # No variable of the machine's but PATH, and nothing to be fetched from the internet.
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "DATA_DIR": str(folder / "data"),
            "WEBUI_AUTH": "False",
            "WEBUI_SECRET_KEY": "signs the tests' sessions and nothing else",
            "OFFLINE_MODE": "true",
            "HF_HUB_OFFLINE": "1",
            "ENABLE_VERSION_UPDATE_CHECK": "false",
            "ENABLE_OLLAMA_API": "false",
            "ENABLE_PERSISTENT_CONFIG": "False",
            "RAG_EMBEDDING_ENGINE": "openai",
            "BYPASS_EMBEDDING_AND_RETRIEVAL": "true",
            "OPENAI_API_BASE_URLS": ";".join(connection.base_url for connection in connections),
            "OPENAI_API_KEYS": ";".join(connection.key for connection in connections),
            "OPENAI_API_CONFIGS": json.dumps({str(n): each.config() for n, each in enumerate(connections)}),
        }

    def __enter__(self) -> "OpenWebUI":
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [program(), "serve", "--host", "127.0.0.1", "--port", str(self._port)],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            eventually(self._answers, seconds=START_SECONDS, what=f"Open WebUI answers; its log is {self.log}")
            self.http = httpx.Client(base_url=self.url, timeout=60)
            user = self._json(self.http.post("/api/v1/auths/signin", json={"email": "", "password": ""}))
        except BaseException:
            self.close()
            raise
        self.token: str = user["token"]
        self.user = {"id": user["id"], "name": user["name"]}
        self.http.headers["Authorization"] = f"Bearer {self.token}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if hasattr(self, "http"):
            self.http.close()
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:  # it waits for browsers that are still connected
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()[-5000:]
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    # --- its API ----------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        return self._json(self.http.get(path))

    def post(self, path: str, body: Json) -> Any:
        return self._json(self.http.post(path, json=body))

    def _json(self, answer: httpx.Response) -> Any:
        assert answer.is_success, f"{answer.request.url}: {answer.status_code} {answer.text}"
        return answer.json()

    def models(self) -> dict[str, Json]:
        return {model["id"]: model for model in self.get("/api/models")["data"]}

    def upload(self, name: str, content: bytes, kind: str) -> Json:
        """A file as a message carries it; `kind` is its content type."""
        answer = self.http.post("/api/v1/files/", params={"process": "false"}, files={"file": (name, content, kind)})
        file = self._json(answer)
        fields = {"id": file["id"], "url": file["id"], "name": name, "content_type": kind, "size": len(content)}
        return {"type": "file", "file": file, "status": "uploaded", **fields}

    def chat(self, *models: str) -> "Chat":
        """A chat that does not exist yet: its first question makes it."""
        return Chat(self, models)


@dataclass(frozen=True)
class Turn:
    """What one request made: a user's message (or the one that is answered again) and the answers' ids."""

    user_message_id: str
    message_ids: tuple[str, ...]
    task_ids: tuple[str, ...]

    @property
    def message_id(self) -> str:
        assert len(self.message_ids) == 1
        return self.message_ids[0]


class Chat:
    """A saved chat in the hands of one user, in one browser."""

    def __init__(self, web: OpenWebUI, models: Sequence[str]) -> None:
        self.web = web
        self.models = tuple(models)
        self.id = ""

    # --- what a user does -------------------------------------------------------------------------

    def ask(self, text: str, after: Turn | None = None, files: Sequence[Json] = ()) -> Turn:
        """Send a question, below the answer `after`; without one it is the first of the chat."""
        return self._ask(text, after.message_ids[0] if after else None, files)

    def edit(self, turn: Turn, text: str) -> Turn:
        """Send another question in place of that of `turn`: a branch beside it."""
        return self._ask(text, self.stored(turn.user_message_id).get("parentId"), ())

    def regenerate(self, turn: Turn) -> Turn:
        """Have the question of `turn` answered once more, beside the first answer."""
        return self._request(self.stored(turn.user_message_id), [str(uuid.uuid4()) for _ in self.models])

    def resume(self, turn: Turn) -> Turn:
        """The button "Continue Response"."""
        body = {"assistant_message_id": turn.message_id}
        return self._request(self.stored(turn.user_message_id), [turn.message_id], **body)

    def rewrite(self, turn: Turn, text: str, *, copy: bool = False) -> Turn:
        """Change the text of an answer by hand, in its place or as a copy beside it; its cards stay."""
        history = self.web.get(f"/api/v1/chats/{self.id}")["chat"]["history"]
        messages = history["messages"]
        old = messages[turn.message_id]
        output = [{**item, "content": [{"type": "output_text", "text": text}]} if item["type"] == "message" else item
                  for item in old["output"]]  # fmt: skip
        if copy:
            new = {**old, "id": str(uuid.uuid4()), "childrenIds": [], "content": text, "output": output}
            messages[turn.user_message_id]["childrenIds"].append(new["id"])
            history["currentId"] = new["id"]
        else:
            new = {**old, "originalContent": old["content"], "content": text, "output": output}
        messages[new["id"]] = new
        self.web.post(f"/api/v1/chats/{self.id}", {"chat": {"history": history}})
        return Turn(turn.user_message_id, (new["id"],), ())

    def stop(self) -> None:
        self.web.post(f"/api/tasks/chat/{self.id}/stop", {})

    # --- what a user sees -------------------------------------------------------------------------

    @property
    def title(self) -> str:
        title: str = self.web.get(f"/api/v1/chats/{self.id}")["title"]
        return title

    @property
    def tags(self) -> list[str]:
        return [tag["name"] for tag in self.web.get(f"/api/v1/chats/{self.id}/tags")]

    def stored(self, message_id: str) -> Json:
        found: Json = self.web.get(f"/api/v1/chats/{self.id}")["chat"]["history"]["messages"][message_id]
        return found

    def message(self, turn: Turn, index: int = 0) -> Message:
        """The answer as a browser that is opened now shows it, however far it has come."""
        return Message(self.stored(turn.message_ids[index]))

    def answer(self, turn: Turn, index: int = 0, seconds: float = ANSWER_SECONDS) -> Message:
        """The answer at its end. Fails when it does not end within `seconds`."""
        return self.when(turn, lambda message: message.done, seconds, index)

    def when(
        self, turn: Turn, look: Callable[[Message], object], seconds: float = ANSWER_SECONDS, index: int = 0
    ) -> Message:
        """The answer as soon as `look` is true of it."""
        deadline = time.monotonic() + seconds
        while not look(message := self.message(turn, index)):
            assert time.monotonic() < deadline, f"after {seconds} s the answer is still {message}"
            time.sleep(GLANCE_SECONDS)
        return message

    def settled(self) -> None:
        """Wait until nothing works for this chat any more, background tasks included."""
        path = f"/api/tasks/chat/{self.id}"
        eventually(lambda: not self.web.get(path)["task_ids"], ANSWER_SECONDS, f"chat {self.id} is at rest")

    # --- what the browser sends -------------------------------------------------------------------

    def _ask(self, text: str, parent_id: str | None, files: Sequence[Json]) -> Turn:
        message: Json = {
            "id": str(uuid.uuid4()),
            "parentId": parent_id,
            "childrenIds": [],
            "role": "user",
            "user_id": self.web.user["id"],
            "user": self.web.user,
            "content": text,
            "models": list(self.models),
            "timestamp": int(time.time()),
            **({"files": list(files)} if files else {}),
        }
        return self._request(message, [str(uuid.uuid4()) for _ in self.models])

    def _request(self, user_message: Json, message_ids: list[str], **fields: Any) -> Turn:
        first = user_message["parentId"] is None and not self.id
        entries = [
            {"model_id": model, "message_id": message_id, "modelIdx": index}
            for index, (model, message_id) in enumerate(zip(self.models, message_ids, strict=True))
        ]
        continued = {} if "assistant_message_id" in fields else {"message_ids": entries}
        body = {
            "stream": True,
            "model": self.models[0],
            "params": {},
            "features": {},
            "variables": {},
            "session_id": f"browser-{uuid.uuid4()}",
            "id": message_ids[0],
            "parent_id": user_message["parentId"],
            "user_message": user_message,
            "background_tasks": TASKS if first else {"follow_up_generation": True},
            **continued,
            **({"chat_id": self.id} if self.id else {}),
            **fields,
        }
        answer = self.web.post("/api/chat/completions", body)
        assert "task_ids" in (answer or {}), answer
        self.id = answer["chat_id"]
        return Turn(user_message["id"], tuple(message_ids), tuple(answer["task_ids"]))
