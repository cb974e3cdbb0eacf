"""Input drift: measures, bins and the sliding window."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr

from segue.core.events import Events
from segue.serving.monitoring.drift import Drift, jensen_shannon_divergence, population_stability_index

COUNTS = st.lists(st.integers(0, 1000), min_size=2, max_size=12)


class Clock:
    """Simulated clock."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def log(rng: np.random.Generator, rows: int, shares_I: NDArray[np.float64], length: int = 20) -> Events:
    """Create histories of items drawn with probabilities ``shares_I``, with two kinds of action."""
    lengths = rng.integers(1, 2 * length, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.choice(len(shares_I), offsets[-1], p=shares_I)
    return Events(offsets, items, actions=rng.integers(0, 2, offsets[-1]))


@pytest.fixture(scope="module", name="shares_I")
def zipf() -> NDArray[np.float64]:
    weights = 1 / np.arange(1, 301)
    return weights / weights.sum()


@given(COUNTS)
def test_measures_match_their_definitions(counts: list[int]) -> None:
    live = np.array(counts)
    training = np.random.default_rng(len(counts)).permutation(live) * 2
    p, q = (live + 0.5) / (live + 0.5).sum(), (training + 0.5) / (training + 0.5).sum()
    assert population_stability_index(live, training) == pytest.approx(
        rel_entr(p, q).sum() + rel_entr(q, p).sum(), abs=1e-12
    )
    assert jensen_shannon_divergence(live, training) == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-12)
    assert population_stability_index(live, training) == pytest.approx(population_stability_index(training, live))
    assert population_stability_index(live, live) == 0
    assert 0 <= jensen_shannon_divergence(live, training) <= 1


def test_measures_of_hand_computed_examples() -> None:
    live, training = np.array([299_999, 699_999]), np.array([499_999, 499_999])
    assert population_stability_index(live, training) == pytest.approx(-0.2 * np.log(0.6) + 0.2 * np.log(1.4), rel=1e-5)
    assert jensen_shannon_divergence(np.array([10**9, 0]), np.array([0, 10**9])) == pytest.approx(1, abs=1e-6)


def test_stability_index_without_drift_has_its_expected_value(shares_I: NDArray[np.float64]) -> None:
    rng = np.random.default_rng(1)
    trained = log(rng, 5000, shares_I)
    found = []
    for _ in range(60):
        drift = Drift(trained, 300)
        drift.record(log(rng, 100, shares_I))
        found.append(drift.measure()["items"])
    expected = 9 * (1 / np.mean([one.sample_size for one in found]) + 1 / trained.size)
    assert np.mean([one.stability_index for one in found]) == pytest.approx(expected, rel=0.25)


def test_drift_is_measured_per_input(shares_I: NDArray[np.float64]) -> None:
    rng = np.random.default_rng(2)
    drift = Drift(log(rng, 3000, shares_I), 300)
    drift.record(log(rng, 1000, shares_I))
    assert {name for name, one in drift.measure().items() if one.stability_index > 0.1} == set()
    assert drift.measure()["lengths"].sample_size == 1000
    one = log(rng, 1000, shares_I)
    changed = {
        "items": log(rng, 1000, shares_I[::-1]),
        "lengths": log(rng, 1000, shares_I, length=60),
        "actions": Events(one.offsets, one.items, actions=np.zeros(one.size, np.uint8)),
    }
    for name, histories in changed.items():
        drift = Drift(log(rng, 3000, shares_I), 300)
        drift.record(histories)
        measures = drift.measure()
        assert {key for key, value in measures.items() if value.stability_index > 0.25} == {name}
        assert measures[name].divergence == max(value.divergence for value in measures.values())


def test_bins_contain_about_a_tenth_of_the_training_data(shares_I: NDArray[np.float64]) -> None:
    drift = Drift(log(np.random.default_rng(3), 3000, shares_I**0.5 / (shares_I**0.5).sum()), 300)
    for name in ("items", "lengths"):
        shares = drift._training_counts[name] / drift._training_counts[name].sum()
        assert ((shares > 0.06) & (shares < 0.14)).sum() >= 9, (name, shares)


def test_small_samples_are_not_reported(shares_I: NDArray[np.float64]) -> None:
    rng = np.random.default_rng(4)
    drift = Drift(log(rng, 1000, shares_I), 300, min_sample_size=500)
    drift.record(log(rng, 100, shares_I))
    measures = drift.measure()
    assert np.isnan(measures["lengths"].stability_index)
    assert np.isnan(measures["lengths"].divergence)
    assert measures["lengths"].sample_size == 100
    assert measures["items"].stability_index < 0.1


def test_the_window_slides(shares_I: NDArray[np.float64]) -> None:
    rng, clock = np.random.default_rng(5), Clock()
    drift = Drift(log(rng, 1000, shares_I), 300, seconds=60, slots=6, min_sample_size=1, clock=clock)

    def sample() -> int:
        return drift.measure()["lengths"].sample_size

    for _ in range(6):
        drift.record(log(rng, 10, shares_I))
        clock.now += 10
    assert sample() == 50
    clock.now += 29
    assert sample() == 30
    drift.record(log(rng, 7, shares_I))
    assert sample() == 37
    clock.now += 1e6
    assert sample() == 0
    drift.record(log(rng, 3, shares_I))
    assert sample() == 3


def test_training_histories_are_truncated_like_requests(shares_I: NDArray[np.float64]) -> None:
    rng = np.random.default_rng(6)
    trained, recent = log(rng, 2000, shares_I, length=50), log(rng, 1000, shares_I, length=50)
    for limit, drifted in ((None, True), (25, False)):
        drift = Drift(trained, 300, max_history=limit)
        drift.record(recent.last(25))
        assert (drift.measure()["lengths"].stability_index > 0.25) is drifted


def test_large_histories_are_counted_in_iter_blocks(
    shares_I: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch
) -> None:
    from segue.serving.monitoring import drift as module

    full, whole = log(np.random.default_rng(7), 500, shares_I), module._iter_blocks
    trained = full.where(full.rows > 3)  # the first rows are empty
    expected = Drift(trained, 300, max_history=30)._training_counts
    monkeypatch.setattr(module, "_iter_blocks", lambda histories: whole(histories, 300))
    assert len(list(module._iter_blocks(trained))) > 20
    found = Drift(trained, 300, max_history=30)._training_counts
    assert found["lengths"].sum() == len(trained)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_empty_histories() -> None:
    for trained in (Events.of([]), Events.of([[], []])):
        drift = Drift(trained, 5, min_sample_size=1)
        drift.record(Events.of([[0, 1], []]))
        measures = drift.measure()
        assert set(measures) == {"items", "lengths"}
        assert np.isnan(measures["items"].stability_index)
    drift = Drift(Events.of([[0, 1, 2]]), 5, min_sample_size=1)
    drift.record(Events.of([[], []]))
    assert drift.measure()["items"].sample_size == 0
    with pytest.raises(ValueError, match="got 0 slots"):
        Drift(Events.of([[0]]), 5, slots=0)


def test_actions_not_in_the_training_data() -> None:
    trained = Events(np.array([0, 4]), np.array([0, 1, 0, 1]), actions=np.array([0, 0, 1, 1]))
    drift = Drift(trained, 2, min_sample_size=1)
    drift.record(Events(np.array([0, 3]), np.array([0, 1, 1]), actions=np.array([7, 255, 2])))
    assert drift.measure()["actions"].sample_size == 3
    drift.record(Events.of([[0, 1]]))
    assert drift.measure()["actions"].sample_size == 3
