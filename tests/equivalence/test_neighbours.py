"""Nearest neighbours and what they predict, against dense NumPy and plain loops."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from segue.core.registry import functions, model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries
from segue.similarity import weighting
from segue.similarity.nearest import arrays_of, likeness, nearest, spread
from segue.similarity.rating_baseline import Centre, mean_values
from segue.similarity.similarity_registry import MEASURES, ONE_WAY, SEQUENCES
from segue.similarity.sparse_rows import Table
from segue.similarity.weighting import Corpus
from segue.testing import dataset, tastes

DATA = tastes(users=30, n_items=20).train
KEYS = ["item_knn", "user_knn"]


def fitted(key: str, data: Dataset = DATA, **settings: Any) -> Any:
    kind: Any = model_class(key)
    model = kind(kind.Config(**settings), data.domain)
    model.fit(data, Run(0), None)
    return model


def valued(key: str, data: Dataset = DATA, **settings: Any) -> Any:
    return fitted(key, data, **{"learns": "values", **settings})


def dense(data: Dataset) -> np.ndarray:
    """Ratings; NaN is not there."""
    table = np.full((data.n_users, data.n_items), np.nan)
    table[data.histories.rows, data.histories.items] = data.histories.values
    return table


def everything(data: Dataset = DATA) -> tuple[np.ndarray, np.ndarray]:
    users = np.repeat(np.arange(data.n_users, dtype=np.int32), data.n_items)
    return users, np.tile(np.arange(data.n_items, dtype=np.int32), data.n_users)


def log() -> Dataset:
    rng = np.random.default_rng(3)
    return dataset(Events.of([rng.integers(24, size=rng.integers(0, 12)) for _ in range(60)]), n_items=25)


# --- nearest, spread --------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 99), count=st.integers(1, 12), rows=st.integers(2, 9), share=st.sampled_from([0.1, 0.5]))
def test_nearest_are_the_first_of_a_stable_sort(seed: int, count: int, rows: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    table = Table.of(csr_array((rng.random((rows, 6)) < share).astype(np.float32)))
    itself = rng.integers(-1, rows, size=rows).astype(np.int32)
    for name in ("cosine", "jaccard"):  # with many equals
        near = nearest(table, table, MEASURES[name], 1.0, count, itself).toarray()
        like = likeness(table, table, MEASURES[name], 1.0)
        like[np.flatnonzero(itself >= 0), itself[itself >= 0]] = 0.0
        wanted = np.zeros_like(like)
        order = np.argsort(-like, axis=1, kind="stable")[:, :count]
        np.put_along_axis(wanted, order, np.take_along_axis(like, order, axis=1), axis=1)
        np.testing.assert_array_equal(near, wanted)


def test_nearest_do_not_depend_on_threads_or_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = csr_array((np.random.default_rng(0).random((70, 30)) < 0.2).astype(np.float32))
    table, done = Table.of(counts), [0]

    def progress(rows: int) -> None:
        done[0] += rows

    def found() -> csr_array[Any]:
        return nearest(table, table, MEASURES["cosine"], 1.0, 5, np.arange(70, dtype=np.int32), progress)

    whole = found()
    assert done == [70]
    monkeypatch.setattr("segue.core.numba_kernels.threads", lambda: 3)
    monkeypatch.setattr("segue.similarity.row_pairs.BLOCK_PAIRS", 100)
    assert (found() != whole).nnz == 0


def test_spread_is_a_product() -> None:
    rng = np.random.default_rng(1)
    left, right = (csr_array(rng.random(shape) * (rng.random(shape) < 0.3)) for shape in ((7, 9), (9, 11)))
    np.testing.assert_allclose(spread(left, arrays_of(right), 11), (left @ right).toarray(), rtol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    rows = csr_array((1_000_000, 2))
    table = Table.of(rows)
    with pytest.raises(ValueError, match=r"1,000,000 x 1,000,000 rows needs 3,725\.3 GiB"):
        likeness(table, table, MEASURES["cosine"], 0.0)


# --- ranking ----------------------------------------------------------------------------------------------------------


def test_user_knn_against_dense_numpy() -> None:
    data = log()
    seen = np.zeros((data.n_users, data.n_items))
    seen[data.histories.rows, data.histories.items] = 1.0
    history = [4, 7, 7, 0]
    asked = np.zeros(data.n_items)
    asked[history] = 1.0
    like = (seen @ asked) / (np.sqrt(seen.sum(axis=1)) * np.sqrt(asked.sum()) + 2.5)
    model = fitted("user_knn", data, neighbours=5, shrink=2.5)
    for known, itself in ((False, -1), (True, 9)):
        own = like.copy()
        own[itself if known else []] = 0.0
        near = np.argsort(-own, kind="stable")[:5]
        queries = Queries(Events.of([history]), np.array([9], np.int32), np.array([known]))
        np.testing.assert_allclose(model.score(queries)[0], own[near] @ seen[near], rtol=1e-5)
        np.testing.assert_allclose(model.similar_users(queries)[0], own, rtol=1e-5)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", ["bm25", "tfidf"])
def test_weighted_neighbours(key: str, name: str) -> None:
    data = log()
    counts = np.zeros((data.n_users, data.n_items), np.float32)
    np.add.at(counts, (data.histories.rows, data.histories.items), 1.0)
    rows = counts if key == "user_knn" else counts.T
    weights = functions(weighting)[name](csr_array(rows), Corpus.of(csr_array(rows)), 1.2, 0.75).toarray()
    norms = np.linalg.norm(weights, axis=1)
    like = np.divide(weights @ weights.T, np.outer(norms, norms) + 10.0)
    np.fill_diagonal(like, 0.0)
    model = fitted(key, data, weighting=name, neighbours=1000)
    if key == "item_knn":
        np.testing.assert_allclose(model.similar(np.arange(data.n_items, dtype=np.int32)), like, atol=1e-6)
    else:
        everyone = Queries.of_users(np.arange(data.n_users, dtype=np.int32), data.histories)
        np.testing.assert_allclose(model.similar_users(everyone), like, atol=1e-6)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_ranks_or_is_refused(key: str, name: str) -> None:
    data = log()
    try:
        model = fitted(key, data, similarity=name, neighbours=10)
    except ValueError as error:
        assert name in {"adjusted_cosine", "msd", "pearson", "spearman", *(SEQUENCES if key == "item_knn" else ())}
        assert f"'{name}'" in str(error)  # noqa: PT017
        return
    scores = model.score(Queries.anonymous(Events.of([[1, 2, 3], []])))
    assert np.isfinite(scores).all()
    assert scores[0].max() > 0
    np.testing.assert_allclose(scores[1], model.shares_I)


def test_sequences_see_the_newest_events_only() -> None:
    data = dataset(Events.of([[0, 1, 2], [2, 1, 0], [5, 3, 4]]), 6)
    model = fitted("user_knn", data, similarity="longest_common_subsequence", max_length=2, shrink=0.0)
    queries = Queries.anonymous(Events.of([[3, 4, 0, 1]]))
    # of (0, 1): against (1, 2) one of two; against (1, 0) one of two; against (3, 4) nothing
    np.testing.assert_allclose(model.similar_users(queries), [[0.5, 0.5, 0.0]])


# --- centres ----------------------------------------------------------------------------------------------------------


def centred(values: np.ndarray, kind: str, by_user: bool) -> tuple[np.ndarray, np.ndarray]:
    """What every rating is expected to be, and its unit."""
    mean, ones = np.nanmean(values), np.ones_like(values)
    of_user = ones * np.nanmean(values, axis=1, keepdims=True)
    of_item = ones * np.nanmean(values, axis=0, keepdims=True)
    if kind == "none":
        return 0 * ones, ones
    if kind == "user":
        return of_user, ones
    if kind == "item":
        return of_item, ones
    if kind == "z_score":
        axis = 1 if by_user else 0
        return (of_user if by_user else of_item), ones * np.nanstd(values, axis=axis, keepdims=True)
    user, item = np.zeros((len(values), 1)), np.zeros((1, values.shape[1]))
    for _ in range(10):
        item = np.nansum(values - mean - user, axis=0, keepdims=True) / (3 + (~np.isnan(values)).sum(0, keepdims=True))
        user = np.nansum(values - mean - item, axis=1, keepdims=True) / (5 + (~np.isnan(values)).sum(1, keepdims=True))
    return mean + user + item, ones


@pytest.mark.parametrize("by_user", [True, False])
@pytest.mark.parametrize("kind", ["none", "user", "item", "z_score", "baseline"])
def test_centres_against_means_written_out(kind: Any, by_user: bool) -> None:
    table = mean_values(DATA.histories, DATA.n_items)
    centre = Centre.of(table, kind, by_user, 10, 5.0, 3.0)
    wanted, units = centred(dense(DATA), kind, by_user)
    found = centre.mean + centre.users_U[:, None] + centre.items_I
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(centre.units, units[:, 0] if by_user else units[0], rtol=1e-5)
    users, own_units = centre.people(table, by_user)
    np.testing.assert_allclose(users, centre.users_U, atol=1e-5)
    np.testing.assert_allclose(own_units, centre.units if by_user else np.ones(len(users)), rtol=1e-5)


def test_the_baseline_is_the_least_of_its_objective() -> None:
    values, centre = dense(DATA), Centre.of(mean_values(DATA.histories, DATA.n_items), "baseline", True, 200, 3.0, 5.0)
    error = values - centre.mean - centre.users_U[:, None] - centre.items_I
    # the slope of sum error² + 3 sum b_u² + 5 sum b_i² is zero
    np.testing.assert_allclose(np.nansum(error, axis=1), 3.0 * centre.users_U, atol=1e-3)
    np.testing.assert_allclose(np.nansum(error, axis=0), 5.0 * centre.items_I, atol=1e-3)


def test_values_of_one_pair_become_their_mean() -> None:
    events = Events(np.array([0, 3, 4]), np.array([1, 0, 1]).repeat([1, 1, 2])[:4], values=np.array([2, 5, 4, 3]))
    np.testing.assert_allclose(mean_values(events, 2).toarray(), [[5, 3], [0, 3]])


# --- predictions ------------------------------------------------------------------------------------------------------


def predicted(values: np.ndarray, like: np.ndarray, k: int, kind: str, by_user: bool, least: int = 1) -> np.ndarray:
    """The formula of the paper, pair by pair."""
    centre, unit = centred(values, kind, by_user)
    apart = (values - centre) / unit
    out = centre.copy()
    for user, item in product(*map(range, values.shape)):
        row, told = (user, apart[:, item]) if by_user else (item, apart[user])
        known = [(like[row, other], told[other]) for other in np.flatnonzero(~np.isnan(told)) if other != row]
        heard = sorted((pair for pair in known if pair[0] > 0), key=lambda pair: -pair[0])[:k]
        if len(heard) >= least:
            out[user, item] += unit[user, item] * sum(s * d for s, d in heard) / sum(s for s, _ in heard)
    return out


@pytest.mark.parametrize("compare", ["values", "deviations"])
@pytest.mark.parametrize("kind", ["none", "user", "item", "z_score", "baseline"])
@pytest.mark.parametrize("key", KEYS)
def test_predictions_against_plain_loops(key: str, kind: str, compare: str) -> None:
    by_user, values = key == "user_knn", dense(DATA)
    centre, unit = centred(values, kind, by_user)
    seen = values if compare == "values" else (values - centre) / unit
    rows = np.nan_to_num(seen if by_user else seen.T)
    norms = np.linalg.norm(rows, axis=1)
    like = (rows @ rows.T) / (np.outer(norms, norms) + 2.0)
    wanted = predicted(values, like, 6, kind, by_user, least=3)
    model = valued(key, centre=kind, compare=compare, neighbours=6, shrink=2.0, min_neighbours=3)
    np.testing.assert_allclose(model.predict(*everything()).reshape(values.shape), wanted, atol=1e-4)


def test_predictions_with_msd_as_in_knn_with_baselines() -> None:
    values = dense(DATA)
    like = np.zeros((DATA.n_users, DATA.n_users))
    for a, b in product(range(DATA.n_users), repeat=2):
        common = ~np.isnan(values[a]) & ~np.isnan(values[b])
        like[a, b] = 1 / (1 + np.square(values[a, common] - values[b, common]).mean()) if common.any() else 0.0
    wanted = predicted(values, like, 40, "baseline", by_user=True)
    model = valued("user_knn", similarity="msd", compare="values", neighbours=40, shrink=0.0)
    np.testing.assert_allclose(model.predict(*everything()).reshape(values.shape), wanted, atol=1e-4)


@pytest.mark.parametrize("kind", ["none", "user", "item", "z_score", "baseline"])
@pytest.mark.parametrize("key", KEYS)
def test_scores_are_predictions_for_who_is_known_and_for_who_has_his_history(key: str, kind: str) -> None:
    model = valued(key, centre=kind, neighbours=7)
    wanted = model.predict(*everything()).reshape(DATA.n_users, -1)
    known = Queries.of_users(np.arange(DATA.n_users, dtype=np.int32), DATA.histories)
    silent = Queries.of_users(known.users, Events(DATA.histories.offsets, DATA.histories.items))
    for queries in (known, silent):
        np.testing.assert_allclose(model.score(queries), wanted, atol=1e-4)
    # his own ratings, told by someone else, bear on what he has rated only
    unseen = np.isnan(dense(DATA))
    apart = model.score(Queries.anonymous(DATA.histories)) - wanted
    assert np.abs(apart[unseen]).max() < 1e-4


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_predicts_or_is_refused(key: str, name: str) -> None:
    rounded = np.round(np.asarray(DATA.histories.values))
    data = DATA.having(Events(DATA.histories.offsets, DATA.histories.items, values=np.clip(rounded, 1, 5)))
    if name in {*ONE_WAY, *SEQUENCES}:
        with pytest.raises(ValueError, match=f"'{name}'"):
            valued(key, data, similarity=name)
        return
    model = valued(key, data, similarity=name)
    values = dense(data)
    found = model.predict(*everything(data)).reshape(values.shape)
    centre, _ = centred(values, "baseline", key == "user_knn")
    assert np.isfinite(found).all()
    there = ~np.isnan(values)
    if name in ("cosine", "adjusted_cosine", "pearson", "spearman", "msd", "tanimoto"):
        assert np.square(found - values)[there].mean() < np.square(centre - values)[there].mean() * 1.05


@pytest.mark.parametrize("key", KEYS)
def test_who_is_unknown_is_answered_by_the_centre(key: str) -> None:
    model = valued(key)
    centre = model.opinions.centre
    scores = model.score(Queries.anonymous(Events.of([[], [3]])))
    np.testing.assert_allclose(scores, np.tile(centre.mean + centre.items_I, (2, 1)), rtol=1e-6)


@pytest.mark.parametrize("key", KEYS)
def test_small_blocks_give_the_same(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = valued(key)
    queries = Queries.anonymous(DATA.histories)
    whole = model.predict(*everything()), model.score(queries)
    for name in ("BLOCK_CELLS", "HELD_CELLS"):
        monkeypatch.setattr(f"segue.similarity.rating_predictor.{name}", 90)
    np.testing.assert_allclose(model.predict(*everything()), whole[0], rtol=1e-6)
    np.testing.assert_allclose(model.score(queries), whole[1], rtol=1e-6)


@pytest.mark.parametrize("key", KEYS)
def test_memory_of_ratings_comes_back(key: str) -> None:
    model = valued(key, similarity="pearson", centre="z_score")
    again = model_class(key)(model.config, model.domain)
    again.restore(model.arrays())
    queries = Queries.anonymous(DATA.histories)
    np.testing.assert_array_equal(again.score(queries), model.score(queries))
    np.testing.assert_array_equal(again.predict(*everything()), model.predict(*everything()))  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", KEYS)
def test_only_clipped_predictions_are_clipped(key: str) -> None:
    free, kept = valued(key), valued(key, clip=True)
    low, high = DATA.histories.values.min(), DATA.histories.values.max()
    np.testing.assert_array_equal(kept.predict(*everything()), np.clip(free.predict(*everything()), low, high))


def test_learning_from_events_predicts_nothing() -> None:
    for key in KEYS:
        assert not fitted(key).predicts
        assert valued(key).predicts


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("similarity", ["cosine", "pearson", "msd"])
def test_tastes_are_found(key: str, similarity: str) -> None:
    world = tastes()
    model = valued(key, world.train, similarity=similarity, neighbours=20)
    targets = world.test.targets
    found = model.predict(world.test.queries.users[targets.rows], targets.items)
    rmse = float(np.sqrt(np.square(found - targets.values).mean()))
    assert rmse < world.noise + 0.8 * (world.biases - world.noise)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("item_knn", {"similarity": "cosin"}, "did you mean 'cosine'"),
    ("item_knn", {"similarity": "vector_cosine"}, "compares learned vectors"),
    ("item_knn", {"similarity": "smith_waterman"}, "items have none"),
    ("item_knn", {"weighting": "bm52"}, "did you mean 'bm25'"),
    ("item_knn", {"weighting": "bm25", "similarity": "jaccard"}, "which similarity='jaccard' does not look at"),
    ("user_knn", {"weighting": "bm25", "learns": "values"}, "which learns='values' does not look at"),
    ("user_knn", {"saturation": 2.0}, "saturation: of weighting='bm25'"),
    ("user_knn", {"centre": "user", "clip": True}, "centre: of learns='values'.*\n.*clip: of learns='values'"),
    ("user_knn", {"similarity": "pearson"}, "'pearson' compares values"),
    ("item_knn", {"learns": "values", "half_life": 3.0}, "half_life: of learns='events'"),
    ("user_knn", {"max_length": 3}, "max_length: of measures of sequences"),
]


@pytest.mark.parametrize(("key", "settings", "told"), REFUSED)
def test_what_does_not_go_together_is_told(key: str, settings: dict[str, Any], told: str) -> None:
    kind: Any = model_class(key).Config
    with pytest.raises(ValueError, match=f"(?s){told}"):
        kind(**settings)


def test_many_distinct_values_have_no_levels() -> None:
    with pytest.raises(ValueError, match=r"distinct values, expected at most 100"):
        valued("item_knn", tastes().train, similarity="jensen_shannon")
