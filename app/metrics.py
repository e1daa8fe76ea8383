"""What a replica measures. The objects only: they are moved where things happen, and read in `app.scrape`."""

from prometheus_client import Counter, Gauge, Histogram

LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
"""Seconds, for the way from a worker's append to a client's socket, which takes a few milliseconds."""

RUNS_QUEUED = Counter("heartline_runs_queued_total", "Runs that were made and put in line", ["profile"])
WATCHERS = Gauge("heartline_watchers", "Clients that are reading a run now")
STREAMS_ENDED = Counter(
    "heartline_streams_ended_total",
    "Clients' readings that have ended: completed (at the run's end), client_gone, drained, lost, error",
    ["how"],
)
HEARTBEATS = Counter("heartline_heartbeats_total", "Heartbeats written to clients")
RESUMES = Counter("heartline_resumes_total", "Readings that began behind an event which the client had already")
RESETS = Counter("heartline_resets_total", "Readings that began anew, because the client's cursor was beyond the log")
GAPS_HEALED = Counter(
    "heartline_gaps_healed_total",
    "Times the log had events that the channel had not brought: cause is hole (or a client that fell behind),"
    " resubscribed, or asked (at a heartbeat, or while the channel was down)",
    ["cause"],
)
LOG_LAG = Histogram(
    "heartline_log_lag_seconds",
    "From a worker's append to the write to a client, of the newest event in each write; replays left out",
    buckets=LAG_BUCKETS,
)
HUB_RECONNECTS = Counter("heartline_hub_reconnects_total", "Connections for the channels made anew")
HTTP_REQUESTS = Counter(
    "heartline_http_requests_total",
    "Requests that have been answered, streams at their end",
    ["method", "route", "status"],
)
REDIS_UP = Gauge("heartline_redis_up", "Whether Redis answered and took writes when this was read: 1 or 0")
WORKERS = Gauge("heartline_workers", "Live workers; every replica says the same, NaN while Redis is away")
QUEUE_LENGTH = Gauge(
    "heartline_queue_length", "Runs in line; every replica says the same, NaN while Redis is away", ["lane"]
)

for how in ("completed", "client_gone", "drained", "lost", "error"):
    STREAMS_ENDED.labels(how)
for cause in ("hole", "resubscribed", "asked"):
    GAPS_HEALED.labels(cause)
