"""Who is asked for a first word: the bare CLI, Heartline and its peers, each with the same way of being asked."""

import functools
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import httpx

from benchmarks import machine
from benchmarks.asking import Endpoint, Messages, at_once
from benchmarks.bare_cli import BareCli
from benchmarks.scripted_api import MARKER
from tests.deployment import Deployment, eventually


class Contestant(Protocol):
    """`ready`, `new_chats`, then perhaps `ready_again` and `next_turns`, and `rest`. Only the two that return seconds
    are measured, one for each chat; the others return when the contestant uses no CPU any more."""

    def ready(self, chats: int) -> None: ...
    def new_chats(self, chats: int) -> list[float]: ...
    def ready_again(self) -> None: ...
    def next_turns(self) -> list[float]: ...
    def rest(self) -> None: ...


class Bare:
    """The CLI on a pipe: started for the question, or, when `warm`, started before and waiting on standard input."""

    def __init__(self, claude_bin: str, environment: Mapping[str, str], folder: Path, *, warm: bool) -> None:
        self._given = (claude_bin, environment, folder)
        self._warm = warm
        self._waiting: list[BareCli] = []
        self._chats: list[BareCli] = []

    def ready(self, chats: int) -> None:
        if self._warm:
            self._waiting = [BareCli(*self._given) for _ in range(chats)]
            machine.wait_until_quiet(cli.pid for cli in self._waiting)

    def new_chats(self, chats: int) -> list[float]:
        return at_once([self._ask_new] * chats)

    def _ask_new(self) -> float:
        cli = self._waiting.pop() if self._warm else BareCli(*self._given)
        self._chats.append(cli)
        return cli.ask(_prompt())

    def ready_again(self) -> None:
        if self._warm:
            machine.wait_until_quiet(cli.pid for cli in self._chats)
        else:
            for cli in self._chats:
                cli.close()

    def next_turns(self) -> list[float]:
        return at_once([functools.partial(self._ask_again, number) for number in range(len(self._chats))])

    def _ask_again(self, number: int) -> float:
        if not self._warm:
            self._chats[number] = BareCli(*self._given, after=self._chats[number])
        return self._chats[number].ask(_prompt())

    def rest(self) -> None:
        for cli in (*self._chats, *self._waiting):
            cli.close()
        self._chats, self._waiting = [], []


class Served:
    """A server and all its processes."""

    def __init__(self, endpoint: Endpoint, pids: list[int]) -> None:
        self._endpoint = endpoint
        self._pids = pids
        self._chats: list[Messages] = []

    def ready(self, chats: int) -> None:
        machine.wait_until_quiet(self._pids)

    def new_chats(self, chats: int) -> list[float]:
        self._chats = [[] for _ in range(chats)]
        return self.next_turns()

    def ready_again(self) -> None:
        machine.wait_until_quiet(self._pids)

    def next_turns(self) -> list[float]:
        return at_once([functools.partial(self._ask, messages) for messages in self._chats])

    def _ask(self, messages: Messages) -> float:
        messages.append({"role": "user", "content": _prompt()})
        first, answer = self._endpoint.ask(messages)
        messages.append({"role": "assistant", "content": answer})
        return first

    def rest(self) -> None:
        machine.wait_until_quiet(self._pids)


class Warm(Served):
    """Heartline with CLIs that wait."""

    def __init__(self, endpoint: Endpoint, pids: list[int], metrics_url: str) -> None:
        super().__init__(endpoint, pids)
        self._metrics_url = metrics_url
        self._spares = 1

    def ready(self, chats: int) -> None:
        self._spares = chats
        self.rest()

    def ready_again(self) -> None:
        eventually(lambda: self._waiting("kept") >= len(self._chats), what="their CLIs are kept")
        self.rest()

    def rest(self) -> None:
        """It does not rest before it has replaced what it has given away."""
        eventually(lambda: self._waiting("spare") >= self._spares, 60, f"{self._spares} CLIs wait")
        machine.wait_until_quiet(self._pids)

    def _waiting(self, kind: str) -> float:
        text = httpx.get(self._metrics_url, timeout=5).text
        found = re.search(rf'^heartline_warm_processes{{kind="{kind}"}} (\S+)', text, re.MULTILINE)
        return float(found[1]) if found else 0.0


def pids_of(heartline: Deployment) -> list[int]:
    return [part.process.pid for part in heartline.parts]


def _prompt() -> str:
    """Never the same: two conversations in which the same was said cannot be told apart by it."""
    return f"{MARKER} {uuid.uuid4()}"
