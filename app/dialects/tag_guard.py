"""Text that Open WebUI shows as it is, never as one of its own cards.

Its page makes a card of a `<details>` whose type is one of its own, and its server takes two more tags for
commands (`utils/middleware.py` and the page's Markdown extension, 0.12.4). An invisible character in the word
that makes them dangerous leaves words to read. Everything else, ordinary `<details>` too, stays as it is.
"""

import re

INVISIBLE = "\u200b"
"""ZERO WIDTH SPACE."""

_TOKEN = re.compile(
    r"(?P<opened><details[\s\ufeff])"
    r'|(?P<typed>type="(?:tool_calls|reasoning|code_interpreter)")'
    r"|(?P<command><code_interpreter|<\|begin_of_solution\|>)"
    r"|(?P<closed>>)"
)
_LONGEST = len('type="code_interpreter"')


class TagGuard:
    """Takes one text, piece by piece; a dangerous tag may lie across pieces."""

    def __init__(self) -> None:
        self._end = ""  # of what has passed, as long as a token can be that is not yet complete
        self._in_details = False

    def passed(self, piece: str) -> str:
        """The piece, with an invisible character in front of the last one of each dangerous word."""
        before = len(self._end)
        seen = self._end + piece
        self._end = seen[1 - _LONGEST :]
        breaks = [token.end() - 1 - before for token in _TOKEN.finditer(seen) if self._is_new(token, before)]
        for place in reversed(breaks):
            piece = f"{piece[:place]}{INVISIBLE}{piece[place:]}"
        return piece

    def _is_new(self, token: re.Match[str], before: int) -> bool:
        """Whether this token is completed by the new piece, and dangerous."""
        if token.end() <= before:
            return False
        match token.lastgroup:
            case "opened":
                self._in_details = True
            case "closed":
                self._in_details = False
            case "typed":
                return self._in_details
        return token.lastgroup == "command"
