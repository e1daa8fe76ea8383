"""Events: one JSON encoding, and the fold of a log into its answer."""

from itertools import pairwise
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import events
from core.events import (
    MAX_TEXT_CHARACTERS,
    Answer,
    AnyEvent,
    ApiRetry,
    Completed,
    Event,
    Reasoning,
    Retracted,
    Started,
    Text,
    ToolStarted,
    Unrecognised,
    Usage,
    compact,
    decode,
    encode,
    stamp,
)

TYPES = get_args(AnyEvent)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
COUNTS = st.integers(0, 2**53)
SECONDS = st.floats(0, 1e12)
USAGES = st.builds(
    Usage, input_tokens=COUNTS, cached_input_tokens=COUNTS, output_tokens=COUNTS, cost_usd=SECONDS, turns=COUNTS
)
BY_TYPE = {
    str: TEXTS,
    int: COUNTS,
    float: SECONDS,
    bool: st.booleans(),
    Usage: USAGES,
    str | None: st.none() | TEXTS,
    int | None: st.none() | COUNTS,
}


def any_of(kind: type[Event]) -> st.SearchStrategy[Event]:
    """Events of one type with every field filled in."""
    return st.builds(kind, **{field.name: BY_TYPE[field.type] for field in msgspec.structs.fields(kind)})


def answer_of(given_events: list[Event]) -> str:
    answer = Answer()
    for event in given_events:
        answer.add(event)
    return answer.text


# The encoding.


@pytest.mark.parametrize("kind", TYPES)
@given(data=st.data())
@settings(max_examples=30)
def test_decoding_is_the_inverse_of_encoding(kind: type[Event], data: st.DataObject) -> None:
    event = data.draw(any_of(kind))
    encoded = encode(event)
    assert decode(encoded) == event
    assert b"\n" not in encoded


def test_every_event_type_is_one_that_can_be_decoded() -> None:
    assert set(Event.__subclasses__()) == set(TYPES)


def test_types_have_names_of_their_own() -> None:
    assert len({kind.__struct_config__.tag for kind in TYPES}) == len(TYPES)


def test_an_event_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Text(text="a").text = "b"  # type: ignore[misc]


def test_an_unknown_type_keeps_its_place() -> None:
    data = b'{"type":"telepathy","run_id":"r","seq":7,"at":1.5,"strength":9}'
    assert decode(data) == Unrecognised(run_id="r", seq=7, at=1.5)


def test_a_field_of_a_newer_version_is_ignored() -> None:
    data = b'{"type":"text","run_id":"r","seq":1,"at":2.0,"text":"hi","mood":"good"}'
    assert decode(data) == Text(run_id="r", seq=1, at=2.0, text="hi")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"{}", b'{"type":"text"}', b'{"type":"new"}', b"\xff"])
def test_bytes_that_are_no_event_are_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(data)


def test_a_stamp_adds_the_place_and_changes_nothing_else() -> None:
    stamped = stamp(Text(text="hi"), "r", 3, 9.5)
    assert stamped == Text(text="hi", run_id="r", seq=3, at=9.5)


# Compacting.


@pytest.mark.parametrize("kind", [Text, Reasoning])
def test_neighbours_of_one_kind_are_joined(kind: type[Text] | type[Reasoning]) -> None:
    assert compact([kind(text="a"), kind(text="b"), kind(text="c")]) == [kind(text="abc")]


def test_text_and_reasoning_are_never_mixed() -> None:
    mixed: list[Event] = [Text(text="a"), Reasoning(text="b"), Text(text="c")]
    assert compact(mixed) == mixed


def test_what_stands_between_two_texts_keeps_them_apart() -> None:
    between: list[Event] = [Text(text="a"), Retracted(characters=1), Text(text="b")]
    assert compact(between) == between


def test_nothing_stays_nothing() -> None:
    assert compact([]) == []


@pytest.mark.parametrize("kind", [Text, Reasoning])
@pytest.mark.parametrize("beyond", [-1, 0, 1, MAX_TEXT_CHARACTERS, MAX_TEXT_CHARACTERS + 1])
def test_long_text_is_cut_into_pieces_that_add_up(kind: type[Text] | type[Reasoning], beyond: int) -> None:
    text = "é" * (MAX_TEXT_CHARACTERS + beyond)
    pieces = compact([kind(text=text)])
    assert "".join(piece.text for piece in pieces if isinstance(piece, kind)) == text
    assert max(len(piece.text) for piece in pieces if isinstance(piece, kind)) <= MAX_TEXT_CHARACTERS
    assert len(pieces) == -(-len(text) // MAX_TEXT_CHARACTERS)


LOGS = st.lists(
    st.one_of(
        TEXTS.map(lambda text: Text(text=text)),
        TEXTS.map(lambda text: Reasoning(text=text)),
        st.integers(0, 5).map(lambda characters: Retracted(characters=characters)),
        st.just(Started(worker="w")),
    )
)


@given(LOGS)
@settings(max_examples=200)
def test_compacting_changes_neither_the_answer_nor_the_reasoning_nor_the_rest(log: list[Event]) -> None:
    short = compact(log)
    assert answer_of(short) == answer_of(log)
    for kind in (Retracted, Started):
        assert [e for e in short if isinstance(e, kind)] == [e for e in log if isinstance(e, kind)]
    thoughts = ["".join(e.text for e in some if isinstance(e, Reasoning)) for some in (short, log)]
    assert thoughts[0] == thoughts[1]


@given(LOGS)
def test_after_compacting_no_two_neighbours_are_of_one_text_kind(log: list[Event]) -> None:
    short = compact(log)
    doubled = [a for a, b in pairwise(short) if type(a) is type(b) and isinstance(a, Text | Reasoning)]
    assert doubled == []


# The answer.


@pytest.mark.parametrize(
    ("log", "text"),
    [
        ([], ""),
        ([Text(text="a"), Text(text="b")], "ab"),
        ([Text(text="abc"), Retracted(characters=2), Text(text="x")], "ax"),
        ([Text(text="ab"), Text(text="cd"), Retracted(characters=3)], "a"),
        ([Text(text="abc"), Retracted(characters=3), Text(text="x")], "x"),
        ([Text(text="abc"), Retracted(characters=0)], "abc"),
        ([Text(text="a"), Retracted(characters=9), Text(text="x")], "x"),
        ([Text(text="a😀"), Retracted(characters=1)], "a"),
        ([Retracted(characters=1)], ""),
        ([Reasoning(text="hm"), Text(text="a"), ApiRetry(attempt=1, max_attempts=2, delay_seconds=1)], "a"),
        ([Started(worker="w"), ToolStarted(tool_id="t", name="n", summary="s", input="i"), Completed()], ""),
        ([Unrecognised(run_id="r", seq=1), Text(text="a")], "a"),
    ],
)
def test_the_answer_is_all_text_less_what_was_retracted(log: list[Event], text: str) -> None:
    assert answer_of(log) == text


def test_the_answer_can_be_read_while_it_grows() -> None:
    answer = Answer()
    answer.add(Text(text="a"))
    assert answer.text == "a"
    answer.add(events.Text(text="b"))
    assert answer.text == "ab"
