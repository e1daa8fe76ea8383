"""How a command is confined: what bubblewrap is told, and what is refused before a worker starts."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from core.errors import ConfigurationError
from core.profiles import Profile
from core.settings import Settings
from worker.command import Command
from worker.sandbox import MIGRATED, Bubblewrap, NoSandbox, check, choose

PLAIN = Profile(id="plain")


@pytest.fixture
def private(folder: Path) -> Path:
    made = folder / "private"
    made.mkdir()
    return made


def options(argv: Sequence[str], name: str) -> list[tuple[str, str]]:
    """The (source, destination) pairs of an option."""
    return [(argv[i + 1], argv[i + 2]) for i, each in enumerate(argv) if each == name]


def wrapped(
    private: Path,
    profile: Profile = PLAIN,
    environ: dict[str, str] | None = None,
    no_tool_wall: str = "",
    **environment: str,
) -> Command:
    command = Command(("/bin/sh", "-c", "x"), b"in", environment, farewell=b"bye\n")
    sandbox = Bubblewrap("/usr/bin/bwrap", environ or {"HOME": "/home/op"}, no_tool_wall)
    return sandbox.wrap(command, workspace=private.parent / "work", private=private, profile=profile)


def tool_shell(private: Path, profile: Profile = PLAIN) -> str:
    wrapped(private, profile)
    return (private / "tool-shell").read_text()


def test_without_a_sandbox_a_command_stays_as_it_is(private: Path) -> None:
    command = Command(("a",), b"", {"A": "b"})
    sandbox = NoSandbox("because")
    wrapped = sandbox.wrap(command, workspace=private, private=private, profile=PLAIN)
    assert wrapped.argv == command.argv
    assert wrapped.environment == {"A": "b", "CLAUDE_CODE_TMPDIR": str(private)}
    assert sandbox.inside(private) == private
    assert sandbox.describe() == "none (because)"
    assert not sandbox.cuts_network


def test_the_command_itself_comes_last_and_unchanged(private: Path) -> None:
    confined = wrapped(private)
    assert confined.argv[-4:] == ("--", "/bin/sh", "-c", "x")
    assert (confined.stdin, confined.farewell) == (b"in", b"bye\n")


def test_it_ends_with_the_worker_and_has_no_capability(private: Path) -> None:
    argv = wrapped(private).argv
    assert {"--die-with-parent", "--unshare-pid", "--unshare-ipc", "--remount-ro"} <= set(argv)
    assert argv[argv.index("--cap-drop") + 1] == "ALL"


def test_only_its_workspace_and_its_home_can_be_written_at_fixed_paths(private: Path) -> None:
    assert options(wrapped(private).argv, "--bind") == [
        (str(private / "home"), "/heartline/home"),
        (str(private.parent / "work"), "/workspace"),
    ]


def test_its_private_folder_is_read_only(private: Path) -> None:
    assert (str(private), "/heartline") in options(wrapped(private).argv, "--ro-bind")


def test_what_the_program_consists_of_is_there(private: Path) -> None:
    command = Command(("/bin/sh",), b"", {}, program=(private,))
    confined = Bubblewrap("/usr/bin/bwrap", {}).wrap(command, workspace=private, private=private, profile=PLAIN)
    assert (str(private.resolve()), str(private)) in options(confined.argv, "--ro-bind")


def test_a_program_that_is_gone_is_an_error_and_not_bubblewraps_to_tell(private: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Bubblewrap("/usr/bin/bwrap", {}).wrap(
            Command(("/nonexistent/claude",), b"", {}), workspace=private, private=private, profile=PLAIN
        )


def test_of_etc_nothing_is_shown_that_holds_secrets(private: Path) -> None:
    shown = {
        destination
        for name in ("--ro-bind-try", "--ro-bind")
        for _, destination in options(wrapped(private).argv, name)
    }
    assert not shown & {"/", "/etc", "/etc/shadow", "/etc/ssl", "/etc/ssl/private", "/root", "/home", "/run", "/var"}


@pytest.mark.parametrize(
    ("environ", "login"),
    [
        ({"HOME": "/home/op"}, "/home/op/.claude/.credentials.json"),
        ({"HOME": "/home/op", "CLAUDE_CONFIG_DIR": "/srv/claude"}, "/srv/claude/.credentials.json"),
    ],
)
def test_the_operators_login_is_shown_to_the_cli(private: Path, environ: dict[str, str], login: str) -> None:
    shown = options(wrapped(private, environ=environ).argv, "--ro-bind-try")
    assert (login, "/heartline/home/.claude/.credentials.json") in shown


def test_the_environment_is_the_commands_with_the_paths_of_the_inside(private: Path) -> None:
    assert wrapped(private, HOME="/home/op", TMPDIR="/scratch", ANTHROPIC_API_KEY="k").environment == {
        "ANTHROPIC_API_KEY": "k",
        "HOME": "/heartline/home",
        "TMPDIR": "/tmp",  # noqa: S108
        "CLAUDE_CODE_TMPDIR": "/tmp",  # noqa: S108
        "CLAUDE_CONFIG_DIR": "/heartline/home/.claude",
        "CLAUDE_CODE_SHELL_PREFIX": "/heartline/tool-shell",
    }


def test_the_profiles_own_variables_stay_but_for_the_wall(private: Path) -> None:
    profile = Profile(id="p", environment={"HOME": "/srv/home", "CLAUDE_CODE_SHELL_PREFIX": "nice"})
    found = wrapped(private, profile, **profile.environment).environment
    assert found["HOME"] == "/srv/home"
    assert found["CLAUDE_CODE_SHELL_PREFIX"] == "/heartline/tool-shell"


def test_certificates_that_a_variable_names_are_shown(private: Path) -> None:
    argv = wrapped(private, NODE_EXTRA_CA_CERTS="/srv/ca.pem").argv
    assert ("/srv/ca.pem", "/srv/ca.pem") in options(argv, "--ro-bind-try")


def test_a_profiles_folders_are_where_they_are(private: Path) -> None:
    profile = Profile(id="p", read_only_folders=("/srv/docs/",), writable_folders=("/srv/data",))
    argv = wrapped(private, profile).argv
    assert ("/srv/docs", "/srv/docs") in options(argv, "--ro-bind")
    assert ("/srv/data", "/srv/data") in options(argv, "--bind")


def test_the_tools_shell_takes_the_key_away_before_anything_else(private: Path) -> None:
    lines = tool_shell(private).splitlines()
    assert lines[0] == "#!/bin/sh"
    assert lines[1].startswith("unset ")
    assert {"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"} <= set(lines[1].split())
    assert lines[2].startswith("exec /usr/bin/bwrap ")
    assert lines[2].endswith(' -- bash -c "$1"')


def test_the_tools_shell_hides_what_is_the_clis(private: Path) -> None:
    assert " --tmpfs /heartline " in tool_shell(private)


@pytest.mark.parametrize("network", [True, False])
def test_the_network_is_cut_where_the_profile_says_so(private: Path, network: bool) -> None:
    assert ("--unshare-net" in tool_shell(private, Profile(id="p", network=network))) is not network


def test_a_new_home_has_nothing_to_be_brought_up_to_date(private: Path) -> None:
    wrapped(private)
    assert (private / "home" / ".claude" / ".claude.json").read_text() == MIGRATED


def test_only_the_worker_can_read_the_tools_shell(private: Path) -> None:
    wrapped(private)
    assert (private / "tool-shell").stat().st_mode & 0o777 == 0o700


def test_where_bubblewrap_cannot_be_nested_there_is_one_wall_only_and_it_says_so(private: Path) -> None:
    sandbox = Bubblewrap("/usr/bin/bwrap", {}, "setuid")
    assert sandbox.describe() == "bwrap (tools see the CLI's key: setuid)"
    assert not sandbox.cuts_network
    assert "CLAUDE_CODE_SHELL_PREFIX" not in wrapped(private, no_tool_wall="setuid").environment
    assert not (private / "tool-shell").exists()


# The choice.


def fake_bwrap(folder: Path, script: str) -> dict[str, str]:
    """An environment in which `bwrap` is this script."""
    program = folder / "bwrap"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return {"PATH": str(folder)}


def chosen(folder: Path, mode: str, environ: dict[str, str]) -> str:
    return choose(Settings(sandbox=mode, state_dir=str(folder / "state")), environ).describe()  # type: ignore[arg-type]


def test_off_is_off(folder: Path) -> None:
    assert chosen(folder, "off", fake_bwrap(folder, "exit 0")) == "none (turned off)"
    assert not (folder / "state").exists()


def test_without_bubblewrap_there_is_none_and_the_reason_is_told(folder: Path) -> None:
    assert chosen(folder, "auto", {"PATH": str(folder)}) == "none (there is no bwrap on PATH)"


@pytest.mark.parametrize(
    ("script", "reason"),
    [("echo 'bwrap: No\npermissions' >&2; exit 1", "bwrap: No permissions"), ("exit 3", "its trial ended with 3")],
)
def test_one_that_does_not_work_is_not_used(folder: Path, script: str, reason: str) -> None:
    assert chosen(folder, "auto", fake_bwrap(folder, script)) == f"none ({reason})"


def test_when_it_must_be_bubblewrap_the_start_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^HEARTLINE_SANDBOX=bwrap: bwrap: No permissions$"):
        chosen(folder, "bwrap", fake_bwrap(folder, "echo 'bwrap: No permissions' >&2; exit 1"))


def test_one_that_cannot_be_nested_is_used_for_the_cli(folder: Path) -> None:
    environ = fake_bwrap(folder, 'case "$*" in *tool-shell*) echo nested >&2; exit 1;; esac')
    assert chosen(folder, "auto", environ) == "bwrap (tools see the CLI's key: nested)"


def test_the_trial_leaves_nothing(folder: Path) -> None:
    assert chosen(folder, "auto", fake_bwrap(folder, "exit 0")) == "bwrap"
    assert list((folder / "state").iterdir()) == []


# What a profile may ask for.


def refusal(profile: Profile, state: Path, sandbox: Bubblewrap | NoSandbox) -> str:
    with pytest.raises(ConfigurationError) as raised:
        check([PLAIN, profile], sandbox, state)
    return str(raised.value)


@pytest.mark.parametrize("sandbox", [NoSandbox("why"), Bubblewrap("/usr/bin/bwrap", {}, "why")])
def test_a_profile_without_network_is_refused_where_it_cannot_be_cut(
    folder: Path, sandbox: Bubblewrap | NoSandbox
) -> None:
    said = refusal(Profile(id="shy", network=False), folder, sandbox)
    assert said.startswith("models.yaml: profile 'shy', network: ")
    assert "why" in said


def test_a_profile_without_network_is_welcome_where_it_can(folder: Path) -> None:
    check([Profile(id="shy", network=False)], Bubblewrap("/usr/bin/bwrap", {}), folder)


@pytest.mark.parametrize("field", ["read_only_folders", "writable_folders"])
@pytest.mark.parametrize(
    "shared",
    [
        "{0}/missing", "{0}/file", "{0}/state", "{0}/state/", "{0}/state/valkey", "{0}", "/", "{0}/link",
        "{0}/a/../state", "/proc", "/dev",
    ],
)  # fmt: skip
def test_a_folder_that_is_missing_or_leads_to_the_state_is_refused(folder: Path, field: str, shared: str) -> None:
    for made in ("state/valkey", "a"):
        (folder / made).mkdir(parents=True)
    (folder / "file").touch()
    (folder / "link").symlink_to("state")
    profile = Profile(id="p", **{field: (shared.format(folder),)})  # type: ignore[arg-type]
    said = refusal(profile, folder / "state", Bubblewrap("/usr/bin/bwrap", {}))
    assert said.startswith(f"models.yaml: profile 'p', {field}: ")


def test_any_other_folder_may_be_shared(folder: Path) -> None:
    (folder / "stately").mkdir()
    profile = Profile(id="p", read_only_folders=(str(folder / "stately"),), writable_folders=("/usr",))
    check([profile], Bubblewrap("/usr/bin/bwrap", {}), folder / "state")
