"""The CLI's sessions as they are kept: whole, or not at all."""

import os
from pathlib import Path
from uuid import UUID

from core.run import new_id
from worker.sessions import Sessions, discard


def written(config: Path, session_id: str, *lines: str) -> Path:
    path = config / "projects" / "-workspace" / f"{UUID(session_id)}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))
    return path


def test_the_session_of_one_that_has_exited_is_moved(folder: Path) -> None:
    run_id, session_id, sessions = new_id(), new_id(), Sessions(folder / "sessions")
    path = written(folder / "config", session_id, "first\n", "last\n")
    sessions.keep(run_id, session_id, folder / "config")
    kept = sessions.of(run_id)
    assert kept is not None
    assert kept.read_text() == "first\nlast\n"
    assert not path.parent.exists()


def test_the_session_of_one_that_lives_on_is_copied_as_it_is_now(folder: Path) -> None:
    run_id, session_id, sessions = new_id(), new_id(), Sessions(folder / "sessions")
    path = written(folder / "config", session_id, '{"uuid":"one"}\n')
    assert sessions.copy(run_id, session_id, folder / "config", "one", ["/workspace"])
    with path.open("a") as more:
        more.write("the next turn\n")
    kept = sessions.of(run_id)
    assert kept is not None
    assert kept.read_text() == '{"uuid":"one"}\n'


def test_a_session_that_is_not_whole_is_not_copied(folder: Path) -> None:
    run_id, session_id, sessions = new_id(), new_id(), Sessions(folder / "sessions")
    config = folder / "config"
    assert not sessions.copy(run_id, session_id, config, "last", ["/workspace"])  # not there yet
    path = written(config, session_id, '{"uuid":"first"}\n')
    assert not sessions.copy(run_id, session_id, config, "last", ["/workspace"])
    path.write_text('{"uuid":"first"}\n{"uuid":"last", "mess')
    assert not sessions.copy(run_id, session_id, config, "last", ["/workspace"])
    assert not sessions.copy(run_id, session_id, config, "", ["/workspace"])  # the model has said nothing
    assert sessions.of(run_id) is None
    path.write_text('{"uuid":"first"}\n{"uuid":"last"}\n')
    assert sessions.copy(run_id, session_id, config, "last", ["/workspace"])


def test_what_is_discarded_is_only_that_session(folder: Path) -> None:
    one, other = new_id(), new_id()
    path, stays = written(folder, one, "x\n"), written(folder, other, "y\n")
    (path.parent / str(UUID(one))).mkdir()
    discard(one, folder)
    assert list(path.parent.iterdir()) == [stays]


def test_the_session_of_one_that_went_elsewhere_is_not_copied(folder: Path) -> None:
    run_id, session_id, sessions = new_id(), new_id(), Sessions(folder / "sessions")
    path = written(folder, session_id, '{"uuid":"one","cwd":"/workspace/sub"}\n{"type":"last-prompt"}\n')
    assert not sessions.copy(run_id, session_id, folder, "one", ["/workspace"])
    path.write_text('{"uuid":"one","cwd":"/workspace/sub"}\n{"uuid":"two","cwd":"/workspace"}\n')
    assert sessions.copy(run_id, session_id, folder, "two", ["/workspace"])


def test_what_is_no_file_is_not_read(folder: Path) -> None:
    run_id, session_id, sessions = new_id(), new_id(), Sessions(folder / "sessions")
    path = written(folder, session_id, "")
    path.unlink()
    os.mkfifo(path)
    assert not sessions.copy(run_id, session_id, folder, "one", ["/workspace"])
    sessions.keep(run_id, session_id, folder)
    assert sessions.of(run_id) is None
