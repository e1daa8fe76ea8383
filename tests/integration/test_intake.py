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
from core.errors import IdempotencyConflict
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


def intake(redis: "Redis") -> Intake:
    store, queue = RunStore(redis, 1000), RunQueue(redis, 1000)
    stopper = Stopper(EventLog(redis, 1000), store, queue, Leases(redis))
    attendance = Attendance(Presence(redis), stopper, 3)
    return Intake(Settings(), profiles.load(MODELS), redis, store, Nodes(redis, 1000), queue, attendance)


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
