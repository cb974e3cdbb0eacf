"""Latency estimates follow measurements."""

from __future__ import annotations

from segue.serving.ranking.latency_estimator import LatencyEstimator


def succeed(estimator: LatencyEstimator, seconds: float) -> None:
    estimator.record("model", seconds, is_failed=False)


def fail(estimator: LatencyEstimator, seconds: float) -> None:
    estimator.record("model", seconds, is_failed=True)


def test_slow_source_is_skipped_and_retried_eventually() -> None:
    estimator = LatencyEstimator()
    assert estimator.can_meet_deadline("model", 0.0)  # never measured
    succeed(estimator, 10.0)
    assert not estimator.can_meet_deadline("model", 1.0)
    assert estimator.can_meet_deadline("model", 16.0)
    assert estimator.can_meet_deadline("other", 1.0)
    assert any(estimator.can_meet_deadline("model", 1.0) for _ in range(100))


def test_slow_failure_raises_the_estimate() -> None:
    estimator = LatencyEstimator()
    fail(estimator, 10.0)
    assert not estimator.can_meet_deadline("model", 1.0)


def test_fast_failure_does_not_lower_the_estimate() -> None:
    estimator = LatencyEstimator()
    succeed(estimator, 10.0)
    for _ in range(100):
        fail(estimator, 0.0)
    assert not estimator.can_meet_deadline("model", 14.0)
