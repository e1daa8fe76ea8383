"""What API and worker both measure. Each process keeps its own numbers, in prometheus-client's default registry;
whoever reads them adds the processes up.

Whatever is used as a label has few values: names of profiles, codes, words of ours. Never an owner, never an id.
"""

from collections.abc import Iterable

import prometheus_client
from prometheus_client import Counter, Histogram

from core.events import Failed, Terminal
from core.run import Lane, Run, Status

prometheus_client.disable_created_metrics()  # a second line for each number, which no dashboard here reads

RUN_BUCKETS = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600)
"""Seconds, for what takes as long as an agent works: up to an hour."""

WAIT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Seconds, for what somebody waits for."""

FAILED = Status.FAILED.value
ALERTED_CODES = ("worker_lost", "internal")

RUNS_ENDED = Counter(
    "heartline_runs_ended_total",
    "Runs that have ended, counted by the process that ended them; code is a failure's, else empty",
    ["profile", "outcome", "code"],
)
RUN_SECONDS = Histogram(
    "heartline_run_seconds",
    "From a run's start on a worker to its end",
    ["profile", "outcome"],
    buckets=RUN_BUCKETS,
)
TOKENS = Counter(
    "heartline_tokens_total",
    "Tokens of ended runs; kind is input (cached or not), cached_input (a part of input) or output",
    ["profile", "kind"],
)
COST = Counter("heartline_cost_usd_total", "Cost of ended runs in US dollars, as the CLI reports it", ["profile"])
EVENTS_APPENDED = Counter("heartline_events_appended_total", "Events written to the log")
RUNS_PUT_BACK = Counter(
    "heartline_runs_put_back_total", "Runs that were lost before they had begun, and were put back in line"
)
REDIS_RETRIES = Counter(
    "heartline_redis_retries_total", "Attempts at Redis that failed because it was away, each followed by another one"
)


def expect(profiles: Iterable[str]) -> None:
    """Begin the counters of these profiles at 0: Prometheus does not see a counter's step from nothing to 1, and
    an alert would miss the first."""
    for profile in profiles:
        for outcome in (Status.COMPLETED, Status.CANCELLED):
            RUNS_ENDED.labels(profile, outcome.value, "")
        for code in ALERTED_CODES:
            RUNS_ENDED.labels(profile, FAILED, code)
        COST.labels(profile)


def run_ended(run: Run, status: Status, terminal: Terminal) -> None:
    """Count a run's end, once. `status` is the one that it has ended with."""
    usage = terminal.usage
    RUNS_ENDED.labels(run.profile, status.value, terminal.code if isinstance(terminal, Failed) else "").inc()
    if run.started_at is not None:
        RUN_SECONDS.labels(run.profile, status.value).observe(max(0.0, terminal.at - run.started_at))
    for kind, count in (
        ("input", usage.input_tokens),
        ("cached_input", usage.cached_input_tokens),
        ("output", usage.output_tokens),
    ):
        TOKENS.labels(run.profile, kind).inc(max(0, count))
    COST.labels(run.profile).inc(max(0.0, usage.cost_usd))


def label_of(lane: Lane) -> str:
    """`runs` or `tasks`."""
    return lane.name.lower()
