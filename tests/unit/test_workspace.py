"""The folders of runs: only below the state folder, shared by a conversation, gone when they are of no more use."""

import os
import stat
import time
from pathlib import Path

import pytest

from core.run import Place, Run, new_id
from worker.workspace import Workspaces

HOUR = 3600.0
GIB = 1 << 30


@pytest.fixture
def workspaces(folder: Path) -> Workspaces:
    return Workspaces(folder, HOUR, GIB)


def run(conversation: str | None = None, run_id: str | None = None) -> Run:
    """A run of a conversation, or one that belongs to none."""
    place = Place(conversation=conversation) if conversation else None
    return Run(id=run_id or new_id(), owner="alice", profile="agent", model="agent", created_at=1.0, place=place)


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then), follow_symlinks=False)


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.parent != folder)


def test_runs_and_clis_get_folders_below_the_state_folder(workspaces: Workspaces, folder: Path) -> None:
    alone, cli = run(), new_id()
    made = {workspaces.open(alone), workspaces.private(cli), workspaces.spare(cli)}
    assert made == {
        folder / "workspaces" / alone.id / "files",
        folder / "runs" / cli,
        folder / "spares" / cli / "files",
    }
    assert all(each.is_dir() for each in made)
    assert workspaces.sessions(alone) is None


def test_only_the_workers_user_can_look_into_them(workspaces: Workspaces) -> None:
    made = (workspaces.open(run(new_id())), workspaces.private(new_id()), workspaces.spare(new_id()))
    assert {stat.S_IMODE(each.stat().st_mode) for each in made} == {0o700}


def test_runs_of_one_conversation_share_a_workspace(workspaces: Workspaces) -> None:
    conversation = new_id()
    assert workspaces.open(run(conversation)) == workspaces.open(run(conversation))
    assert workspaces.open(run(new_id())) != workspaces.open(run(conversation))


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../" * 10 + "ab", "/etc/passwd", "a" * 31, "a" * 33, "a" * 31 + "/", "a" * 31 + ".",
        "a" * 31 + "\n", "a" * 31 + "\0", "ä" * 32, "٣" * 32, "z" * 32, "0123456789abcdef0123456789abcde-",
    ],
)  # fmt: skip
def test_what_is_no_id_never_becomes_a_path(workspaces: Workspaces, folder: Path, name: str) -> None:
    wrong = Run(id=name, owner="alice", profile="agent", model="agent", created_at=1.0)
    placed = Run(id=name, owner="a", profile="a", model="a", created_at=1.0, place=Place(conversation=name))
    for each in (wrong, placed):
        with pytest.raises(ValueError, match="not a run id"):
            workspaces.open(each)
        with pytest.raises(ValueError, match="not a run id"):
            workspaces.close(each)
    for made in (workspaces.private, workspaces.spare, workspaces.remove):
        with pytest.raises(ValueError, match="not a run id"):
            made(name)
    assert list(folder.rglob("*")) == []


def test_closing_leaves_the_conversation_its_files(workspaces: Workspaces) -> None:
    one = run(new_id())
    opened = workspaces.open(one)
    (opened / "made").write_text("by the agent")
    workspaces.close(one)
    assert (opened / "made").read_text() == "by the agent"
    workspaces.close(one)  # twice is no error


def test_what_a_cli_was_given_is_removed_with_it_and_nothing_else(workspaces: Workspaces, folder: Path) -> None:
    cli, other = new_id(), new_id()
    for each in (cli, other):
        (workspaces.private(each) / "session.jsonl").write_text("secret")
        workspaces.spare(each)
    workspaces.remove(cli)
    assert everything(folder) == [
        f"runs/{other}",
        f"runs/{other}/session.jsonl",
        f"spares/{other}",
        f"spares/{other}/files",
    ]
    workspaces.remove(cli)  # twice is no error


# Spares.


def test_a_spares_workspace_becomes_the_conversations_and_is_found_under_its_old_name(
    workspaces: Workspaces, folder: Path
) -> None:
    cli, one = new_id(), run(new_id())
    spare, opened = workspaces.spare(cli), workspaces.open(one)
    at_work = os.open(spare, os.O_RDONLY)  # as a process does that works there
    assert workspaces.move_in(cli, one) == opened
    (opened / "made").write_text("by the agent")
    assert os.listdir(at_work) == ["made"]
    assert (spare / "made").read_text() == "by the agent"
    workspaces.remove(cli)
    assert (opened / "made").read_text() == "by the agent"
    assert not spare.is_symlink()
    os.close(at_work)


def test_a_spare_does_not_move_into_a_workspace_that_has_files(workspaces: Workspaces) -> None:
    cli, one = new_id(), run(new_id())
    spare, opened = workspaces.spare(cli), workspaces.open(one)
    (opened / "made").write_text("by an earlier run")
    assert workspaces.move_in(cli, one) is None
    assert os.listdir(opened) == ["made"]
    assert spare.is_dir()
    assert not spare.is_symlink()


