"""A temporary chat: Open WebUI stores nothing of it, so the answers come over the browser's socket only."""

import queue
import time
import uuid
from types import TracebackType
from typing import Any

import socketio

from tests.e2e.openwebui import ANSWER_SECONDS, Message, OpenWebUI

Json = dict[str, Any]


class TemporaryChat:
    """`with TemporaryChat(web, "agent") as chat: chat.ask("…")`. The browser sends the whole history each time."""

    def __init__(self, web: OpenWebUI, model: str) -> None:
        self._web = web
        self._model = model
        self._messages: list[Json] = []
        self._events: queue.Queue[Json] = queue.Queue()
        self._socket = socketio.Client(reconnection=False)
        self._socket.on("events", self._events.put)

    def __enter__(self) -> "TemporaryChat":
        auth = {"token": self._web.token}
        self._socket.connect(self._web.url, auth=auth, socketio_path="/ws/socket.io", transports=["websocket"])
        self._socket.call("user-join", {"auth": auth})
        self._session_id = self._socket.get_sid()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.disconnect()

    def ask(self, text: str) -> str:
        """Ask, and wait for the whole answer."""
        parent_id = self._messages[-1]["id"] if self._messages else None
        question = {"id": str(uuid.uuid4()), "parentId": parent_id, "childrenIds": [], "role": "user", "content": text}
        answer_id = str(uuid.uuid4())
        self._messages.append(question)
        body = {
            "stream": True,
            "model": self._model,
            "messages": [{key: m[key] for key in ("id", "role", "content")} for m in self._messages],
            "params": {},
            "features": {},
            "variables": {},
            "session_id": self._session_id,
            "chat_id": f"temporary:{self._session_id}",
            "id": answer_id,
            "message_ids": [{"model_id": self._model, "message_id": answer_id, "modelIdx": 0}],
            "parent_id": parent_id,
            "user_message": question,
            "background_tasks": {"follow_up_generation": True},
        }
        self._web.post("/api/chat/completions", body)
        answer = self._answer(answer_id)
        self._messages.append({"id": answer_id, "role": "assistant", "content": answer})
        return answer

    def _answer(self, message_id: str) -> str:
        """The text that the browser shows when the answer is complete. Raises `queue.Empty` when it never is."""
        shown: Json = {"output": []}
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            event = self._events.get(timeout=max(0.01, deadline - time.monotonic()))
            if event.get("message_id") != message_id:
                continue
            kind, data = event["data"]["type"], event["data"].get("data") or {}
            assert kind != "chat:message:error", data
            if kind == "chat:completion":
                shown.update({key: data[key] for key in ("output", "content") if key in data})
                if data.get("done"):
                    return Message(shown).text
