"""The machine: room on the disk, and what dead workers have left running."""

import shutil
from collections.abc import Iterator

from doctor.case import Case
from doctor.finding import Finding, failed, ok, warning
from worker.recovery import orphans

FULL_BYTES, NEARLY_FULL_BYTES = 256 << 20, 2 << 30


def check_disk(case: Case) -> Iterator[Finding]:
    state = case.settings.state
    folder = next(path for path in (state, *state.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    said = f"{free / (1 << 30):,.1f} GiB are free for {state}."
    fix = (
        "Make room, or lower HEARTLINE_WORKSPACES_MAX_BYTES or HEARTLINE_WORKSPACE_TTL_SECONDS and restart the workers."
    )
    if free < FULL_BYTES:
        yield failed("disk", said, fix, free_bytes=free)
    elif free < NEARLY_FULL_BYTES:
        yield warning("disk", said, fix, free_bytes=free)
    else:
        yield ok("disk", said, free_bytes=free)


def check_orphans(case: Case) -> Iterator[Finding]:
    found = [f"{process.pid} (run {run_id})" for process, run_id in orphans()]
    if found:
        said = f"Processes of dead workers' runs are still there: {', '.join(found)}."
        yield warning(
            "orphans", said, "Start a worker on this machine: it ends them at its start. Or end them by hand."
        )
    else:
        yield ok("orphans", "No process of a dead worker's run is left.")
