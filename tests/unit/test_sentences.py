"""Every sentence exists in every language, with the same gaps."""

import string

import pytest

from core.sentences import _SENTENCES, LANGUAGES, sentence

KEYS = sorted(_SENTENCES["en"])


def gaps(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_both_languages_are_there() -> None:
    assert LANGUAGES == ("en", "de")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_every_sentence_and_no_other(language: str) -> None:
    assert sorted(_SENTENCES[language]) == KEYS


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_sentence_has_the_same_gaps_in_every_language(language: str, key: str) -> None:
    assert gaps(_SENTENCES[language][key]) == gaps(_SENTENCES["en"][key])


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_sentence_is_one_line_and_says_something(language: str, key: str) -> None:
    filled = sentence(language, key, **dict.fromkeys(gaps(_SENTENCES[language][key]), "5"))
    assert filled.strip() == filled
    assert len(filled) > 5
    assert len(filled.splitlines()) == 1
    assert "  " not in filled


@pytest.mark.parametrize("key", KEYS)
def test_no_sentence_is_left_untranslated(key: str) -> None:
    assert _SENTENCES["de"][key] != _SENTENCES["en"][key]


@pytest.mark.parametrize(("language", "key"), [("en", "nonsense"), ("fr", "queued")])
def test_a_sentence_that_does_not_exist_is_an_error(language: str, key: str) -> None:
    with pytest.raises(KeyError):
        sentence(language, key)


def test_what_is_filled_in_is_not_read_as_a_template() -> None:
    assert sentence("en", "cli_error", reason="{turns} {0}") == "Claude ended with an error: {turns} {0}"
