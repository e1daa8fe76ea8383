"""A run's life: which status may follow which."""

import uuid

import pytest

from core.run import TERMINAL, TRANSITIONS, Message, Run, RunRequest, Status, may_become, new_id


@pytest.mark.parametrize("status", Status)
def test_every_status_is_in_the_table(status: Status) -> None:
    assert status in TRANSITIONS


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_terminal_status_is_final(status: Status) -> None:
    assert TRANSITIONS[status] == frozenset()


@pytest.mark.parametrize("status", sorted(set(Status) - TERMINAL))
def test_every_other_status_can_fail_and_be_cancelled(status: Status) -> None:
    assert {Status.FAILED, Status.CANCELLED} <= TRANSITIONS[status]


@pytest.mark.parametrize(
    ("target", "origins"),
    [
        (Status.QUEUED, []),
        (Status.RUNNING, [Status.QUEUED]),
        (Status.COMPLETED, [Status.RUNNING]),
        (Status.FAILED, [Status.QUEUED, Status.RUNNING]),
        (Status.CANCELLED, [Status.QUEUED, Status.RUNNING]),
    ],
)
def test_may_become_tells_where_a_status_can_be_reached_from(target: Status, origins: list[Status]) -> None:
    assert may_become(target) == origins


@pytest.mark.parametrize("status", Status)
def test_no_status_follows_itself(status: Status) -> None:
    assert status not in TRANSITIONS[status]


@pytest.mark.parametrize("status", Status)
def test_a_run_has_ended_when_its_status_is_terminal(status: Status) -> None:
    run = Run(id=new_id(), owner="o", profile="p", model="m", created_at=1.0, status=status)
    assert run.ended is (status in TERMINAL)


def test_the_prompt_is_what_the_user_said_since_the_last_answer_and_the_history_is_the_rest() -> None:
    first, answer, last = Message("user", "a"), Message("assistant", "b"), Message("user", "c")
    request = RunRequest(messages=(first, answer, last))
    assert request.prompt == (last,)
    assert request.history == (first, answer)
    assert RunRequest(messages=(first, last)).prompt == (first, last)
    tool = Message("user", "42", tool=True)
    request = RunRequest(messages=(first, answer, tool, last))
    assert request.prompt == (last,)
    assert request.history == (first, answer, tool)


def test_an_id_is_32_hex_digits_and_a_uuid() -> None:
    one, other = new_id(), new_id()
    assert one != other
    assert uuid.UUID(one).hex == one
