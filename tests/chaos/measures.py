"""How much memory, and how many file descriptors and threads, a part holds."""

import contextlib
from dataclasses import dataclass

import psutil

from tests.deployment import Part

ALLOWED_MEGABYTES = 40
ALLOWED_DESCRIPTORS = 40
ALLOWED_THREADS = 8


@dataclass(frozen=True)
class Measure:
    """Of one part, with its children but for the runs'."""

    pid: int
    megabytes: float
    descriptors: int
    threads: int

    @classmethod
    def of(cls, part: Part) -> "Measure":
        processes = [psutil.Process(part.process.pid)]
        if part.name == "app":
            processes += processes[0].children()
        memory, descriptors, threads = 0, 0, 0
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                memory += process.memory_info().rss
                descriptors += process.num_fds()
                threads += process.num_threads()
        return cls(processes[0].pid, memory / 1e6, descriptors, threads)

    def grown_too_far(self, before: "Measure") -> list[str]:
        """What is beyond the allowance over `before`."""
        grown = {
            f"{self.megabytes - before.megabytes:.0f} MB": self.megabytes - before.megabytes - ALLOWED_MEGABYTES,
            f"{self.descriptors - before.descriptors} descriptors": self.descriptors
            - before.descriptors
            - ALLOWED_DESCRIPTORS,
            f"{self.threads - before.threads} threads": self.threads - before.threads - ALLOWED_THREADS,
        }
        return [what for what, over in grown.items() if over > 0]
