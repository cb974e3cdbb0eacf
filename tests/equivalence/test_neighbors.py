"""Nearest neighbors and their predictions against dense NumPy and plain loops."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from segue.core.registry import exported_functions, model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries
from segue.similarity import weighting
from segue.similarity.nearest import csr_arrays, nearest_neighbors, similarity_matrix, sparse_product
from segue.similarity.rating_baseline import RatingBaseline, mean_values
from segue.similarity.similarity_registry import ASYMMETRIC_MEASURES, MEASURES, SEQUENCE_MEASURES
from segue.similarity.sparse_rows import SparseRows
from segue.similarity.weighting import Corpus
from segue.testing import dataset, tastes

DATA = tastes(users=30, n_items=20).train
KEYS = ["item_knn", "user_knn"]


def fit(key: str, data: Dataset = DATA, **settings: Any) -> Any:
    model_type: Any = model_class(key)
    model = model_type(model_type.Config(**settings), data.schema)
    model.fit(data, Run(0), None)
    return model


def fit_explicit(key: str, data: Dataset = DATA, **settings: Any) -> Any:
    return fit(key, data, **{"feedback": "explicit", **settings})


def dense(data: Dataset) -> np.ndarray:
    """Return the dense ratings; NaN if there is no rating."""
    table = np.full((data.n_users, data.n_items), np.nan)
    table[data.histories.rows, data.histories.items] = data.histories.values
    return table


def all_pairs(data: Dataset = DATA) -> tuple[np.ndarray, np.ndarray]:
    users = np.repeat(np.arange(data.n_users, dtype=np.int32), data.n_items)
    return users, np.tile(np.arange(data.n_items, dtype=np.int32), data.n_users)


def make_log() -> Dataset:
    rng = np.random.default_rng(3)
    return dataset(Events.of([rng.integers(24, size=rng.integers(0, 12)) for _ in range(60)]), n_items=25)


# --- neighbors -------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 99), count=st.integers(1, 12), rows=st.integers(2, 9), share=st.sampled_from([0.1, 0.5]))
def test_nearest_neighbors_are_the_first_of_a_stable_sort(seed: int, count: int, rows: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    table = SparseRows.from_csr(csr_array((rng.random((rows, 6)) < share).astype(np.float32)))
    self_rows = rng.integers(-1, rows, size=rows).astype(np.int32)
    for name in ("cosine", "jaccard"):  # measures with many ties
        neighbors = nearest_neighbors(table, table, MEASURES[name], 1.0, count, self_rows).toarray()
        similarities = similarity_matrix(table, table, MEASURES[name], 1.0)
        similarities[np.flatnonzero(self_rows >= 0), self_rows[self_rows >= 0]] = 0.0
        expected = np.zeros_like(similarities)
        order = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
        np.put_along_axis(expected, order, np.take_along_axis(similarities, order, axis=1), axis=1)
        np.testing.assert_array_equal(neighbors, expected)


def test_nearest_neighbors_do_not_depend_on_threads_or_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = csr_array((np.random.default_rng(0).random((70, 30)) < 0.2).astype(np.float32))
    table, done = SparseRows.from_csr(counts), [0]

    def progress(rows: int) -> None:
        done[0] += rows

    def find_neighbors() -> csr_array[Any]:
        return nearest_neighbors(table, table, MEASURES["cosine"], 1.0, 5, np.arange(70, dtype=np.int32), progress)

    expected = find_neighbors()
    assert done == [70]
    monkeypatch.setattr("segue.core.numba_kernels.thread_count", lambda: 3)
    monkeypatch.setattr("segue.similarity.row_pairs.BLOCK_PAIRS", 100)
    assert (find_neighbors() != expected).nnz == 0


def test_sparse_product_equals_scipy() -> None:
    rng = np.random.default_rng(1)
    left, right = (csr_array(rng.random(shape) * (rng.random(shape) < 0.3)) for shape in ((7, 9), (9, 11)))
    np.testing.assert_allclose(sparse_product(left, csr_arrays(right), 11), (left @ right).toarray(), rtol=1e-6)


def test_too_large_a_matrix_raises() -> None:
    rows = csr_array((1_000_000, 2))
    table = SparseRows.from_csr(rows)
    with pytest.raises(ValueError, match=r"1,000,000 x 1,000,000 rows needs 3,725\.3 GiB"):
        similarity_matrix(table, table, MEASURES["cosine"], 0.0)


# --- ranking ----------------------------------------------------------------------------------------------------------


def test_user_knn_against_dense_numpy() -> None:
    data = make_log()
    seen = np.zeros((data.n_users, data.n_items))
    seen[data.histories.rows, data.histories.items] = 1.0
    history = [4, 7, 7, 0]
    query = np.zeros(data.n_items)
    query[history] = 1.0
    similarities = (seen @ query) / (np.sqrt(seen.sum(axis=1)) * np.sqrt(query.sum()) + 2.5)
    model = fit("user_knn", data, k=5, shrink=2.5)
    for known, self_rows in ((False, -1), (True, 9)):
        masked = similarities.copy()
        masked[self_rows if known else []] = 0.0
        neighbors = np.argsort(-masked, kind="stable")[:5]
        queries = Queries(Events.of([history]), np.array([9], np.int32), np.array([known]))
        np.testing.assert_allclose(model.score(queries)[0], masked[neighbors] @ seen[neighbors], rtol=1e-5)
        np.testing.assert_allclose(model.similar_users(queries)[0], masked, rtol=1e-5)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", ["bm25", "tfidf"])
def test_weighted_neighbors(key: str, name: str) -> None:
    data = make_log()
    counts = np.zeros((data.n_users, data.n_items), np.float32)
    np.add.at(counts, (data.histories.rows, data.histories.items), 1.0)
    rows = counts if key == "user_knn" else counts.T
    weights = exported_functions(weighting)[name](csr_array(rows), Corpus.of(csr_array(rows)), 1.2, 0.75).toarray()
    norms = np.linalg.norm(weights, axis=1)
    similarities = np.divide(weights @ weights.T, np.outer(norms, norms) + 10.0)
    np.fill_diagonal(similarities, 0.0)
    model = fit(key, data, weighting=name, k=1000)
    if key == "item_knn":
        np.testing.assert_allclose(model.similar(np.arange(data.n_items, dtype=np.int32)), similarities, atol=1e-6)
    else:
        queries = Queries.of_users(np.arange(data.n_users, dtype=np.int32), data.histories)
        np.testing.assert_allclose(model.similar_users(queries), similarities, atol=1e-6)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_ranks_or_raises(key: str, name: str) -> None:
    data = make_log()
    try:
        model = fit(key, data, similarity=name, k=10)
    except ValueError as error:
        assert name in {
            "adjusted_cosine",
            "msd",
            "pearson",
            "spearman",
            *(SEQUENCE_MEASURES if key == "item_knn" else ()),
        }
        assert f"'{name}'" in str(error)  # noqa: PT017
        return
    scores = model.score(Queries.anonymous(Events.of([[1, 2, 3], []])))
    assert np.isfinite(scores).all()
    assert scores[0].max() > 0
    np.testing.assert_allclose(scores[1], model.popularity_I)


def test_sequence_measures_use_the_newest_events() -> None:
    data = dataset(Events.of([[0, 1, 2], [2, 1, 0], [5, 3, 4]]), 6)
    model = fit("user_knn", data, similarity="longest_common_subsequence", max_length=2, shrink=0.0)
    queries = Queries.anonymous(Events.of([[3, 4, 0, 1]]))
    # of (0, 1): against (1, 2) one of two; against (1, 0) one of two; against (3, 4) none
    np.testing.assert_allclose(model.similar_users(queries), [[0.5, 0.5, 0.0]])


# --- baselines -------------------------------------------------------------------------------------------------------


def expected_baseline(values: np.ndarray, kind: str, by_user: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the baseline and the scale of every rating."""
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
def test_baselines_against_dense_numpy(kind: Any, by_user: bool) -> None:
    table = mean_values(DATA.histories, DATA.n_items)
    baseline = RatingBaseline.fit(table, kind, by_user, 10, 5.0, 3.0)
    expected, units = expected_baseline(dense(DATA), kind, by_user)
    actual = baseline.mean + baseline.users_U[:, None] + baseline.items_I
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    np.testing.assert_allclose(baseline.units, units[:, 0] if by_user else units[0], rtol=1e-5)
    users, own_units = baseline.fold_in(table, by_user)
    np.testing.assert_allclose(users, baseline.users_U, atol=1e-5)
    np.testing.assert_allclose(own_units, baseline.units if by_user else np.ones(len(users)), rtol=1e-5)


