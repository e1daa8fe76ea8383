"""The bars: what each figure should be, as data, and whether it was. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.figures import Figure, Growth, ratio

FLAT = 1.25
"""A cost per unit is flat when it grows by no more than this between the ends of its scale."""

Quantity = Literal["value", "p99", "over", "ahead", "times"]
"""`value` and `p99` are the figure's own; `over` is how far it is above the other figure, `ahead` how many times the
other figure it could be had in, `times` how many times the other figure it is. All but `p99` are of medians."""


@dataclass(frozen=True)
class Bar:
    """One promise about one figure; `bound` is the most, for `ahead` and for rates the least."""

    part: str
    figure: str
    quantity: Quantity
    bound: float
    text: str
    other: str = ""
    at_least: bool = False


@dataclass(frozen=True)
class Verdict:
    """What was found of a bar; None where the figures for it were not measured."""

    bar: Bar
    found: float | None

    @property
    def met(self) -> bool | None:
        if self.found is None:
            return None
        return self.found >= self.bar.bound if self.bar.at_least else self.found <= self.bar.bound


def _ahead(scenario: str, of: str, least: float) -> Bar:
    return Bar(
        "first_content",
        f"{scenario}: Heartline",
        "ahead",
        least,
        f"at least {least:g}× ahead of {of}" if least > 1 else f"ahead of {of}",
        other=f"{scenario.replace(', warm', '')}: {of}",
        at_least=True,
    )


PROXY, GATE = "claude-max-api-proxy", "claude-code-openai"

BARS = (
    Bar(
        *("first_content", "new chat, warm: Heartline", "over", 25),
        "at most 25 ms over the bare warm CLI",
        other="new chat, warm: bare CLI",
    ),
    _ahead("new chat, warm", PROXY, 4),
    _ahead("new chat, warm", GATE, 4),
    Bar(
        *("first_content", "new chat, cold: Heartline", "over", 30),
        "at most 30 ms over the bare CLI",
        other="new chat, cold: bare CLI",
    ),
    _ahead("next turn, warm", GATE, 1),
    _ahead("12 new chats at once, warm", PROXY, 5),
    _ahead("12 new chats at once, warm", GATE, 5),
    Bar("latency", "50 runs: Heartline behind Caddy", "value", 1.5, "p50 at most 1.5 ms"),
    Bar("latency", "50 runs: Heartline behind Caddy", "p99", 10, "p99 at most 10 ms"),
    Bar("latency", "50 runs: lost", "value", 0, "none lost"),
    Bar("latency", "200 runs: lost", "value", 0, "none lost"),
    Bar("watchers", "memory of a watcher, 1 run × 5000: Heartline", "value", 25, "at most 25 KB"),
    Bar("watchers", "memory of a watcher, 5000 runs × 1: Heartline", "value", 25, "at most 25 KB"),
    Bar(
        *("watchers", "delivered at 10000/s, 1 run × 5000: Heartline", "value", 9_900),
        "10,000 events/s",
        at_least=True,
    ),
    Bar(
        *("watchers", "delivered at 10000/s, 5000 runs × 1: Heartline", "value", 9_900),
        "10,000 events/s",
        at_least=True,
    ),
    Bar("watchers", "lost, 1 run × 5000", "value", 0, "none lost"),
    Bar("watchers", "lost, 5000 runs × 1", "value", 0, "none lost"),
    Bar(
        *("append", "one run: Heartline's writer", "times", 1.3),
        "at most 1.3× redis-benchmark with the same script",
        other="one run: redis-benchmark, same script",
    ),
    Bar("idle", "1000 silent watchers: the stack", "value", 3, "under 3 % of a core"),
)


def judge(figures: Sequence[Figure], bars: Sequence[Bar] = BARS) -> list[Verdict]:
    """Every bar with what was found of it."""
    known = {(figure.part, figure.name): figure for figure in figures}
    return [
        Verdict(bar, _found(bar, known.get((bar.part, bar.figure)), known.get((bar.part, bar.other)))) for bar in bars
    ]


def is_flat(growth: Growth) -> bool:
    return growth.between_the_ends <= FLAT


def _found(bar: Bar, figure: Figure | None, other: Figure | None) -> float | None:
    if figure is None or (bar.other and other is None):
        return None
    if other is None:
        return figure.p99 if bar.quantity == "p99" else figure.p50
    match bar.quantity:
        case "over":
            return figure.p50 - other.p50
        case "ahead":
            return ratio(other.p50, figure.p50)
        case _:
            return ratio(figure.p50, other.p50)
