"""What a replica keeps of the newest events: windows without holes, and together no more than they may weigh."""

from app import hub
from app.hub import Entry, Feed, Recent
from core import events
from core.log import PAGE


def entry(seq: int, text: str = "x") -> Entry:
    return Entry(events.encode(events.stamp(events.Text(text=text), "run", seq, 1.0)))


def seqs(found: list[Entry] | None) -> list[int] | None:
    return None if found is None else [each.seq for each in found]


def filled(*of: int) -> Feed:
    feed = Feed("run")
    for seq in of:
        feed.publish(entry(seq))
    return feed


def test_a_watcher_is_given_what_is_behind_its_cursor() -> None:
    feed = filled(3, 4, 5)
    assert seqs(feed.after(5)) == []
    assert seqs(feed.after(4)) == [5]
    assert seqs(feed.after(2)) == [3, 4, 5]
    assert seqs(feed.after(9)) == []
    assert seqs(Feed("run").after(0)) == []


def test_one_that_is_further_behind_must_read_the_log() -> None:
    assert filled(3, 4, 5).after(1) is None


def test_what_is_behind_a_hole_is_kept_and_what_is_before_it_is_not() -> None:
    feed = filled(1, 2, 5)
    assert feed.after(2) is None
    assert seqs(feed.after(4)) == [5]


def test_what_came_before_is_not_taken_again() -> None:
    feed = filled(1, 2)
    assert not feed.publish(entry(2))
    assert seqs(feed.after(0)) == [1, 2]


def test_a_watcher_is_given_a_page_at_a_time() -> None:
    feed, cursor, given = filled(*range(1, 2 * PAGE + 4)), 0, []
    while page := seqs(feed.after(cursor)):
        assert len(page) <= PAGE
        given += page
        cursor = page[-1]
    assert given == list(range(1, 2 * PAGE + 4))


def test_of_all_runs_together_no_more_is_kept_than_may_be() -> None:
    recent, quiet, busy = Recent(), Feed("quiet"), Feed("busy")
    recent.publish(quiet, entry(1))
    text = "x" * 10_000
    count = 3 * hub.RECENT_BYTES // len(text)
    for seq in range(1, count + 1):
        recent.publish(busy, entry(seq, text))
    assert quiet.after(0) is None
    assert busy.after(0) is None
    kept = next(cursor for cursor in range(count) if busy.after(cursor) is not None)
    assert count // 20 < count - kept
    assert (count - kept) * len(text) <= hub.RECENT_BYTES


def test_one_event_is_kept_however_large() -> None:
    recent, feed = Recent(), Feed("run")
    recent.publish(feed, entry(1, "x" * hub.RECENT_BYTES))
    assert seqs(feed.after(0)) == [1]


def test_a_run_that_was_forgotten_and_goes_on_has_no_hole() -> None:
    recent, feed, other = Recent(), Feed("run"), Feed("other")
    recent.publish(feed, entry(1))
    recent.publish(other, entry(1, "x" * hub.RECENT_BYTES))
    recent.publish(feed, entry(2))
    assert feed.after(0) is None
    assert seqs(feed.after(1)) == [2]


def test_what_was_forgotten_is_known_to_have_been_there() -> None:
    """Or a watcher would take silence for the end of it, until its next heartbeat."""
    recent, feed, other = Recent(), Feed("run"), Feed("other")
    recent.publish(feed, entry(1))
    recent.publish(other, entry(1, "x" * hub.RECENT_BYTES))
    assert feed.after(0) is None
    assert seqs(feed.after(1)) == []
    assert not feed.publish(entry(1))
