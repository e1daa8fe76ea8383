"""Which run a request goes on from: the one whose answer the client shows, and nobody else's."""

import msgspec
import pytest
from redis import Redis

from core.conversation import Origin
from core.nodes import Nodes
from core.run import Message, Place, Run, RunRequest, new_id

OPEN_WEBUI = Origin(user="u1", chat="c1", message="m2", parent="m1")


@pytest.fixture
def nodes(redis: "Redis") -> Nodes:
    return Nodes(redis, 1000)


def asked(*texts: str) -> RunRequest:
    """User and assistant in turn, the user first and last."""
    return RunRequest(messages=tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)))


def place(nodes: Nodes, request: RunRequest, origin: Origin = Origin(), **of: str) -> tuple[Place, str]:  # noqa: B008
    given = {"run_id": new_id(), "owner": "alice", "profile": "agent", **of}
    return nodes.place(given["run_id"], given["owner"], given["profile"], request, origin)


def answered(nodes: Nodes, answer: str, *texts: str, origin: Origin = Origin(), **of: str) -> Run:  # noqa: B008
    """A run that was asked `texts`, and has completed with `answer`."""
    request, run_id = asked(*texts), new_id()
    where, _ = place(nodes, request, origin, run_id=run_id, **of)
    run = Run(id=run_id, owner="alice", profile="agent", model="agent", created_at=1.0, place=where)
    nodes.file(run, request, answer)
    return run


def in_chat(message: str, parent: str = "", **changed: str) -> Origin:
    return msgspec.structs.replace(OPEN_WEBUI, message=message, parent=parent, **changed)


# With the client's ids.


def test_the_next_turn_goes_on_from_the_answer_that_it_follows(nodes: Nodes) -> None:
    first = answered(nodes, "Blue.", "Why?", origin=in_chat("m1"))
    found, why = place(nodes, asked("Why?", "Blue.", "And green?"), in_chat("m2", "m1"))
    assert (found.parent, why) == (first.id, "session")
    assert first.place is not None
    assert found.conversation == first.place.conversation


def test_a_regenerated_answer_goes_on_from_the_same_node_and_becomes_one_of_its_own(nodes: Nodes) -> None:
    first = answered(nodes, "Blue.", "Why?", origin=in_chat("m1"))
    second = answered(nodes, "Green.", "Why?", "Blue.", "And?", origin=in_chat("m2", "m1"))
    third = answered(nodes, "Green.", "Why?", "Blue.", "And?", origin=in_chat("m3", "m1"))
    assert second.place is not None
    assert third.place is not None
    assert second.place.parent == third.place.parent == first.id
    on = asked("Why?", "Blue.", "And?", "Green.", "So?")
    assert place(nodes, on, in_chat("m5", "m3"))[0].parent == third.id
    assert place(nodes, on, in_chat("m5", "m2"))[0].parent == second.id


def test_a_continued_answer_goes_on_from_itself_and_is_then_the_whole(nodes: Nodes) -> None:
    first = answered(nodes, "One, two,", "Count.", origin=in_chat("m1"))
    request = RunRequest(
        messages=(Message("user", "Count."), Message("assistant", "One, two,"), Message("user", "Go on.")),
        continues=True,
    )
    found, why = place(nodes, request, in_chat("m1"))
    assert (found.parent, why) == (first.id, "session")
    going_on = Run(id=new_id(), owner="alice", profile="agent", model="agent", created_at=1.0, place=found)
    nodes.file(going_on, request, " three.")
    after = asked("Count.", "One, two, three.", "Thanks.")
    assert place(nodes, after, in_chat("m2", "m1"))[0].parent == going_on.id


def test_an_answer_that_was_edited_is_not_what_the_session_holds(nodes: Nodes) -> None:
    answered(nodes, "Blue.", "Why?", origin=in_chat("m1"))
    found, why = place(nodes, asked("Why?", "Red.", "And?"), in_chat("m2", "m1"))
    assert (found.parent, why) == (None, "text_differs")
    found, why = place(nodes, asked("Why not?", "Blue.", "And?"), in_chat("m2", "m1"))
    assert (found.parent, why) == (None, "text_differs")


def test_what_was_never_completed_is_no_node_and_the_workspace_is_the_chats_all_the_same(nodes: Nodes) -> None:
    first = answered(nodes, "Blue.", "Why?", origin=in_chat("m1"))
    found, why = place(nodes, asked("Why?", "Blue.", "And?", "Half of an", "Well?"), in_chat("m4", "m3"))
    assert (found.parent, why) == (None, "no_node")
    assert first.place is not None
    assert found.conversation == first.place.conversation


