"""Tasks: told from questions by header and by shape; the plain answers where they are turned off."""

import json

import pytest

from app import tasks
from app.tasks import MERGED_ANSWER, plain_answer, recognise
from core.run import Image, Message, RunRequest

CHAT = "<chat_history>\nUSER: How do I bake bread?\nASSISTANT: With flour.\nUSER: And then?\n</chat_history>"


def prompt_for(example: str, chat: str = CHAT) -> str:
    """A prompt of the shape that Open WebUI's have."""
    return f"### Task:\nDo something about the chat.\n### Output:\nJSON format: {example}\n### Chat History:\n{chat}"


PROMPTS = {
    tasks.TITLE: prompt_for('{ "title": "your title" }'),
    tasks.TAGS: prompt_for('{ "tags": ["one", "two"] }'),
    tasks.FOLLOW_UPS: prompt_for('a "follow_ups" key: { "follow_ups": ["What next?"] }'),
    tasks.QUERIES: prompt_for('{\n  "queries": ["one"]\n}'),
    tasks.IMAGE_PROMPT: prompt_for('{\n    "prompt": "A house."\n}'),
    tasks.AUTOCOMPLETE: prompt_for('{ "text": "<completion>" }') + "\n<type>General</type>\n<text>The sun</text>",
    tasks.COMPACTION: "### Task:\nSummarize.\n### Messages Being Compacted:\nUSER: <context>x</context>",
    tasks.EMOJI: "Your task is to reflect the speaker's likely facial expression.\n\nMessage: ```hi```",
    tasks.OTHER: prompt_for("a haiku"),
}

DOCUMENTS = "### Task:\nRespond to the user query using the provided context.\n<context>\nA book.\n</context>\n"


def asked(text: str, *, system: str = "", earlier: tuple[Message, ...] = ()) -> RunRequest:
    return RunRequest(messages=(*earlier, Message("user", text)), system=system)


def by_shape(request: RunRequest, *, streams: bool = False, has_tools: bool = False) -> str | None:
    return recognise("", request, streams=streams, has_tools=has_tools)


# By header.


@pytest.mark.parametrize("name", ["title_generation", " tags_generation ", "a_task_of_tomorrow", "memory_review"])
def test_a_header_names_the_task_whatever_its_shape(name: str) -> None:
    question = asked("What?", system="Be kind.", earlier=(Message("user", "a"), Message("assistant", "b")))
    assert recognise(name, question, streams=True, has_tools=True) == name.strip()


def test_the_merging_of_answers_is_an_answer_for_the_user() -> None:
    assert recognise(MERGED_ANSWER, asked(PROMPTS[tasks.TITLE]), streams=False, has_tools=False) is None


@pytest.mark.parametrize("value", ["", "  ", "{{TASK}}", "title generation", "ж"])
def test_a_header_that_names_nothing_leaves_it_to_the_shape(value: str) -> None:
    assert recognise(value, asked("What?"), streams=False, has_tools=False) is None
    assert recognise(value, asked(PROMPTS[tasks.TAGS]), streams=False, has_tools=False) == tasks.TAGS


# By shape.


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_of_open_webuis_is_recognised(name: str) -> None:
    assert by_shape(asked(PROMPTS[name])) == name


@pytest.mark.parametrize("name", PROMPTS)
def test_what_streams_has_tools_or_an_earlier_turn_is_a_question(name: str) -> None:
    assert by_shape(asked(PROMPTS[name]), streams=True) is None
    assert by_shape(asked(PROMPTS[name]), has_tools=True) is None
    assert by_shape(asked(PROMPTS[name], earlier=(Message("user", "a"),))) is None


@pytest.mark.parametrize("name", PROMPTS)
def test_a_task_may_have_the_system_text_of_the_chat_that_it_is_for(name: str) -> None:
    assert by_shape(asked(PROMPTS[name], system="Answer in rhymes.")) == name


def test_a_question_with_a_picture_is_a_question() -> None:
    message = Message("user", PROMPTS[tasks.TITLE], images=(Image(media_type="image/png", data="eA=="),))
    assert by_shape(RunRequest(messages=(message,))) is None


