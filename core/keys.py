"""Every Redis key and channel of Heartline, in one place.

A run's keys share the hash tag `{run_id}`, so that they live on one node of a Redis Cluster and one
script may touch them together. RQ's own keys (`rq:*`) are RQ's business.
"""


def run(run_id: str) -> str:
    """Hash: the run's record, request and status. Written by the API at creation and by whoever moves
    its status. Expires `log_ttl_seconds` after the run ended."""
    return f"heartline:{{{run_id}}}:run"


def log(run_id: str) -> str:
    """Stream: the run's events, ids `<seq>-0`, one field `e`. Written by the run's one writer.
    Expires together with the run."""
    return f"heartline:{{{run_id}}}:log"


def channel(run_id: str) -> str:
    """Pub/sub channel: each appended event, as encoded in the log. Lossy; no TTL."""
    return f"heartline:{{{run_id}}}:events"


def owner_runs(owner: str) -> str:
    """Sorted set: an owner's run ids by creation time (Unix seconds). Written by the API, trimmed at
    each creation to what can still exist; expires with its newest run."""
    return f"heartline:owner:{owner}:runs"


def workers() -> str:
    """Sorted set: names of live workers by the server's time of their last sign of life (Unix seconds).
    Written by each worker every few seconds, which also removes the dead. No TTL."""
    return "heartline:workers"
