"""What was said in a conversation, as digests: the same for what clients may reshape, another for anything else."""

from hypothesis import given
from hypothesis import strategies as st

from core.conversation import digest, turns
from core.run import Image, Message


def user(text: str, **fields: object) -> Message:
    return Message("user", text, **fields)  # type: ignore[arg-type]


def assistant(text: str, **fields: object) -> Message:
    return Message("assistant", text, **fields)  # type: ignore[arg-type]


def said(*messages: Message) -> str:
    return turns(messages)[-1][1]


def test_a_turn_is_told_by_its_speaker() -> None:
    assert [role for role, _ in turns([user("a"), assistant("b"), user("c")])] == ["user", "assistant", "user"]
    assert turns([]) == []
    assert said(user("a")) != said(assistant("a"))


def test_every_turn_counts_what_was_said_before() -> None:
    assert said(user("a"), assistant("b")) != said(user("x"), assistant("b"))
    long = turns([user("a"), assistant("b"), user("c"), assistant("d")])
    assert turns([user("a"), assistant("b")]) == long[:2]


def test_white_space_and_the_cut_between_messages_do_not_count() -> None:
    assert said(user("a"), assistant("one\n\ntwo")) == said(user(" a\r\n"), assistant("one"), assistant("two "))
    assert said(user("ab")) != said(user("a"), assistant("b"))


def test_what_tools_did_does_not_count() -> None:
    plain = said(user("a"), assistant("Looking. Done."))
    assert plain == said(
        user("a"), assistant("Looking."), assistant("[Called ls]", tool=True), user("x", tool=True), assistant("Done.")
    )


def test_images_count() -> None:
    one, other = Image("image/png", "AAAA"), Image("image/png", "BBBB")
    assert len({said(user("a")), said(user("a", images=(one,))), said(user("a", images=(other,)))}) == 3


def test_half_a_character_is_no_error() -> None:
    assert said(user("\ud83d")) != said(user("\ud83e"))


roles, texts = st.sampled_from(["user", "assistant"]), st.text("ab\0 ", max_size=3)
messages = st.lists(st.builds(Message, roles, texts), max_size=6)


@given(messages, messages)
def test_two_histories_are_the_same_only_when_the_same_was_said(one: list[Message], other: list[Message]) -> None:
    def plain(history: list[Message]) -> list[tuple[str, str]]:
        joined: list[tuple[str, str]] = []
        for message in history:
            text = "".join(message.text.split())
            if joined and joined[-1][0] == message.role:
                joined[-1] = (message.role, joined[-1][1] + text)
            else:
                joined.append((message.role, text))
        return joined

    assert (turns(one) == turns(other)) == (plain(one) == plain(other))


@given(st.lists(st.text("ab:1", max_size=4), max_size=3), st.lists(st.text("ab:1", max_size=4), max_size=3))
def test_a_digest_is_of_its_parts(one: list[str], other: list[str]) -> None:
    assert (digest(*one) == digest(*other)) == (one == other)
