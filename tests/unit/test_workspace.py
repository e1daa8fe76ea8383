"""A run's folders: only below the state folder, only for as long as they are of use."""

import os
import stat
import time
from pathlib import Path

import pytest

from core.run import new_id
from worker.workspace import Workspaces

HOUR = 3600.0


@pytest.fixture
def workspaces(folder: Path) -> Workspaces:
    return Workspaces(folder, HOUR)


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then), follow_symlinks=False)


def test_a_run_gets_two_folders_below_the_state_folder(workspaces: Workspaces, folder: Path) -> None:
    run_id = new_id()
    opened = workspaces.open(run_id)
    assert opened == (folder / "workspaces" / run_id, folder / "runs" / run_id)
    assert all(each.is_dir() for each in opened)


def test_only_the_workers_user_can_look_into_them(workspaces: Workspaces) -> None:
    assert [stat.S_IMODE(each.stat().st_mode) for each in workspaces.open(new_id())] == [0o700, 0o700]


def test_two_runs_share_nothing(workspaces: Workspaces) -> None:
    assert not set(workspaces.open(new_id())) & set(workspaces.open(new_id()))


@pytest.mark.parametrize(
    "run_id",
    [
        "", ".", "..", "../" * 10 + "ab", "/etc/passwd", "a" * 31, "a" * 33, "a" * 31 + "/", "a" * 31 + ".",
        "a" * 31 + "\n", "a" * 31 + "\0", "ä" * 32, "٣" * 32, "z" * 32, "0123456789abcdef0123456789abcde-",
    ],
)  # fmt: skip
def test_what_is_no_run_id_never_becomes_a_path(workspaces: Workspaces, folder: Path, run_id: str) -> None:
    with pytest.raises(ValueError, match="not a run id"):
        workspaces.open(run_id)
    with pytest.raises(ValueError, match="not a run id"):
        workspaces.close(run_id)
    assert list(folder.rglob("*")) == []


def test_closing_removes_what_the_run_was_given_and_an_empty_workspace(workspaces: Workspaces, folder: Path) -> None:
    run_id = new_id()
    _, private = workspaces.open(run_id)
    (private / "history.jsonl").write_text("secret")
    workspaces.close(run_id)
    assert list((folder / "runs").iterdir()) == []
    assert list((folder / "workspaces").iterdir()) == []


def test_closing_keeps_what_the_run_has_made(workspaces: Workspaces) -> None:
    run_id = new_id()
    workspace, private = workspaces.open(run_id)
    (workspace / "answer.txt").write_text("42")
    workspaces.close(run_id)
    assert (workspace / "answer.txt").read_text() == "42"
    assert not private.exists()


def test_closing_leaves_other_runs_alone(workspaces: Workspaces) -> None:
    mine, other = new_id(), new_id()
    kept = workspaces.open(other)
    workspaces.open(mine)
    workspaces.close(mine)
    assert all(each.is_dir() for each in kept)


def test_closing_twice_or_unopened_is_no_error(workspaces: Workspaces) -> None:
    run_id = new_id()
    workspaces.open(run_id)
    workspaces.close(run_id)
    workspaces.close(run_id)
    workspaces.close(new_id())


def test_sweeping_removes_only_what_is_old(workspaces: Workspaces) -> None:
    old, young = workspaces.open(new_id())[0], workspaces.open(new_id())[0]
    for each in (old, young):
        (each / "file").write_text("x")
    age(old, HOUR + 60)
    assert workspaces.sweep() == 1
    assert not old.exists()
    assert young.exists()


def test_sweeping_nothing_is_no_error(workspaces: Workspaces) -> None:
    assert workspaces.sweep() == 0


def test_sweeping_follows_no_link_out_of_the_state_folder(
    workspaces: Workspaces, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "precious").write_text("x")
    workspace = workspaces.open(new_id())[0]
    (workspace / "link").symlink_to(outside)
    age(workspace, HOUR + 60)
    assert workspaces.sweep() == 1
    assert (outside / "precious").exists()


def test_sweeping_survives_what_vanishes_meanwhile(workspaces: Workspaces, folder: Path) -> None:
    """A workspace that another slot closes between the listing and the look: here, a link to nowhere."""
    old = workspaces.open(new_id())[0]
    (old.parent / new_id()).symlink_to(folder / "gone")
    age(old, HOUR + 60)
    assert workspaces.sweep() >= 1
    assert not old.exists()


def test_sweeping_removes_what_a_killed_worker_left_of_the_runs_secrets(workspaces: Workspaces) -> None:
    workspace, private = workspaces.open(new_id())
    (private / "history.jsonl").write_text("secret")
    age(workspace, HOUR + 60)
    age(private, HOUR + 60)
    workspaces.sweep()
    assert not private.exists()
