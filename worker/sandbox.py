"""What a run can see and change: bubblewrap around the CLI, and a second wall around each of its tools.

Outer: the kernel gives each run namespaces of its own. The system is there, read-only; so are the run's own
folders, at paths that are the same for every run. The state folder, homes, sockets and other processes are
not there at all. With the CLI ends everything it has started, daemons too, and with the worker ends the CLI.

Inner: the CLI holds the operator's key and needs the network, the commands that the model thinks of do not.
`CLAUDE_CODE_SHELL_PREFIX` leads each of them through a script that takes away the CLI's credentials, its
processes and its files, and the network where the profile says so. The CLI's own means to the same end,
`CLAUDE_CODE_SUBPROCESS_ENV_SCRUB`, is of no use here: it sets every permission mode to `default`, needs socat,
and leaves thirty files in the folder it runs in (seen with 2.1.329).
"""

import dataclasses
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from core.errors import ConfigurationError
from core.profiles import Profile
from core.settings import Settings
from worker.command import Command, program_of

logger = logging.getLogger(__name__)

WORKSPACE = Path("/workspace")
GIVEN = Path("/heartline")
"""Where a run finds its private folder; only the CLI does, not its tools."""

_HOME = GIVEN / "home"
_CONFIG = _HOME / ".claude"
_TOOL_SHELL = GIVEN / "tool-shell"
_NOBODY = "65534"
_TRIAL_SECONDS = 30

_SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store",
    *(f"/etc/{name}" for name in (
        "alternatives", "bash.bashrc", "ca-certificates", "ca-certificates.conf", "fonts", "gai.conf", "gitconfig",
        "group", "host.conf", "hosts", "inputrc", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias",
        "localtime", "magic", "mime.types", "npmrc", "nsswitch.conf", "os-release", "passwd", "perl", "pip.conf",
        "pki/ca-trust", "pki/tls/cert.pem", "pki/tls/certs", "pki/tls/openssl.cnf", "profile", "profile.d",
        "protocols", "resolv.conf", "services", "ssl/cert.pem", "ssl/certs", "ssl/openssl.cnf", "terminfo",
        "timezone",
    )),
)  # fmt: skip
"""Of the system, what programs need; in /etc, nothing that holds a secret when the worker runs as root."""

_PROC_OF_ROOT = tuple(f"/proc/{name}" for name in ("acpi", "bus", "fs", "irq", "scsi", "sys", "sysrq-trigger"))
"""The machine's own, which root owns and could write to with no capability left."""

_FILES_NAMED = ("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS")
"""Variables whose value is a path that the CLI must be able to read."""

MIGRATED = '{"migrationVersion":15}'
"""The CLI's own file in a home that is new. Without it the CLI first brings what is not there up to date: 15 of the
20 ms that a new home costs it (seen with 2.1.329, which writes this number itself)."""

_CREDENTIALS = (
    "ALL_INPUTS", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_AWS_API_KEY", "ANTHROPIC_CUSTOM_HEADERS",
    "ANTHROPIC_FOUNDRY_API_KEY", "ANTHROPIC_FOUNDRY_AUTH_TOKEN", "ANTHROPIC_IDENTITY_TOKEN",
    "ANTHROPIC_IDENTITY_TOKEN_FILE", "AWS_ACCESS_KEY_ID", "AWS_BEARER_TOKEN_BEDROCK", "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN", "CLAUDE_CODE_MESSAGING_SOCKET", "CLAUDE_CODE_MESSAGING_TOKEN",
    "CLAUDE_CODE_OAUTH_REFRESH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS",
)  # fmt: skip
"""What the CLI pays with, and what it listens to: a tool has no use for either."""


class Sandbox(Protocol):
    """How a worker's runs are confined. Chosen once, shared by all slots."""

    @property
    def cuts_network(self) -> bool:
        """Whether it can keep a run's tools from the network."""

    @property
    def denied_tools(self) -> tuple[str, ...]:
        """Rules for the tools that work inside the CLI, where no wall stands between them and its secrets."""

    @property
    def layers(self) -> int:
        """How many processes of its own lie around the CLI's."""

    def describe(self) -> str:
        """What it is, and what falls short, in one line."""

    def inside(self, private: Path) -> Path:
        """Where a run sees its private folder."""

    def cwd(self, workspace: Path) -> str:
        """The path of its workspace as a run knows it."""

    def config(self, private: Path, environment: Mapping[str, str]) -> Path:
        """The folder in which the CLI keeps its sessions, as the worker sees it."""

    def wrap(self, command: Command, *, workspace: Path, private: Path, profile: Profile) -> Command:
        """The command that runs this one confined; may write into `private`."""


class NoSandbox:
    """The CLI runs as the worker does. What it leaves running is swept."""

    cuts_network = False
    denied_tools = ()
    layers = 0

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def describe(self) -> str:
        return f"none ({self._reason})"

    def inside(self, private: Path) -> Path:
        return private

    def cwd(self, workspace: Path) -> str:
        return os.path.realpath(workspace)

    def config(self, private: Path, environment: Mapping[str, str]) -> Path:
        return _config(environment)

    def wrap(self, command: Command, *, workspace: Path, private: Path, profile: Profile) -> Command:
        # Where the CLI puts a prompt's pictures, for one: gone with the run, as in a sandbox.
        scratch = {"CLAUDE_CODE_TMPDIR": str(private)}
        return dataclasses.replace(command, environment={**scratch, **command.environment})


