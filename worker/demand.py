"""What kinds of CLI are asked for: the last minutes count most. Pure: time is passed in."""

from collections import Counter
from collections.abc import Iterable

from worker.starter import Setup

HALF_LIFE_SECONDS = 600.0
PRIOR = 0.5
"""What a kind counts that has not been asked for, and may be: half a request of just now."""

MAX_KINDS = 64
"""So many kinds are remembered: a client can make up a new one with each request."""


class Demand:
    """Counts requests by kind, and says which kinds deserve to wait ahead of the next ones."""

    def __init__(self, prior: Iterable[tuple[Setup, float]]) -> None:
        """`prior`: kinds that may be asked for, and how much a request of theirs weighs."""
        self._prior = {setup: PRIOR * weight for setup, weight in prior}
        self._asked: dict[Setup, tuple[float, float]] = {}  # the weight, and when it was that
        self._first: dict[Setup, float] = {}  # what the first request weighed of a kind that nobody expected

    def add(self, setup: Setup, weight: float, now: float) -> None:
        """There has been a request for this kind."""
        if setup not in self._prior:
            self._first.setdefault(setup, weight)
        self._asked[setup] = (self._faded(setup, now) + weight, now)
        while len(self._asked) > MAX_KINDS:
            self._asked.pop(least := min(self._asked, key=lambda known: self._faded(known, now)))
            self._first.pop(least, None)

    def shares(self, count: int, now: float) -> list[Setup]:
        """Which `count` should wait, the most wanted first: each next one goes to the kind with the most weight for
        each that it would have then (the method of D'Hondt).

        Of a kind that nobody expected, the first request does not count: some system prompts never come again.
        """
        kinds = {**self._prior, **self._asked}
        every = {
            kind: self._prior.get(kind, 0.0) + self._faded(kind, now) - self._first.get(kind, 0.0) for kind in kinds
        }
        weights = {kind: weight for kind, weight in every.items() if weight > 0}
        given: Counter[Setup] = Counter()
        chosen: list[Setup] = []
        while weights and len(chosen) < count:
            next_one = max(weights, key=lambda setup: (weights[setup] / (given[setup] + 1), -given[setup]))
            given[next_one] += 1
            chosen.append(next_one)
        return chosen

    def _faded(self, setup: Setup, now: float) -> float:
        weight, then = self._asked.get(setup, (0.0, now))
        faded: float = weight * 0.5 ** ((now - then) / HALF_LIFE_SECONDS)
        return faded
