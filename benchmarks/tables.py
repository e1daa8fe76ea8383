"""A run of the suite as tables, for a terminal and as Markdown. Pure."""

from collections.abc import Sequence

from benchmarks.bars import FLAT, Verdict, is_flat, judge
from benchmarks.comparison import MOVED, Change
from benchmarks.figures import Figure, Found, Growth, Skipped, limit_of, ratio

Table = list[list[str]]
"""Rows of cells; the first is the head."""

MET = {True: "met", False: "**not met**", None: "not measured"}


def parts(found: Sequence[Found]) -> list[str]:
    """The names of the parts, in the order in which they were measured."""
    return list(dict.fromkeys(one.part for one in found))


def figures(part: str, found: Sequence[Found]) -> Table:
    mine = [one for one in found if isinstance(one, Figure) and one.part == part]
    rows = [["", "unit", "samples", "p50", "p99", "max", "beside its limit"]]
    for one in mine:
        limit = limit_of(one, mine)
        beside = f"× {number(ratio(one.p50, limit.p50))} of {limit.name}" if limit else ""
        values = [number(one.p50)] + ([number(one.p99), number(one.worst)] if one.samples > 1 else ["", ""])
        rows.append([one.name, one.unit, str(one.samples), *values, beside])
    return rows


def growth(found: Sequence[Found]) -> Table:
    rows = [["cost per unit", "unit", "1×", "2×", "4×", "4× : 1×", f"flat (≤ {FLAT:g})"]]
    for one in found:
        if isinstance(one, Growth):
            costs = [f"{number(cost)} (at {scale})" for scale, cost in one.costs]
            ends = number(one.between_the_ends)
            rows.append([f"{one.part}: {one.name}", one.unit, *costs, ends, "yes" if is_flat(one) else "**no**"])
    return rows


def bars(found: Sequence[Found]) -> Table:
    rows = [["bar", "figure", "found", ""]]
    verdicts = judge([one for one in found if isinstance(one, Figure)])
    rows += [[one.bar.text, f"{one.bar.part}: {one.bar.figure}", _shown(one), MET[one.met]] for one in verdicts]
    return rows


def skipped(found: Sequence[Found]) -> Table:
    rows = [["not measured", "reason"]]
    return rows + [[f"{one.part}: {one.what}", one.reason] for one in found if isinstance(one, Skipped)]


def moved(changes: Sequence[Change]) -> Table:
    rows = [[f"ratio moved by more than {MOVED:g}×", "then", "now", "factor"]]
    return rows + [
        [f"{one.part}: {one.name}", number(one.then), number(one.now), f"× {number(one.factor)}"]
        for one in changes
        if one.moved
    ]


def number(value: float) -> str:
    """Three digits that say something."""
    if value == 0:
        return "0"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4
    return f"{value:,.{digits}f}"


def as_text(rows: Table) -> str:
    plain = [[cell.replace("**", "") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*plain, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) if i in (0, len(row) - 1) else cell.rjust(width) for i, (cell, width) in pairs)
        for row in plain
        for pairs in [list(enumerate(zip(row, widths, strict=True)))]
    ]
    return "\n".join(line.rstrip() for line in lines)


def as_markdown(rows: Table) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _shown(verdict: Verdict) -> str:
    if verdict.found is None:
        return "—"
    over = verdict.bar.quantity == "over" and verdict.found > 0
    sign = "× " if verdict.bar.quantity in ("ahead", "times") else "+" if over else ""
    return f"{sign}{number(verdict.found)}"
