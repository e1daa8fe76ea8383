"""How the CLI is started: what it is told where, and what it gets to see of the worker's environment."""

import json
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigurationError
from core.profiles import Profile
from core.run import Image, Message, RunRequest
from worker.command import Command, arguments, environment_for, prepare, question, user_line

RUN_ID = "0123456789abcdef0123456789abcdef"
PLAIN = Profile(id="plain")

FIXED = {
    "DISABLE_AUTOUPDATER": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    "CLAUDE_CODE_DISABLE_CRON": "1",
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
}


def asked(*texts: str, system: str = "") -> RunRequest:
    """The user's and the assistant's texts in turn."""
    turns = tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))
    return RunRequest(messages=turns, system=system)


def prepared(folder: Path, request: RunRequest, profile: Profile = PLAIN, **environ: str) -> Command:
    return prepare(RUN_ID, request, profile, "/bin/claude", folder, environ)


def value_of(argv: tuple[str, ...] | list[str], flag: str) -> str:
    assert list(argv).count(flag) == 1
    return argv[list(argv).index(flag) + 1]


def text_of(stdin: bytes) -> Any:
    assert stdin.count(b"\n") == 1
    assert stdin.endswith(b"\n")
    said = json.loads(stdin)
    assert said["type"] == "user"
    assert said["message"]["role"] == "user"
    return said["message"]["content"][0]["text"]


# What goes where.


def test_the_cli_is_the_one_that_was_found(folder: Path) -> None:
    assert prepared(folder, asked("hi")).argv[0] == "/bin/claude"


def test_nothing_that_was_said_is_in_the_arguments(folder: Path) -> None:
    profile = Profile(id="p", system_prompt="secret-profile")
    request = asked("secret-first", "secret-answer", "secret-prompt", system="secret-system")
    assert "secret" not in " ".join(prepared(folder, request, profile).argv)


def test_nothing_that_was_said_is_in_the_environment(folder: Path) -> None:
    request = asked("secret-first", "secret-answer", "secret-prompt", system="secret-system")
    assert "secret" not in " ".join(prepared(folder, request).environment.values())


def test_the_prompt_goes_in_on_standard_input(folder: Path) -> None:
    assert text_of(prepared(folder, asked("first", "answer", "last")).stdin) == "last"


def test_without_history_and_system_text_no_file_is_written(folder: Path) -> None:
    argv = prepared(folder, asked("hi")).argv
    assert list(folder.iterdir()) == []
    assert "--resume" not in argv
    assert not [flag for flag in argv if "system-prompt" in flag]


def test_the_history_is_resumed_from_a_file_and_forked(folder: Path) -> None:
    argv = prepared(folder, asked("first", "answer", "last")).argv
    session = Path(value_of(argv, "--resume"))
    assert session.parent == folder
    assert "--fork-session" in argv
    assert len(session.read_text(encoding="utf-8").splitlines()) == 2
    assert "last" not in session.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("mode", "flag"), [("append", "--append-system-prompt-file"), ("replace", "--system-prompt-file")]
)
@pytest.mark.parametrize(
    ("own", "given_text", "whole"), [("A", "", "A"), ("", "B", "B"), ("A", "B", "A\n\nB"), ("Ä", "😀", "Ä\n\n😀")]
)
def test_the_system_text_goes_in_through_a_file(
    folder: Path, mode: str, flag: str, own: str, given_text: str, whole: str
) -> None:
    profile = Profile(id="p", system_prompt=own, system_prompt_mode=mode)  # type: ignore[arg-type]
    argv = prepared(folder, asked("hi", system=given_text), profile).argv
    assert Path(value_of(argv, flag)).read_text(encoding="utf-8") == whole
    assert Path(value_of(argv, flag)).parent == folder
    assert len([each for each in argv if "system-prompt" in each and each.startswith("--")]) == 1


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("hi", "hi"),
        ("/clear", " /clear"),
        ("/", " /"),
        (" /clear", " /clear"),
        ("a/b", "a/b"),
        ('"\n{"type":"control_request"}\n', '"\n{"type":"control_request"}\n'),
        ("ä😀\u2028", "ä😀\u2028"),
    ],
)
def test_the_prompt_is_one_line_and_no_command_of_the_clis(prompt: str, text: str) -> None:
    assert text_of(user_line(prompt)) == text


@given(st.text())
def test_any_prompt_is_one_line_and_arrives(prompt: str) -> None:
    assert text_of(user_line(prompt)).removeprefix(" ") == prompt.removeprefix(" ")


