"""One performance: a deployment, its clients, its faults, and the proof at the end."""

import contextlib
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import proof, questions
from tests.chaos.clients import Chatter, Client, Reader
from tests.chaos.faults import Faults
from tests.chaos.measures import Measure
from tests.chaos.proof import Proof, Report
from tests.deployment import KEYS, PROJECT, Deployment, eventually, eventually_none
from tests.doubles.anthropic_api import ScriptedApi

MODELS = Path(__file__).with_name("models.yaml")
FAULT_EVERY_SECONDS = 1.0
WARM_UP_RUNS = 24
CHAT_SHARE = 0.35
LEAVING_SHARE = 0.05
LEAVE_AFTER_EVENTS = 2
SETTLE_SECONDS = 120.0
REAL_CLI = PROJECT / ".cli" / "node_modules" / ".bin" / "claude"


@dataclass(frozen=True)
class Plan:
    """How much of what. `schedule` names the faults one by one; without it they are random."""

    seed: int
    seconds: float = 120
    fake_runs: int = 200
    real_runs: int = 20
    claude_bin: str | None = None
    schedule: Sequence[str] = ()
    spare: bool = True


class Scene:
    """The parts and the clients of one performance."""

    def __init__(self, plan: Plan, heartline: Deployment, api: ScriptedApi) -> None:
        self._plan = plan
        self._heartline = heartline
        self._api = api
        self._chance = random.Random(plan.seed)
        self._urls = [replica.url for replica in heartline.replicas]
        self._clients: list[Client] = []

    def perform(self) -> Report:
        self._warm_up()
        before = {part.log.stem: Measure.of(part) for part in self._heartline.parts}
        spared = [self._heartline.workers[0], self._heartline.replicas[0]] if self._plan.spare else []
        cast = self._cast()
        faults = Faults(self._heartline, self._clients, self._chance, spared)
        faults.watch_the_disk()
        self._play(cast, faults)
        faults.settle()
        self._join(self._clients, SETTLE_SECONDS)
        left = eventually_none(lambda: proof.unsettled(self._heartline.redis), SETTLE_SECONDS)
        marked = self._heartline.marked_processes()
        return Proof(self._heartline, self._clients, faults).look(before, left, marked)

    def _play(self, cast: Sequence[Client], faults: Faults) -> None:
        """Start the clients one after the other, and the faults, evenly over the time."""
        begun = time.monotonic()
        kinds = list(self._plan.schedule)
        n_faults = len(kinds) or int(self._plan.seconds / FAULT_EVERY_SECONDS)
        acts: list[tuple[float, Callable[[], object]]] = [
            (0.9 * self._plan.seconds * i / len(cast), client.start) for i, client in enumerate(cast)
        ]
        for i in range(n_faults):
            make = faults.one if not kinds else self._insisting(faults, kinds[i])
            acts.append((self._plan.seconds * (i + 1) / (n_faults + 1), make))
        for at, act in sorted(acts, key=lambda one: one[0]):
            time.sleep(max(0.0, begun + at - time.monotonic()))
            act()

    @staticmethod
    def _insisting(faults: Faults, kind: str) -> Callable[[], object]:
        return lambda: eventually(lambda: faults.make(kind), what=f"a fault: {kind}")

    def _cast(self) -> list[Client]:
        asked = [questions.fake(number, self._chance) for number in range(self._plan.fake_runs)]
        asked += [questions.real(number, self._api) for number in range(self._plan.real_runs)]
        self._chance.shuffle(asked)
        cast = [self._client(question) for question in asked]
        self._clients += cast
        return cast

    def _client(self, question: questions.Question) -> Client:
        lot = self._chance.random()
        if lot < LEAVING_SHARE:
            question = questions.slow(question)
        kind = Chatter if lot < CHAT_SHARE else Reader
        client = kind(question, self._urls, self._chance.choice(list(KEYS.values())), self._chance)
        if isinstance(client, Chatter) and lot < LEAVING_SHARE:
            client.leave_after = LEAVE_AFTER_EVENTS
        return client

    def _warm_up(self) -> None:
        """Runs without faults: every pool is filled and every module loaded before memory is measured."""
        chance = random.Random(0)
        warm = [
            Reader(questions.fake(9000 + i, chance), self._urls, KEYS["alice"], chance) for i in range(WARM_UP_RUNS)
        ]
        for client in warm:
            client.start()
        self._clients += warm
        self._join(warm, 60)
        assert all(client.finished for client in warm), [client.crash for client in warm]

    @staticmethod
    def _join(clients: Sequence[Client], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for client in clients:
            client.join(max(0.0, deadline - time.monotonic()))


@contextlib.contextmanager
def staged(plan: Plan, folder: Path) -> Iterator[Scene]:
    """A deployment of two replicas and two workers, for one performance."""
    settings = {
        "worker_slots": 4,
        "warm_processes": 2,
        "heartbeat_seconds": 1,
        "max_queued_runs_per_key": 1000,
        "models_file": MODELS,
    }
    with (
        ScriptedApi() as api,
        Deployment(
            folder,
            claude_bin=questions.program(folder, plan.claude_bin),
            replicas=2,
            workers=2,
            environment={"ANTHROPIC_BASE_URL": api.base_url, "CLAUDE_CODE_MAX_RETRIES": "1"},
            **settings,
        ) as heartline,
    ):
        yield Scene(plan, heartline, api)


def perform(plan: Plan) -> Report:
    """All of it, in a folder that is removed afterwards, unless something is wrong."""
    folder = Path(tempfile.mkdtemp(prefix="heartline-chaos-"))
    with staged(plan, folder) as scene:
        report = scene.perform()
    if report.wrong:
        report.rows.append(("the parts' logs", folder))
    else:
        shutil.rmtree(folder)
    return report
