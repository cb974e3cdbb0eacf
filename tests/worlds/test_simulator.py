"""The simulated log against the law it is drawn from, and the best scores that can be had in it."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from segue.core.recommend import recommend
from segue.core.types import Dataset, Domain, Events, Queries, Scores, Vocab
from segue.data.simulator import Optimal, Oracle, SimulatorSettings, World, expected_ndcg
from segue.data.simulator.choice_model import SESSION_GAP, alias

USERS = 1500
HABITS = {"film": 0.0, "music": 0.3}
"""Nobody repeats in the one, all do in the other."""


@cache
def log(habit: str) -> Dataset:
    settings = SimulatorSettings(users=USERS, items=120, mean_length=25, repeats=HABITS[habit], seed=7)
    return World.build(settings).dataset()


@cache
def questions(habit: str) -> tuple[Queries, np.ndarray]:
    """Each user's life up to an event in the middle, and the item of that event."""
    histories = log(habit).histories
    stop = np.random.default_rng(0).integers(0, histories.lengths)
    queries = Queries.of_users(np.arange(USERS, dtype=np.int32), histories.cut(stop * 0, stop))
    return queries, histories.items[histories.offsets[:-1] + stop]


class Popular:
    """Most chosen first, whoever asks."""

    def __init__(self, data: Dataset) -> None:
        self.domain: Domain = data.domain
        self.counts = np.bincount(data.histories.items, minlength=data.n_items).astype(np.float32)

    def score(self, queries: Queries, candidates: np.ndarray | None = None) -> Scores:
        return np.tile(self.counts, (len(queries), 1))


def within(observed: np.ndarray, expected: np.ndarray, variance: np.ndarray, errors: float = 4.0) -> None:
    """Sums of independent draws lie within so many standard errors of their expectation."""
    z = (observed.sum() - expected.sum()) / np.sqrt(variance.sum())
    assert abs(z) < errors, z


@pytest.mark.parametrize("habit", HABITS)
def test_probabilities_are_those_of_the_log(habit: str) -> None:
    queries, targets = questions(habit)
    p_NI = Optimal(log(habit)).probabilities(queries)
    np.testing.assert_allclose(p_NI.sum(axis=1), 1.0, rtol=1e-10)
    log_NI = np.log(p_NI, where=p_NI > 0, out=np.zeros_like(p_NI))
    mean = (p_NI * log_NI).sum(axis=1)
    drawn = p_NI[np.arange(USERS), targets]
    assert (drawn > 0).all()
    within(np.log(drawn), mean, (p_NI * log_NI**2).sum(axis=1) - mean**2)
    # items by expected count, chi-square with one degree of freedom per item: mean I, variance about 2 I
    expected = p_NI.sum(axis=0)
    seen = np.bincount(targets, minlength=p_NI.shape[1])
    chi2 = ((seen - expected) ** 2 / (p_NI * (1 - p_NI)).sum(axis=0)).sum()
    assert abs(chi2 - len(seen)) < 4 * np.sqrt(2 * len(seen))


@pytest.mark.parametrize("habit", HABITS)
def test_each_part_of_the_law_is_met(habit: str) -> None:
    """Sequels, repeats and likely items come as often as said."""
    queries, targets = questions(habit)
    data = log(habit)
    p_NI = Optimal(data).probabilities(queries)
    rows = np.arange(USERS)
    old = np.zeros(p_NI.shape, bool)
    old[queries.history.rows, queries.history.items] = True
    p_old = (p_NI * old).sum(axis=1)
    if habit == "film":
        assert p_old.max() == 0
        assert not old[rows, targets].any()
    else:
        assert old[rows, targets].mean() > 0.15
        within(old[rows, targets], p_old, p_old * (1 - p_old))
    some = queries.history.lengths > 0
    last = queries.history.items[queries.history.offsets[1:][some] - 1]
    part = World.of(data).law.sequel[last]
    waits = np.flatnonzero(some)[part >= 0]
    p_part = p_NI[waits, part[part >= 0]]
    follows = targets[waits] == part[part >= 0]
    assert follows.mean() > 0.1
    within(follows, p_part, p_part * (1 - p_part))


@pytest.mark.parametrize("habit", HABITS)
def test_believed_states_are_the_hidden_ones(habit: str) -> None:
    queries, _ = questions(habit)
    belief, truth = Optimal(log(habit)).states(queries), Oracle(log(habit)).states(queries)
    assert ((truth == 0) | (truth == 1)).all()
    for s in range(belief.shape[1]):
        within(truth[:, s], belief[:, s], belief[:, s] * (1 - belief[:, s]))
    assert (belief * truth).sum(axis=1).mean() > 2 / belief.shape[1]


@pytest.mark.parametrize("habit", HABITS)
def test_who_knows_more_answers_better(habit: str) -> None:
    data, (queries, targets) = log(habit), questions(habit)
    repeats = habit == "music"
    best, blind, oracle = Optimal(data), Optimal(data, ()), Oracle(data)

    def reached(model: Optimal | Oracle | Popular) -> float:
        return float(expected_ndcg(best, model, queries, repeats=repeats).mean())

    assert reached(best) > reached(blind) > 1.2 * reached(Popular(data))
    assert expected_ndcg(oracle, oracle, queries, repeats=repeats).mean() > reached(best)
    rows = np.arange(USERS)
    likely = [np.log(model.probabilities(queries)[rows, targets]).mean() for model in (oracle, best, blind)]
    assert likely[0] > likely[1] > likely[2]