def test_the_baseline_minimizes_its_objective() -> None:
    values, baseline = (
        dense(DATA),
        RatingBaseline.fit(mean_values(DATA.histories, DATA.n_items), "baseline", True, 200, 3.0, 5.0),
    )
    error = values - baseline.mean - baseline.users_U[:, None] - baseline.items_I
    # the gradient of sum error² + 3 sum b_u² + 5 sum b_i² is zero
    np.testing.assert_allclose(np.nansum(error, axis=1), 3.0 * baseline.users_U, atol=1e-3)
    np.testing.assert_allclose(np.nansum(error, axis=0), 5.0 * baseline.items_I, atol=1e-3)


def test_values_of_one_pair_are_averaged() -> None:
    events = Events(np.array([0, 3, 4]), np.array([1, 0, 1]).repeat([1, 1, 2])[:4], values=np.array([2, 5, 4, 3]))
    np.testing.assert_allclose(mean_values(events, 2).toarray(), [[5, 3], [0, 3]])


# --- predictions ------------------------------------------------------------------------------------------------------


def expected_predictions(
    values: np.ndarray, similarities: np.ndarray, k: int, kind: str, by_user: bool, min_k: int = 1
) -> np.ndarray:
    """Apply the formula of the paper, pair by pair."""
    baseline, unit = expected_baseline(values, kind, by_user)
    deviations = (values - baseline) / unit
    out = baseline.copy()
    for user, item in product(*map(range, values.shape)):
        row, row_deviations = (user, deviations[:, item]) if by_user else (item, deviations[user])
        known = [
            (similarities[row, other], row_deviations[other])
            for other in np.flatnonzero(~np.isnan(row_deviations))
            if other != row
        ]
        used = sorted((pair for pair in known if pair[0] > 0), key=lambda pair: -pair[0])[:k]
        if len(used) >= min_k:
            out[user, item] += unit[user, item] * sum(s * d for s, d in used) / sum(s for s, _ in used)
    return out


