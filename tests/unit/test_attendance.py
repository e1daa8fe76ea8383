"""Attendance without Redis: who counts as gone, and when."""

from collections.abc import Iterable
from typing import Any

import gevent

from app.attendance import Attendance

GRACE_SECONDS = 0.05


class Word:
    """Stands for presence and stopper: keeps what it is told."""

    def __init__(self) -> None:
        self.present: set[str] = set()
        self.cancelled: list[str] = []

    def enter(self, run_ids: Iterable[str], replica: str) -> None:
        self.present.update(run_ids)

    def leave(self, run_id: str, replica: str) -> int:
        self.present.discard(run_id)
        return 0

    def cancel(self, run_id: str, reason: str) -> None:
        self.cancelled.append(run_id)


def attendance(word: Any) -> Attendance:
    return Attendance(word, word, GRACE_SECONDS)


def test_the_last_client_that_leaves_ends_the_run_after_the_grace() -> None:
    word = Word()
    here = attendance(word)
    here.enter("run")
    here.enter("run")
    here.leave("run")
    gevent.sleep(2 * GRACE_SECONDS)
    assert word.cancelled == []
    here.leave("run")
    assert word.cancelled == []
    gevent.sleep(2 * GRACE_SECONDS)
    assert word.cancelled == ["run"]
    assert word.present == set()


def test_each_leaving_has_a_grace_of_its_own() -> None:
    word = Word()
    here = attendance(word)
    for _ in range(6):  # for longer than the grace in all, but never that long away
        here.enter("run")
        here.leave("run")
        gevent.sleep(0.5 * GRACE_SECONDS)
    assert word.cancelled == []
    gevent.sleep(2 * GRACE_SECONDS)
    assert word.cancelled == ["run"]


def test_a_replica_that_closes_takes_all_its_words_back() -> None:
    word = Word()
    here = attendance(word)
    here.enter("one")
    here.enter("two")
    here.close()
    assert word.present == set()


def test_what_has_just_been_said_is_not_said_again() -> None:
    word = Word()
    here = attendance(word)
    here.enter("run", announced=True)
    assert word.present == set()
    here.leave("run")
    gevent.sleep(2 * GRACE_SECONDS)
    assert word.cancelled == ["run"]
