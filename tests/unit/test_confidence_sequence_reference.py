"""Confidence sequences equal their definitions, computed user by user in plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance

import numpy as np
import pytest
from scipy import optimize

from segue.evaluation import confidence_sequences
from segue.evaluation.confidence_sequences import (
    asymptotic_confidence_sequence,
    bounded_confidence_sequence,
    look_schedule,
    sample_ratio_mismatch,
)

N = 60


def draw(seed: int, share: float = 0.5) -> tuple[list[float], list[bool]]:
    rng = np.random.default_rng(seed)
    treated = rng.random(N) < share
    return (rng.random(N) * (0.4 + 0.5 * treated)).tolist(), treated.tolist()


def tightest_x(alpha: float) -> float:
    """Solve x - log(1 + x) = 2 log(1 / alpha)."""
    return float(optimize.brentq(lambda x: x - math.log1p(x) - 2 * math.log(1 / alpha), 1e-9, 1e3))


def bounded_by_definition(
    values: Sequence[float], treated: Sequence[bool], share: float, upper: float, alpha: float, expected_users: int
) -> list[tuple[float, float, float]]:
    """Compute (low, high, p) after each user; corollary 2 of Howard et al. (2021)."""
    scale = upper / min(share, 1 - share)
    rho = expected_users * (0.05 * upper**2 / (share * (1 - share))) / tightest_x(alpha)
    sums, counts = {False: 0.0, True: 0.0}, {False: 0, True: 0}
    total = squares = 0.0
    found, p, level = [], 1.0, math.log(2 / alpha)

    def evidence(s: float, v: float) -> float:
        return float(confidence_sequences._gamma_exponential(np.array(s), np.array(v), scale, rho)[0])

    for n, (value, group) in enumerate(zip(values, treated, strict=True), 1):
        predicted = {side: (sums[side] + upper / 2) / (counts[side] + 1) for side in (False, True)}
        weight = 1 / share if group else -1 / (1 - share)
        residual = weight * (value - predicted[group])
        total += predicted[True] - predicted[False] + residual
        squares += residual**2
        sums[group], counts[group] = sums[group] + value, counts[group] + 1
        bound = optimize.brentq(lambda s, v=squares: evidence(s, v) - level, 0, 1e5, xtol=1e-12, rtol=1e-14)
        low, high = (min(max(total / n + side * bound / n, -upper), upper) for side in (-1, 1))
        p = min(p, 1.0, math.exp(-(evidence(abs(total), squares) - math.log(2))))
        found.append((low, high, p))
    return found


@pytest.mark.parametrize(
    ("share", "upper", "alpha", "expected_users"),
    [(0.5, 1.0, 0.05, 40), (0.2, 3.0, 0.2, 15), (0.7, 1.0, 0.1, 25), (0.5, 0.01, 0.05, 40)],
)
def test_a_bounded_sequence_equals_its_definition(
    share: float, upper: float, alpha: float, expected_users: int
) -> None:
    values, treated = draw(1, share)
    values = [value * upper for value in values]
    path = bounded_confidence_sequence(values, treated, share, upper=upper, alpha=alpha, expected_users=expected_users)
    expected = np.array(bounded_by_definition(values, treated, share, upper, alpha, expected_users))
    np.testing.assert_allclose(np.stack([path.low, path.high, path.p], axis=1), expected, rtol=1e-7, atol=1e-9 * upper)
    assert expected[-1, 2] < 1
    assert (np.abs(expected[-1, :2]) < upper).all()
    for at in range(N):
        groups = [[v for v, t in zip(values[: at + 1], treated, strict=False) if t == side] for side in (True, False)]
        if all(groups):
            assert path.difference[at] == pytest.approx(fmean(groups[0]) - fmean(groups[1]))
    assert path.analysis_times.tolist() == list(range(1, N + 1))


@pytest.mark.parametrize(("alpha", "expected_users", "min_users"), [(0.05, 40, 2), (0.2, 500, 7), (0.3, 30, 0)])
def test_an_asymptotic_sequence_equals_its_definition(alpha: float, expected_users: int, min_users: int) -> None:
    values, treated = draw(2)
    path = asymptotic_confidence_sequence(
        values, treated, alpha=alpha, expected_users=expected_users, min_users=min_users
    )
    p = 1.0
    for n in range(1, N + 1):
        groups = [[v for v, t in zip(values[:n], treated, strict=False) if t == side] for side in (True, False)]
        actual = path.low[n - 1], path.high[n - 1], path.p[n - 1]
        if min(map(len, groups)) < max(2, min_users):
            assert actual == (-math.inf, math.inf, p)
            continue
        difference = fmean(groups[0]) - fmean(groups[1])
        squared = sum(variance(group) / len(group) for group in groups)
        x = n / expected_users * tightest_x(alpha)
        half = math.sqrt(squared * (1 + 1 / x) * (math.log1p(x) + 2 * math.log(1 / alpha)))
        p = min(p, math.exp(-(difference**2 / squared * x / (1 + x) - math.log1p(x)) / 2))
        assert actual == pytest.approx((difference - half, difference + half, p), rel=1e-9)
    assert p < 1


def test_the_defaults_are_the_documented_ones() -> None:
    rng = np.random.default_rng(3)
    treated = np.arange(500) % 2 == 1
    values = rng.random(500) * (0.5 + 0.3 * treated)
    plain, given = (
        asymptotic_confidence_sequence(values, treated, **more)  # type: ignore[arg-type]
        for more in ({}, {"alpha": 0.05, "expected_users": 10_000, "min_users": 100})
    )
    np.testing.assert_array_equal(plain.low, given.low)
    assert (np.isfinite(plain.low) == (np.arange(500) >= 199)).all()
    plain, given = (
        bounded_confidence_sequence(values, treated, **more)  # type: ignore[arg-type]
        for more in ({}, {"treatment_share": 0.5, "upper": 1.0, "alpha": 0.05, "expected_users": 10_000})
    )
    np.testing.assert_array_equal(plain.low, given.low)
    np.testing.assert_array_equal(
        sample_ratio_mismatch([0, 1, 1, 1], [1, 1]), sample_ratio_mismatch([0, 1, 1, 1], [0.5, 0.5], 10_000)
    )


def test_groups_without_variance_give_no_interval() -> None:
    """Their difference would be infinitely significant."""
    treated = np.arange(40) % 2 == 1
    path = asymptotic_confidence_sequence(treated.astype(float), treated, min_users=2)
    assert np.isinf(path.low).all()
    assert (path.p == 1).all()
    assert path.difference[-1] == 1.0


def test_the_tightness_constant_minimizes_the_width() -> None:
    assert confidence_sequences._tightness_constant(0.05) == pytest.approx(8.2, abs=0.05)
    for alpha in (0.01, 0.05, 0.4):
        assert confidence_sequences._tightness_constant(alpha) == pytest.approx(tightest_x(alpha), rel=1e-9)


def test_the_schedule_of_analyses_is_dense_and_then_grows_by_a_factor() -> None:
    assert look_schedule(1_000).tolist() == list(range(1, 1_001))
    assert look_schedule(1_001).tolist() == list(range(1, 1_002))
    times = look_schedule(20, dense=4, step=0.5)
    assert times.tolist() == [1, 2, 3, 4, *(math.ceil(4 * math.exp(0.5 * at)) for at in (1, 2, 3)), 20]
    spaced = look_schedule(50_000)[1_000:-1]
    assert spaced[0] == math.ceil(1_000 * math.exp(0.005))
    assert spaced[-1] == math.ceil(1_000 * math.exp(0.005 * math.floor(math.log(50) / 0.005)))
    assert len(spaced) == math.floor(math.log(50) / 0.005)


def test_limits_of_the_arguments() -> None:
    values, treated = [0.0, 1.0], [True, False]
    for alpha in (0.0, 1.0, -0.5):
        with pytest.raises(ValueError, match="alpha: got"):
            asymptotic_confidence_sequence(values, treated, alpha=alpha)
    for share in (0.0, 1.0, 1.5, -0.5):
        with pytest.raises(ValueError, match="treatment_share: got"):
            bounded_confidence_sequence(values, treated, share)
    for outside in (-0.1, 1.1):
        with pytest.raises(ValueError, match="values: got"):
            bounded_confidence_sequence([outside, 0.5], treated)
    asymptotic_confidence_sequence(values, treated, expected_users=1)
    for times in ([0, 1], [1, 1], [2, 1], [1, 3], [[1]]):
        with pytest.raises(ValueError, match="analysis_times: expected increasing"):
            bounded_confidence_sequence(values, treated, analysis_times=times)
    assert bounded_confidence_sequence(values, treated, analysis_times=[1, 2]).p.shape == (2,)
    assert bounded_confidence_sequence(values, treated, analysis_times=[]).p.shape == (0,)
    with pytest.raises(ValueError, match="treated: got shape"):
        asymptotic_confidence_sequence(1.0, True)
    with pytest.raises(ValueError, match="treated: got shape"):
        asymptotic_confidence_sequence(np.zeros((2, 3)), np.zeros((1, 3), bool))
    with pytest.raises(ValueError, match="treated: got shape"):
        asymptotic_confidence_sequence(values, True)
    several = np.random.default_rng(0).random((2, 3, 60))
    path = asymptotic_confidence_sequence(several, np.arange(60) % 2 == 1, min_users=2)
    assert path.low.shape == (2, 3, 60)
    for shares in ([], [0.5, -0.5], [0.5, math.inf]):
        with pytest.raises(ValueError, match="shares: got"):
            sample_ratio_mismatch([], shares)
    for groups in ([-1], [2]):
        with pytest.raises(ValueError, match="groups: got"):
            sample_ratio_mismatch(groups, [0.5, 0.5])
    assert sample_ratio_mismatch([0, 0], [1]).tolist() == [1.0, 1.0]


def test_a_large_common_offset_does_not_change_the_sequence() -> None:
    values, treated = draw(5)
    plain = asymptotic_confidence_sequence(values, treated, min_users=5)
    shifted = asymptotic_confidence_sequence(np.array(values) + 2.0**26, treated, min_users=5)
    np.testing.assert_allclose(shifted.high, plain.high, rtol=1e-5)
    np.testing.assert_allclose(shifted.p, plain.p, rtol=1e-5)


def test_two_users_in_each_group_are_enough_for_an_interval() -> None:
    treated = np.array([False, False, False, True, True])
    for groups in (treated, ~treated):
        path = asymptotic_confidence_sequence([0.0, 1.0, 0.5, 1.0, 0.25], groups, min_users=0)
        assert np.isfinite(path.low).tolist() == [False, False, False, False, True]


def test_rounding_never_makes_a_variance_negative() -> None:
    for value in (0.1, 0.3, 0.7, 1 / 3):
        values = np.full(N, value)
        times = np.arange(1, N + 1)
        n, mean, variances = confidence_sequences._moments(values, np.ones(N, np.bool_), times)
        assert (n == times).all()
        assert mean == pytest.approx(value)
        assert (variances[1:] >= 0).all()
