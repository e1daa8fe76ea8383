"""What a measurement finds: figures, each with the figure that limits it, and how a cost grows. Pure."""

from collections.abc import Sequence

import msgspec


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured thing, of the part of the suite that measured it.

    `limit` names the figure of the same part that this one stands beside, if any. A single value is its own
    percentiles.
    """

    part: str
    name: str
    unit: str
    samples: int
    p50: float
    p99: float
    worst: float
    limit: str = ""


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """What one unit of something costs at several scales, as (scale, cost)."""

    part: str
    name: str
    unit: str
    costs: tuple[tuple[int, float], ...]

    @property
    def between_the_ends(self) -> float:
        """The cost per unit at the largest scale, as a multiple of that at the smallest: 1 is flat."""
        return ratio(self.costs[-1][1], self.costs[0][1])


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """What could not be measured, and why."""

    part: str
    what: str
    reason: str


Found = Figure | Growth | Skipped


class Part:
    """Makes what one part of the suite finds, under that part's name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.found: list[Found] = []

    def times(self, name: str, seconds: Sequence[float], limit: str = "") -> None:
        """A figure in milliseconds, of times in seconds."""
        ordered = sorted(1000 * value for value in seconds)
        middle, late = percentile(ordered, 50), percentile(ordered, 99)
        self._add(name, "ms", len(ordered), middle, late, ordered[-1], limit)

    def value(self, name: str, unit: str, value: float, limit: str = "") -> None:
        """A figure of a single value."""
        self._add(name, unit, 1, value, value, value, limit)

    def values(self, name: str, unit: str, values: Sequence[float], limit: str = "") -> None:
        """A figure of several values of the same thing."""
        ordered = sorted(values)
        self._add(name, unit, len(ordered), percentile(ordered, 50), percentile(ordered, 99), ordered[-1], limit)

    def growth(self, name: str, unit: str, costs: Sequence[tuple[int, float]]) -> None:
        self.found.append(Growth(part=self.name, name=name, unit=unit, costs=tuple(costs)))

    def skip(self, what: str, reason: str) -> None:
        self.found.append(Skipped(part=self.name, what=what, reason=reason))

    def _add(self, name: str, unit: str, samples: int, p50: float, p99: float, worst: float, limit: str) -> None:
        figure = Figure(
            part=self.name, name=name, unit=unit, samples=samples, p50=p50, p99=p99, worst=worst, limit=limit
        )
        self.found.append(figure)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of ascending values: the smallest that so many percent do not exceed."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def ratio(value: float, base: float) -> float:
    """`value` as a multiple of `base`; of nothing, only nothing is a multiple."""
    if base:
        return value / base
    return float("inf") if value else 1.0


def limit_of(figure: Figure, figures: Sequence[Figure]) -> Figure | None:
    """The figure that limits this one, if it was measured."""
    known = (other for other in figures if (other.part, other.name) == (figure.part, figure.limit))
    return next(known, None)
