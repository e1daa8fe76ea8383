"""A short performance of the chaos test, with each kind of fault once (`make chaos` is the long one)."""

from pathlib import Path

from tests.chaos.faults import WEIGHTS
from tests.chaos.scene import REAL_CLI, Plan, staged

SCHEDULE = (*WEIGHTS, "client cut off", "CLI killed")


def test_nothing_is_lost_in_chaos(tmp_path: Path) -> None:
    claude_bin = str(REAL_CLI) if REAL_CLI.exists() else None
    plan = Plan(
        seed=1,
        seconds=15,
        fake_runs=40,
        real_runs=3 if claude_bin else 0,
        claude_bin=claude_bin,
        schedule=SCHEDULE,
    )
    with staged(plan, tmp_path) as scene:
        report = scene.perform()
    print(report)
    assert not report.wrong, f"seed {plan.seed}\n{report}"
