"""Simulated logs follow their choice model, and the optimum is the best attainable score."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from segue.core.recommend import recommend
from segue.core.types import DataSchema, Dataset, Events, Queries, Scores, Vocab
from segue.data.simulator import (
    BayesOptimalRecommender,
    OracleRecommender,
    SimulatedWorld,
    SimulatorSettings,
    expected_ndcg,
)
from segue.data.simulator.choice_model import SESSION_GAP, build_alias_tables

USERS = 1500
HABITS = {"film": 0.0, "music": 0.3}
"""Without and with repeats."""


@cache
def log(habit: str) -> Dataset:
    settings = SimulatorSettings(users=USERS, items=120, mean_length=25, repeats=HABITS[habit], seed=7)
    return SimulatedWorld.build(settings).dataset()


@cache
def make_queries(habit: str) -> tuple[Queries, np.ndarray]:
    """Return each user's history up to an event in the middle, and the item of that event."""
    histories = log(habit).histories
    stop = np.random.default_rng(0).integers(0, histories.lengths)
    queries = Queries.of_users(np.arange(USERS, dtype=np.int32), histories.slice_rows(stop * 0, stop))
    return queries, histories.items[histories.offsets[:-1] + stop]


class Popular:
    """Rank items by their number of events, for all users."""

    def __init__(self, data: Dataset) -> None:
        self.schema: DataSchema = data.schema
        self.counts = np.bincount(data.histories.items, minlength=data.n_items).astype(np.float32)

    def score(self, queries: Queries, candidates: np.ndarray | None = None) -> Scores:
        return np.tile(self.counts, (len(queries), 1))


def assert_within_errors(observed: np.ndarray, expected: np.ndarray, variance: np.ndarray, errors: float = 4.0) -> None:
    """Check that sums of independent samples are within ``errors`` standard errors of their expectation."""
    z = (observed.sum() - expected.sum()) / np.sqrt(variance.sum())
    assert abs(z) < errors, z


@pytest.mark.parametrize("habit", HABITS)
def test_probabilities_match_the_log(habit: str) -> None:
    queries, targets = make_queries(habit)
    p_NI = BayesOptimalRecommender(log(habit)).probabilities(queries)
    np.testing.assert_allclose(p_NI.sum(axis=1), 1.0, rtol=1e-10)
    log_NI = np.log(p_NI, where=p_NI > 0, out=np.zeros_like(p_NI))
    mean = (p_NI * log_NI).sum(axis=1)
    target_probabilities = p_NI[np.arange(USERS), targets]
    assert (target_probabilities > 0).all()
    assert_within_errors(np.log(target_probabilities), mean, (p_NI * log_NI**2).sum(axis=1) - mean**2)
    # items by expected count, chi-square with one degree of freedom per item: mean I, variance about 2 I
    expected = p_NI.sum(axis=0)
    seen = np.bincount(targets, minlength=p_NI.shape[1])
    chi2 = ((seen - expected) ** 2 / (p_NI * (1 - p_NI)).sum(axis=0)).sum()
    assert abs(chi2 - len(seen)) < 4 * np.sqrt(2 * len(seen))


@pytest.mark.parametrize("habit", HABITS)
def test_samples_follow_the_choice_model(habit: str) -> None:
    """Sequels, repeats and probable items occur with their expected frequencies."""
    queries, targets = make_queries(habit)
    data = log(habit)
    p_NI = BayesOptimalRecommender(data).probabilities(queries)
    rows = np.arange(USERS)
    old = np.zeros(p_NI.shape, bool)
    old[queries.history.rows, queries.history.items] = True
    p_old = (p_NI * old).sum(axis=1)
    if habit == "film":
        assert p_old.max() == 0
        assert not old[rows, targets].any()
    else:
        assert old[rows, targets].mean() > 0.15
        assert_within_errors(old[rows, targets], p_old, p_old * (1 - p_old))
    is_nonempty = queries.history.lengths > 0
    last = queries.history.items[queries.history.offsets[1:][is_nonempty] - 1]
    part = SimulatedWorld.of(data).choice_model.sequel[last]
    waits = np.flatnonzero(is_nonempty)[part >= 0]
    p_part = p_NI[waits, part[part >= 0]]
    follows = targets[waits] == part[part >= 0]
    assert follows.mean() > 0.1
    assert_within_errors(follows, p_part, p_part * (1 - p_part))


