"""Figures: percentiles of samples, and a table of them. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One measured thing. `limit` names the row that it is compared with, if any; times in milliseconds."""

    name: str
    samples: int
    p50: float
    p99: float
    worst: float
    limit: str = ""

    @classmethod
    def of(cls, name: str, seconds: Sequence[float], limit: str = "") -> "Row":
        """A row of times in seconds."""
        ordered = sorted(1000 * value for value in seconds)
        return cls(name, len(ordered), percentile(ordered, 50), percentile(ordered, 99), ordered[-1], limit)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of ascending values."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def table(rows: Sequence[Row]) -> str:
    """The rows as text, each with its distance from its limit."""
    medians = {row.name: row.p50 for row in rows}
    lines = [f"{'':44} {'samples':>7} {'p50 ms':>9} {'p99 ms':>9} {'max ms':>9}  beside its limit"]
    for row in rows:
        beside = ""
        if row.limit in medians:
            beside = f"+{row.p50 - medians[row.limit]:.2f} ms, × {row.p50 / medians[row.limit]:.2f}"
        lines.append(f"{row.name:44} {row.samples:7d} {row.p50:9.3f} {row.p99:9.3f} {row.worst:9.3f}  {beside}")
    return "\n".join(lines)
