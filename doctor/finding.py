"""A finding: what one check has found, in a sentence, and the fix where something is wrong."""

import enum

import msgspec


class Grade(enum.StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


class Finding(msgspec.Struct, frozen=True):
    """`facts` are numbers for machines, seconds and bytes. No field ever holds a secret."""

    check: str
    grade: Grade
    said: str
    fix: str = ""
    facts: dict[str, float | str] = {}


def ok(check: str, said: str, **facts: float | str) -> Finding:
    return Finding(check, Grade.OK, said, facts=facts)


def warning(check: str, said: str, fix: str, **facts: float | str) -> Finding:
    return Finding(check, Grade.WARNING, said, fix, facts)


def failed(check: str, said: str, fix: str, **facts: float | str) -> Finding:
    return Finding(check, Grade.FAILED, said, fix, facts)


def skipped(check: str, why: str) -> Finding:
    return Finding(check, Grade.SKIPPED, why)
