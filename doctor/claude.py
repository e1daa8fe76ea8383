"""The Claude CLI: whether it is there, can be confined, and has something to pay with."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from core.errors import ConfigurationError
from core.profiles import Profile
from doctor.case import Case
from doctor.finding import Finding, failed, ok, skipped, warning
from worker import cli, sandbox
from worker.command import environment_for

NOT_NEEDED = "No model needs the Claude CLI."

_PAYS = (
    "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN", "ANTHROPIC_CUSTOM_HEADERS",
    "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY",
)  # fmt: skip
"""Variables with which the CLI needs no login."""


def check_found(case: Case) -> Iterator[Finding]:
    if not case.claude_profiles:
        yield skipped("cli", NOT_NEEDED)
        return
    try:
        case.claude_bin = cli.find(case.settings, case.environ)
        version = ".".join(map(str, cli.version(case.claude_bin, case.environ)))
    except ConfigurationError as error:
        fix = "Run 'make cli', which installs one here, or set HEARTLINE_CLAUDE_BIN to one that is new enough."
        yield failed("cli", f"{error}.", fix)
    else:
        yield ok("cli", f"{case.claude_bin} is version {version}.", version=version)


def check_sandbox(case: Case) -> Iterator[Finding]:
    if not case.claude_profiles:
        yield skipped("sandbox", NOT_NEEDED)
        return
    try:
        chosen = sandbox.choose(case.settings, case.environ, case.claude_bin)
        sandbox.check(case.claude_profiles, chosen, case.settings.state)
    except ConfigurationError as error:
        fix = "Install bubblewrap ('apt install bubblewrap') and allow user namespaces, or change what asks for it."
        yield failed("sandbox", f"{error}.", fix)
        return
    if isinstance(chosen, sandbox.NoSandbox):
        yield warning(
            "sandbox",
            f"There is {chosen.describe()}: an agent may do whatever the worker's user may do.",
            "On Linux, install bubblewrap ('apt install bubblewrap') and allow user namespaces; elsewhere run the "
            "worker as a user of its own, and give keys only to people whom you would give a shell.",
        )
    elif not chosen.cuts_network:
        fix = "Allow bubblewrap to work inside of itself, which needs nested user namespaces."
        yield warning("sandbox", f"It works, but not around each tool: {chosen.describe()}.", fix)
    else:
        yield ok("sandbox", f"It works: {chosen.describe()}.")


def check_login(case: Case) -> Iterator[Finding]:
    if not case.claude_profiles:
        yield skipped("login", NOT_NEEDED)
        return
    login, left = sandbox.login(case.environ), _seconds_left(sandbox.login(case.environ))
    paid = {profile.id: _paid_by(case, profile) for profile in case.claude_profiles}
    unpaid = [profile for profile, by in paid.items() if not by]
    if unpaid and not login.is_file():
        yield _nothing_to_pay_with(unpaid, login)
    elif unpaid and left is not None and left <= 0:
        yield warning(
            "login",
            f"The login in {login}, which {', '.join(unpaid)} must use, has expired, and runs cannot renew it.",
            "Run 'claude' once as the worker's user; on a server, better set ANTHROPIC_API_KEY, or "
            "CLAUDE_CODE_OAUTH_TOKEN from 'claude setup-token'.",
        )
    else:
        ways = {by or f"the login in {login}" for by in paid.values()}
        yield ok(
            "login", f"Every model has what it needs: {', '.join(sorted(ways))}. Only a run shows whether it is valid."
        )


def _nothing_to_pay_with(unpaid: list[str], login: Path) -> Finding:
    said = f"For {', '.join(unpaid)} there is neither a key in the environment nor a login in {login}."
    fix = (
        "Put ANTHROPIC_API_KEY into .env, or run 'claude' once as the worker's user and log in, or point the model "
        "at another backend with its environment in models.yaml; then restart the worker."
    )
    if sys.platform == "darwin":
        return warning("login", f"{said} It may be in the keychain, which is not looked into.", fix)
    return failed("login", said, fix)


def _paid_by(case: Case, profile: Profile) -> str:
    """The name of the variable that pays for the profile's runs, or nothing."""
    environment = environment_for(profile, case.environ)
    return next((name for name in _PAYS if environment.get(name)), "")


def _seconds_left(login: Path) -> float | None:
    """How long the login is valid; None when its file does not say."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return float(json.loads(login.read_text(encoding="utf-8"))["claudeAiOauth"]["expiresAt"]) / 1000 - time.time()
    return None
