"""The answer file: some agents write their answer to a file rather than say it.

Each run is given a path of its own, in a folder made for it: whatever is found there, this run wrote.
"""

import codecs
import errno
import os
import stat
from pathlib import Path, PurePosixPath

INSTRUCTION = (
    "Write your final answer, complete and in Markdown, to the file {answer_file} (relative to your working "
    "directory). Only what is in that file reaches the user."
)


class AnswerFile:
    """One run's answer file below its workspace."""

    def __init__(self, workspace: Path, declared: str, run_id: str) -> None:
        """`declared` is the profile's path, such as `output/response.md`; the run's id becomes a folder in it.

        Raises `OSError`, also when an earlier run has put a link in the way.
        """
        path = PurePosixPath(declared)
        self.relative = path.parent / run_id / path.name
        self._workspace = workspace
        self._path = workspace / self.relative
        if self._path.parent.resolve() != workspace.resolve() / self.relative.parent:
            raise OSError(errno.ELOOP, f"the folder of the answer file, {path.parent}, is a link")
        self._path.parent.mkdir(mode=0o700, parents=True)

    def instruct(self, system_prompt: str) -> str:
        """The system prompt with the path in the place of `{answer_file}`, or a sentence of our own at its end."""
        if "{answer_file}" not in system_prompt:
            system_prompt = f"{system_prompt}\n\n{INSTRUCTION}".strip()
        return system_prompt.replace("{answer_file}", str(self.relative))

    def read(self, max_bytes: int) -> str | None:
        """What the run wrote, at most `max_bytes` of it; None when it wrote nothing.

        A link counts as nothing: it could lead to a file that is not this run's.
        """
        if self._path.parent.resolve() != self._workspace.resolve() / self.relative.parent:
            return None
        try:
            with open(self._path, "rb", opener=_follow_no_link) as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                    return None
                data = file.read(max_bytes)
        except OSError:  # nothing is there, or a link, or a folder
            return None
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(data, final=len(data) < max_bytes)  # a cut may leave half a character: not shown
        return text if text.strip() else None


def _follow_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
