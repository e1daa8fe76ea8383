"""The examination: all checks in their order. One that needs what has failed is skipped, and says so."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from doctor import claude, configuration, machine, redis_server, way, workers
from doctor.case import Case
from doctor.finding import Finding, Grade, failed, skipped


@dataclass(frozen=True)
class Check:
    """`needs`: the names of checks that must not have failed."""

    name: str
    run: Callable[[Case], Iterator[Finding]]
    needs: tuple[str, ...] = ()


CHECKS = (
    Check("settings", configuration.check_settings),
    Check("models", configuration.check_models, ("settings",)),
    Check("keys", configuration.check_keys, ("settings",)),
    Check("keys file", configuration.check_keys_file, ("settings", "keys")),
    Check("redis", redis_server.check_reachable, ("settings",)),
    Check("redis version", redis_server.check_version, ("redis",)),
    Check("persistence", redis_server.check_persistence, ("redis",)),
    Check("eviction", redis_server.check_eviction, ("redis",)),
    Check("memory", redis_server.check_memory, ("redis",)),
    Check("worker", workers.check_alive, ("redis",)),
    Check("slots", workers.check_slots, ("redis", "worker")),
    Check("cli", claude.check_found, ("models",)),
    Check("sandbox", claude.check_sandbox, ("models", "cli")),
    Check("login", claude.check_login, ("models",)),
    Check("ways", way.check_ways, ("settings", "keys")),
    Check("timeouts", configuration.check_timeouts, ("settings",)),
    Check("clock", redis_server.check_clock, ("redis",)),
    Check("disk", machine.check_disk, ("settings",)),
    Check("orphans", machine.check_orphans),
)


def examine(case: Case) -> Iterator[Finding]:
    """Every finding as it is made. A check that breaks is a finding, too."""
    unfit: set[str] = set()
    for check in CHECKS:
        if missing := [name for name in check.needs if name in unfit]:
            unfit.add(check.name)
            yield skipped(check.name, f"Needs what is wrong above: {', '.join(missing)}.")
            continue
        for finding in _made_by(check, case):
            if finding.grade is Grade.FAILED:
                unfit.add(check.name)
            yield finding


def _made_by(check: Check, case: Case) -> Iterator[Finding]:
    try:
        yield from check.run(case)
    except Exception as error:  # a Redis that goes away in the middle, for one: the other checks are still of use
        # Its kind only: what an error says may quote what it stumbled over.
        fix = "Ask again; if it happens again, report it."
        yield failed(check.name, f"The check broke off ({type(error).__name__}).", fix)
