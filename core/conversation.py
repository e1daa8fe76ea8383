"""A conversation is a tree whose nodes are completed runs. Where a request belongs in it, and what was said. Pure."""

import hashlib
from collections.abc import Iterable

import msgspec

from core.run import Message


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What a client tells of where its request comes from; every id is the client's own, and may be missing.

    `user`: whose it is, of those who share a key. `message`: the answer that is asked for. `parent`: the
    answer that the question follows.
    """

    user: str = ""
    chat: str = ""
    message: str = ""
    parent: str = ""


def turns(messages: Iterable[Message]) -> list[tuple[str, str]]:
    """Who spoke, turn by turn, each with a digest of all that was said up to its end.

    Neighbours of one role are one turn, and white space does not count: clients cut and trim what they keep.
    What tools did is left out: clients reshape it.
    """
    found: list[tuple[str, str]] = []
    before, role, said = b"", "", hashlib.sha256()
    for message in messages:
        if message.tool:
            continue
        if message.role != role:
            before = bytes.fromhex(found[-1][1]) if found else b""
            role, said = message.role, hashlib.sha256()
            found.append((role, ""))
        said.update("".join(message.text.split()).encode("utf-8", "surrogatepass"))
        for image in message.images:
            said.update(digest(image.data, image.url).encode())
        found[-1] = (role, hashlib.sha256(before + role.encode() + said.digest()).hexdigest())
    return found


def digest(*parts: str) -> str:
    """One name for several texts, of which none can pass for its neighbour: 64 hex digits."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        whole.update(b"%d:" % len(data) + data)
    return whole.hexdigest()
