"""What the benchmarks make of their figures: percentiles, bars, comparisons, tables. No measurement."""

import signal
from pathlib import Path

import msgspec
import pytest

import benchmarks.__main__
from benchmarks import results, tables
from benchmarks.__main__ import compared, report
from benchmarks.asking import _content
from benchmarks.bars import BARS, Bar, Verdict, is_flat, judge
from benchmarks.comparison import MOVED, changes
from benchmarks.crowd import post
from benchmarks.figures import Figure, Found, Growth, Part, Skipped, percentile, ratio
from benchmarks.latency import _taken
from benchmarks.results import Result
from benchmarks.sources import _command


def figure(name: str, p50: float, *, part: str = "part", p99: float = 0, limit: str = "", samples: int = 9) -> Figure:
    return Figure(
        part=part, name=name, unit="ms", samples=samples, p50=p50, p99=p99 or p50, worst=p99 or p50, limit=limit
    )


def growth(*costs: float) -> Growth:
    return Growth(part="part", name="cost", unit="µs", costs=tuple(zip((1, 2, 4), costs, strict=True)))


@pytest.mark.parametrize(
    ("values", "percent", "found"),
    [
        ([7], 50, 7),
        ([1, 2], 50, 1),
        ([1, 2, 3], 50, 2),
        (range(1, 101), 99, 99),
        (range(1, 201), 99, 198),
        ([1, 2], 99, 2),
    ],
)
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(
    values: list[float], percent: float, found: float
) -> None:
    assert percentile(values, percent) == found


def test_times_are_milliseconds_with_their_percentiles() -> None:
    part = Part("append")
    part.times("ours", [0.003, 0.001, 0.002], limit="theirs")
    [found] = part.found
    assert found == Figure(
        part="append", name="ours", unit="ms", samples=3, p50=2.0, p99=3.0, worst=3.0, limit="theirs"
    )


def test_a_multiple_of_nothing_is_only_nothing() -> None:
    assert (ratio(3, 2), ratio(0, 0), ratio(1, 0)) == (1.5, 1.0, float("inf"))


@pytest.mark.parametrize(
    ("costs", "between", "flat"), [((10, 99, 12), 1.2, True), ((10, 10, 13), 1.3, False), ((10, 10, 5), 0.5, True)]
)
def test_growth_is_the_ratio_of_the_ends(costs: tuple[float, ...], between: float, flat: bool) -> None:
    grown = growth(*costs)
    assert grown.between_the_ends == pytest.approx(between)
    assert is_flat(grown) is flat


BESIDE = [figure("ours", 30, p99=50), figure("theirs", 120)]


@pytest.mark.parametrize(
    ("bar", "found", "met"),
    [
        (Bar("part", "ours", "value", 30, ""), 30, True),
        (Bar("part", "ours", "p99", 49, ""), 50, False),
        (Bar("part", "theirs", "over", 90, "", other="ours"), 90, True),
        (Bar("part", "theirs", "over", 89, "", other="ours"), 90, False),
        (Bar("part", "ours", "ahead", 4, "", other="theirs", at_least=True), 4, True),
        (Bar("part", "ours", "ahead", 5, "", other="theirs", at_least=True), 4, False),
        (Bar("part", "theirs", "times", 4, "", other="ours"), 4, True),
        (Bar("part", "nobody", "value", 1, ""), None, None),
        (Bar("part", "ours", "over", 1, "", other="nobody"), None, None),
        (Bar("other", "ours", "value", 1, ""), None, None),
    ],
)
def test_a_bar_is_met_missed_or_not_measured(bar: Bar, found: float | None, met: bool | None) -> None:
    assert judge(BESIDE, [bar]) == [Verdict(bar, found)]
    assert judge(BESIDE, [bar])[0].met is met


def test_every_bar_is_about_a_figure_that_the_stored_run_has_or_says_why_not() -> None:
    path = results.newest_committed()
    if path is None:
        pytest.skip("no run is committed, or there is no git")
    stored = results.read(path)
    known = {(one.part, one.name) for one in stored.figures}
    excused = {one.part for one in stored.skipped}
    for bar in BARS:
        for name in filter(None, (bar.figure, bar.other)):
            assert (bar.part, name) in known or bar.part in excused, f"{bar.part}: {name}"


def test_runs_are_compared_by_their_ratios_and_never_by_their_times() -> None:
    then = [figure("limit", 10), figure("ours", 20, limit="limit"), growth(10, 10, 10)]
    slower_machine = [figure("limit", 100), figure("ours", 200, limit="limit"), growth(100, 100, 100)]
    assert [change.factor for change in changes(slower_machine, then)] == [1.0, 1.0]