def test_closing_a_run_that_belongs_to_no_conversation_leaves_nothing(workspaces: Workspaces, folder: Path) -> None:
    alone = run()
    opened = workspaces.open(alone)
    locked = opened / "locked"
    locked.mkdir()
    (locked / "file").write_text("x")
    locked.chmod(0o500)  # as some tools leave their caches
    workspaces.close(alone)
    assert everything(folder) == []
    workspaces.close(run())  # never opened


def test_a_fixed_directory_is_worked_in_and_never_removed(workspaces: Workspaces, folder: Path) -> None:
    directory = folder / "repository"
    directory.mkdir()
    one = run()
    assert workspaces.open(one, str(directory)) == directory
    workspaces.close(one)
    assert directory.is_dir()


# Turns.


def test_runs_of_one_conversation_take_turns(workspaces: Workspaces) -> None:
    conversation = new_id()
    turn = workspaces.turn(run(conversation))
    assert turn is not None
    assert workspaces.turn(run(conversation)) is None
    elsewhere = workspaces.turn(run(new_id()))
    assert elsewhere is not None
    elsewhere.release()
    turn.release()
    again = workspaces.turn(run(conversation))
    assert again is not None
    again.release()


def test_runs_in_one_directory_take_turns_whatever_their_conversation(workspaces: Workspaces, folder: Path) -> None:
    (folder / "link").symlink_to(folder)
    turn = workspaces.turn(run(new_id()), str(folder))
    assert turn is not None
    assert workspaces.turn(run(), str(folder / "link")) is None
    turn.release()


def test_the_turn_of_a_run_that_stands_alone_leaves_nothing(workspaces: Workspaces, folder: Path) -> None:
    turn = workspaces.turn(run())
    assert turn is not None
    turn.release()
    assert everything(folder) == []


# Sweeping.


def test_sweeping_removes_only_what_is_old(workspaces: Workspaces) -> None:
    old, young = run(new_id()), run(new_id())
    first, second = workspaces.open(old), workspaces.open(young)
    age(first.parent, HOUR + 60)
    age(second.parent, HOUR - 60)
    assert workspaces.sweep() == 1
    assert not first.exists()
    assert second.exists()


def test_sweeping_removes_the_oldest_when_all_together_are_too_large(folder: Path) -> None:
    workspaces = Workspaces(folder, HOUR, 5 << 19)
    opened = []
    for number in range(4):
        made = workspaces.open(run(new_id()))
        (made / "file").write_bytes(os.urandom(1 << 20))
        age(made.parent, 100 * (number + 1))
        opened.append(made)
    workspaces.sweep()
    assert [each.exists() for each in opened] == [True, True, False, False]


def test_sweeping_leaves_a_workspace_in_which_a_run_is_at_work(workspaces: Workspaces, folder: Path) -> None:
    one = run(new_id())
    opened = workspaces.open(one)
    age(opened.parent, 2 * HOUR)
    turn = workspaces.turn(one)
    assert turn is not None
    assert workspaces.sweep() == 0
    turn.release()
    workspaces.close(one)
    age(opened.parent, 2 * HOUR)
    assert workspaces.sweep() == 1
    assert everything(folder) == []  # its lock is gone, too


def test_sweeping_nothing_is_no_error(workspaces: Workspaces) -> None:
    assert workspaces.sweep() == 0


def test_sweeping_follows_no_link(workspaces: Workspaces, tmp_path_factory: pytest.TempPathFactory) -> None:
    precious = tmp_path_factory.mktemp("precious")
    (precious / "file").write_text("x")
    opened = workspaces.open(run(new_id()))
    (opened / "link").symlink_to(precious)
    age(opened.parent, 2 * HOUR)
    assert workspaces.sweep() == 1
    assert (precious / "file").exists()


def test_sweeping_removes_what_a_killed_worker_left_of_its_clis(folder: Path) -> None:
    workspaces = Workspaces(folder, 100 * HOUR, GIB, private_seconds=HOUR)
    cli, young, one = new_id(), new_id(), run(new_id())
    opened = workspaces.open(one)
    (workspaces.private(cli) / "system-prompt.txt").write_text("secret")
    workspaces.spare(cli)
    assert workspaces.move_in(cli, one) == opened
    (opened / "made").write_text("by the agent")
    workspaces.spare(young)
    for name in ("runs", "spares"):
        age(folder / name / cli, HOUR + 60)
    assert workspaces.sweep() == 2
    assert [path for path in everything(folder) if cli in path] == []
    assert (opened / "made").exists()
    assert (folder / "spares" / young / "files").exists()
