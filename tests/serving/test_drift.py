"""Drift: the measures are those of the papers, and the window forgets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr

from segue.core.events import Events
from segue.serving.monitoring.drift import Drift, divergence, stability

COUNTS = st.lists(st.integers(0, 1000), min_size=2, max_size=12)


class Clock:
    """Time that passes when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def log(rng: np.random.Generator, rows: int, shares_I: NDArray[np.float64], length: int = 20) -> Events:
    """Histories of items drawn with ``shares_I``, with two kinds of action."""
    lengths = rng.integers(1, 2 * length, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.choice(len(shares_I), offsets[-1], p=shares_I)
    return Events(offsets, items, actions=rng.integers(0, 2, offsets[-1]))


@pytest.fixture(scope="module", name="shares_I")
def zipf() -> NDArray[np.float64]:
    weights = 1 / np.arange(1, 301)
    return weights / weights.sum()


@given(COUNTS)
def test_the_measures_are_those_of_the_papers(counts: list[int]) -> None:
    now = np.array(counts)
    then = np.random.default_rng(len(counts)).permutation(now) * 2
    p, q = (now + 0.5) / (now + 0.5).sum(), (then + 0.5) / (then + 0.5).sum()
    assert stability(now, then) == pytest.approx(rel_entr(p, q).sum() + rel_entr(q, p).sum(), abs=1e-12)
    assert divergence(now, then) == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-12)
    assert stability(now, then) == pytest.approx(stability(then, now))
    assert stability(now, now) == 0
    assert 0 <= divergence(now, then) <= 1


def test_by_hand() -> None:
    now, then = np.array([299_999, 699_999]), np.array([499_999, 499_999])
    assert stability(now, then) == pytest.approx(-0.2 * np.log(0.6) + 0.2 * np.log(1.4), rel=1e-5)
    assert divergence(np.array([10**9, 0]), np.array([0, 10**9])) == pytest.approx(1, abs=1e-6)


def test_where_nothing_changes_the_index_is_that_of_chance(shares_I: NDArray[np.float64]) -> None:
    rng = np.random.default_rng(1)
    trained = log(rng, 5000, shares_I)
    found = []
    for _ in range(60):
        drift = Drift(trained, 300)
        drift.asked(log(rng, 100, shares_I))
        found.append(drift.measures()["items"])
    expected = 9 * (1 / np.mean([one.sample for one in found]) + 1 / trained.size)
    assert np.mean([one.stability for one in found]) == pytest.approx(expected, rel=0.25)


def test_each_input_shows_its_own_drift(shares_I: NDArray[np.float64]) -> None:
    rng = np.random.default_rng(2)
    drift = Drift(log(rng, 3000, shares_I), 300)
    drift.asked(log(rng, 1000, shares_I))
    assert {name for name, one in drift.measures().items() if one.stability > 0.1} == set()
    assert drift.measures()["lengths"].sample == 1000
    one = log(rng, 1000, shares_I)
    changed = {
        "items": log(rng, 1000, shares_I[::-1]),
        "lengths": log(rng, 1000, shares_I, length=60),
        "actions": Events(one.offsets, one.items, actions=np.zeros(one.size, np.uint8)),
    }
    for name, asked in changed.items():
        drift = Drift(log(rng, 3000, shares_I), 300)
        drift.asked(asked)
        measures = drift.measures()
        assert {key for key, value in measures.items() if value.stability > 0.25} == {name}
        assert measures[name].divergence == max(value.divergence for value in measures.values())


def test_bins_hold_about_a_tenth_of_training(shares_I: NDArray[np.float64]) -> None:
    drift = Drift(log(np.random.default_rng(3), 3000, shares_I**0.5 / (shares_I**0.5).sum()), 300)
    for name in ("items", "lengths"):
        shares = drift._then[name] / drift._then[name].sum()
        assert ((shares > 0.06) & (shares < 0.14)).sum() >= 9, (name, shares)


def test_little_is_not_told_of(shares_I: NDArray[np.float64]) -> None:
    rng = np.random.default_rng(4)
    drift = Drift(log(rng, 1000, shares_I), 300, fewest=500)
    drift.asked(log(rng, 100, shares_I))
    measures = drift.measures()
    assert np.isnan(measures["lengths"].stability)
    assert np.isnan(measures["lengths"].divergence)
    assert measures["lengths"].sample == 100
    assert measures["items"].stability < 0.1


def test_the_window_moves(shares_I: NDArray[np.float64]) -> None:
    rng, clock = np.random.default_rng(5), Clock()
    drift = Drift(log(rng, 1000, shares_I), 300, seconds=60, slots=6, fewest=1, clock=clock)

    def sample() -> int:
        return drift.measures()["lengths"].sample

    for _ in range(6):
        drift.asked(log(rng, 10, shares_I))
        clock.now += 10
    assert sample() == 50
    clock.now += 29
    assert sample() == 30
    drift.asked(log(rng, 7, shares_I))
    assert sample() == 37
    clock.now += 1e6
    assert sample() == 0
    drift.asked(log(rng, 3, shares_I))
    assert sample() == 3


def test_the_longest_history_is_cut_alike(shares_I: NDArray[np.float64]) -> None:
    rng = np.random.default_rng(6)
    trained, asked = log(rng, 2000, shares_I, length=50), log(rng, 1000, shares_I, length=50)
    for most, drifted in ((None, True), (25, False)):
        drift = Drift(trained, 300, most=most)
        drift.asked(asked.last(25))
        assert (drift.measures()["lengths"].stability > 0.25) is drifted


def test_large_histories_are_counted_in_blocks(shares_I: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch) -> None:
    from segue.serving.monitoring import drift as module

    full, whole = log(np.random.default_rng(7), 500, shares_I), module._blocks
    trained = full.where(full.rows > 3)  # the first rows are empty
    expected = Drift(trained, 300, most=30)._then
    monkeypatch.setattr(module, "_blocks", lambda histories: whole(histories, 300))
    assert len(list(module._blocks(trained))) > 20
    found = Drift(trained, 300, most=30)._then
    assert found["lengths"].sum() == len(trained)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_nobody_and_nothing() -> None:
    for trained in (Events.of([]), Events.of([[], []])):
        drift = Drift(trained, 5, fewest=1)
        drift.asked(Events.of([[0, 1], []]))
        measures = drift.measures()
        assert set(measures) == {"items", "lengths"}
        assert np.isnan(measures["items"].stability)
    drift = Drift(Events.of([[0, 1, 2]]), 5, fewest=1)
    drift.asked(Events.of([[], []]))
    assert drift.measures()["items"].sample == 0
    with pytest.raises(ValueError, match="0 slots"):
        Drift(Events.of([[0]]), 5, slots=0)


def test_kinds_that_training_did_not_have() -> None:
    trained = Events(np.array([0, 4]), np.array([0, 1, 0, 1]), actions=np.array([0, 0, 1, 1]))
    drift = Drift(trained, 2, fewest=1)
    drift.asked(Events(np.array([0, 3]), np.array([0, 1, 1]), actions=np.array([7, 255, 2])))
    assert drift.measures()["actions"].sample == 3
    drift.asked(Events.of([[0, 1]]))
    assert drift.measures()["actions"].sample == 3
