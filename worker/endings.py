"""How a run ends: the terminal event for each way, in the user's language. Pure."""

from core.events import Completed, Failed, Terminal, Usage
from core.profiles import Profile
from core.sentences import sentence
from worker.claude import Result
from worker.deadlines import Overdue

MAX_REASON_CHARACTERS = 500
_SCHEMA_REFUSED = "Error: --json-schema is "
"""How the CLI begins its last line when it cannot use a schema (seen with 2.1.329)."""


class Endings:
    """Makes terminal events. A failure's sentence has the name of its code."""

    def __init__(self, language: str) -> None:
        self._language = language

    def failed(self, code: str, usage: Usage | None = None, **values: object) -> Failed:
        return Failed(code=code, message=sentence(self._language, code, **values), usage=usage or Usage())

    def of_result(self, result: Result, profile: Profile) -> Terminal:
        """The CLI has given its last word."""
        if not result.is_error:
            return Completed(stop_reason=result.stop_reason, usage=result.usage)
        if result.kind == "error_max_turns":
            return self.failed("max_turns", result.usage, turns=profile.max_turns or result.usage.turns)
        if result.kind == "error_max_structured_output_retries":
            return self.failed("no_structured_answer", result.usage)
        return self.failed("cli_error", result.usage, reason=result.reason)

    def without_result(self, returncode: int | None, stderr: str) -> Failed:
        """Its output has ended, and a result was not in it."""
        for line in stderr.splitlines():
            if line.startswith(_SCHEMA_REFUSED):
                return self.failed("schema_refused", reason=line.removeprefix(_SCHEMA_REFUSED)[:MAX_REASON_CHARACTERS])
        code = returncode or 0
        reason = f"exit code {code}" if code > 0 else f"signal {-code}" if code < 0 else "no result"
        if last := stderr.splitlines()[-1:]:
            reason += f": {last[0][:MAX_REASON_CHARACTERS]}"
        return self.failed("no_result", reason=reason)

    def answer_too_long(self, max_bytes: int, usage: Usage | None = None) -> Failed:
        return self.failed("answer_too_long", usage, megabytes=f"{max_bytes / 1e6:.2g}")

    def overdue(self, what: Overdue) -> Failed:
        return self.failed(what.code, seconds=round(what.seconds), tool=what.tool)


def code_of(ending: Terminal) -> str:
    """One word for the log."""
    return ending.code if isinstance(ending, Failed) else type(ending).__name__.lower()