NO_SANDBOX = NoSandbox("not asked for")


class Bubblewrap:
    """The CLI runs in namespaces of its own, made by `bwrap`."""

    denied_tools = ("Read(//proc/*/environ)", f"Read(/{GIVEN}/**)", f"Edit(/{GIVEN}/**)")
    layers = 2

    def __init__(self, program: str, environ: Mapping[str, str], no_tool_wall: str = "") -> None:
        """`no_tool_wall`: why bubblewrap does not work inside bubblewrap here, if it does not."""
        self._program = program
        self._no_tool_wall = no_tool_wall
        self._login = login(environ)
        self._system = [option for path in _SYSTEM for option in _shown(path)]

    @property
    def cuts_network(self) -> bool:
        return not self._no_tool_wall

    def describe(self) -> str:
        return f"bwrap (tools see the CLI's key: {self._no_tool_wall})" if self._no_tool_wall else "bwrap"

    def inside(self, private: Path) -> Path:
        return GIVEN

    def cwd(self, workspace: Path) -> str:
        return str(WORKSPACE)

    def config(self, private: Path, environment: Mapping[str, str]) -> Path:
        return private / "home" / ".claude"

    def wrap(self, command: Command, *, workspace: Path, private: Path, profile: Profile) -> Command:
        config = self.config(private, command.environment)
        config.mkdir(mode=0o700, parents=True, exist_ok=True)
        (config / ".claude.json").write_text(MIGRATED, encoding="utf-8")
        environment = {**command.environment, **self._environment(profile)}
        if not self._no_tool_wall:
            script = private / _TOOL_SHELL.name
            script.write_text(self.tool_shell(profile), encoding="utf-8")
            script.chmod(0o700)
            environment["CLAUDE_CODE_SHELL_PREFIX"] = str(_TOOL_SHELL)
        program, *arguments = command.argv
        argv = (
            self._program, "--die-with-parent", *_user(),
            "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--cap-drop", "ALL",
            *self._system,
            "--proc", "/proc", *_bound("--ro-bind-try", _PROC_OF_ROOT),
            "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/var/tmp",  # noqa: S108
            *_bound("--ro-bind-try", (environment[name] for name in _FILES_NAMED if environment.get(name))),
            *_bound("--ro-bind", (self._program, *map(str, command.program))),
            *_bound("--ro-bind", profile.read_only_folders),
            *_bound("--bind", profile.writable_folders),
            "--ro-bind", str(private), str(GIVEN), "--bind", str(private / "home"), str(_HOME),
            *(("--ro-bind-try", str(self._login), str(_CONFIG / self._login.name))),
            "--bind", str(workspace), str(WORKSPACE),
            # Last: what has been mounted stays as it is, and nothing can be put beside it.
            "--remount-ro", "/", "--chdir", str(WORKSPACE),
            "--", _named(program), *arguments,
        )  # fmt: skip
        return dataclasses.replace(command, argv=argv, environment=environment)

    def _environment(self, profile: Profile) -> dict[str, str]:
        # A shell that the CLI starts for itself reads its start-up files before any wall: with tools walled
        # in, it must not find them where a tool can write.
        home = WORKSPACE if self._no_tool_wall else _HOME
        own = {"HOME": str(home), "CLAUDE_CONFIG_DIR": str(_CONFIG), "TMPDIR": "/tmp", "CLAUDE_CODE_TMPDIR": "/tmp"}  # noqa: S108
        return {name: value for name, value in own.items() if name not in profile.environment}

    def tool_shell(self, profile: Profile) -> str:
        """The script that the CLI hands each tool's command to, as one argument."""
        snapshots = str(_CONFIG / "shell-snapshots")  # the CLI's own start of every command
        argv = (
            self._program, "--die-with-parent", "--unshare-user", "--cap-drop", "ALL",
            *(() if profile.network else ("--unshare-net",)),
            "--dev-bind", "/", "/",
            "--tmpfs", str(GIVEN), "--ro-bind-try", snapshots, snapshots, "--remount-ro", str(GIVEN),
        )  # fmt: skip
        home = () if "HOME" in profile.environment else ("--setenv", "HOME", str(WORKSPACE))
        # From within a user namespace of its own, a tool cannot look into the CLI's processes; into bwrap's it
        # can, so the credentials are gone before that starts.
        return (
            f"#!/bin/sh\nunset {' '.join(_CREDENTIALS)} CLAUDE_CODE_SHELL_PREFIX\n"
            f'exec {shlex.join((*argv, *home))} -- bash -c "$1"\n'
        )


