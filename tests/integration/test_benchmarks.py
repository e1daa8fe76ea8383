"""The cheapest measurement, for real and as small as can be: what the benchmarks build on is still there."""

import shutil

import pytest

from benchmarks import append
from benchmarks.figures import Figure, Growth, Part, Skipped


def test_appends_are_measured_beside_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append, "ROUNDS", 1)
    monkeypatch.setattr(append, "APPENDS", 10)
    part = Part("append")
    append.measure(part)
    found = part.found
    names = {one.name for one in found if isinstance(one, Figure)}
    assert {"one run: Heartline's writer", "4 runs at once: Heartline's writer"} <= names
    has_limit = shutil.which("redis-benchmark") is not None
    assert ("one run: redis-benchmark, same script" in names) is has_limit
    assert any(isinstance(one, Skipped) for one in found) is not has_limit
    [growth] = [one for one in found if isinstance(one, Growth)]
    assert [scale for scale, _ in growth.costs] == [1, 2, 4]
