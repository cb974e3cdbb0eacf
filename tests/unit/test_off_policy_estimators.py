"""Off-policy estimators: hand-computed values, exact expectations, and plain loops on random logs."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from numpy.typing import NDArray

from segue.core.examples.list_policies import plackett_luce, top_k
from segue.evaluation.bootstrap import Estimate
from segue.evaluation.off_policy import estimators as formulas
from segue.evaluation.off_policy.overlap import Overlap, OverlapLimits, find_thin_overlap, measure_overlap

Values = NDArray[np.float64]


def test_hand_computed_values() -> None:
    """Three queries of one item: weights 2, 0.5 and 1; rewards 1, 1 and 0."""
    rewards, weights = np.array([[1.0], [1.0], [0.0]]), np.array([[2.0], [0.5], [1.0]])
    mass, predicted, expected = np.ones((3, 1)), np.array([[0.5], [0.5], [0.25]]), np.array([0.5, 0.4, 0.3])
    assert formulas.on_policy(rewards).value == pytest.approx(2 / 3)
    assert formulas.ips(rewards, weights).value == pytest.approx(2.5 / 3)
    assert formulas.clipped_ips(rewards, weights, 1.5).value == pytest.approx(2.0 / 3)
    assert formulas.snips(rewards, weights, mass).value == pytest.approx(2.5 / 3.5)
    assert formulas.direct_method(expected).value == pytest.approx(0.4)
    # 2 · 0.5 + 0.5 · 0.5 - 1 · 0.25 = 1
    assert formulas.doubly_robust(rewards, weights, predicted, expected).value == pytest.approx(0.4 + 1 / 3)
    overlap = measure_overlap(weights, mass)
    assert overlap.effective_sample_size == pytest.approx(3.5**2 / 5.25)
    assert [overlap.max_weight, overlap.max_weight_share] == pytest.approx([2.0, 2 / 3.5])
    assert overlap.mean_weight.mean == pytest.approx(3.5 / 3)
    half = 1.959964 * np.std([2, 0.5, 1]) / np.sqrt(3)
    assert overlap.mean_weight.high == pytest.approx(3.5 / 3 + half)


def test_positions_are_normalized_by_themselves() -> None:
    """The second query has one impression only, and its policy fills half of the second position."""
    rewards, weights = np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([[1.0, 3.0], [3.0, 0.0]])
    assert formulas.snips(rewards, weights, np.array([[1.0, 1.0], [1.0, 0.0]])).value == pytest.approx(1 / 4 + 0.5)
    assert formulas.snips(rewards, weights, np.array([[1.0, 0.5], [1.0, 0.0]])).value == pytest.approx(1 / 4 + 0.25)
    overlap = measure_overlap(weights, np.array([[1.0, 1.0], [1.0, 0.0]]))
    assert overlap.effective_sample_size == 1.0
    assert overlap.max_weight_share == 1.0
    assert overlap.mean_weight.mean == pytest.approx(7 / 3)


def all_lists(scores_C: Values, k: int) -> dict[tuple[int, ...], float]:
    """Return the probability of each list of a Plackett-Luce policy, item by item."""
    rates, found = np.exp(scores_C), {}
    for items in permutations(range(len(rates)), k):
        probability, left = 1.0, list(range(len(rates)))
        for item in items:
            probability *= rates[item] / rates[left].sum()
            left.remove(item)
        found[items] = probability
    return found


def marginals(lists: dict[tuple[int, ...], float], n_items: int, k: int) -> Values:
    found = np.zeros((n_items, k))
    for items, probability in lists.items():
        found[list(items), range(k)] += probability
    return found


@pytest.mark.parametrize("spread", [0.1, 2.0, 30.0])
def test_plackett_luce_equals_the_enumeration_of_all_lists(spread: float) -> None:
    scores = np.random.default_rng(0).normal(size=(3, 5)) * spread
    found = plackett_luce(scores, 3)
    for row, expected in zip(found, scores, strict=True):
        np.testing.assert_allclose(row, marginals(all_lists(expected, 3), 5, 3), atol=1e-12)
    np.testing.assert_allclose(plackett_luce(2 * scores, 3, 2.0), found, atol=1e-12)
    np.testing.assert_allclose(plackett_luce(scores, 1)[..., 0], found[..., 0], atol=1e-12)


def test_candidates_that_are_excluded_are_never_shown() -> None:
    scores = np.array([[1.0, -np.inf, 1.0, 0.0], [-np.inf, -np.inf, 2.0, -np.inf], [-np.inf] * 4])
    first = [[1, 0], [0, 0], [0, 1], [0, 0]]  # equal scores keep the order of the candidates
    np.testing.assert_array_equal(top_k(scores, 2), [first, [[0, 0], [0, 0], [1, 0], [0, 0]], [[0, 0]] * 4])
    drawn = plackett_luce(scores, 2)
    assert (drawn[:, 1] == 0).all()
    np.testing.assert_allclose(drawn.sum(1), [[1, 1], [1, 0], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(plackett_luce(scores, 1).sum(1), [[1], [1], [0]], atol=1e-12)


def test_a_temperature_far_below_the_scores_is_refused() -> None:
    with pytest.raises(ValueError, match=r"temperature: got 1e-06, .* differ by 1,000,000, expected at most 10,000"):
        plackett_luce(np.array([[0.0, 1.0]]), 2, 1e-6)


ATTRACTION = np.array([[0.9, 0.1, 0.4, 0.2], [0.3, 0.6, 0.2, 0.8]])
EXAMINATION = np.array([1.0, 0.4])


def test_estimators_are_unbiased() -> None:
    """The expectation over all lists and clicks of two queries is the value of the target policy, exactly."""
    rng = np.random.default_rng(1)
    logging, target = rng.normal(size=(2, 4)), rng.normal(size=(2, 4))
    logged_QCK, target_QCK = plackett_luce(logging, 2), plackett_luce(target, 2)
    predicted_QCK = rng.random((2, 4, 2))
    truth = float(((target_QCK @ EXAMINATION) * ATTRACTION).sum(1).mean())
    expectation = dict.fromkeys(("ips", "dr", "pbm", "weight"), 0.0)
    for q in range(2):
        expected_Q = np.array([(target_QCK[q] * predicted_QCK[q]).sum()])
        for items, probability in all_lists(logging[q], 2).items():
            cells = list(items), [0, 1]
            weights = (target_QCK[q][cells] / logged_QCK[q][cells])[None]
            examined = formulas.examination_weights(
                target_QCK[q][list(items)][None], logged_QCK[q][list(items)][None], EXAMINATION
            )
            chances = ATTRACTION[q, list(items)] * EXAMINATION
            for clicks in product((0.0, 1.0), repeat=2):
                weight = probability * np.prod(np.where(clicks, chances, 1 - chances)) / 2
                rewards = np.array([clicks])
                predicted = predicted_QCK[q][cells][None]
                expectation["ips"] += weight * formulas.ips(rewards, weights).value
                expectation["dr"] += weight * formulas.doubly_robust(rewards, weights, predicted, expected_Q).value
                expectation["pbm"] += weight * formulas.ips(rewards, examined).value
                expectation["weight"] += weight * weights.mean()
    assert expectation.pop("weight") == pytest.approx(1.0)
    assert expectation == pytest.approx(dict.fromkeys(expectation, truth))


def test_plain_loops_give_the_same() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        n, k = int(rng.integers(2, 30)), int(rng.integers(1, 4))
        is_shown = rng.random((n, k)) < 0.8
        is_shown[:, 0] = True
        rewards, weights = rng.normal(size=(n, k)) * is_shown, rng.exponential(size=(n, k)) * is_shown
        predicted, expected = rng.normal(size=(n, k)) * is_shown, rng.normal(size=n)
        ips = clipped = doubly = 0.0
        for q in range(n):
            doubly += expected[q]
            for p in range(k):
                ips += weights[q, p] * rewards[q, p]
                clipped += min(weights[q, p], 0.7) * rewards[q, p]
                doubly += weights[q, p] * (rewards[q, p] - predicted[q, p])
        snips = 0.0
        for p in range(k):
            total = sum(weights[q, p] for q in range(n))
            own = sum(weights[q, p] * rewards[q, p] for q in range(n))
            snips += own / total * sum(is_shown[q, p] for q in range(n)) / n
        assert formulas.ips(rewards, weights).value == pytest.approx(ips / n)
        assert formulas.clipped_ips(rewards, weights, 0.7).value == pytest.approx(clipped / n)
        assert formulas.doubly_robust(rewards, weights, predicted, expected).value == pytest.approx(doubly / n)
        assert formulas.snips(rewards, weights, is_shown.astype(float)).value == pytest.approx(snips)
        sizes = [weights[:, p].sum() ** 2 / (weights[:, p] ** 2).sum() for p in range(k)]
        assert measure_overlap(weights, is_shown.astype(float)).effective_sample_size == pytest.approx(min(sizes))


def test_intervals_resample_queries_or_users() -> None:
    """With one user per query both are equal; two copies of each query by the same user do not narrow the interval."""
    rng = np.random.default_rng(3)
    rewards, weights = rng.random((200, 1)), rng.exponential(size=(200, 1))
    terms = [formulas.ips(rewards, weights), formulas.snips(rewards, weights, np.ones((200, 1)))]
    plain = formulas.estimate_policy_values(terms)
    assert formulas.estimate_policy_values(terms, np.arange(200)) == plain
    twice = [np.repeat(one, 2, axis=0) for one in (rewards, weights)]
    doubled = [formulas.ips(twice[0], twice[1]), formulas.snips(twice[0], twice[1], np.ones((400, 1)))]
    by_user = formulas.estimate_policy_values(doubled, np.repeat(np.arange(200), 2))
    for one, other, naive in zip(plain, by_user, formulas.estimate_policy_values(doubled), strict=True):
        assert (other.mean, other.low, other.high) == pytest.approx((one.mean, one.low, one.high))
        assert naive.high - naive.low < 0.85 * (one.high - one.low)


def test_a_shift_of_all_rewards_shifts_self_normalized_estimates() -> None:
    rng = np.random.default_rng(4)
    rewards, weights, mass = rng.random((50, 2)), rng.exponential(size=(50, 2)), np.ones((50, 2))
    shifted = formulas.snips(rewards + 3.0, weights, mass).value
    assert shifted == pytest.approx(formulas.snips(rewards, weights, mass).value + 6.0)
    assert formulas.ips(rewards + 3.0, weights).value != pytest.approx(formulas.ips(rewards, weights).value + 6.0)


def overlap(size: float = 500.0, share: float = 0.01, mean: tuple[float, float, float] = (1.0, 0.97, 1.03)) -> Overlap:
    return Overlap(1_000, 1_000, size, 30.0, share, Estimate(*mean))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (overlap(size=42.31), "effective sample size 42.3 of 1,000 queries, expected at least 100"),
        (overlap(share=0.2), "one impression has 20.0% of all weight (largest weight 30.0), expected at most 5.0%"),
        (overlap(mean=(0.8, 0.7, 0.9)), "all but about 20.0% of what the target policy shows, expected at most 5.0%"),
        (overlap(mean=(1.3, 1.2, 1.4)), "mean weight 1.300 [1.200, 1.400], expected about 1: the propensities"),
    ],
)
def test_thin_overlap_is_described_with_its_numbers(found: Overlap, message: str) -> None:
    (text,) = find_thin_overlap(found, OverlapLimits())
    assert message in text
    assert not find_thin_overlap(overlap(), OverlapLimits())


def test_limits_have_an_effect() -> None:
    assert not find_thin_overlap(overlap(size=42.0), OverlapLimits(min_effective_sample_size=40))
    assert not find_thin_overlap(overlap(share=0.2), OverlapLimits(max_weight_share=0.2))
    assert not find_thin_overlap(overlap(mean=(0.8, 0.7, 0.9)), OverlapLimits(max_unsupported=0.3))
    few = measure_overlap(np.ones((200, 1)), np.ones((200, 1)), np.arange(200) % 20)
    assert find_thin_overlap(few, OverlapLimits()) == ["20 users, expected at least 30"]
    assert not find_thin_overlap(few, OverlapLimits(min_units=20))
    assert find_thin_overlap(overlap(), OverlapLimits(min_effective_sample_size=600))


def test_no_weight_at_all_is_thin() -> None:
    found = measure_overlap(np.zeros((10, 2)), np.ones((10, 2)))
    assert (found.effective_sample_size, found.mean_weight.mean, found.unsupported) == (0.0, 0.0, 1.0)
    assert len(find_thin_overlap(found, OverlapLimits())) == 4
    assert np.isnan(formulas.snips(np.ones((10, 1)), np.zeros((10, 1)), np.ones((10, 1))).value)