def choose(settings: Settings, environ: Mapping[str, str], claude_bin: str = "") -> Sandbox:
    """The sandbox that the setting asks for, or that works here.

    Raises `ConfigurationError` when it must be bubblewrap, and that does not work.
    """
    if settings.sandbox == "off":
        return NoSandbox("turned off")
    try:
        return _tried(settings.state, environ, claude_bin)
    except _Unusable as error:
        if settings.sandbox == "bwrap":
            raise ConfigurationError(f"HEARTLINE_SANDBOX=bwrap: {error}") from None
        return NoSandbox(str(error))


def check(profiles: Iterable[Profile], sandbox: Sandbox, state: Path) -> None:
    """Raises `ConfigurationError` for a profile that asks for what cannot be had, or must not be."""
    for profile in profiles:
        if profile.directory is not None:
            _check_folder(profile, "directory", profile.directory, state)
        if not profile.network and not sandbox.cuts_network:
            raise _wrong(profile, "network", f"false needs a working sandbox; here it is {sandbox.describe()}")
        for field in ("read_only_folders", "writable_folders"):
            for folder in getattr(profile, field):
                _check_folder(profile, field, folder, state)


def _check_folder(profile: Profile, field: str, folder: str, state: Path) -> None:
    if not Path(folder).is_dir():
        raise _wrong(profile, field, f"there is no folder {folder}")
    if taken := _overlaps(folder, (state, Path("/proc"), Path("/dev"), WORKSPACE, GIVEN)):
        raise _wrong(profile, field, f"{folder} must not share anything with {taken}")


def _wrong(profile: Profile, field: str, must: str) -> ConfigurationError:
    return ConfigurationError(f"models.yaml: profile '{profile.id}', {field}: {must}")


def _overlaps(folder: str, reserved: Iterable[Path]) -> Path | None:
    for path in (Path(os.path.normpath(folder)), Path(folder).resolve()):
        for taken in reserved:
            if path.is_relative_to(taken) or taken.is_relative_to(path):
                return taken
    return None


class _Unusable(Exception):
    """Why bubblewrap cannot be used here."""


def _tried(state: Path, environ: Mapping[str, str], claude_bin: str) -> Bubblewrap:
    """A bubblewrap that has just worked, with the very options and folders that runs will have."""
    program = shutil.which("bwrap", path=environ.get("PATH"))
    if program is None:
        raise _Unusable("there is no bwrap on PATH")
    program = os.path.realpath(program)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="trial-", dir=state) as folder:
            workspace, private = Path(folder, "workspace"), Path(folder, "private")
            workspace.mkdir()
            private.mkdir()

            def trial(sandbox: Bubblewrap, *argv: str) -> None:
                path = {"PATH": environ.get("PATH", os.defpath)}
                command = Command(argv, b"", path, program=program_of(claude_bin) if claude_bin else ())
                given = Profile(id="trial", network=False)
                _run(sandbox.wrap(command, workspace=workspace, private=private, profile=given))

            bare = Bubblewrap(program, environ, "not tried yet")
            trial(bare, claude_bin, "--version") if claude_bin else trial(bare, "/bin/sh", "-c", ":")
            sandbox = Bubblewrap(program, environ)
            try:
                trial(sandbox, "/bin/sh", "-c", f"{_TOOL_SHELL} :")
            except _Unusable as error:
                return Bubblewrap(program, environ, str(error))
            return sandbox
    except OSError as error:
        raise _Unusable(str(error)) from None


def _run(command: Command) -> None:
    try:
        subprocess.run(
            command.argv,
            env=command.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TRIAL_SECONDS,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())[-300:]
        raise _Unusable(said or f"its trial ended with {error.returncode}") from None
    except subprocess.TimeoutExpired:
        raise _Unusable(f"its trial took longer than {_TRIAL_SECONDS} s") from None


def _user() -> tuple[str, ...]:
    """Root becomes nobody: the kernel gives no second namespace to a root without capabilities."""
    return ("--unshare-user-try",) if os.getuid() else ("--unshare-user", "--uid", _NOBODY, "--gid", _NOBODY)


def login(environ: Mapping[str, str]) -> Path:
    """The file in which the CLI keeps the operator's login, if he has logged in; on macOS it is in the keychain."""
    return _config(environ) / ".credentials.json"


def _config(environ: Mapping[str, str]) -> Path:
    config = environ.get("CLAUDE_CONFIG_DIR") or Path(environ.get("HOME") or Path.home(), ".claude")
    return Path(config).absolute()


def _shown(path: str) -> tuple[str, ...]:
    """The options that show a part of the system: a link stays one if it leads to what is shown, too."""
    if os.path.islink(path) and os.path.realpath(path).startswith(("/usr/", "/etc/alternatives/")):
        return "--symlink", os.readlink(path), path
    return "--ro-bind-try", path, path


def _named(program: str) -> str:
    """A program's name inside, where only the system's own links are. Raises `FileNotFoundError`."""
    found = str(Path(program).resolve(strict=True))
    return program if program.startswith(("/usr/", "/bin/")) else found


def _bound(option: str, paths: Iterable[str]) -> list[str]:
    """The options that show each path where it is."""
    return [part for path in paths for part in (option, os.path.realpath(path), os.path.normpath(path))]