@pytest.mark.parametrize("repeats", [False, True])
def test_expected_ndcg_is_the_one_that_is_measured(repeats: bool) -> None:
    data, (queries, targets) = log("music"), questions("music")
    best = Optimal(data)
    for model in (best, Popular(data)):
        top = recommend(model, queries, 10, repeats=repeats).items
        hits = top == targets[:, None]
        measured = (hits / np.log2(np.arange(2, 12))).sum(axis=1)
        expected = expected_ndcg(best, model, queries, 10, repeats=repeats)
        assert abs(measured.mean() - expected.mean()) < 4 * measured.std() / np.sqrt(USERS)


def test_best_order_is_unbeaten_query_by_query() -> None:
    """Against the ideal gain of the true probabilities, summed by hand."""
    queries, _ = questions("film")
    best = Optimal(log("film"))
    ideal = -np.sort(-best.probabilities(queries), axis=1)[:, :10] @ (1 / np.log2(np.arange(2, 12)))
    np.testing.assert_allclose(expected_ndcg(best, best, queries, 10), ideal, rtol=1e-6)


def test_every_question_has_finite_logits() -> None:
    data = log("film")
    best = Optimal(data)
    odd = Queries.anonymous(Events.of([[], [3, 3, 3], list(range(120)), [0, 1]]))
    scores = best.score(odd)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(np.exp(scores.astype(float)).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(best.score(odd, np.full((4, 2), 7, np.int32)), scores[:, [7, 7]])
    assert np.isfinite(Oracle(data).score(odd)).all()
    assert best.score(Queries.anonymous(Events.of([]))).shape == (0, 120)


def test_profile_says_something_of_taste() -> None:
    told, plain = (
        World.build(SimulatorSettings(users=USERS, items=120, profile=strength, seed=5)) for strength in (1.5, 0.0)
    )
    assert np.ptp(plain.people.prior, axis=(0, 1, 2)).max() < 1e-12
    assert np.ptp(told.people.prior, axis=(0, 1, 2)).max() > 0.1

    def gain(world: World) -> np.ndarray:
        """How much likelier each first item is to someone who knows the profile."""
        data = world.dataset()
        queries = Queries.of_users(np.arange(USERS, dtype=np.int32), Events.of([[]] * USERS))
        first = data.histories.items[data.histories.offsets[:-1]]
        scores = [Optimal(data, reads).score(queries)[np.arange(USERS), first] for reads in (("profile",), ())]
        return scores[0] - scores[1]

    assert np.abs(gain(plain)).max() < 1e-5
    gained = gain(told)
    assert gained.mean() > 4 * gained.std() / np.sqrt(USERS)
    data = told.dataset()
    frame = data.user_features.collect()
    by_code = Queries.of_users(np.arange(USERS, dtype=np.int32), Events.of([[1, 2]] * USERS))
    by_words = Queries.anonymous(by_code.history, profile=frame)
    best = Optimal(data)
    np.testing.assert_array_equal(best.states(by_code), best.states(by_words))
    assert np.ptp(best.states(by_code), axis=0).max() > 0.1


def test_tastes_drift_more_between_sessions() -> None:
    world = World.of(log("film"))
    chunk = world.live(0, USERS, states=True)
    inner = np.ones(chunk.events.size, bool)
    inner[chunk.events.offsets[:-1]] = False
    inner = np.flatnonzero(inner)
    moved = chunk.states[inner] != chunk.states[inner - 1]
    starts = np.diff(chunk.events.times)[inner - 1] > SESSION_GAP
    assert abs(starts.mean() - 1 / 8) < 4 * np.sqrt(1 / 8 * 7 / 8 / len(starts))
    for begins, drift in ((False, world.law.drift[0]), (True, world.law.drift[1])):
        before = chunk.states[inner - 1][starts == begins] % 8
        p = 1 - np.diag(drift)[before]
        within(moved[starts == begins], p, p * (1 - p))
    appetites = np.repeat(chunk.states[chunk.events.offsets[:-1]] // 8, chunk.events.lengths)
    np.testing.assert_array_equal(chunk.states // 8, appetites)


def test_ratings_rise_with_fit() -> None:
    world = World.of(log("film"))
    chunk = world.live(0, USERS, states=True)
    level = world.law.level[chunk.events.items, chunk.states % 8]
    for fit in range(5):
        found = np.bincount(chunk.events.values[level == fit].astype(int) - 1, minlength=5)
        expected = found.sum() * world.law.rating[fit]
        assert ((found - expected) ** 2 / expected).sum() < 4 + 4 * np.sqrt(8)


def test_alias_tables_hold_the_law() -> None:
    choice = World.of(log("film")).law.choice
    keep, other = alias(choice)
    p = keep.T.copy()
    for s in range(choice.shape[1]):
        np.add.at(p[:, s], other[s], 1 - keep[s])
    np.testing.assert_allclose(p / len(choice), choice, rtol=1e-9, atol=1e-16)


def test_other_codes_other_columns() -> None:
    data, (queries, _) = log("music"), questions("music")
    best, order = Optimal(data), np.random.default_rng(2).permutation(120)
    turned = replace(data, items=Vocab(data.items.ids.gather(order[:100])))
    places = np.argsort(order)
    inside = places[queries.history.items] < 100
    history = queries.history.where(inside)
    codes = replace(history, items=places[history.items].astype(np.int32))
    found = Optimal(turned).probabilities(replace(queries, history=codes))
    np.testing.assert_array_equal(found, best.probabilities(replace(queries, history=history))[:, order[:100]])


def test_refusals() -> None:
    data = log("film")
    with pytest.raises(ValueError, match="not simulated"):
        Optimal(replace(data, header={}))
    with pytest.raises(ValueError, match=r"reads: got \['clock'\]"):
        Optimal(data, ("clock",))
    with pytest.raises(ValueError, match="k_core removed 3 events"):
        Optimal(replace(data, header={**data.header, "filters": {"removed": {"k_core": 3}}}))