def test_what_has_moved_is_said_in_both_directions() -> None:
    then = [figure("limit", 10), figure("up", 10, limit="limit"), figure("down", 10, limit="limit"), growth(1, 1, 1)]
    now = [figure("limit", 10), figure("up", 13, limit="limit"), figure("down", 7, limit="limit"), growth(1, 1, 1.2)]
    assert [(change.name, change.moved) for change in changes(now, then)] == [
        ("up", True), ("down", True), ("growth: cost", False),
    ]  # fmt: skip


def test_only_what_both_runs_measured_is_compared() -> None:
    then = [figure("limit", 10), figure("ours", 20, limit="limit")]
    now = [figure("ours", 20, limit="limit"), figure("limit", 10, part="another"), growth(1, 1, 1)]
    assert changes(now, then) == []


def run(*found: Found) -> Result:
    return results.of(found, {"cores": "2"})


def test_a_run_is_read_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    made = run(figure("ours", 1.5, limit="limit"), growth(1, 2, 4), Skipped(part="part", what="peer", reason="away"))
    path = results.write(made)
    assert results.read(path) == made
    path.write_text("{}")
    with pytest.raises(msgspec.MsgspecError):
        results.read(path)


def test_the_report_shows_figures_beside_limits_growth_bars_and_what_was_skipped() -> None:
    limit = figure("new chat, warm: bare CLI", 45, part="first_content")
    ours = figure("new chat, warm: Heartline", 90, part="first_content", limit=limit.name)
    made = run(limit, ours, growth(1, 1, 2), Skipped(part="part", what="peer", reason="away"))
    text = report(made, tables.as_text)
    assert "× 2.00 of new chat, warm: bare CLI" in text
    assert "at most 25 ms over the bare warm CLI" in text
    assert "not met" in text
    assert "part: peer    away" in text
    markdown = report(made, tables.as_markdown)
    assert (
        "| at most 25 ms over the bare warm CLI | first_content: new chat, warm: Heartline | +45.0 | **not met** |"
        in (markdown.splitlines())
    )
    assert "| part: cost | µs | 1.00 (at 1) | 1.00 (at 2) | 2.00 (at 4) | 2.00 | **no** |" in markdown.splitlines()


def test_the_comparison_names_what_moved_and_by_what_factor() -> None:
    then = run(figure("limit", 10), figure("ours", 10, limit="limit"))
    now = run(figure("limit", 10), figure("ours", 20, limit="limit"))
    assert "× 2.00" in compared(now, then, "then.json")
    assert compared(then, then, "then.json") == f"of 1 ratios, none moved by more than {MOVED:g}× against then.json"


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (0.0123, "0.0123"), (0.5, "0.50"), (12.34, "12.3"), (12345.6, "12,346")]
)
def test_numbers_have_the_digits_that_say_something(value: float, shown: str) -> None:
    assert tables.number(value) == shown


def test_moments_are_read_wherever_the_bytes_were_cut() -> None:
    text = b'"@up@" @1.5@ ... @2.5@@3.0@'
    whole: list[float] = []
    _taken(text, 4.0, whole)
    for cut in range(len(text)):
        found: list[float] = []
        _taken(_taken(text[:cut], 4.0, found) + text[cut:], 4.0, found)
        assert found == whole == [2.5, 1.5, 1.0]


@pytest.mark.parametrize(
    ("line", "content"),
    [
        (b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n', ""),
        (b'data: {"choices": [{"delta": {"content": "word"}}]}\n', "word"),
        (b'data:{"choices": [{"delta": {"content": "word"}}]}\r\n', "word"),
        (b'data: {"choices": [], "usage": {}}\n', ""),
        (b"data: [DONE]\n", ""),
        (b": ok\n", ""),
        (b"\n", ""),
    ],
)
def test_content_is_what_a_chunk_of_a_chat_says(line: bytes, content: str) -> None:
    assert _content(line) == content


def test_requests_and_commands_are_complete() -> None:
    head, body = post("/path", b"{}", "key").split(b"\r\n\r\n")
    assert head.startswith(b"POST /path HTTP/1.1\r\n")
    assert {b"Authorization: Bearer key", b"Content-Length: 2"} <= set(head.split(b"\r\n"))
    assert body == b"{}"
    assert _command(b"PING", b"a b") == b"*2\r\n$4\r\nPING\r\n$3\r\na b\r\n"


def test_a_part_that_takes_too_long_is_given_up_with_what_it_has_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(part: Part) -> None:
        part.value("ours", "ms", 1)
        signal.raise_signal(signal.SIGALRM)
        part.value("never", "ms", 1)

    monkeypatch.setitem(benchmarks.__main__.PARTS, "endless", endless)
    found, skipped = benchmarks.__main__._bounded("endless")
    assert isinstance(found, Figure)
    assert isinstance(skipped, Skipped)
    assert (found.name, skipped.part) == ("ours", "endless")
