"""On what was measured: the machine and the programs, in words; and what its processes cost."""

import contextlib
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterable

import psutil

LOOK_SECONDS = 0.3


def describe() -> dict[str, str]:
    """What a reader of the figures must know. Programs that are not there are left out."""
    programs = {
        "node": ["node", "--version"],
        "caddy": ["caddy", "version"],
        "nginx": ["nginx", "-v"],
        "redis-benchmark": ["redis-benchmark", "--version"],
    }
    return {
        "system": platform.platform(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "python": platform.python_version(),
        **{name: found for name, argv in programs.items() if (found := _version(argv))},
    }


def _version(argv: list[str]) -> str:
    if shutil.which(argv[0]) is None:
        return ""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return found[0] if found else ""


def tree(pids: Iterable[int]) -> list[psutil.Process]:
    """These processes with all their descendants; those that have ended are left out."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
    return found


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """What they have used so far, in user and system mode; those that have ended count no more."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def resident_bytes(processes: Iterable[psutil.Process]) -> int:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def wait_until_quiet(pids: Iterable[int], seconds: float = 10.0) -> None:
    """Until these processes and their children use less than a tenth of a core: they have started, or ended, and wait.
    Gives up after `seconds`."""
    roots, deadline = list(pids), time.monotonic() + seconds
    before = float("-inf")
    while (now := cpu_seconds(tree(roots))) - before > LOOK_SECONDS / 10 and time.monotonic() < deadline:
        before = now
        time.sleep(LOOK_SECONDS)
