"""`python -m tests.chaos`: the chaos test as a program. Exits with 1, and tells the seed, when a proof fails."""

import argparse
import random
import sys
import time

from tests.chaos.scene import REAL_CLI, Plan, perform


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="how long clients and faults keep coming")
    parser.add_argument("--runs", type=int, default=200, help="runs of the fake CLI; one more in ten is the real one's")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="to have the same faults again")
    parser.add_argument("--merciless", action="store_true", help="spare no part: then no memory is compared")
    given = parser.parse_args()
    claude_bin = str(REAL_CLI) if REAL_CLI.exists() else None
    plan = Plan(
        seed=given.seed,
        seconds=given.seconds,
        fake_runs=given.runs,
        real_runs=given.runs // 10 if claude_bin else 0,
        claude_bin=claude_bin,
        spare=not given.merciless,
    )
    print(f"seed {given.seed}", flush=True)
    begun = time.monotonic()
    report = perform(plan)
    print(f"{report}\n{time.monotonic() - begun:.0f} s, seed {given.seed}")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
