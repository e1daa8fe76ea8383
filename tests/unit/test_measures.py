"""What a worker measures of one run, on clocks that the test moves."""

import socket
import uuid
from typing import Any

import pytest
from prometheus_client import REGISTRY

from core import events, metrics
from core.errors import ConfigurationError
from core.events import Cancelled, Completed, Event, Failed, Usage
from core.run import Run, Status
from core.settings import Settings
from worker.metrics import Measures, serve

CREATED_AT = 1_000.0


class World:
    """One run of a profile that no other test uses."""

    def __init__(self) -> None:
        self.profile = uuid.uuid4().hex
        self.passed = 0.0
        self.run = Run(id="a" * 32, owner="o", profile=self.profile, model="m", created_at=CREATED_AT, started_at=1_002)
        self.measures = Measures(self.run, now=lambda: CREATED_AT + 3 + self.passed, clock=lambda: self.passed)

    def after(self, seconds: float, *new: Event) -> None:
        self.passed += seconds
        self.measures.see(new)

    def __call__(self, name: str, **labels: str) -> float:
        """A number of this run's profile."""
        return REGISTRY.get_sample_value(name, {"profile": self.profile, **labels}) or 0.0


@pytest.fixture
def world() -> World:
    return World()


def grown(name: str, before: dict[str, float], **labels: str) -> tuple[float, float]:
    """By how much a histogram has grown: its count and its sum."""
    now = histogram(name, **labels)
    return now["count"] - before["count"], round(now["sum"] - before["sum"], 6)


def histogram(name: str, **labels: str) -> dict[str, float]:
    return {part: REGISTRY.get_sample_value(f"{name}_{part}", labels) or 0.0 for part in ("count", "sum")}


def test_first_event_and_first_text_count_from_the_making_of_the_run(world: World) -> None:
    world.after(1, events.Session(session_id="s", model="m"))
    world.after(2, events.Text(text="a"), events.Text(text="b"))
    world.after(2, events.Text(text="c"))
    for name, seconds in (("heartline_first_event_seconds", 4), ("heartline_first_text_seconds", 6)):
        assert (world(f"{name}_count"), world(f"{name}_sum")) == (1, seconds)


def test_nothing_is_measured_of_what_does_not_come(world: World) -> None:
    world.after(5)
    assert world("heartline_first_event_seconds_count") == 0
    world.after(5, events.Compacting())
    assert world("heartline_first_event_seconds_count") == 1
    assert world("heartline_first_text_seconds_count") == 0


def test_clocks_that_differ_give_no_negative_waiting() -> None:
    world = World()
    behind = Measures(world.run, now=lambda: CREATED_AT - 60, clock=lambda: 0.0)
    behind.see([events.Text(text="a")])
    assert (world("heartline_first_text_seconds_count"), world("heartline_first_text_seconds_sum")) == (1, 0)


def test_the_cli_has_started_with_its_first_session(world: World) -> None:
    before = histogram("heartline_cli_start_seconds")
    world.after(0.5, events.Session(session_id="s", model="m"))
    world.after(9, events.Session(session_id="t", model="m"))
    assert grown("heartline_cli_start_seconds", before) == (1, 0.5)


def test_tools_are_timed_each_by_itself(world: World) -> None:
    before = {tool: histogram("heartline_tool_seconds", tool=tool) for tool in ("Bash", "Read", "other")}
    for tool_id, name in (("1", "Bash"), ("2", "Read"), ("3", "mcp__files__read"), ("4", "x" * 999)):
        world.after(1, events.ToolStarted(tool_id=tool_id, name=name, summary="", input=""))
    for tool_id in ("1", "2", "3", "1", "nobody's"):
        world.after(10, events.ToolFinished(tool_id=tool_id, output=""))
    assert grown("heartline_tool_seconds", before["Bash"], tool="Bash") == (1, 13)
    assert grown("heartline_tool_seconds", before["Read"], tool="Read") == (1, 22)
    assert grown("heartline_tool_seconds", before["other"], tool="other") == (1, 31)


@pytest.mark.parametrize(
    ("status", "label"), [(429, "429"), (None, "none"), (99, "other"), (123456, "other"), (599, "599")]
)
def test_attempts_at_the_model_are_counted_by_few_statuses(world: World, status: int | None, label: str) -> None:
    world.after(1, events.ApiRetry(attempt=1, max_attempts=10, delay_seconds=1, http_status=status))
    assert world("heartline_api_retries_total", status=label) == 1


USED = Usage(input_tokens=100, cached_input_tokens=60, output_tokens=7, cost_usd=0.25)
ENDINGS: list[tuple[Status, Any, str]] = [
    (Status.COMPLETED, Completed(usage=USED, at=1_007), ""),
    (Status.FAILED, Failed(code="cli_error", message="x", usage=USED, at=1_007), "cli_error"),
    (Status.CANCELLED, Cancelled(reason="whatever a user wrote", usage=USED, at=1_007), ""),
]


@pytest.mark.parametrize(("status", "terminal", "code"), ENDINGS, ids=[status.value for status, _, _ in ENDINGS])
def test_an_end_is_counted_with_what_it_cost(world: World, status: Status, terminal: Any, code: str) -> None:
    metrics.run_ended(world.run, status, terminal)
    assert world("heartline_runs_ended_total", outcome=status.value, code=code) == 1
    assert world("heartline_run_seconds_count", outcome=status.value) == 1
    assert world("heartline_run_seconds_sum", outcome=status.value) == 5
    counted = {kind: world("heartline_tokens_total", kind=kind) for kind in ("input", "cached_input", "output")}
    assert counted == {"input": 100, "cached_input": 60, "output": 7}
    assert world("heartline_cost_usd_total") == 0.25


def test_a_run_that_never_began_has_no_run_time(world: World) -> None:
    waiting = Run(id="a" * 32, owner="o", profile=world.profile, model="m", created_at=CREATED_AT)
    metrics.run_ended(waiting, Status.CANCELLED, Cancelled(reason="x", at=1_007))
    assert world("heartline_runs_ended_total", outcome="cancelled", code="") == 1
    assert world("heartline_run_seconds_count", outcome="cancelled") == 0


def test_what_alerts_watch_is_there_from_the_start(world: World) -> None:
    metrics.expect([world.profile])
    for outcome, code in (("completed", ""), ("cancelled", ""), ("failed", "worker_lost"), ("failed", "internal")):
        labels = {"profile": world.profile, "outcome": outcome, "code": code}
        assert REGISTRY.get_sample_value("heartline_runs_ended_total", labels) == 0


def test_a_taken_address_refuses_the_start_with_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigurationError) as caught:
            serve(Settings(worker_metrics_bind=bind))
    assert caught.value.message == (
        f"HEARTLINE_WORKER_METRICS_BIND={bind}: Address already in use; choose another address"
    )