@pytest.mark.parametrize("habit", HABITS)
def test_filtered_states_match_the_hidden_states(habit: str) -> None:
    queries, _ = make_queries(habit)
    belief, truth = BayesOptimalRecommender(log(habit)).states(queries), OracleRecommender(log(habit)).states(queries)
    assert ((truth == 0) | (truth == 1)).all()
    for s in range(belief.shape[1]):
        assert_within_errors(truth[:, s], belief[:, s], belief[:, s] * (1 - belief[:, s]))
    assert (belief * truth).sum(axis=1).mean() > 2 / belief.shape[1]


@pytest.mark.parametrize("habit", HABITS)
def test_more_information_gives_better_recommendations(habit: str) -> None:
    data, (queries, targets) = log(habit), make_queries(habit)
    repeats = habit == "music"
    best, items_only, oracle = BayesOptimalRecommender(data), BayesOptimalRecommender(data, ()), OracleRecommender(data)

    def mean_ndcg(model: BayesOptimalRecommender | OracleRecommender | Popular) -> float:
        return float(expected_ndcg(best, model, queries, exclude_seen=not repeats).mean())

    assert mean_ndcg(best) > mean_ndcg(items_only) > 1.2 * mean_ndcg(Popular(data))
    assert expected_ndcg(oracle, oracle, queries, exclude_seen=not repeats).mean() > mean_ndcg(best)
    rows = np.arange(USERS)
    likely = [np.log(model.probabilities(queries)[rows, targets]).mean() for model in (oracle, best, items_only)]
    assert likely[0] > likely[1] > likely[2]


@pytest.mark.parametrize("repeats", [False, True])
def test_expected_ndcg_matches_measured_ndcg(repeats: bool) -> None:
    data, (queries, targets) = log("music"), make_queries("music")
    best = BayesOptimalRecommender(data)
    for model in (best, Popular(data)):
        top = recommend(model, queries, 10, exclude_seen=not repeats).items
        hits = top == targets[:, None]
        measured = (hits / np.log2(np.arange(2, 12))).sum(axis=1)
        expected = expected_ndcg(best, model, queries, 10, exclude_seen=not repeats)
        assert abs(measured.mean() - expected.mean()) < 4 * measured.std() / np.sqrt(USERS)


def test_optimal_order_is_best_for_every_query() -> None:
    """Compare with the ideal gain of the true probabilities."""
    queries, _ = make_queries("film")
    best = BayesOptimalRecommender(log("film"))
    ideal = -np.sort(-best.probabilities(queries), axis=1)[:, :10] @ (1 / np.log2(np.arange(2, 12)))
    np.testing.assert_allclose(expected_ndcg(best, best, queries, 10), ideal, rtol=1e-6)


