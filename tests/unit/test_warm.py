"""The pool of CLIs that wait: what it starts and ends, and to whom it gives what."""

from pathlib import Path
from typing import Any

import pytest

from core.profiles import Defaults, Profile, Profiles
from core.run import Place, Run, new_id
from worker.starter import NotReady, Setup, StartedCli
from worker.warm import CALM_SECONDS, HURRY_SECONDS, RETRY_SECONDS, USUAL_BYTES, WarmPool

CHAT, AGENT, WRITER, TASKS = (
    Profile(id="chat"),
    Profile(id="agent"),
    Profile(id="writer", answer_file="out.md"),
    Profile(id="tasks", tools=()),
)
PROFILES = Profiles(profiles=(CHAT, AGENT, WRITER, TASKS), defaults=Defaults(task="tasks"))
NEW_CHAT, NEW_AGENT, TASK = Setup(CHAT, lasting=True), Setup(AGENT, lasting=True), Setup(TASKS)
MIB = 1 << 20


class Size:
    """In the place of a process: it only has a size."""

    def __init__(self) -> None:
        self.bytes = 100 * MIB

    def memory(self) -> int:
        return self.bytes


class World:
    """In the place of the starter and the clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.alive: list[StartedCli] = []
        self.unfit: set[str] = set()
        self.broken: set[str] = set()

    def ahead(self, setup: Setup) -> StartedCli:
        if setup.profile.id in self.broken:
            raise NotReady("exit code 1")
        self.alive.append(self.started(setup))
        return self.alive[-1]

    def started(self, setup: Setup) -> StartedCli:
        process: Any = Size()
        nothing: Any = None
        return StartedCli(new_id(), setup, process, Path(), (), "/workspace", Path(), nothing)

    def is_fit(self, cli: StartedCli) -> bool:
        return cli.id not in self.unfit

    def end(self, cli: StartedCli, grace_seconds: float) -> None:
        self.alive.remove(cli)

    def remove(self, cli: StartedCli) -> None:
        assert cli not in self.alive

    def pool(self, limit: int = 4, max_bytes: int = 1 << 40) -> WarmPool:
        starter: Any = self
        return WarmPool(
            starter,
            PROFILES,
            limit=limit,
            max_bytes=max_bytes,
            idle_seconds=600,
            grace_seconds=1,
            clock=lambda: self.now,
        )

    @property
    def kinds(self) -> list[str]:
        return sorted(cli.setup.profile.id for cli in self.alive)


@pytest.fixture
def world() -> World:
    return World()


def settle(pool: WarmPool) -> None:
    """Let it do all that it would do now."""
    while pool.tend() == 0:
        pass


def run(parent: str | None = None, owner: str = "alice", conversation: str = "c" * 32) -> Run:
    place = Place(conversation=conversation, parent=parent)
    return Run(id=new_id(), owner=owner, profile="chat", model="chat", created_at=0.0, place=place)


# Spares.


def test_it_starts_one_of_each_kind_that_can_wait(world: World) -> None:
    settle(world.pool(3))
    assert world.kinds == ["agent", "chat", "tasks"]


def test_one_is_given_out_once_and_replaced_when_its_run_has_had_its_time(world: World) -> None:
    pool = world.pool(3)
    settle(pool)
    cli = pool.spare(NEW_CHAT)
    assert cli is not None
    assert cli.setup == NEW_CHAT
    assert pool.spare(NEW_CHAT) is None
    assert 0 < pool.tend() <= CALM_SECONDS
    assert len(world.alive) == 3
    world.now += CALM_SECONDS
    settle(pool)
    assert world.kinds == ["agent", "chat", "chat", "tasks"]
    assert cli in world.alive


def test_runs_that_come_all_the_time_do_not_keep_it_from_starting_more(world: World) -> None:
    pool = world.pool(3)
    settle(pool)
    assert pool.spare(NEW_CHAT) is not None
    pool.tend()
    world.now += HURRY_SECONDS
    assert pool.spare(NEW_AGENT) is not None
    assert pool.tend() == 0
    assert len(world.alive) == 4


@pytest.mark.parametrize(
    "other",
    [
        Setup(CHAT, lasting=False),
        Setup(CHAT, lasting=True, system="Arr."),
        Setup(CHAT, lasting=True, effort="high"),
        Setup(Profile(id="chat", model="opus"), lasting=True),
    ],
)
def test_whoever_needs_something_else_gets_none(world: World, other: Setup) -> None:
    pool = world.pool(3)
    settle(pool)
    assert pool.spare(other) is None
    assert pool.spare(NEW_CHAT) is not None


def test_what_is_asked_for_takes_the_place_of_what_is_not(world: World) -> None:
    pool, pirate = world.pool(2), Setup(CHAT, lasting=True, system="Arr.")
    settle(pool)
    assert world.kinds == ["agent", "chat"]
    for _ in range(4):
        pool.asked(pirate, is_task=False)
    settle(pool)
    assert [cli.setup for cli in world.alive] == [pirate, pirate]


def test_an_unfit_one_is_not_given_out_but_ended(world: World) -> None:
    pool = world.pool(1)
    settle(pool)
    world.unfit.add(world.alive[0].id)
    assert pool.spare(NEW_CHAT) is None
    settle(pool)
    assert [cli.id in world.unfit for cli in world.alive] == [False]


def test_one_that_was_of_no_use_waits_on(world: World) -> None:
    pool = world.pool(1)
    settle(pool)
    cli = pool.spare(NEW_CHAT)
    assert cli is not None
    pool.put_back(cli)
    assert pool.spare(NEW_CHAT) is cli


def test_a_spare_that_does_not_start_is_tried_again_later_and_ever_later(world: World) -> None:
    pool, world.broken = world.pool(1), {"chat"}
    tried: list[float] = []
    ahead = world.ahead
    world.ahead = lambda setup: tried.append(world.now - 1000) or ahead(setup)  # type: ignore[method-assign,func-returns-value]
    for _ in range(100):
        settle(pool)
        world.now += 1
    assert tried == [0, RETRY_SECONDS, 3 * RETRY_SECONDS, 7 * RETRY_SECONDS]
    world.broken.clear()
    world.now += 100
    settle(pool)
    assert world.kinds == ["chat"]


def test_a_kind_that_does_not_start_keeps_no_other_from_starting(world: World) -> None:
    pool, world.broken = world.pool(3), {"chat"}
    settle(pool)
    assert world.kinds == ["agent", "tasks"]


# Kept ones.


def kept(pool: WarmPool, world: World, performed: Run, setup: Setup = NEW_CHAT) -> StartedCli:
    cli = world.started(setup)
    world.alive.append(cli)
    assert pool.keep(cli, performed)
    return cli


def test_the_next_turn_gets_the_one_that_answered(world: World) -> None:
    pool, first = world.pool(), run()
    cli = kept(pool, world, first)
    assert pool.next_turn(run(first.id), NEW_CHAT) is cli
    assert pool.next_turn(run(first.id), NEW_CHAT) is None


@pytest.mark.parametrize(
    ("parent", "owner", "conversation"),
    [("f" * 32, "alice", "c" * 32), (None, "alice", "c" * 32), ("", "bob", "c" * 32), ("", "alice", "d" * 32)],
)
def test_nobody_else_gets_it(world: World, parent: str | None, owner: str, conversation: str) -> None:
    """Another answer's next turn, a new beginning, another key's run, another conversation."""
    pool, first = world.pool(), run()
    cli = kept(pool, world, first)
    other = run(first.id if parent == "" else parent, owner, conversation)
    assert pool.next_turn(other, NEW_CHAT) is None
    assert pool.next_turn(run(first.id), NEW_CHAT) is cli


def test_one_that_was_started_with_something_else_is_ended_instead(world: World) -> None:
    pool, first = world.pool(), run()
    cli = kept(pool, world, first)
    assert pool.next_turn(run(first.id), Setup(CHAT, lasting=True, system="Arr.")) is None
    settle(pool)
    assert cli not in world.alive


def test_a_conversation_has_one(world: World) -> None:
    pool, first, second = world.pool(), run(), run()
    older = kept(pool, world, first)
    newer = kept(pool, world, second)
    settle(pool)
    assert older not in world.alive
    assert pool.next_turn(run(second.id), NEW_CHAT) is newer


def test_half_of_all_are_kept_the_latest_ones(world: World) -> None:
    pool = world.pool(4)
    clis = [kept(pool, world, run(conversation=letter * 32)) for letter in "abc"]
    settle(pool)
    assert [cli in world.alive for cli in clis] == [False, True, True]
    assert len(world.alive) == 4


def test_with_room_for_one_none_is_kept(world: World) -> None:
    pool = world.pool(1)
    assert not pool.keeps_any
    assert not pool.keep(world.started(NEW_CHAT), run())


def test_one_that_performs_has_its_place_left_free(world: World) -> None:
    """Else each answer would end a spare, and each question start one."""
    pool = world.pool(4)
    settle(pool)
    pool.begin()
    cli = pool.spare(NEW_CHAT)
    assert cli is not None
    world.now += HURRY_SECONDS
    settle(pool)
    assert len(world.alive) == 4  # three that wait, and the one that performs
    before = set(world.alive)
    assert pool.keep(cli, run())
    pool.done()
    settle(pool)
    assert set(world.alive) == before


# Ends.


def test_whoever_has_waited_long_enough_ends(world: World) -> None:
    pool = world.pool(2)
    settle(pool)
    cli, first = kept(pool, world, run()), set(world.alive)
    world.now += 601
    settle(pool)
    assert cli not in world.alive
    assert not first & set(world.alive)
    assert len(world.alive) == 2  # spares come back, kept ones do not


def test_they_take_no_more_memory_than_they_may(world: World) -> None:
    pool = world.pool(4, max_bytes=USUAL_BYTES + 250 * MIB)
    settle(pool)
    assert len(world.alive) == 3
    for cli in world.alive:
        size: Any = cli.process
        size.bytes = 200 * MIB
    settle(pool)
    assert len(world.alive) == 2


def test_when_it_closes_all_end_and_none_comes(world: World) -> None:
    pool, first = world.pool(4), run()
    settle(pool)
    spare = pool.spare(NEW_CHAT)
    assert spare is not None
    kept(pool, world, first)
    pool.close()
    pool.tend()
    assert world.alive == [spare]
    assert not pool.keep(spare, run())
    pool.put_back(spare)
    pool.tend()
    assert world.alive == []
    assert pool.next_turn(run(first.id), NEW_CHAT) is None


def test_a_limit_of_nothing_starts_nothing(world: World) -> None:
    pool = world.pool(0)
    pool.start()
    settle(pool)
    assert world.alive == []
    pool.close()
    pool.join(1)