@pytest.mark.parametrize("compare", ["values", "deviations"])
@pytest.mark.parametrize("kind", ["none", "user", "item", "z_score", "baseline"])
@pytest.mark.parametrize("key", KEYS)
def test_predictions_against_plain_loops(key: str, kind: str, compare: str) -> None:
    by_user, values = key == "user_knn", dense(DATA)
    baseline, unit = expected_baseline(values, kind, by_user)
    seen = values if compare == "values" else (values - baseline) / unit
    rows = np.nan_to_num(seen if by_user else seen.T)
    norms = np.linalg.norm(rows, axis=1)
    similarities = (rows @ rows.T) / (np.outer(norms, norms) + 2.0)
    expected = expected_predictions(values, similarities, 6, kind, by_user, min_k=3)
    model = fit_explicit(key, normalization=kind, compare=compare, k=6, shrink=2.0, min_k=3)
    np.testing.assert_allclose(model.predict(*all_pairs()).reshape(values.shape), expected, atol=1e-4)


def test_predictions_with_msd_and_baselines() -> None:
    values = dense(DATA)
    similarities = np.zeros((DATA.n_users, DATA.n_users))
    for a, b in product(range(DATA.n_users), repeat=2):
        common = ~np.isnan(values[a]) & ~np.isnan(values[b])
        similarities[a, b] = 1 / (1 + np.square(values[a, common] - values[b, common]).mean()) if common.any() else 0.0
    expected = expected_predictions(values, similarities, 40, "baseline", by_user=True)
    model = fit_explicit("user_knn", similarity="msd", compare="values", k=40, shrink=0.0)
    np.testing.assert_allclose(model.predict(*all_pairs()).reshape(values.shape), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["none", "user", "item", "z_score", "baseline"])
@pytest.mark.parametrize("key", KEYS)
def test_scores_equal_predictions(key: str, kind: str) -> None:
    model = fit_explicit(key, normalization=kind, k=7)
    expected = model.predict(*all_pairs()).reshape(DATA.n_users, -1)
    known = Queries.of_users(np.arange(DATA.n_users, dtype=np.int32), DATA.histories)
    without_values = Queries.of_users(known.users, Events(DATA.histories.offsets, DATA.histories.items))
    for queries in (known, without_values):
        np.testing.assert_allclose(model.score(queries), expected, atol=1e-4)
    # with the ratings of a known user, an unknown user gets the same scores except for rated items
    is_unrated = np.isnan(dense(DATA))
    difference = model.score(Queries.anonymous(DATA.histories)) - expected
    assert np.abs(difference[is_unrated]).max() < 1e-4


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_predicts_or_raises(key: str, name: str) -> None:
    rounded = np.round(np.asarray(DATA.histories.values))
    data = DATA.with_histories(Events(DATA.histories.offsets, DATA.histories.items, values=np.clip(rounded, 1, 5)))
    if name in {*ASYMMETRIC_MEASURES, *SEQUENCE_MEASURES}:
        with pytest.raises(ValueError, match=f"'{name}'"):
            fit_explicit(key, data, similarity=name)
        return
    model = fit_explicit(key, data, similarity=name)
    values = dense(data)
    actual = model.predict(*all_pairs(data)).reshape(values.shape)
    baseline, _ = expected_baseline(values, "baseline", key == "user_knn")
    assert np.isfinite(actual).all()
    is_rated = ~np.isnan(values)
    if name in ("cosine", "adjusted_cosine", "pearson", "spearman", "msd", "tanimoto"):
        assert np.square(actual - values)[is_rated].mean() < np.square(baseline - values)[is_rated].mean() * 1.05


