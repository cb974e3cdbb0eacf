"""Latency estimates follow measurements."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace

import pytest

from segue.serving.ranking import latency_estimator
from segue.serving.ranking.latency_estimator import LatencyEstimator


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(latency_estimator, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def succeed(estimator: LatencyEstimator, clock: Clock, seconds: float) -> None:
    with estimator.measure("model"):
        clock.now += seconds


def fail(estimator: LatencyEstimator, clock: Clock, seconds: float) -> None:
    with suppress(RuntimeError), estimator.measure("model"):
        clock.now += seconds
        raise RuntimeError("gone")


def test_slow_source_is_skipped_and_retried_eventually(clock: Clock) -> None:
    estimator = LatencyEstimator()
    assert estimator.can_meet_deadline("model", 0.0)  # never measured
    succeed(estimator, clock, 10.0)
    assert not estimator.can_meet_deadline("model", 1.0)
    assert estimator.can_meet_deadline("model", 16.0)
    assert estimator.can_meet_deadline("other", 1.0)
    assert any(estimator.can_meet_deadline("model", 1.0) for _ in range(100))


def test_slow_failure_raises_the_estimate(clock: Clock) -> None:
    estimator = LatencyEstimator()
    fail(estimator, clock, 10.0)
    assert not estimator.can_meet_deadline("model", 1.0)


def test_fast_failure_does_not_lower_the_estimate(clock: Clock) -> None:
    estimator = LatencyEstimator()
    succeed(estimator, clock, 10.0)
    for _ in range(100):
        fail(estimator, clock, 0.0)
    assert not estimator.can_meet_deadline("model", 14.0)
