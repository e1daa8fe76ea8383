"""How a run ends: which code each of the CLI's ways to end has."""

import pytest

from core.events import Completed, Failed, Usage
from core.profiles import Profile
from worker.claude import Result
from worker.endings import Endings

PROFILE = Profile(id="p")
USAGE = Usage(input_tokens=3)


def result(kind: str, *, is_error: bool = True) -> Result:
    return Result(is_error=is_error, kind=kind, reason="why", text="", stop_reason="end_turn", usage=USAGE)


def test_a_result_without_an_error_completes() -> None:
    ending = Endings("en").of_result(result("success", is_error=False), PROFILE)
    assert ending == Completed(stop_reason="end_turn", usage=USAGE)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("success", "cli_error"),
        ("error_during_execution", "cli_error"),
        ("error_max_turns", "max_turns"),
        ("error_max_structured_output_retries", "no_structured_answer"),
    ],
)
@pytest.mark.parametrize("language", ["en", "de"])
def test_a_failed_result_has_a_code_and_keeps_its_usage(language: str, kind: str, code: str) -> None:
    ending = Endings(language).of_result(result(kind), PROFILE)
    assert isinstance(ending, Failed)
    assert (ending.code, ending.usage) == (code, USAGE)


def test_a_schema_that_the_cli_refuses_is_told_apart() -> None:
    stderr = 'strict mode: x\nError: --json-schema is not a valid JSON Schema: unknown keyword: "y"\n'
    ending = Endings("en").without_result(1, stderr)
    assert ending.code == "schema_refused"
    assert ending.message.endswith('not a valid JSON Schema: unknown keyword: "y"')


@pytest.mark.parametrize(
    ("returncode", "stderr", "reason"),
    [
        (1, "", "(exit code 1)"),
        (-9, "", "(signal 9)"),
        (None, "", "(no result)"),
        (1, "first\nlast: --json-schema is odd\n", "(exit code 1: last: --json-schema is odd)"),
    ],
)
def test_an_output_that_just_ends_has_its_exit_code_and_last_line(
    returncode: int | None, stderr: str, reason: str
) -> None:
    ending = Endings("en").without_result(returncode, stderr)
    assert ending.code == "no_result"
    assert reason in ending.message