@pytest.mark.parametrize("key", KEYS)
def test_unknown_users_get_the_baseline(key: str) -> None:
    model = fit_explicit(key)
    baseline = model.rating_predictor.baseline
    scores = model.score(Queries.anonymous(Events.of([[], [3]])))
    np.testing.assert_allclose(scores, np.tile(baseline.mean + baseline.items_I, (2, 1)), rtol=1e-6)


@pytest.mark.parametrize("key", KEYS)
def test_predictions_do_not_depend_on_block_sizes(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fit_explicit(key)
    queries = Queries.anonymous(DATA.histories)
    expected = model.predict(*all_pairs()), model.score(queries)
    for name in ("BLOCK_CELLS", "ITEM_BLOCK_CELLS"):
        monkeypatch.setattr(f"segue.similarity.rating_predictor.{name}", 90)
    np.testing.assert_allclose(model.predict(*all_pairs()), expected[0], rtol=1e-6)
    np.testing.assert_allclose(model.score(queries), expected[1], rtol=1e-6)


@pytest.mark.parametrize("key", KEYS)
def test_a_restored_model_predicts_the_same(key: str) -> None:
    model = fit_explicit(key, similarity="pearson", normalization="z_score")
    restored = model_class(key)(model.config, model.schema)
    restored.restore(model.arrays())
    queries = Queries.anonymous(DATA.histories)
    np.testing.assert_array_equal(restored.score(queries), model.score(queries))
    np.testing.assert_array_equal(restored.predict(*all_pairs()), model.predict(*all_pairs()))  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", KEYS)
def test_predictions_are_clipped_only_if_configured(key: str) -> None:
    unclipped, clipped = fit_explicit(key), fit_explicit(key, clip_predictions=True)
    low, high = DATA.histories.values.min(), DATA.histories.values.max()
    np.testing.assert_array_equal(clipped.predict(*all_pairs()), np.clip(unclipped.predict(*all_pairs()), low, high))


def test_only_explicit_feedback_predicts_ratings() -> None:
    for key in KEYS:
        assert not fit(key).predicts_ratings
        assert fit_explicit(key).predicts_ratings


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("similarity", ["cosine", "pearson", "msd"])
def test_error_is_close_to_the_noise(key: str, similarity: str) -> None:
    world = tastes()
    model = fit_explicit(key, world.train, similarity=similarity, k=20)
    targets = world.test.targets
    actual = model.predict(world.test.queries.users[targets.rows], targets.items)
    rmse = float(np.sqrt(np.square(actual - targets.values).mean()))
    assert rmse < world.noise + 0.8 * (world.biases - world.noise)


INVALID_SETTINGS: list[tuple[str, dict[str, Any], str]] = [
    ("item_knn", {"similarity": "cosin"}, "did you mean 'cosine'"),
    ("item_knn", {"similarity": "vector_cosine"}, "compares learned vectors"),
    ("item_knn", {"similarity": "smith_waterman"}, "expected a measure of items"),
    ("item_knn", {"weighting": "bm52"}, "did you mean 'bm25'"),
    ("item_knn", {"weighting": "bm25", "similarity": "jaccard"}, "which similarity='jaccard' does not use"),
    ("user_knn", {"weighting": "bm25", "feedback": "explicit"}, "which feedback='explicit' does not use"),
    ("user_knn", {"bm25_k1": 2.0}, "bm25_k1: only used with weighting='bm25'"),
    (
        "user_knn",
        {"normalization": "user", "clip_predictions": True},
        "normalization: only used with feedback='explicit'.*\n.*clip_predictions: only used with feedback='explicit'",
    ),
    ("user_knn", {"similarity": "pearson"}, "'pearson' compares values"),
    ("item_knn", {"feedback": "explicit", "half_life": 3.0}, "half_life: only used with feedback='implicit'"),
    ("user_knn", {"max_length": 3}, "max_length: only used by sequence measures"),
]


@pytest.mark.parametrize(("key", "settings", "message"), INVALID_SETTINGS)
def test_invalid_settings_raise(key: str, settings: dict[str, Any], message: str) -> None:
    kind: Any = model_class(key).Config
    with pytest.raises(ValueError, match=f"(?s){message}"):
        kind(**settings)


def test_too_many_distinct_values_for_histograms_raise() -> None:
    with pytest.raises(ValueError, match=r"distinct values, expected at most 100"):
        fit_explicit("item_knn", tastes().train, similarity="jensen_shannon")
