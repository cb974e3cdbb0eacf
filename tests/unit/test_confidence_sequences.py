"""Confidence sequences, checked by simulation of thousands of experiments.

Shapes: R experiments, N users, T looks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import integrate, stats

from segue.evaluation import confidence_sequences
from segue.evaluation.confidence_sequences import (
    asymptotic_confidence_sequence,
    bounded_confidence_sequence,
    look_schedule,
    sample_ratio_mismatch,
)

R, N, ALPHA = 2000, 1500, 0.05
LOOKS = np.arange(10, N + 1, 10)
MOST = stats.binom.ppf(0.9999, R, ALPHA) / R
"""Rate of false positives that valid tests exceed with probability 1 in 10,000."""


def users(rate: float, lift: float = 0.0, share: float = 0.5, seed: int = 0, n: int = N) -> tuple[Any, Any]:
    """Simulate ``(R, n)`` conversions and treatment assignments."""
    rng = np.random.default_rng(seed)
    treated = rng.random((R, n)) < share
    return rng.random((R, n)) < rate + lift * treated, treated


def fixed(values: NDArray[Any], treated: NDArray[np.bool_], looks: NDArray[np.int64]) -> tuple[Any, Any]:
    """Compute the difference and the half-width of the 95 % interval for a single look."""
    n = [np.cumsum(group, axis=-1)[..., looks - 1] for group in (~treated, treated)]
    sums = [np.cumsum(values * group, axis=-1)[..., looks - 1] for group in (~treated, treated)]
    squares = [np.cumsum(values**2 * group, axis=-1)[..., looks - 1] for group in (~treated, treated)]
    spread = sum((q / m - (s / m) ** 2) / (m - 1) for q, s, m in zip(squares, sums, n, strict=True))
    return sums[1] / n[1] - sums[0] / n[0], 1.96 * np.sqrt(spread)


def test_repeated_looks_inflate_only_the_t_test() -> None:
    converted, treated = users(0.3)
    looks = LOOKS[LOOKS >= 50]
    difference, half = fixed(converted.astype(float), treated, looks)
    assert (np.abs(difference) > half).any(axis=1).mean() > 0.25
    assert (np.abs(difference[:, -1]) > half[:, -1]).mean() < 0.07, "a single look has the nominal error rate"
    for path in (
        bounded_confidence_sequence(converted, treated, analysis_times=LOOKS, expected_users=300),
        asymptotic_confidence_sequence(converted, treated, analysis_times=LOOKS, expected_users=300, min_users=50),
    ):
        outside = ((path.low > 0) | (path.high < 0)).any(axis=1)
        assert outside.mean() <= MOST
        np.testing.assert_array_equal(outside, path.p[:, -1] <= ALPHA)


@pytest.mark.parametrize("kind", ["amounts", "mostly none", "shares of 1 in 10"])
def test_false_positives_of_asymptotic_sequences_are_rare(kind: str) -> None:
    rng = np.random.default_rng(1)
    treated = rng.random((R, N)) < (0.1 if kind == "shares of 1 in 10" else 0.5)
    values = rng.exponential(20, (R, N)) + 1e6
    if kind == "mostly none":
        values = rng.lognormal(0, 1, (R, N)) * (rng.random((R, N)) < 0.1)
    path = asymptotic_confidence_sequence(values, treated, analysis_times=LOOKS, expected_users=500)
    assert (path.p[:, -1] <= ALPHA).mean() <= MOST
    assert np.isfinite(path.low[:, -1]).mean() > 0.99


@pytest.mark.parametrize(("rate", "share"), [(0.02, 0.5), (0.9, 0.5), (0.3, 0.15)])
def test_false_positives_of_bounded_sequences_are_rare_from_the_first_user_on(rate: float, share: float) -> None:
    converted, treated = users(rate, share=share, seed=2)
    path = bounded_confidence_sequence(converted, treated, share, analysis_times=LOOKS, expected_users=300)
    assert (path.p[:, -1] <= ALPHA).mean() <= MOST
    assert ((path.low > 0) | (path.high < 0)).any(axis=1).mean() <= MOST


def test_drifting_rates_do_not_inflate_bounded_sequences() -> None:
    rng = np.random.default_rng(3)
    treated = rng.random((R, N)) < 0.5
    converted = rng.random((R, N)) < 0.05 + 0.4 * (1 + np.sin(np.arange(N) / 100)) / 2
    assert (
        bounded_confidence_sequence(converted, treated, analysis_times=LOOKS, expected_users=500).p[:, -1] <= ALPHA
    ).mean() <= MOST


@pytest.mark.parametrize("exact", [True, False])
def test_a_difference_is_covered_at_all_looks_and_detected(exact: bool) -> None:
    lift = 0.15
    converted, treated = users(0.1, lift, seed=4)
    path = (
        bounded_confidence_sequence(converted, treated, analysis_times=LOOKS, expected_users=N)
        if exact
        else asymptotic_confidence_sequence(converted, treated, analysis_times=LOOKS, expected_users=N)
    )
    missed = ((path.low > lift) | (path.high < lift)).any(axis=1)
    assert missed.mean() <= MOST
    actual = path.low > 0
    assert actual[:, -1].mean() > 0.99
    assert (path.high < 0).any(axis=1).mean() < 0.001, "the wrong direction"
    stopped = LOOKS[np.argmax(actual, axis=1)]
    assert np.median(stopped) < 0.6 * N, "and long before the end"


def test_width_relative_to_the_interval_for_one_look() -> None:
    """The tightest sequence is 1.5 times as wide as the interval for one look."""
    n = 10_000
    rng = np.random.default_rng(5)
    treated = rng.random((20, n)) < 0.5
    for rate, most in ((0.3, 1.75), (0.05, 1.75), (0.01, 2.1)):
        converted = (rng.random((20, n)) < rate).astype(float)
        half = fixed(converted, treated, np.array([n]))[1]
        both = [
            bounded_confidence_sequence(converted, treated, analysis_times=[n]),
            asymptotic_confidence_sequence(converted, treated, analysis_times=[n]),
        ]
        exact, asymptotic = [np.mean((path.high - path.low) / 2 / half) for path in both]
        assert 1.5 < exact < most
        assert 1.5 < asymptotic < 1.6
        assert both[0].difference == pytest.approx((both[0].low + both[0].high) / 2, abs=0.001)


def test_the_normal_mixture_equals_the_integral() -> None:
    """Integrate exp(theta s - theta^2 n / 2) over theta ~ normal(0, rho^2), which is 1/alpha at the boundary."""
    n, expected = 400, 250
    rho = np.sqrt(confidence_sequences._tightness_constant(ALPHA) / expected)
    rng = np.random.default_rng(6)
    treated = np.arange(n) % 2 == 1
    values = rng.normal(0.2 * treated, 1)
    path = asymptotic_confidence_sequence(values, treated, analysis_times=[n], expected_users=expected)
    error = np.sqrt(values[treated].var(ddof=1) / 200 + values[~treated].var(ddof=1) / 200)

    def evidence(difference: float) -> float:
        s = difference / error * np.sqrt(n)
        return float(
            integrate.quad(lambda t: np.exp(t * s - t * t * n / 2) * stats.norm.pdf(t, 0, rho), -2, 2, points=[s / n])[
                0
            ]
        )

    assert path.p[0] == pytest.approx(1 / evidence(path.difference[0]), rel=1e-6)
    assert evidence(path.difference[0] - path.low[0]) == pytest.approx(1 / ALPHA, rel=1e-6)
    assert path.difference[0] == pytest.approx(values[treated].mean() - values[~treated].mean())


def test_the_gamma_exponential_mixture_equals_the_integral() -> None:
    """Integrate exp(lambda s - psi(lambda) v) over the gamma density of 1/c - lambda, truncated at 1/c."""
    scale, rho = 2.0, 30.0

    def weight(left: float) -> float:
        return float(stats.gamma.pdf(left, rho / scale**2, scale=scale / rho))

    whole = integrate.quad(weight, 0, 1 / scale)[0]
    for s, v in ((0.0, 0.0), (5.0, 10.0), (40.0, 100.0)):

        def integrand(left: float, s: float = s, v: float = v) -> float:
            rate = 1 / scale - left
            psi = (-np.log1p(-scale * rate) - scale * rate) / scale**2
            return weight(left) / whole * float(np.exp(rate * s - psi * v))

        value = integrate.quad(integrand, 1e-12, 1 / scale, limit=200)[0]
        log, slope = confidence_sequences._gamma_exponential(np.array(s), np.array(v), scale, rho)
        assert np.exp(log) == pytest.approx(value, rel=1e-6)
        above = confidence_sequences._gamma_exponential(np.array(s + 1e-4), np.array(v), scale, rho)[0]
        assert slope == pytest.approx((above - log) / 1e-4, rel=1e-3, abs=1e-6)


def test_the_boundary_solves_the_mixture_equation() -> None:
    v = np.array([0.0, 0.3, 1, 10, 1e3, 1e5, 1e7])
    for scale, rho, level in ((2.0, 30.0, 3.7), (20.0, 400.0, 3.7), (1.0, 1e5, 8.0)):
        s = confidence_sequences._mixture_boundary(v, scale, rho, level)
        assert (np.diff(s) > 0).all()
        assert confidence_sequences._gamma_exponential(s, v, scale, rho)[0] == pytest.approx(level, abs=1e-6)


def test_p_values_never_increase_and_do_not_depend_on_the_looks() -> None:
    converted, treated = users(0.3, 0.1, seed=7)
    converted, treated = converted[:5], treated[:5]
    for sequence in (bounded_confidence_sequence, asymptotic_confidence_sequence):
        every, some = sequence(converted, treated), sequence(converted, treated, analysis_times=[300, N])
        assert (np.diff(every.p, axis=-1) <= 0).all()
        assert (every.p[:, -1] <= some.p[:, -1]).all()
        np.testing.assert_allclose(every.low[:, [299, N - 1]], some.low)
        np.testing.assert_allclose(sequence(converted[2], treated[2]).high, every.high[2])
    scaled = bounded_confidence_sequence(7.0 * converted, treated, upper=7.0)
    np.testing.assert_allclose(scaled.low, 7.0 * bounded_confidence_sequence(converted, treated).low)


def test_little_data_gives_wide_intervals() -> None:
    path = asymptotic_confidence_sequence(np.ones(300), np.arange(300) < 150)
    assert np.isinf(path.low).all(), "constant values give no information about the variance"
    assert (path.p == 1).all()
    path = bounded_confidence_sequence([1.0, 1.0, 0.0], [True, True, False])
    assert np.isnan(path.difference[0])
    assert (path.low < -0.9).all()
    assert (path.high > 0.9).all()
    assert (
        bounded_confidence_sequence([], []).p.shape
        == asymptotic_confidence_sequence([], []).p.shape
        == sample_ratio_mismatch([], [1, 1]).shape
        == (0,)
    )


def test_the_look_schedule_does_not_move_as_users_arrive() -> None:
    assert look_schedule(7).tolist() == [1, 2, 3, 4, 5, 6, 7]
    small, large = look_schedule(12_345), look_schedule(1_000_000)
    assert set(small[:-1].tolist()) <= set(large.tolist())
    assert (small[-1], large[-1]) == (12_345, 1_000_000)
    assert len(large) < 2_500
    assert (np.diff(large) > 0).all()


def test_correct_group_sizes_are_rarely_rejected() -> None:
    rng = np.random.default_rng(8)
    shares = [0.5, 0.3, 0.2]
    groups = rng.choice(3, (R, N), p=shares)
    assert (sample_ratio_mismatch(groups, shares, expected_users=300)[:, -1] <= ALPHA).mean() <= MOST
    lost = rng.choice(3, (200, N), p=[0.6, 0.24, 0.16])
    actual = sample_ratio_mismatch(lost, [5, 3, 2], expected_users=300)
    assert (actual[:, -1] <= 0.01).mean() > 0.99
    assert (np.diff(actual, axis=-1) <= 0).all()


def test_the_multinomial_test_equals_the_bayes_factor() -> None:
    """Compare with the Dirichlet-multinomial against the multinomial, updated user by user."""
    shares, strength = np.array([0.7, 0.3]), 500 / confidence_sequences._tightness_constant(ALPHA)
    groups, evidence, prior = [0, 1, 1, 1, 0, 1, 1, 1, 1], 1.0, strength * shares
    expected = []
    for group in groups:
        evidence *= prior[group] / prior.sum() / shares[group]
        prior = prior + np.eye(2)[group]
        expected.append(1 / evidence)
    assert sample_ratio_mismatch(groups, [0.7, 0.3], 500) == pytest.approx(
        np.minimum(1, np.minimum.accumulate(expected))
    )


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"treated: got shape \(2,\)"):
        asymptotic_confidence_sequence([1.0], [True, False])
    with pytest.raises(ValueError, match="some that are not finite"):
        asymptotic_confidence_sequence([np.nan], [True])
    with pytest.raises(ValueError, match=r"got 0\.0 to 2\.0, expected 0 to 1"):
        bounded_confidence_sequence([0.0, 2.0], [True, False])
    with pytest.raises(ValueError, match="treatment_share: got 1"):
        bounded_confidence_sequence([0.0], [True], 1)
    with pytest.raises(ValueError, match="alpha: got 5"):
        asymptotic_confidence_sequence([0.0], [True], alpha=5)
    with pytest.raises(ValueError, match="expected_users: got 0"):
        asymptotic_confidence_sequence([0.0], [True], expected_users=0)
    with pytest.raises(ValueError, match="increasing numbers from 1 to 2"):
        asymptotic_confidence_sequence([0.0, 1.0], [True, False], analysis_times=[2, 1])
    with pytest.raises(ValueError, match="shares: got"):
        sample_ratio_mismatch([0], [0.5, 0.0])
    with pytest.raises(ValueError, match="groups: got 0 to 2"):
        sample_ratio_mismatch([0, 2], [0.5, 0.5])