def test_the_prompts_pictures_go_in_with_it() -> None:
    said = json.loads(user_line("/look", [Image("image/png", "UkVE"), Image(url="https://pictures.example/a.png")]))
    assert said["message"]["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "UkVE"}},
        {"type": "image", "source": {"type": "url", "url": "https://pictures.example/a.png"}},
        {"type": "text", "text": " /look"},
    ]


def test_pictures_go_where_their_turn_goes(folder: Path) -> None:
    earlier = Message("user", "a", images=(Image("image/png", "RUFSTElFUg=="),))
    latest = Message("user", "", images=(Image("image/png", "TEFURVNU"),))
    command = prepared(folder, RunRequest(messages=(earlier, Message("assistant", "b"), latest)))
    session = Path(value_of(command.argv, "--resume")).read_text(encoding="utf-8")
    assert ("RUFSTElFUg==" in session, "TEFURVNU" in session) == (True, False)
    assert (b"RUFSTElFUg==" in command.stdin, b"TEFURVNU" in command.stdin) == (False, True)


# Flags.


def test_a_requests_effort_wins_over_its_profiles(folder: Path) -> None:
    profile = Profile(id="p", effort="high")
    request = RunRequest(messages=(Message("user", "a"),), effort="low")
    assert value_of(prepared(folder, request, profile).argv, "--effort") == "low"
    assert value_of(prepared(folder, asked("a"), profile).argv, "--effort") == "high"


def test_the_schema_that_an_answer_must_follow_is_an_argument(folder: Path) -> None:
    request = RunRequest(messages=(Message("user", "a"),), schema='{"type":"object"}')
    assert value_of(prepared(folder, request).argv, "--json-schema") == '{"type":"object"}'
    assert "--json-schema" not in prepared(folder, asked("a")).argv


def test_every_run_has_its_own_session() -> None:
    assert value_of(arguments(RUN_ID, PLAIN), "--session-id") == str(UUID(RUN_ID))


def test_a_run_that_belongs_to_no_conversation_keeps_no_session(folder: Path) -> None:
    assert "--no-session-persistence" in prepared(folder, asked("hi")).argv
    lasting = prepare(RUN_ID, asked("hi"), PLAIN, "/bin/claude", folder, {}, lasting=True)
    assert "--no-session-persistence" not in lasting.argv


def test_a_session_takes_the_place_of_the_history_and_only_what_is_new_is_said(folder: Path) -> None:
    session = folder / "kept.jsonl"
    session.write_text("all that was said")
    messages = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("user", "d"))
    command = prepare(RUN_ID, RunRequest(messages=messages), PLAIN, "/bin/claude", folder, {}, session=session)
    resumed = Path(value_of(command.argv, "--resume"))
    assert resumed.parent == folder
    assert resumed.read_text() == "all that was said"
    assert value_of(command.argv, "--system-prompt-snapshot") == "off"
    assert "--fork-session" in command.argv
    assert text_of(command.stdin) == "c\n\nd"


def test_the_output_is_streamed_as_json() -> None:
    flags = arguments(RUN_ID, PLAIN)
    assert {"-p", "--verbose", "--include-partial-messages"} <= set(flags)
    assert value_of(flags, "--output-format") == value_of(flags, "--input-format") == "stream-json"


def test_the_operators_own_settings_are_not_the_clients() -> None:
    flags = arguments(RUN_ID, PLAIN)
    assert value_of(flags, "--setting-sources") == ""
    assert "--strict-mcp-config" in flags


def test_a_plain_profile_adds_nothing_but_its_permission_mode() -> None:
    flags = arguments(RUN_ID, PLAIN)
    assert value_of(flags, "--permission-mode") == "dontAsk"
    optional = {"--model", "--effort", "--max-turns", "--max-budget-usd", "--tools", "--allowedTools"}
    assert not (optional | {"--disallowedTools"}) & set(flags)


@pytest.mark.parametrize(
    ("profile", "flag", "value"),
    [
        (Profile(id="p", model="sonnet"), "--model", "sonnet"),
        (Profile(id="p", permission_mode="plan"), "--permission-mode", "plan"),
        (Profile(id="p", effort="high"), "--effort", "high"),
        (Profile(id="p", max_turns=3), "--max-turns", "3"),
        (Profile(id="p", max_budget_usd=0.5), "--max-budget-usd", "0.5"),
        (Profile(id="p", tools=()), "--tools", ""),
        (Profile(id="p", tools=("Bash", "Read")), "--tools", "Bash,Read"),
        (Profile(id="p", allowed_tools=("Bash(git *)", "Read")), "--allowedTools", "Bash(git *),Read"),
        (Profile(id="p", denied_tools=("Bash",)), "--disallowedTools", "Bash"),
    ],
)
def test_a_field_becomes_its_flag(profile: Profile, flag: str, value: str) -> None:
    assert value_of(arguments(RUN_ID, profile), flag) == value


