"""The wait for the first word, with the real CLI on the scripted API: the bare CLI on a pipe, Heartline, and its peers.

A new chat and its next turns, one chat at a time and several at once. Cold, a CLI is started for the question; warm,
one was waiting for it. All are asked in turn, so that the machine's mood falls on all, and each begins when the one
before has come to rest.
"""

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil

from benchmarks import scripted_api
from benchmarks.asking import Endpoint
from benchmarks.bare_cli import MODELS
from benchmarks.contestants import Bare, Contestant, Served, Warm, pids_of
from benchmarks.figures import Part, percentile
from benchmarks.peers import PEERS
from core.settings import Settings
from tests.deployment import KEYS, Deployment, free_port
from worker import cli

ROUNDS = 5
TURNS = 4
"""After a chat's first. A CLI's second turn takes 25 to 60 ms, as its engine happens to compile or to collect."""
AT_ONCE = (3, 6, 12)
ROUNDS_AT_ONCE = {3: 1, 6: 1, 12: 2}
MEMORY_BYTES = 10 << 30
"""What the CLIs that wait for twelve chats at once may need, Heartline's and the bare ones."""
HEARTLINE, BARE = "Heartline", "bare CLI"

Names = tuple[str, str]
"""Cold, warm or neither, and who."""


def measure(part: Part) -> None:
    claude_bin = cli.find(Settings(), os.environ)
    with tempfile.TemporaryDirectory() as folder, scripted_api.serving() as api, ExitStack() as stack:
        everyone = _enter(part, stack, Path(folder), claude_bin, api)
        _one_at_a_time(part, everyone)
        if psutil.virtual_memory().available < MEMORY_BYTES:
            part.skip("several chats at once", f"less than {MEMORY_BYTES >> 30} GiB of memory are free")
        else:
            _several_at_once(part, everyone)


def _enter(part: Part, stack: ExitStack, folder: Path, claude_bin: str, api: str) -> dict[Names, Contestant]:
    home = folder / "bare"
    home.mkdir()
    reach = {
        "ANTHROPIC_BASE_URL": api,
        "ANTHROPIC_API_KEY": "no-real-key",
        "LANG": "C.UTF-8",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    own = {**reach, "HOME": str(home), "PATH": os.environ["PATH"]}
    everyone: dict[Names, Contestant] = {
        ("cold", BARE): Bare(claude_bin, own, home, warm=False),
        ("cold", HEARTLINE): stack.enter_context(_heartline(folder / "cold", claude_bin, api, warm=0)),
        ("warm", BARE): Bare(claude_bin, own, home, warm=True),
    }
    if keeps_warm_clis():
        ours = _heartline(folder / "warm", claude_bin, api, warm=2 * AT_ONCE[-1])
        everyone["warm", HEARTLINE] = stack.enter_context(ours)
    else:
        part.skip("warm: Heartline", "this version keeps no CLIs that wait")
    for peer in PEERS:
        if reason := peer.missing():
            part.skip(peer.name, reason)
            continue
        try:
            url, pid = stack.enter_context(peer.serving(folder, claude_bin, reach))
            everyone["", peer.name] = contestant = Served(Endpoint(url, peer.model), [pid])
            contestant.new_chats(1)
        except (AssertionError, OSError, HTTPException) as error:
            everyone.pop(("", peer.name), None)
            part.skip(peer.name, f"does not answer: {error}")
    return everyone


def keeps_warm_clis() -> bool:
    return "warm_processes" in Settings.__struct_fields__


@contextmanager
def _heartline(folder: Path, claude_bin: str, api: str, warm: int) -> Iterator[Served]:
    """With so many CLIs that wait, of which half may be kept ones."""
    folder.mkdir()
    settings: dict[str, Any] = {"warm_processes": warm, "warm_memory_bytes": MEMORY_BYTES} if keeps_warm_clis() else {}
    with Deployment(
        folder,
        claude_bin=claude_bin,
        environment={"ANTHROPIC_BASE_URL": api},
        models_file=MODELS,
        worker_slots=AT_ONCE[-1],
        worker_metrics_bind=f"127.0.0.1:{free_port()}",
        **settings,
    ) as heartline:
        endpoint = Endpoint(heartline.replicas[0].url, "chat", KEYS["alice"])
        pids = pids_of(heartline)
        metrics = heartline.workers[0].environment["HEARTLINE_WORKER_METRICS_BIND"]
        yield Warm(endpoint, pids, f"http://{metrics}/metrics") if warm else Served(endpoint, pids)


def _one_at_a_time(part: Part, everyone: dict[Names, Contestant]) -> None:
    first, later = defaultdict[Names, list[float]](list), defaultdict[Names, list[float]](list)
    for number in range(ROUNDS + 1):
        for names, contestant in everyone.items():
            contestant.ready(1)
            new = contestant.new_chats(1)
            turns = []
            for _ in range(TURNS):
                contestant.ready_again()
                turns += contestant.next_turns()
            contestant.rest()
            if number:  # the first of each only warms the machine's caches
                first[names] += new
                later[names] += turns
    for scenario, found in (("new chat", first), ("next turn", later)):
        _note(part, scenario, found)


def _several_at_once(part: Part, everyone: dict[Names, Contestant]) -> None:
    costs: dict[Names, list[tuple[int, float]]] = {names: [] for names in everyone if names[0]}
    for chats in reversed(AT_ONCE):
        asked = everyone if chats == AT_ONCE[-1] else costs  # the peers, which take long, at the largest scale only
        found, last = defaultdict[Names, list[float]](list), defaultdict[Names, list[float]](list)
        turns = defaultdict[Names, list[float]](list)
        for _ in range(ROUNDS_AT_ONCE[chats]):
            for names in asked:
                contestant = everyone[names]
                contestant.ready(chats)
                seconds = contestant.new_chats(chats)
                if asked is everyone:
                    contestant.ready_again()
                    turns[names] += contestant.next_turns()
                contestant.rest()
                found[names] += seconds
                last[names].append(max(seconds))
        _note(part, f"{chats} new chats at once", found)
        _note(part, f"{chats} next turns at once", turns)
        for names, measured in costs.items():
            measured.append((chats, 1000 * percentile(sorted(last[names]), 50) / chats))
    for (mode, who), measured in costs.items():
        part.growth(f"until the last of N new chats has its first word, {mode}: {who}", "ms", measured[::-1])


def _note(part: Part, scenario: str, found: dict[Names, list[float]]) -> None:
    """Heartline's figures beside the bare CLI's; the peers, which know neither cold nor warm, beside the cold one's."""
    for (mode, who), seconds in found.items():
        name = f"{scenario}, {mode}: {who}" if mode else f"{scenario}: {who}"
        limit = "" if who == BARE else f"{scenario}, {mode or 'cold'}: {BARE}"
        part.times(name, seconds, limit)
