"""Which kinds of CLI deserve to wait."""

from core.profiles import Profile
from worker.demand import HALF_LIFE_SECONDS, MAX_KINDS, Demand
from worker.starter import Setup

CHAT, AGENT, TASKS = (Setup(Profile(id=name)) for name in ("chat", "agent", "tasks"))
PRIOR = [(CHAT, 1.0), (AGENT, 1.0), (TASKS, 0.5)]


def test_at_first_there_is_one_of_each_in_their_order() -> None:
    assert Demand(PRIOR).shares(3, 0) == [CHAT, AGENT, TASKS]
    assert Demand(PRIOR).shares(2, 0) == [CHAT, AGENT]
    assert Demand(PRIOR).shares(0, 0) == []
    assert Demand([]).shares(3, 0) == []


def test_what_is_asked_for_often_gets_more() -> None:
    demand = Demand(PRIOR)
    for second in range(10):
        demand.add(AGENT, 1.0, second)
    demand.add(CHAT, 1.0, 10)
    assert demand.shares(5, 10) == [AGENT, AGENT, AGENT, AGENT, AGENT]
    assert demand.shares(9, 10).count(CHAT) == 1


def test_what_was_never_expected_counts_from_its_second_request_on() -> None:
    demand, pirate = Demand(PRIOR), Setup(Profile(id="chat"), system="Arr.")
    demand.add(pirate, 1.0, 0)
    assert pirate not in demand.shares(100, 0)
    demand.add(pirate, 1.0, 0)
    assert demand.shares(1, 0) == [pirate]


def test_it_forgets() -> None:
    demand, pirate = Demand(PRIOR), Setup(Profile(id="chat"), system="Arr.")
    for _ in range(3):
        demand.add(pirate, 1.0, 0)
    assert demand.shares(1, HALF_LIFE_SECONDS / 4) == [pirate]
    assert pirate not in demand.shares(100, 2 * HALF_LIFE_SECONDS)


def test_system_prompts_that_never_come_again_take_no_place() -> None:
    """As Open WebUI makes them that fills in the time."""
    demand = Demand(PRIOR)
    for minute in range(60):
        demand.add(Setup(Profile(id="chat"), system=f"It is {minute} past."), 1.0, minute)
    assert demand.shares(3, 60) == [CHAT, AGENT, TASKS]


def test_a_client_that_makes_up_kinds_fills_no_memory_and_displaces_nobody() -> None:
    demand = Demand(PRIOR)
    for _ in range(3):
        demand.add(CHAT, 1.0, 0)
    for number in range(10 * MAX_KINDS):
        demand.add(Setup(Profile(id="chat"), system=str(number)), 1.0, 0)
    assert len(set(demand.shares(1000, 0))) <= MAX_KINDS + len(PRIOR)
    assert demand.shares(1, 0) == [CHAT]
