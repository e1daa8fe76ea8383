"""A short performance of the chaos test, with each kind of fault once (`make chaos` is the long one)."""

from pathlib import Path

from tests.chaos.faults import WEIGHTS
from tests.chaos.scene import REAL_CLI, Plan, staged

SCHEDULE = (
    "worker killed",
    "client cut off",
    "replica killed",
    "CLI killed",
    "Valkey killed, last second lost",
    "channels cut",
    "replica's child killed",
    "Valkey restarted",
    "worker stopped",
    "Valkey killed",
    "client cut off",
    "connections cut",
    "replica stopped",
    "Valkey paused",
)


def test_nothing_is_lost_in_chaos(tmp_path: Path) -> None:
    claude_bin = str(REAL_CLI) if REAL_CLI.exists() else None
    assert set(SCHEDULE) == set(WEIGHTS)
    plan = Plan(
        seed=1,
        seconds=12,
        fake_runs=40,
        real_runs=3 if claude_bin else 0,
        claude_bin=claude_bin,
        schedule=SCHEDULE,
    )
    with staged(plan, tmp_path) as scene:
        report = scene.perform()
    print(report)
    assert not report.wrong, f"seed {plan.seed}\n{report}"
