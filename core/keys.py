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


def watchers(run_id: str) -> str:
    """Sorted set: the replicas that serve a watcher of a run which ends with its last watcher, by the
    server's time at which their word expires (Unix seconds). Written by those replicas every few seconds.
    Expires with the last of them."""
    return f"heartline:{{{run_id}}}:watchers"


def leases() -> str:
    """Sorted set: the runs that have not ended, by the server's time at which their lease ends (Unix seconds).
    Written by the workers every few seconds, and by whoever looks after the line for those that wait in it;
    whoever finds one that has ended, puts the run back or ends it. No TTL."""
    return "heartline:leases"


def stops() -> str:
    """Hash: running runs that should stop, and why. Written by the API, read and cleared by the run's worker,
    which asks with every renewal of its leases. No TTL."""
    return "heartline:stops"


def node(name: str) -> str:
    """String: a completed run that later runs of its conversation go on from, by a digest of how it is found;
    empty when two were found by the same. Written by the run's worker. Expires `workspace_ttl_seconds` later."""
    return f"heartline:node:{name}"


def taking_turns() -> str:
    """Set: runs in line that wait for another run in their workspace. Written by the workers. Expires an hour after
    the last was added."""
    return "heartline:taking-turns"


def owner_waiting(owner: str, lane: str) -> str:
    """Set: an owner's runs that may still be queued in one lane. Written by the API at creation, pruned when it is
    full. Expires with its newest run."""
    return f"heartline:owner:{owner}:waiting:{lane}"


def owner_runs(owner: str) -> str:
    """Sorted set: an owner's run ids by creation time (Unix seconds). Written by the API, trimmed at
    each creation to what can still exist; expires with its newest run."""
    return f"heartline:owner:{owner}:runs"


def usage(owner: str, day: str) -> str:
    """Hash: what an owner's runs that ended on a day (UTC, `YYYY-MM-DD`) consumed; fields `<profile> <number>`.
    Written by whoever ended a run, once for each. Expires `usage_ttl_seconds` after the day's last run."""
    return f"heartline:usage:{{{owner}:{day}}}:totals"


def usage_counted(owner: str, day: str) -> str:
    """Set: the runs that are in that hash, so that none is counted twice. Written together with it, shares its
    hash tag. Expires when nobody can try again."""
    return f"heartline:usage:{{{owner}:{day}}}:counted"


def workers() -> str:
    """Sorted set: names of live workers by the server's time of their last sign of life (Unix seconds).
    Written by each worker every few seconds, which also removes the dead. No TTL."""
    return "heartline:workers"


def replicas() -> str:
    """Sorted set: names of live replicas by the server's time of their last sign of life (Unix seconds). Written by
    each replica every few seconds, which also removes the dead. Expires with the last of them."""
    return "heartline:{replicas}:alive"


def replicas_said() -> str:
    """Hash: what each of them says about itself, as JSON. Written together with the sorted set, shares its hash tag
    and its expiry."""
    return "heartline:{replicas}:said"


def login(token_digest: str) -> str:
    """String: whose a browser's login is, as JSON, by the SHA-256 of its token. Written by the replica that took the
    key. Expires `login_ttl_seconds` later, or is deleted by a logout."""
    return f"heartline:login:{token_digest}"


def login_failures(address: str) -> str:
    """String: how many wrong keys have come from an address. Written by the replica that refused them. Expires a
    minute after the first."""
    return f"heartline:login-failures:{address}"