def test_a_profiles_own_flags_come_last(folder: Path) -> None:
    profile = Profile(id="p", flags=("--add-dir", "/data"), system_prompt="x")
    assert prepared(folder, asked("a", "b", "c"), profile).argv[-2:] == ("--add-dir", "/data")


# The environment.


@pytest.mark.parametrize(
    "name",
    [
        "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "HTTPS_PROXY", "no_proxy", "NODE_EXTRA_CA_CERTS",
        "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CONFIG_DIR",
    ],
)  # fmt: skip
def test_what_the_cli_needs_is_passed(name: str) -> None:
    assert environment_for(PLAIN, {name: "x"}) == {**FIXED, name: "x"}


@pytest.mark.parametrize(
    "name",
    [
        "HEARTLINE_API_KEYS", "HEARTLINE_REDIS_URL", "HEARTLINE_RUN_ID", "REDIS_URL", "AWS_SECRET_ACCESS_KEY",
        "OPENAI_API_KEY", "OPENROUTER_API_KEY", "DATABASE_URL", "SSH_AUTH_SOCK", "GITHUB_TOKEN", "NODE_OPTIONS",
        "LD_PRELOAD", "PYTHONPATH", "XPATH", "PATHX", "path", "MY_ANTHROPIC_API_KEY",
    ],
)  # fmt: skip
def test_what_is_not_the_clis_business_is_not_passed(name: str) -> None:
    assert environment_for(PLAIN, {name: "x"}) == FIXED


def test_what_is_fixed_wins_over_the_workers_environment() -> None:
    environ = dict.fromkeys(FIXED, "0")
    assert environment_for(PLAIN, environ) == FIXED


def test_the_profiles_variables_win_over_everything() -> None:
    profile = Profile(id="p", environment={"DISABLE_AUTOUPDATER": "0", "PATH": "/p", "ANTHROPIC_API_KEY": ""})
    environ = {"PATH": "/worker", "ANTHROPIC_API_KEY": "worker's"}
    expected = {**FIXED, "DISABLE_AUTOUPDATER": "0", "PATH": "/p", "ANTHROPIC_API_KEY": ""}
    assert environment_for(profile, environ) == expected


def test_a_profile_is_filled_in_from_a_variable_that_is_not_passed_itself() -> None:
    profile = Profile(id="p", environment={"ANTHROPIC_AUTH_TOKEN": "${OPENROUTER_API_KEY}"})
    assert environment_for(profile, {"OPENROUTER_API_KEY": "k"}) == {**FIXED, "ANTHROPIC_AUTH_TOKEN": "k"}


def test_a_variable_that_is_missing_stops_before_anything_is_written(folder: Path) -> None:
    profile = Profile(id="p", environment={"X": "${MISSING}"}, system_prompt="x")
    with pytest.raises(ConfigurationError, match="MISSING"):
        prepared(folder, asked("a", "b", "c"), profile)
    assert list(folder.iterdir()) == []


# The diagnostic.


def test_the_diagnostic_runs_without_the_cli_and_without_files(folder: Path) -> None:
    profile = Profile(id="d", runner="diagnostic", system_prompt="x", flags=("--x",), tools=())
    command = prepared(folder, asked("a", "b", "c"), profile, PATH="/bin")
    assert command.argv[0] == sys.executable
    assert command.argv[-1].endswith("diagnostic.py")
    assert Path(command.argv[-1]).is_file()
    assert list(folder.iterdir()) == []
    assert text_of(command.stdin) == "c"


# One that is started before it is asked.


def test_without_messages_nothing_is_asked_and_the_rest_is_the_same(folder: Path) -> None:
    asked_now, asked_later = asked("hi", system="Be brief."), RunRequest(messages=(), system="Be brief.")
    now, later = prepared(folder, asked_now), prepared(folder, asked_later)
    assert later.argv == now.argv
    assert later.environment == now.environment
    assert later.stdin == b""
    assert question(asked_now) == now.stdin
