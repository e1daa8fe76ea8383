"""How a run ends: the terminal event for each way, in the user's language. Pure."""

from core.events import Completed, Failed, Terminal, Usage
from core.profiles import Profile
from core.sentences import sentence
from worker.claude import Result
from worker.deadlines import Overdue

MAX_REASON_CHARACTERS = 500


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
        return self.failed("cli_error", result.usage, reason=result.reason)

    def without_result(self, returncode: int | None, stderr: str) -> Failed:
        """Its output has ended, and a result was not in it."""
        code = returncode or 0
        reason = f"exit code {code}" if code > 0 else f"signal {-code}" if code < 0 else "no result"
        if last := stderr.splitlines()[-1:]:
            reason += f": {last[0][:MAX_REASON_CHARACTERS]}"
        return self.failed("no_result", reason=reason)

    def overdue(self, what: Overdue) -> Failed:
        return self.failed(what.code, seconds=round(what.seconds), tool=what.tool)


def code_of(ending: Terminal) -> str:
    """One word for the log."""
    return ending.code if isinstance(ending, Failed) else type(ending).__name__.lower()