def test_logits_are_finite() -> None:
    data = log("film")
    best = BayesOptimalRecommender(data)
    odd = Queries.anonymous(Events.of([[], [3, 3, 3], list(range(120)), [0, 1]]))
    scores = best.score(odd)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(np.exp(scores.astype(float)).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(best.score(odd, np.full((4, 2), 7, np.int32)), scores[:, [7, 7]])
    assert np.isfinite(OracleRecommender(data).score(odd)).all()
    assert best.score(Queries.anonymous(Events.of([]))).shape == (0, 120)


def test_profile_is_informative_about_taste() -> None:
    with_profile, plain = (
        SimulatedWorld.build(SimulatorSettings(users=USERS, items=120, profile=strength, seed=5))
        for strength in (1.5, 0.0)
    )
    assert np.ptp(plain.population.prior, axis=(0, 1, 2)).max() < 1e-12
    assert np.ptp(with_profile.population.prior, axis=(0, 1, 2)).max() > 0.1

    def gain(world: SimulatedWorld) -> np.ndarray:
        """Return how much more likely the first items are given the profile."""
        data = world.dataset()
        queries = Queries.of_users(np.arange(USERS, dtype=np.int32), Events.of([[]] * USERS))
        first = data.histories.items[data.histories.offsets[:-1]]
        scores = [
            BayesOptimalRecommender(data, reads).score(queries)[np.arange(USERS), first] for reads in (("profile",), ())
        ]
        return scores[0] - scores[1]

    assert np.abs(gain(plain)).max() < 1e-5
    gained = gain(with_profile)
    assert gained.mean() > 4 * gained.std() / np.sqrt(USERS)
    data = with_profile.dataset()
    frame = data.user_features.collect()
    by_code = Queries.of_users(np.arange(USERS, dtype=np.int32), Events.of([[1, 2]] * USERS))
    by_words = Queries.anonymous(by_code.history, profile=frame)
    best = BayesOptimalRecommender(data)
    np.testing.assert_array_equal(best.states(by_code), best.states(by_words))
    assert np.ptp(best.states(by_code), axis=0).max() > 0.1


def test_tastes_drift_more_between_sessions() -> None:
    world = SimulatedWorld.of(log("film"))
    chunk = world.sample(0, USERS, states=True)
    inner = np.ones(chunk.events.size, bool)
    inner[chunk.events.offsets[:-1]] = False
    inner = np.flatnonzero(inner)
    has_moved = chunk.states[inner] != chunk.states[inner - 1]
    starts = np.diff(chunk.events.times)[inner - 1] > SESSION_GAP
    assert abs(starts.mean() - 1 / 8) < 4 * np.sqrt(1 / 8 * 7 / 8 / len(starts))
    for begins, drift in ((False, world.choice_model.drift[0]), (True, world.choice_model.drift[1])):
        before = chunk.states[inner - 1][starts == begins] % 8
        p = 1 - np.diag(drift)[before]
        assert_within_errors(has_moved[starts == begins], p, p * (1 - p))
    appetites = np.repeat(chunk.states[chunk.events.offsets[:-1]] // 8, chunk.events.lengths)
    np.testing.assert_array_equal(chunk.states // 8, appetites)


def test_ratings_rise_with_fit() -> None:
    world = SimulatedWorld.of(log("film"))
    chunk = world.sample(0, USERS, states=True)
    level = world.choice_model.level[chunk.events.items, chunk.states % 8]
    for fit in range(5):
        actual = np.bincount(chunk.events.values[level == fit].astype(int) - 1, minlength=5)
        expected = actual.sum() * world.choice_model.rating[fit]
        assert ((actual - expected) ** 2 / expected).sum() < 4 + 4 * np.sqrt(8)


def test_alias_tables_reproduce_the_choice_model() -> None:
    choice = SimulatedWorld.of(log("film")).choice_model.choice
    keep, other = build_alias_tables(choice)
    p = keep.T.copy()
    for s in range(choice.shape[1]):
        np.add.at(p[:, s], other[s], 1 - keep[s])
    np.testing.assert_allclose(p / len(choice), choice, rtol=1e-9, atol=1e-16)


def test_item_codes_are_mapped() -> None:
    data, (queries, _) = log("music"), make_queries("music")
    best, order = BayesOptimalRecommender(data), np.random.default_rng(2).permutation(120)
    shuffled = replace(data, items=Vocab(data.items.ids.gather(order[:100])))
    new_codes = np.argsort(order)
    inside = new_codes[queries.history.items] < 100
    history = queries.history.where(inside)
    codes = replace(history, items=new_codes[history.items].astype(np.int32))
    actual = BayesOptimalRecommender(shuffled).probabilities(replace(queries, history=codes))
    np.testing.assert_array_equal(actual, best.probabilities(replace(queries, history=history))[:, order[:100]])


def test_invalid_datasets() -> None:
    data = log("film")
    with pytest.raises(ValueError, match="not simulated"):
        BayesOptimalRecommender(replace(data, header={}))
    with pytest.raises(ValueError, match=r"inputs: got \['clock'\]"):
        BayesOptimalRecommender(data, ("clock",))
    with pytest.raises(ValueError, match="k_core removed 3 events"):
        BayesOptimalRecommender(replace(data, header={**data.header, "filters": {"removed": {"k_core": 3}}}))
