"""The answer file: what this run wrote to its own path, and nothing else."""

import os
from pathlib import Path

import pytest

from core.run import new_id
from worker.answer_file import INSTRUCTION, AnswerFile

DECLARED = "output/response.md"
PLENTY = 1_000_000


@pytest.fixture
def run_id() -> str:
    return new_id()


@pytest.fixture
def answer_file(tmp_path: Path, run_id: str) -> AnswerFile:
    return AnswerFile(tmp_path, DECLARED, run_id)


@pytest.fixture
def path(tmp_path: Path, run_id: str, answer_file: AnswerFile) -> Path:
    """Where the run is to write."""
    return tmp_path / answer_file.relative


def test_each_run_has_a_path_of_its_own(answer_file: AnswerFile, path: Path, run_id: str) -> None:
    assert str(answer_file.relative) == f"output/{run_id}/response.md"
    assert path.parent.is_dir()
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_path_without_a_folder_gets_one(tmp_path: Path, run_id: str) -> None:
    assert str(AnswerFile(tmp_path, "answer.md", run_id).relative) == f"{run_id}/answer.md"


def test_what_was_written_is_the_answer(answer_file: AnswerFile, path: Path) -> None:
    path.write_text("# Ünï\n\n🌱\n", encoding="utf-8")
    assert answer_file.read(PLENTY) == "# Ünï\n\n🌱\n"


def test_nothing_written_is_no_answer(answer_file: AnswerFile) -> None:
    assert answer_file.read(PLENTY) is None


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_white_space_is_no_answer(answer_file: AnswerFile, path: Path, text: str) -> None:
    path.write_text(text)
    assert answer_file.read(PLENTY) is None


def test_bytes_that_are_no_text_are_replaced(answer_file: AnswerFile, path: Path) -> None:
    path.write_bytes(b"a\xffb")
    assert answer_file.read(PLENTY) == "a\ufffdb"


def test_what_is_too_large_is_cut(answer_file: AnswerFile, path: Path) -> None:
    path.write_text("0123456789")
    assert answer_file.read(4) == "0123"


@pytest.mark.parametrize("limit", range(3, 12))
def test_a_cut_leaves_no_half_of_a_character(answer_file: AnswerFile, path: Path, limit: int) -> None:
    text = "aé…🌱b…"
    path.write_text(text, encoding="utf-8")
    found = answer_file.read(limit)
    assert found is not None
    assert text.startswith(found)
    assert len(found.encode()) <= limit < len(found.encode()) + 4


def test_a_link_is_nothing_wherever_it_leads(answer_file: AnswerFile, path: Path, tmp_path: Path) -> None:
    older = tmp_path / "older.md"
    older.write_text("an older answer")
    for target in (older, Path("/etc/passwd"), tmp_path / "nowhere", path):
        path.symlink_to(target)
        assert answer_file.read(PLENTY) is None
        path.unlink()


def test_a_folder_that_became_a_link_is_nothing(answer_file: AnswerFile, path: Path, tmp_path: Path) -> None:
    older = tmp_path / "output" / new_id()
    older.mkdir()
    (older / "response.md").write_text("an older answer")
    path.parent.rmdir()
    path.parent.symlink_to(older)
    assert answer_file.read(PLENTY) is None


def test_a_link_higher_up_is_nothing_either(answer_file: AnswerFile, path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    path.parent.parent.rename(elsewhere)
    (elsewhere / path.parent.name / "response.md").write_text("moved")
    path.parent.parent.symlink_to(elsewhere)
    assert answer_file.read(PLENTY) is None


def test_a_removed_folder_is_nothing(answer_file: AnswerFile, path: Path) -> None:
    path.parent.rmdir()
    assert answer_file.read(PLENTY) is None


def test_what_is_no_file_is_nothing_and_holds_nobody_up(answer_file: AnswerFile, path: Path) -> None:
    os.mkfifo(path)
    assert answer_file.read(PLENTY) is None
    path.unlink()
    path.mkdir()
    assert answer_file.read(PLENTY) is None


def test_an_unreadable_file_leaves_no_open_descriptor(answer_file: AnswerFile, path: Path) -> None:
    path.mkdir()
    before = len(os.listdir("/dev/fd"))
    for _ in range(20):
        answer_file.read(PLENTY)
    assert len(os.listdir("/dev/fd")) == before


def test_in_the_same_workspace_an_older_runs_file_stays_its_own(
    answer_file: AnswerFile, path: Path, tmp_path: Path
) -> None:
    path.write_text("the first answer")
    second = AnswerFile(tmp_path, DECLARED, new_id())
    assert second.read(PLENTY) is None
    (tmp_path / DECLARED).write_text("where the profile says, and where every run could write")
    assert second.read(PLENTY) is None


def test_a_run_that_is_begun_again_finds_nothing_of_its_first_time(tmp_path: Path, run_id: str, path: Path) -> None:
    path.write_text("half an answer")
    with pytest.raises(FileExistsError):
        AnswerFile(tmp_path, DECLARED, run_id)


def test_the_model_is_told_where_to_write(answer_file: AnswerFile) -> None:
    where = str(answer_file.relative)
    assert answer_file.instruct("") == INSTRUCTION.replace("{answer_file}", where)
    assert answer_file.instruct("Be brief.") == "Be brief.\n\n" + INSTRUCTION.replace("{answer_file}", where)
    assert answer_file.instruct("Into {answer_file}, please.") == f"Into {where}, please."


def test_braces_of_the_prompts_own_stay(answer_file: AnswerFile) -> None:
    assert answer_file.instruct("{json} {answer_file} {0}").startswith("{json} output/")
