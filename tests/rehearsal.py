"""`python -m tests.rehearsal`: what an operator will do to a deployment, during a hundred streams, and the proof
that nobody lost a byte by it. Exits with 1 when somebody did.

Caddy, three replicas and two workers with the settings of docker-compose.yml, and Valkey, as plain processes, with
the fake CLI. One replica is killed, one is added, one is stopped, and Caddy is given a new list of them, twice.
"""

import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests import compose
from tests.caddy import Caddy
from tests.chaos import proof
from tests.chaos.clients import Chatter, Client, Reader
from tests.chaos.faults import Faults, kill_all
from tests.chaos.measures import Measure
from tests.chaos.proof import Proof, Report
from tests.chaos.questions import Question
from tests.deployment import KEYS, Deployment, Part, eventually, eventually_none

MODELS = Path(__file__).parent / "chaos" / "models.yaml"
READERS, CHATTERS, WORKERS = 60, 40, 2
PIECES, PIECE_SECONDS = 60, 0.75
DRAIN_SECONDS = 60
"""Instead of the file's ten minutes: long enough for every chat, and native clients move in its first half."""


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="heartline-rehearsal-"))
    with (
        Deployment(folder, replicas=3, workers=WORKERS, **settings()) as heartline,
        Caddy(folder, [part.url for part in heartline.replicas]) as caddy,
    ):
        report = perform(heartline, caddy)
    print(report)
    if report.wrong:
        print(f"the parts' logs are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def settings() -> dict[str, object]:
    """Of the file's API, but for where things are, and how long a drain takes."""
    given = compose.read()["services"]["api-1"]["environment"]
    ours = {name: value for name, value in given.items() if name.startswith("HEARTLINE_")}
    found = {name.removeprefix("HEARTLINE_").lower(): value for name, value in ours.items()}
    del found["bind"], found["api_keys_file"], found["operators"]
    slots = (READERS + CHATTERS) // WORKERS
    return {**found, "drain_seconds": DRAIN_SECONDS, "worker_slots": slots, "models_file": MODELS}


def question(number: int) -> Question:
    tag = f"q{number:03d}"
    pieces = [f"<{tag}:{i} žlą🙂>" for i in range(PIECES)]
    prompt = json.dumps({"text": pieces, "interval": PIECE_SECONDS})
    return Question(tag, "long", "fake", prompt, "".join(pieces), "".join(pieces))


def perform(heartline: Deployment, caddy: Caddy) -> Report:
    begun = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - begun:5.1f} s  {what}", flush=True)

    clients = cast(caddy)
    for client in clients:
        client.start()
    eventually(lambda: all(map(has_read, clients)), 90, "everybody reads")
    tell(f"{len(clients)} streams run")
    killed, drained, staying = heartline.replicas

    before = attempts(clients)
    kill_all(killed)
    heartline.parts.remove(killed)
    eventually(lambda: attempts(clients) != before, what="its clients notice")
    time.sleep(3)  # whoever was on it is elsewhere by now
    after_the_kill = attempts(clients)
    hit = [client for client in clients if after_the_kill[client] > before[client]]
    tell(f"a replica was killed; {kinds(hit)} were on it")

    added = heartline.start_replica()
    heartline.wait_until_ready()
    caddy.reload([part.url for part in (drained, staying, added)])
    tell("a replica was added, and Caddy's configuration reloaded")

    drained.process.send_signal(signal.SIGTERM)
    eventually(lambda: "app_draining" in drained.log.read_text(), what="it drains")
    caddy.reload([part.url for part in (staying, added)])
    tell(f"a replica was told to stop; {watchers_of(drained)} streams were on it; Caddy's configuration was reloaded")
    code = drained.process.wait(DRAIN_SECONDS + 10)
    heartline.parts.remove(drained)
    tell(f"it has ended, with exit code {code}")

    for client in clients:
        client.join(120)
    tell("all streams have ended")
    report = judge(heartline, clients)
    moved = [client for client in clients if attempts([client])[client] > after_the_kill[client]]
    report.rows += [
        ("on the killed replica", kinds(hit)),
        ("moved on from the drained one", kinds(moved)),
        ("read on over one connection", kinds([c for c in clients if c not in hit and c not in moved])),
    ]
    report.wrong += [
        f"{client.question.tag}: a chat was cut by a drain or a reload" for client in moved if chats(client)
    ]
    report.wrong += [] if hit and any(map(chats, hit)) else ["nobody was on the killed replica"]
    report.wrong += [] if moved else ["nobody was moved by the drain"]
    report.wrong += [f"{client.question.tag} has not finished" for client in clients if not client.finished]
    report.wrong += [f"the drained replica's exit code is {code}"] if code else []
    return report


def cast(caddy: Caddy) -> list[Client]:
    chance = random.Random(5)
    made: list[Client] = []
    for number in range(READERS + CHATTERS):
        kind = Reader if number < READERS else Chatter
        made.append(kind(question(number), [caddy.url], chance.choice(list(KEYS.values())), chance))
    chance.shuffle(made)
    return made


def chats(client: Client) -> bool:
    return isinstance(client, Chatter)


def has_read(client: Client) -> bool:
    assert client.crash is None, repr(client.crash)
    return bool(client.text) if isinstance(client, Chatter) else isinstance(client, Reader) and len(client.seen) > 2


def attempts(clients: Sequence[Client]) -> dict[Client, int]:
    return {client: client.attempts for client in clients}


def kinds(clients: Sequence[Client]) -> str:
    n_chats = sum(map(chats, clients))
    return f"{len(clients) - n_chats} native clients, {n_chats} chats"


def watchers_of(part: Part) -> int:
    return int(part.log.read_text().split("app_draining watchers=")[1].split()[0])


def judge(heartline: Deployment, clients: Sequence[Client]) -> Report:
    """The chaos test's proof: every byte that was read is held against the log, and the log against the CLI."""
    left = eventually_none(lambda: proof.unsettled(heartline.redis), 60)
    marked = heartline.marked_processes()
    no_comparison = Measure(pid=-1, megabytes=0, descriptors=0, threads=0)
    before = {part.log.stem: no_comparison for part in heartline.parts}
    report = Proof(heartline, clients, Faults(heartline, clients, random.Random())).look(before, left, marked)
    left_out = ("allowed growth", "faults", "clients that were told", "clients whose run's end was lost", "runs lost")
    report.rows = [row for row in report.rows if not row[0].startswith(left_out)]
    return report


if __name__ == "__main__":
    sys.exit(main())
