"""The nodes of all conversations: completed runs whose sessions later runs can go on from."""

import logging
from collections.abc import Sequence
from typing import cast

import msgspec
from redis import Redis

from core import keys
from core.conversation import Origin, digest, turns
from core.run import Message, Place, Run, RunRequest

logger = logging.getLogger(__name__)

LOOK_BACK = 16
"""So many answers back a workspace is looked for by what was said, when the last ones left no node."""

_AMBIGUOUS = b""
_NEWEST = "newest"


class Node(msgspec.Struct, frozen=True):
    """A completed run, and what had been said at its end."""

    run: str
    conversation: str
    said: str


class Nodes:
    """Finds and files nodes. Raises redis-py's errors when Redis is away.

    A node is found by the client's ids of chat and message, where it gives them; else by all that was said.
    Either way it is used only when what the client shows is what was said, to the letter.
    """

    def __init__(self, redis: "Redis", ttl_seconds: int) -> None:
        self._redis = redis
        self._ttl_seconds = ttl_seconds

    def place(self, run_id: str, owner: str, profile: str, request: RunRequest, origin: Origin) -> tuple[Place, str]:
        """Where a new run belongs, and why it is there: `start`, `session`, or what no session fits for."""
        scope = digest(owner, origin.user, profile, origin.chat)
        known = turns(request.history)
        if not origin.chat:
            return self._place_by_content(run_id, scope, known)
        place = Place(conversation=scope[:32], scope=scope, message=origin.message, in_chat=True)
        if not known:
            return place, "start"
        before = origin.message if request.continues else origin.parent
        node = self._get([digest(scope, before if origin.message else known[-1][1])])[0]
        if node is None:
            return place, "no_node"
        if node.said != known[-1][1]:
            return place, "text_differs"
        return msgspec.structs.replace(place, parent=node.run), "session"

    def _place_by_content(self, run_id: str, scope: str, known: list[tuple[str, str]]) -> tuple[Place, str]:
        """The last answers, newest first: the newest has the session, any of them the workspace."""
        answers = [said for role, said in known if role == "assistant"][: -LOOK_BACK - 1 : -1]
        if not answers:
            return Place(conversation=run_id, scope=scope), "start"
        nodes = self._get([digest(scope, said) for said in answers])
        nearest = next((node for node in nodes if node is not None), None)
        place = Place(conversation=nearest.conversation if nearest else run_id, scope=scope)
        if nodes[0] is None or known[-1][1] != answers[0]:
            return place, "no_node"
        return msgspec.structs.replace(place, parent=nodes[0].run), "session"

    def newest(self, owner: str, user: str, profile: str, session: str) -> Place:
        """Where the next run of a client's own session belongs: behind the newest completed one, if there is any.

        Such a client names no answer and shows no history: each answer takes the place of the one before it.
        """
        scope = digest(owner, user, profile, session, "session")  # five parts: never the scope of a chat
        node = self._get([digest(scope, _NEWEST)])[0]
        return Place(
            conversation=scope[:32], parent=node.run if node else None, scope=scope, message=_NEWEST, in_chat=True
        )

    def file(self, run: Run, request: RunRequest, answer: str) -> None:
        """Make a node of a run that completes with this answer."""
        if run.place is None or not run.place.scope:
            return
        asked = request.messages[:-1] if request.continues else request.messages
        said = turns([*asked, Message("assistant", answer)])[-1][1]
        node = msgspec.json.encode(Node(run.id, run.place.conversation, said))
        key = keys.node(digest(run.place.scope, run.place.message or said))
        if run.place.in_chat:
            self._redis.set(key, node, ex=self._ttl_seconds)
        elif not self._redis.set(key, node, ex=self._ttl_seconds, nx=True) and self._redis.get(key) != node:
            # Two conversations in which the same was said cannot be told apart: neither is found by it any more.
            self._redis.set(key, _AMBIGUOUS, ex=self._ttl_seconds)

    def _get(self, names: Sequence[str]) -> list[Node | None]:
        found = cast("list[bytes | None]", self._redis.mget([keys.node(name) for name in names]))
        return [msgspec.json.decode(data, type=Node) if data else None for data in found]
