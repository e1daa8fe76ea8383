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

    def add(self, setup: Setup, weight: float, now: float) -> None:
        """There has been a request for this kind."""
        self._asked[setup] = (self._faded(setup, now) + weight, now)
        while len(self._asked) > MAX_KINDS:
            del self._asked[min(self._asked, key=lambda known: self._faded(known, now))]

    def shares(self, count: int, now: float) -> list[Setup]:
        """Which `count` should wait, the most wanted first: each next one goes to the kind with the most weight for
        each that it would have then (the method of D'Hondt)."""
        weights = {
            setup: self._prior.get(setup, 0.0) + self._faded(setup, now) for setup in {**self._prior, **self._asked}
        }
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
