"""Deadlines: in all, in silence, in one tool; and that waiting and judging never disagree."""

from hypothesis import given
from hypothesis import strategies as st

from core import events
from core.events import Event
from worker.deadlines import Deadlines, Overdue

RUN, STALL, TOOL = 600.0, 30.0, 60.0


def deadlines(now: float = 0.0) -> Deadlines:
    return Deadlines(now, run_seconds=RUN, stall_seconds=STALL, tool_seconds=TOOL)


def started(tool_id: str, parent: str | None = None) -> events.ToolStarted:
    return events.ToolStarted(tool_id=tool_id, name=f"Tool {tool_id}", input="", summary="", parent_tool_id=parent)


def finished(tool_id: str, parent: str | None = None) -> events.ToolFinished:
    return events.ToolFinished(tool_id=tool_id, output="", is_error=False, parent_tool_id=parent)


def test_silence_is_a_stall_at_its_limit_and_not_before() -> None:
    clocks = deadlines()
    assert clocks.overdue(STALL - 0.001) is None
    assert clocks.overdue(STALL) == Overdue("stalled", STALL)


def test_any_line_ends_the_silence_even_one_without_an_event() -> None:
    clocks = deadlines()
    clocks.heard([], 29)
    assert clocks.overdue(58) is None
    assert clocks.left(58) == 1


def test_the_whole_run_is_limited_however_much_it_says() -> None:
    clocks = deadlines()
    for second in range(int(RUN)):
        clocks.heard([events.Text(text="x")], second)
        assert clocks.overdue(second) is None
    assert clocks.overdue(RUN) == Overdue("timeout", RUN)


def test_a_tool_may_be_silent_for_longer_than_the_model() -> None:
    clocks = deadlines()
    clocks.heard([started("a")], 1)
    assert clocks.overdue(1 + STALL) is None
    assert clocks.overdue(1 + TOOL) == Overdue("tool_timeout", TOOL, "Tool a")


def test_when_the_tool_has_ended_the_model_is_on_the_clock_again() -> None:
    clocks = deadlines()
    clocks.heard([started("a")], 0)
    clocks.heard([finished("a")], 50)
    assert clocks.overdue(50 + STALL - 1) is None
    assert clocks.overdue(50 + STALL) == Overdue("stalled", STALL)


def test_of_two_tools_the_one_that_began_first_is_overdue_first() -> None:
    clocks = deadlines()
    clocks.heard([started("a")], 0)
    clocks.heard([started("b")], 10)
    assert clocks.overdue(TOOL) == Overdue("tool_timeout", TOOL, "Tool a")
    clocks.heard([finished("a")], TOOL)
    assert clocks.overdue(TOOL) is None
    assert clocks.left(TOOL) == 10


def test_a_sub_agent_that_works_keeps_its_tool_alive() -> None:
    clocks = deadlines()
    clocks.heard([started("agent")], 0)
    clocks.heard([started("inner", parent="agent")], 50)
    clocks.heard([finished("inner", parent="agent")], 70)
    assert clocks.overdue(TOOL + 60) is None
    assert clocks.overdue(70 + TOOL) == Overdue("tool_timeout", TOOL, "Tool agent")


def test_an_announced_wait_is_no_silence() -> None:
    clocks = deadlines()
    clocks.heard([events.ApiRetry(attempt=1, max_attempts=5, delay_seconds=100)], 10)
    clocks.heard([], 20)
    assert clocks.overdue(110 + STALL - 1) is None
    assert clocks.overdue(110 + STALL) == Overdue("stalled", STALL)


def test_a_tool_that_ends_twice_or_never_began_is_no_error() -> None:
    clocks = deadlines()
    clocks.heard([finished("a"), started("a"), finished("a"), finished("a")], 5)
    assert clocks.left(5) == STALL


ids = st.sampled_from("abc")
heard = st.lists(
    st.one_of(
        st.builds(started, ids, st.one_of(st.none(), ids)),
        st.builds(finished, ids, st.one_of(st.none(), ids)),
        st.just(events.Text(text="x")),
        st.builds(
            events.ApiRetry,
            attempt=st.just(1),
            max_attempts=st.just(5),
            delay_seconds=st.floats(0, 1000, allow_nan=False),
        ),
    ),
    max_size=4,
)


@given(st.floats(0, 1e9), st.lists(st.tuples(st.floats(0, 100), heard), max_size=12), st.floats(0, 2000))
def test_left_and_overdue_agree(begin: float, steps: list[tuple[float, list[Event]]], later: float) -> None:
    clocks, now = deadlines(begin), begin
    for pause, new in steps:
        now += pause
        clocks.heard(new, now)
    now += later
    left, overdue = clocks.left(now), clocks.overdue(now)
    assert left >= 0
    assert (left == 0) == (overdue is not None)
    assert left <= max(0.0, begin + RUN - now)
    if overdue is None:
        assert clocks.overdue(now + left + 1e-3 + 1e-6 * now) is not None  # whoever waits so long has something to do
