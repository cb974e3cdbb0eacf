"""Compare classic models with independent implementations of their formulas."""

import logging
from typing import Any

import numpy as np
import pytest

from segue.core.model import Model
from segue.core.model_arrays import load_array
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Events, Queries
from segue.solvers.items.cooccurrence import cooccurrence
from segue.testing import dataset

SECONDS_PER_DAY = 86_400


def fit(key: str, data: Dataset, seed: int = 0, **settings: Any) -> Any:
    kind: Any = model_class(key)
    model: Model = kind(kind.Config(**settings), data.schema)
    model.fit(data, Run(seed), None)  # type: ignore[attr-defined]
    return model


@pytest.fixture(scope="module")
def log() -> Dataset:
    rng = np.random.default_rng(3)
    skew = rng.dirichlet(np.full(24, 2.0))
    return dataset(Events.of([rng.choice(24, size=rng.integers(0, 12), p=skew) for _ in range(80)]), n_items=25)


def seen(data: Dataset) -> np.ndarray:
    matrix = np.zeros((data.n_users, data.n_items))
    matrix[data.histories.rows, data.histories.items] = 1.0
    return matrix


def queries(*rows: list[int]) -> Queries:
    return Queries.anonymous(Events.of(rows))


# --- popular, recent_popular -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["popular", "recent_popular"])
def test_log_popularity_is_a_distribution(key: str, log: Dataset) -> None:
    model = fit(key, log)
    assert model.scale == "logit"
    assert np.exp(model.score(queries([]))[0].astype(np.float64)).sum() == pytest.approx(1.0, abs=1e-5)


def test_popular_equals_smoothed_counts() -> None:
    scores = fit("popular", dataset(Events.of([[0, 0, 1], [0]]), 3), smoothing=0.5).score(queries([1], []))
    np.testing.assert_allclose(np.exp(scores), [[3.5 / 5.5, 1.5 / 5.5, 0.5 / 5.5]] * 2, rtol=1e-6)


def test_popular_counts_only_the_target_action() -> None:
    histories = Events(np.array([0, 4]), np.array([0, 0, 0, 1]), actions=np.array([0, 0, 0, 1], np.uint8))
    views = Dataset("shop", dataset(histories, 2).users, dataset(histories, 2).items, histories, ("view", "buy"), 1)
    scores = fit("popular", views).score(queries([]))
    np.testing.assert_allclose(np.exp(scores[0]), [1 / 3, 2 / 3], rtol=1e-6)


def test_recent_popular_halves_with_each_half_life() -> None:
    times = np.array([0, 0, 0, 20 * SECONDS_PER_DAY])
    data = dataset(Events(np.array([0, 4]), np.array([0, 0, 0, 1]), times=times), 2)
    odds = fit("recent_popular", data, half_life=10.0, smoothing=1e-9).score(queries([]))[0]
    # three events two half-lives old against one new event
    assert odds[0] - odds[1] == pytest.approx(np.log(3 / 4), abs=1e-5)


def test_recent_popular_without_times_counts_later_events(caplog: pytest.LogCaptureFixture) -> None:
    data = dataset(Events.of([[0, 1], [2], [0, 2]]), 3)
    with caplog.at_level(logging.WARNING):
        odds = fit("recent_popular", data, half_life=1.0, smoothing=1e-9).score(queries([]))[0]
    assert "no real times" in caplog.text
    np.testing.assert_allclose(np.exp(odds), np.array([1.0, 1.0, 2.0]) / 4.0, rtol=1e-5)


def test_recent_popular_ranks_old_items_by_all_time_popularity() -> None:
    times = np.array([0, 0, 0, 10**6 * SECONDS_PER_DAY])
    data = dataset(Events(np.array([0, 4]), np.array([0, 0, 1, 2]), times=times), 3)
    odds = fit("recent_popular", data).score(queries([]))[0]
    assert odds[2] > odds[0] > odds[1]


# --- random ------------------------------------------------------------------------------------------------------


def test_random_is_uniform_and_differs_between_queries() -> None:
    data = dataset(Events.of([[0]]), 5000)
    model = fit("random", data)
    queries = Queries(Events.of([[1, 2], [2, 1], [1], [], [], [0]]), np.array([0, 0, 0, 0, 0, 0]), np.arange(6) == 4)
    scores = model.score(queries)
    assert len(np.unique(scores, axis=0)) == 6
    assert np.abs(np.corrcoef(scores) - np.eye(6)).max() < 0.06
    histogram = np.histogram(scores, bins=10, range=(0, 1))[0] / scores.size
    np.testing.assert_allclose(histogram, 0.1, atol=0.01)


def test_random_follows_the_seed(log: Dataset) -> None:
    first, same, different = (fit("random", log, seed=seed).score(queries([1])) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - different).max() > 0.1


# --- item_knn ----------------------------------------------------------------------------------------------------


