"""What a step of the ladder will take is foretold by what it took."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace

import pytest

from segue.serving.ranking import latency_estimator
from segue.serving.ranking.latency_estimator import Pace


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(latency_estimator, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def take(pace: Pace, clock: Clock, seconds: float) -> None:
    with pace.timed("model"):
        clock.now += seconds


def fail(pace: Pace, clock: Clock, seconds: float) -> None:
    with suppress(RuntimeError), pace.timed("model"):
        clock.now += seconds
        raise RuntimeError("gone")


def test_a_step_that_took_long_is_passed_over_and_tried_again_some_day(clock: Clock) -> None:
    pace = Pace()
    assert pace.fits("model", 0.0)  # never taken
    take(pace, clock, 10.0)
    assert not pace.fits("model", 1.0)
    assert pace.fits("model", 16.0)
    assert pace.fits("other", 1.0)
    assert any(pace.fits("model", 1.0) for _ in range(100))


def test_a_step_that_hangs_and_then_fails_took_long_too(clock: Clock) -> None:
    pace = Pace()
    fail(pace, clock, 10.0)
    assert not pace.fits("model", 1.0)


def test_a_step_that_fails_at_once_is_no_faster_for_it(clock: Clock) -> None:
    pace = Pace()
    take(pace, clock, 10.0)
    for _ in range(100):
        fail(pace, clock, 0.0)
    assert not pace.fits("model", 14.0)
