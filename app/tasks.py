"""Tasks: the small chores that a chat program has done by a model beside its chats. Which requests are tasks, and
what they are answered where tasks are turned off. Pure.

The names, the prompts and what becomes of an answer: seen in the source of Open WebUI 0.12.4 (`constants.py`,
`config.py`, `routers/tasks.py`, `utils/middleware.py`).
"""

import re

import msgspec

from core.run import RunRequest

HEADER = "X-OpenWebUI-Task"
"""Names the task, where the connection's header template says so; empty with a question, and the template itself
(`{{TASK}}`) from an Open WebUI that does not know it."""

_NAME = re.compile(r"[\w.-]+", re.ASCII)

MERGED_ANSWER = "moa_response_generation"
"""Open WebUI calls this a task, too: several models' answers made into one. But it is an answer for the user."""

TITLE, TAGS, FOLLOW_UPS = "title_generation", "tags_generation", "follow_up_generation"
QUERIES, AUTOCOMPLETE, IMAGE_PROMPT = "query_generation", "autocomplete_generation", "image_prompt_generation"
EMOJI, TOOL_CHOICE = "emoji_generation", "function_calling"
COMPACTION, MEMORIES, OTHER = "context_compaction", "memory_review", "other"

_HARMLESS = {
    TAGS: '{"tags":[]}',
    FOLLOW_UPS: '{"follow_ups":[]}',
    AUTOCOMPLETE: '{"text":""}',
    TOOL_CHOICE: '{"tool_calls":[]}',
    MEMORIES: '{"operations":[]}',
}
"""What says that there is nothing; of the tasks that are not here, an empty text does: then Open WebUI takes the
user's own words for a picture's prompt, no emoji, and its own summary of a long chat."""

_OPENING = "### Task:"
_QUOTED_CHAT = re.compile("<chat_history>|### Messages Being Compacted:")
_DOCUMENTS = "<context>"
"""What Open WebUI found in the user's files: its prompt for that has the same opening, but is a question."""

_KEYS = {
    "title": TITLE,
    "tags": TAGS,
    "follow_ups": FOLLOW_UPS,
    "queries": QUERIES,
    "text": AUTOCOMPLETE,
    "prompt": IMAGE_PROMPT,
}
"""The key of the JSON that a prompt asks for."""

_WANTED = re.compile(rf'"({"|".join(_KEYS)})"\s*:')
_EMOJI_OPENING = "Your task is to reflect the speaker's likely facial expression"
_TOOL_CHOICE_OPENING = re.compile(r"(?sm)^Available Tools: .*^Your task is to choose and return the correct tool")
_MEMORIES_OPENING = re.compile(r"(?m)^You are Open WebUI's private memory reviewer\.")

_CHAT = re.compile(r"<chat_history>\n?(.*)</chat_history>", re.S)
_TURN = re.compile(r"^(USER|ASSISTANT|SYSTEM|TOOL): ", re.M)

TITLE_CHARACTERS = 40
QUERY_CHARACTERS = 200


def recognise(header: str, request: RunRequest, *, streams: bool, has_tools: bool) -> str | None:
    """The name of the task that this request is, or None for a question: by its header, else by its shape.

    In doubt it is a question: an agent run too many costs less than an answer that never comes.
    """
    if _NAME.fullmatch(named := header.strip()):
        return None if named == MERGED_ANSWER else named
    if streams or has_tools or len(request.messages) != 1 or request.messages[0].images:
        return None
    return _by_prompt(request.messages[-1].text) or _by_system_text(request.system)


def _by_system_text(system: str) -> str | None:
    """Open WebUI puts the system text that a user has given to a model in front of its own, and into every task."""
    if _MEMORIES_OPENING.search(system):
        return MEMORIES
    return TOOL_CHOICE if _TOOL_CHOICE_OPENING.search(system) else None


def _by_prompt(prompt: str) -> str | None:
    if prompt.startswith(_EMOJI_OPENING):
        return EMOJI
    quoted = _QUOTED_CHAT.search(prompt)
    if quoted is None or not prompt.startswith(_OPENING):
        return None
    instructions = prompt[: quoted.start()]
    if _DOCUMENTS in instructions:
        return None
    if not quoted.group().startswith("<"):
        return COMPACTION
    wanted = _WANTED.search(instructions)
    return _KEYS[wanted[1]] if wanted else OTHER


def plain_answer(task: str, request: RunRequest) -> str:
    """An answer that no model had to be asked for, and that does no harm to the chat."""
    if task == TITLE:
        return _json(title=_shortened(next(iter(_questions(request.messages[-1].text)), ""), TITLE_CHARACTERS))
    if task == QUERIES:
        return _json(queries=_queries(request.messages[-1].text))
    return _HARMLESS.get(task, "")


def _json(**fields: object) -> str:
    return msgspec.json.encode(fields).decode()


def _queries(prompt: str) -> list[str]:
    """The user's last question: with no query at all, Open WebUI would not search the web that it was asked to
    search. Without braces, because it looks for the last one to find the JSON."""
    asked = re.sub("[{}]", " ", next(reversed(_questions(prompt)), ""))
    return [query] if (query := _shortened(asked, QUERY_CHARACTERS)) else []


def _questions(prompt: str) -> list[str]:
    """What the user said in the chat that a prompt quotes, as `USER: …` beside `ASSISTANT: …`."""
    if (chat := _CHAT.search(prompt)) is None:
        return []
    roles_and_texts = _TURN.split(chat[1])[1:]
    return [
        text.strip() for role, text in zip(roles_and_texts[::2], roles_and_texts[1::2], strict=True) if role == "USER"
    ]


def _shortened(text: str, characters: int) -> str:
    """The first line's first words, as many as fit."""
    line = " ".join(next(iter(text.strip().splitlines()), "").split())
    if len(line) <= characters:
        return line
    whole_words = line[: characters + 1].rpartition(" ")[0]
    return f"{whole_words or line[:characters]} …"
