"""What a worker measures, and where it can be read: a worker has no HTTP of its own."""

import time
from collections.abc import Callable, Iterable

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from core import events
from core.errors import ConfigurationError
from core.events import Event
from core.metrics import RUN_BUCKETS, WAIT_BUCKETS
from core.run import Run
from core.settings import Settings

START_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

TOOLS = frozenset(
    {
        "Agent", "Bash", "CronCreate", "CronDelete", "CronList", "Edit", "EnterWorktree", "ExitWorktree", "Glob",
        "Grep", "ListAgents", "Monitor", "NotebookEdit", "Read", "ReportFindings", "ScheduleWakeup", "SendMessage",
        "Skill", "StructuredOutput", "Task", "TaskStop", "TodoWrite", "ToolSearch", "WebFetch", "WebSearch",
        "Workflow", "Write",
    }
)  # fmt: skip
"""The CLI's own tools (2.1.329 and some before it). What else a run may use, such as a server's tools and what a model
makes up, counts as `other`."""

QUEUE_SECONDS = Histogram(
    "heartline_queue_seconds", "From a run's making to its start on a worker", ["profile"], buckets=WAIT_BUCKETS
)
FIRST_EVENT_SECONDS = Histogram(
    "heartline_first_event_seconds",
    "From a run's making to the first event of the CLI",
    ["profile"],
    buckets=WAIT_BUCKETS,
)
FIRST_TEXT_SECONDS = Histogram(
    "heartline_first_text_seconds",
    "From a run's making to the first piece of its answer",
    ["profile"],
    buckets=WAIT_BUCKETS,
)
CLI_START_SECONDS = Histogram(
    "heartline_cli_start_seconds",
    "From the start of the CLI's process to its session event, where it was started for the run",
    buckets=START_BUCKETS,
)
TOOL_SECONDS = Histogram(
    "heartline_tool_seconds",
    "From a tool's start to its end; a tool unknown here is other",
    ["tool"],
    buckets=RUN_BUCKETS,
)
API_RETRIES = Counter(
    "heartline_api_retries_total",
    "Times the CLI asked the model's API again; status is HTTP's, or none",
    ["profile", "status"],
)
CLIS = Counter(
    "heartline_cli_taken_total",
    "CLIs given to runs; how is cold (started for it), spare or kept (they waited)",
    ["how"],
)
WARM = Gauge("heartline_warm_processes", "CLIs that wait for a run; kind is spare or kept", ["kind"])
SLOTS = Gauge("heartline_slots", "Slots of this worker", ["lane"])
SLOTS_BUSY = Gauge("heartline_slots_busy", "Slots that perform a run now", ["lane"])


class Measures:
    """Measures one run by its events. Made when the CLI has been asked.

    Waiting times are differences between two hosts' clocks when API and worker are on two.
    """

    def __init__(
        self,
        run: Run,
        *,
        cold: bool = True,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`cold`: the CLI was started for this run, just now."""
        self._run = run
        self._now = now
        self._clock = clock
        self._cli_started_at = clock() if cold else None
        self._heard = False
        self._spoken = False
        self._tools: dict[str, tuple[str, float]] = {}

    def see(self, new: Iterable[Event]) -> None:
        """These events have just been appended."""
        for event in new:
            if not self._heard:
                self._heard = True
                FIRST_EVENT_SECONDS.labels(self._run.profile).observe(self._waited())
            match event:
                case events.Text() if not self._spoken:
                    self._spoken = True
                    FIRST_TEXT_SECONDS.labels(self._run.profile).observe(self._waited())
                case events.Session() if self._cli_started_at is not None:
                    CLI_START_SECONDS.observe(self._clock() - self._cli_started_at)
                    self._cli_started_at = None
                case events.ToolStarted():
                    name = event.name if event.name in TOOLS else "other"
                    self._tools[event.tool_id] = (name, self._clock())
                case events.ToolFinished() if event.tool_id in self._tools:
                    name, began = self._tools.pop(event.tool_id)
                    TOOL_SECONDS.labels(name).observe(self._clock() - began)
                case events.ApiRetry():
                    API_RETRIES.labels(self._run.profile, _label_of(event.http_status)).inc()

    def _waited(self) -> float:
        return max(0.0, self._now() - self._run.created_at)


def serve(settings: Settings) -> None:
    """Let this process's metrics be read over HTTP at `HEARTLINE_WORKER_METRICS_BIND`, when that is set, for as long
    as it lives. Raises `ConfigurationError`."""
    if not settings.worker_metrics_bind:
        return
    host, port = settings.worker_metrics_address
    try:
        start_http_server(port, host)
    except OSError as error:
        raise ConfigurationError(
            f"HEARTLINE_WORKER_METRICS_BIND={settings.worker_metrics_bind}: {error.strerror}; choose another address"
        ) from None


def _label_of(status: int | None) -> str:
    if status is None:
        return "none"
    return str(status) if 100 <= status <= 599 else "other"
