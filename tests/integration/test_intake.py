"""Taking runs in, on a real Valkey: requests that come twice make one run, also when they come together."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from redis import Redis

from app.attendance import Attendance
from app.intake import Intake
from core import profiles
from core.clients import connect
from core.errors import IdempotencyConflict, TooManyRuns
from core.leases import Leases
from core.log import EventLog, Writer
from core.nodes import Nodes
from core.presence import Presence
from core.queue import RunQueue
from core.run import Message, Run, RunRequest, Status, id_of
from core.runs import RunStore
from core.settings import Settings
from core.stopping import Stopper
from tests.deployment import MODELS


def request(text: str = "What?") -> RunRequest:
    return RunRequest(messages=(Message("user", text),))


def intake(redis: "Redis", settings: Settings | None = None) -> Intake:
    store, queue = RunStore(redis, 1000), RunQueue(redis, 1000)
    stopper = Stopper(EventLog(redis, 1000), store, queue, Leases(redis))
    attendance = Attendance(Presence(redis), stopper, 3)
    return Intake(settings or Settings(), profiles.load(MODELS), redis, store, Nodes(redis, 1000), queue, attendance)


def submit(here: Intake, key: str = "once", text: str = "What?", owner: str = "alice") -> tuple[Run, bool]:
    return here.submit(owner, "chat", request(text), detach=True, idempotency_key=key)


def test_the_same_key_is_the_same_run_even_when_it_has_gone_on(redis: "Redis") -> None:
    here = intake(redis)
    run, is_new = submit(here)
    assert is_new
    Writer(EventLog(redis, 1000), run.id).start("slot1")
    again, is_new = submit(here)
    assert not is_new
    assert again.id == run.id
    assert again.status is Status.RUNNING
    assert RunQueue(redis, 1000).waiting() == [run.id]


def test_a_key_belongs_to_its_owner_and_to_one_request(redis: "Redis") -> None:
    here = intake(redis)
    mine, _ = submit(here)
    theirs, is_new = submit(here, owner="bob")
    assert is_new
    assert theirs.id != mine.id
    with pytest.raises(IdempotencyConflict):
        submit(here, text="Something else?")


def test_of_many_that_come_together_one_makes_the_run(redis: "Redis", redis_url: str, tmp_path: Path) -> None:
    together = Barrier(8)

    def one(_: int) -> list[tuple[str, bool]]:
        client = connect(redis_url)
        here, made = intake(client), []
        for key in range(20):
            together.wait(20)
            run, is_new = submit(here, key=str(key))
            made.append((run.id, is_new))
        client.close()
        return made

    with ThreadPoolExecutor(8) as pool:
        rounds = list(zip(*pool.map(one, range(8)), strict=True))
    for key, answers in enumerate(rounds):
        assert {run_id for run_id, _ in answers} == {id_of("alice", str(key))}
        assert sum(is_new for _, is_new in answers) == 1
    assert len(RunQueue(redis, 1000).waiting()) == 20


def test_a_worker_that_asks_at_once_finds_that_the_client_is_coming(redis: "Redis") -> None:
    run, _ = intake(redis).submit("alice", "chat", request(), detach=False)
    assert Presence(redis).count([run.id]) == [1]
    kept, _ = intake(redis).submit("alice", "chat", request(), detach=True)
    assert Presence(redis).count([kept.id]) == [0]


def test_a_run_that_is_not_taken_in_has_no_client(redis: "Redis") -> None:
    here = intake(redis, Settings(max_queued_runs=1))
    here.submit("alice", "chat", request(), detach=False)
    before = set(redis.scan_iter("heartline:*"))
    with pytest.raises(TooManyRuns):
        here.submit("alice", "chat", request(), detach=False)
    assert set(redis.scan_iter("heartline:*")) == before


def test_the_limit_of_a_key_counts_runs_that_wait_and_not_those_that_have_begun(redis: "Redis") -> None:
    here = intake(redis, Settings(max_queued_runs_per_key=1))
    run, _ = here.submit("alice", "chat", request(), detach=True)
    with pytest.raises(TooManyRuns):
        here.submit("alice", "chat", request(), detach=True)
    here.submit("bob", "chat", request(), detach=True)
    Writer(EventLog(redis, 1000), run.id).start("slot1")
    _, is_new = here.submit("alice", "chat", request(), detach=True)
    assert is_new