def test_cosine_neighbors_against_dense_numpy(log: Dataset) -> None:
    x = seen(log)
    norms = np.sqrt((x**2).sum(axis=0))
    similarities = (x.T @ x) / (np.outer(norms, norms) + 2.5)
    np.fill_diagonal(similarities, 0.0)
    for k in (3, 24):
        nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
        expected = np.zeros_like(similarities)
        np.put_along_axis(expected, nearest, np.take_along_axis(similarities, nearest, axis=1), axis=1)
        model = fit("item_knn", log, k=k, shrink=2.5)
        items: Codes = np.arange(log.n_items, dtype=np.int32)
        np.testing.assert_allclose(model.similar(items), expected, atol=1e-6)
        history = [4, 7, 7, 0]
        expected_scores = expected[:, [0, 4, 7]].sum(axis=1)
        np.testing.assert_allclose(model.score(queries(history))[0], expected_scores, atol=1e-5)


def test_item_knn_weights_the_history_by_age(log: Dataset) -> None:
    model = fit("item_knn", log, half_life=2.0)
    full = model.neighbors_II.toarray()
    expected = full[:, 4] * 0.5 + full[:, 7] * 2**-0.5 + full[:, 1]
    np.testing.assert_allclose(model.score(queries([4, 7, 1]))[0], expected, atol=1e-6)


@pytest.mark.parametrize("name", ["cosine", "jaccard", "dice", "conditional"])
def test_item_knn_is_bit_identical_to_a_dense_computation(name: str, log: Dataset) -> None:
    """Compare with a dense co-occurrence matrix, bit by bit."""
    x = seen(log).astype(np.float32)
    n_common, counts = x.T @ x, x.sum(axis=0)
    denominator = {
        "cosine": np.sqrt(counts)[:, None] * np.sqrt(counts) + np.float32(3),
        "jaccard": counts[:, None] + counts - n_common + np.float32(3),
        "dice": counts[:, None] + counts + np.float32(3),
        "conditional": np.broadcast_to(counts + np.float32(3), n_common.shape),
    }[name]
    expected = np.divide(
        2 * n_common if name == "dice" else n_common, denominator, out=np.zeros_like(n_common), where=n_common > 0
    )
    np.fill_diagonal(expected, 0.0)
    model = fit("item_knn", log, similarity=name, shrink=3.0, k=100)
    np.testing.assert_array_equal(model.similar(np.arange(log.n_items, dtype=np.int32)), expected)


@pytest.mark.parametrize("cells", [1, 60, 10**6])
def test_cooccurrence_does_not_depend_on_the_block(log: Dataset, cells: int) -> None:
    blocks = list(cooccurrence(log.histories.csr(log.n_items), cells))
    assert all(block.size <= max(cells, log.n_items) for _, block in blocks)
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), seen(log).T @ seen(log))


# --- ease --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("l2", [0.5, 500.0])
def test_ease_against_the_closed_form_column_by_column(log: Dataset, l2: float) -> None:
    x = seen(log)
    expected = np.zeros((log.n_items, log.n_items))
    for item in range(log.n_items):
        # ridge regression on all other items, which gives the zero diagonal
        others = np.delete(np.arange(log.n_items), item)
        gram = x[:, others].T @ x[:, others] + l2 * np.eye(len(others))
        expected[others, item] = np.linalg.solve(gram, x[:, others].T @ x[:, item])
    model = fit("ease", log, l2=l2)
    np.testing.assert_allclose(model.weights_II, expected, atol=2e-6)
    np.testing.assert_allclose(model.score(queries([2, 9, 9]))[0], expected[2] + expected[9], atol=5e-6)


def test_ease_reports_the_memory_it_needs() -> None:
    with pytest.raises(ValueError, match=r"5,000,000 x 5,000,000 items needs 93,132\.3 GiB"):
        fit("ease", dataset(Events.of([[0]]), 5_000_000))


# --- all ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["item_knn", "user_knn", "ease"])
def test_uninformative_histories_get_popularity(key: str, log: Dataset) -> None:
    unseen = log.n_items - 1
    assert (log.histories.items != unseen).all()
    counts = np.bincount(log.histories.items, minlength=log.n_items) + 1.0
    for history in ([], [unseen]):
        np.testing.assert_allclose(fit(key, log).score(queries(history))[0], counts / counts.sum(), rtol=1e-5)


@pytest.mark.parametrize("key", ["random", "popular", "recent_popular", "item_knn", "user_knn", "ease"])
def test_arrays_of_another_model_raise(key: str, log: Dataset) -> None:
    model = fit(key, log)
    with pytest.raises(ValueError, match="missing array"):
        model.restore({})
    with pytest.raises(ValueError, match="expected"):
        model.restore({name: np.zeros((3, 3, 3), np.int8) for name in model.arrays()})


def test_load_array_reports_both_shapes() -> None:
    with pytest.raises(
        ValueError, match=r"'a' in the saved model: got int64 of shape \(2,\), expected float32 of shape \(any, 3\)"
    ):
        load_array({"a": np.zeros(2, np.int64)}, "a", (None, 3), np.float32)