@pytest.mark.parametrize(
    ("changed", "of"),
    [({"user": "u2"}, {}), ({"chat": "c2"}, {}), ({}, {"owner": "bob"}), ({}, {"profile": "chat"})],
)
def test_nobody_else_goes_on_from_it(nodes: Nodes, changed: dict[str, str], of: dict[str, str]) -> None:
    first = answered(nodes, "Blue.", "Why?", origin=in_chat("m1"))
    found, why = place(nodes, asked("Why?", "Blue.", "And?"), in_chat("m2", "m1", **changed), **of)
    assert (found.parent, why) == (None, "no_node")
    assert first.place is not None
    assert found.conversation != first.place.conversation


def test_a_chat_without_message_ids_is_found_by_what_was_said_in_it(nodes: Nodes) -> None:
    only_chat = Origin(user="u1", chat="c1")
    answered(nodes, "Blue.", "Why?", origin=only_chat)
    again = answered(nodes, "Blue.", "Why?", origin=only_chat)
    on = asked("Why?", "Blue.", "And?")
    assert place(nodes, on, only_chat)[0].parent == again.id
    assert place(nodes, on, Origin(user="u1", chat="c2"))[1] == "no_node"


# By what was said alone.


def test_a_client_without_ids_is_found_by_what_was_said(nodes: Nodes) -> None:
    first = answered(nodes, "It is blue.\n", "Why?")
    found, why = place(nodes, asked("Why?", "It is blue.", "And green?"))
    assert (found.parent, why) == (first.id, "session")
    assert first.place is not None
    assert found.conversation == first.place.conversation == first.id
    assert place(nodes, asked("Why?", "It is red.", "And green?"))[1] == "no_node"


def test_two_owners_or_users_never_share_one(nodes: Nodes) -> None:
    answered(nodes, "Blue.", "Why?", origin=Origin(user="u1"))
    on = asked("Why?", "Blue.", "And?")
    assert place(nodes, on, Origin(user="u2"))[1] == "no_node"
    assert place(nodes, on, Origin(user="u1"), owner="bob")[1] == "no_node"
    assert place(nodes, on, Origin(user="u1"), profile="chat")[1] == "no_node"
    assert place(nodes, on, Origin(user="u1"))[1] == "session"


def test_two_conversations_in_which_the_same_was_said_are_not_mixed_up(nodes: Nodes) -> None:
    answered(nodes, "Hello!", "Hi")
    other = answered(nodes, "Hello!", "Hi")
    found, why = place(nodes, asked("Hi", "Hello!", "Who are you?"), run_id=other.id)
    assert (found.parent, why) == (None, "no_node")


def test_filing_the_same_run_twice_is_no_second_conversation(nodes: Nodes) -> None:
    first = answered(nodes, "Hello!", "Hi")
    nodes.file(first, asked("Hi"), "Hello!")  # a retry, when the answer of Redis got lost
    assert place(nodes, asked("Hi", "Hello!", "Well?"))[0].parent == first.id


def test_a_stopped_answer_keeps_the_workspace_of_the_one_before(nodes: Nodes) -> None:
    first = answered(nodes, "Blue.", "Why?")
    found, why = place(nodes, asked("Why?", "Blue.", "And?", "Half of an", "Well?"))
    assert (found.parent, why) == (None, "no_node")
    assert first.place is not None
    assert found.conversation == first.place.conversation


def test_a_question_that_was_never_answered_belongs_to_the_next_one(nodes: Nodes) -> None:
    first = answered(nodes, "Blue.", "Why?")
    messages = (*asked("Why?", "Blue.", "And?").messages, Message("user", "Well?"))
    request = RunRequest(messages=messages)
    assert [message.text for message in request.prompt] == ["And?", "Well?"]
    assert place(nodes, request)[0].parent == first.id


def test_a_run_that_is_found_by_its_id_only_is_not_filed(nodes: Nodes, redis: "Redis") -> None:
    run = Run(id=new_id(), owner="alice", profile="a", model="a", created_at=1.0, place=Place(conversation=new_id()))
    nodes.file(run, asked("Hi"), "Hello!")
    assert redis.keys("heartline:node:*") == []


def test_a_node_is_forgotten_in_time(nodes: Nodes, redis: "Redis") -> None:
    answered(nodes, "Hello!", "Hi")
    (key,) = redis.keys("heartline:node:*")
    assert 0 < redis.ttl(key) <= 1000
