"""Two runs of the suite, side by side. Pure.

Machines differ, and so does one machine's mood: no time is compared with a time, but each figure's ratio to its
limit with the same ratio then, and the growth of each cost with its growth then.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.figures import Figure, Growth, limit_of, ratio

MOVED = 1.25
"""A ratio has moved when it is by more than this factor another."""


@dataclass(frozen=True)
class Change:
    """One ratio, then and now."""

    part: str
    name: str
    then: float
    now: float

    @property
    def factor(self) -> float:
        """Above 1: further from the limit than then."""
        return ratio(self.now, self.then)

    @property
    def moved(self) -> bool:
        return not 1 / MOVED <= self.factor <= MOVED


def changes(now: Sequence[Figure | Growth], then: Sequence[Figure | Growth]) -> list[Change]:
    """What both runs know a ratio of, in the order of `now`."""
    before = dict(_ratios(then))
    return [Change(*key, before[key], value) for key, value in _ratios(now) if key in before]


def _ratios(found: Sequence[Figure | Growth]) -> Iterable[tuple[tuple[str, str], float]]:
    figures = [one for one in found if isinstance(one, Figure)]
    for one in found:
        if isinstance(one, Growth):
            yield (one.part, f"growth: {one.name}"), one.between_the_ends
        elif (limit := limit_of(one, figures)) is not None:
            yield (one.part, one.name), ratio(one.p50, limit.p50)