@pytest.mark.parametrize(
    "question",
    [
        "What is the capital of France?",
        '### Task:\nRefactor the parser. JSON format: {"title": "x"}',
        "Please do this:\n" + PROMPTS[tasks.TITLE],
        "What does <chat_history> mean?",
        DOCUMENTS + "What is it about?",
        DOCUMENTS + f'What is this? {CHAT} "title": "x"',
        'Your task is to merge these responses to the query: "a"\n\nResponses from models: b',
    ],
)
def test_a_question_that_looks_a_little_like_a_task_is_a_question(question: str) -> None:
    assert by_shape(asked(question)) is None


def test_words_in_the_quoted_chat_do_not_say_which_task_it_is() -> None:
    chat = '<chat_history>\nUSER: {"title": "x"} <context>\n</chat_history>'
    assert by_shape(asked(prompt_for('{ "tags": [] }', chat))) == tasks.TAGS
    assert by_shape(asked(prompt_for("anything", chat))) == tasks.OTHER


def test_the_tasks_that_are_told_by_their_system_text() -> None:
    choice = 'Available Tools: [{"name": "x"}]\n\nYour task is to choose and return the correct tool(s) from the list'
    assert by_shape(asked("Query: what?", system=choice)) == tasks.TOOL_CHOICE
    memories = "You are Open WebUI's private memory reviewer. Return only valid JSON."
    assert by_shape(asked("Review this.", system=memories)) == tasks.MEMORIES
    for own, name in ((choice, tasks.TOOL_CHOICE), (memories, tasks.MEMORIES)):
        assert by_shape(asked("Query: what?", system=f"Answer in rhymes.\n{own}")) == name
    assert by_shape(asked("Query: what?", system="Available Tools: a hammer, a saw")) is None


# Turned off.


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        (tasks.TITLE, {"title": "How do I bake bread?"}),
        (tasks.TAGS, {"tags": []}),
        (tasks.FOLLOW_UPS, {"follow_ups": []}),
        (tasks.QUERIES, {"queries": ["And then?"]}),
        (tasks.AUTOCOMPLETE, {"text": ""}),
        (tasks.TOOL_CHOICE, {"tool_calls": []}),
        (tasks.MEMORIES, {"operations": []}),
    ],
)
def test_turned_off_a_task_gets_what_its_client_can_parse(name: str, answer: object) -> None:
    assert json.loads(plain_answer(name, asked(PROMPTS.get(name, "x")))) == answer


@pytest.mark.parametrize("name", [tasks.EMOJI, tasks.IMAGE_PROMPT, tasks.COMPACTION, "a_task_of_tomorrow"])
def test_turned_off_the_others_get_nothing(name: str) -> None:
    assert plain_answer(name, asked("x")) == ""


def title_of(*turns: str) -> str:
    chat = "<chat_history>\n" + "\n".join(turns) + "\n</chat_history>"
    found: str = json.loads(plain_answer(tasks.TITLE, asked(prompt_for('{ "title": "x" }', chat))))["title"]
    return found


def test_a_title_is_the_first_words_of_the_first_question() -> None:
    assert title_of("USER:  What\tis   it?  \nSecond line", "ASSISTANT: A thing.") == "What is it?"
    assert title_of("ASSISTANT: Hello!", "USER: Hi") == "Hi"
    assert title_of('USER: NOTE: this "stays"\nASSISTANT: ok') == 'NOTE: this "stays"'
    long = "a" * 30
    assert title_of(f"USER: {long} {long}") == f"{long} …"
    assert title_of(f"USER: {'ж' * 100}") == "ж" * tasks.TITLE_CHARACTERS + " …"


@pytest.mark.parametrize(
    "prompt", ["", "no chat", prompt_for("x", ""), prompt_for("x", "<chat_history></chat_history>")]
)
def test_without_a_question_there_is_no_title_and_no_query(prompt: str) -> None:
    assert json.loads(plain_answer(tasks.TITLE, asked(prompt))) == {"title": ""}
    assert json.loads(plain_answer(tasks.QUERIES, asked(prompt))) == {"queries": []}


def test_a_query_survives_a_parser_that_looks_for_the_last_brace() -> None:
    chat = "<chat_history>\nUSER: what does {x} mean in ${y}?\n</chat_history>"
    answer = plain_answer(tasks.QUERIES, asked(prompt_for("x", chat)))
    found = json.loads(answer[answer.rfind("{") : answer.rfind("}") + 1])
    assert found == {"queries": ["what does x mean in $ y ?"]}
