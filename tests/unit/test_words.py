"""The words on the pages: the same in every language, all of them used, and none missing."""

import re
from pathlib import Path

import pytest

from app import pages
from app.pages.words import WORDS
from core.sentences import LANGUAGES

FOLDER = Path(pages.__file__).parent
RUN_STATES = {"queued", "running", "completed", "failed", "cancelled"}


def test_every_language_has_all_words() -> None:
    assert tuple(WORDS) == LANGUAGES
    assert len({frozenset(words) for words in WORDS.values()}) == 1


@pytest.mark.parametrize("key", WORDS["en"])
def test_what_is_filled_in_is_the_same_in_every_language(key: str) -> None:
    assert len({frozenset(re.findall(r"\{(\w+)\}", words[key])) for words in WORDS.values()}) == 1


def test_pages_and_scripts_use_these_words_and_no_others() -> None:
    templates = "".join(path.read_text() for path in (FOLDER / "templates").glob("*.html"))
    scripts = "".join(path.read_text() for path in (FOLDER / "static").glob("*.js"))
    used = set(re.findall(r"\bwords\.(\w+)", templates)) | set(re.findall(r'\bword\("(\w+)"', scripts))
    used |= set(re.findall(r'\bword\(event\.is_error \? "(\w+)" : "(\w+)"', scripts)[0])
    assert used | RUN_STATES | {"done"} == set(WORDS["en"])
