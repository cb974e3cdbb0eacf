"""Rows of equal ratings and orthogonal rows have no similarity: rounding errors are no similarity.

The same is tested on real ratings in test_lenskit_predictions.py.
"""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Events, Queries
from segue.testing import dataset

N_USERS, N_ITEMS, N_CONSTANT = 40, 30, 10
CENTERED = ["adjusted_cosine", "cosine", "pearson", "spearman", "tanimoto"]


def make_ratings(by_user: bool) -> np.ndarray:
    """Return ``(U, I)`` ratings, 0 for none; the first rows that a model compares are constant."""
    rng = np.random.default_rng(11)
    rows = rng.integers(1, 11, (N_USERS, N_ITEMS) if by_user else (N_ITEMS, N_USERS)) / 2
    rows[:N_CONSTANT] = rng.integers(1, 11, (N_CONSTANT, 1)) / 2
    rows *= rng.random(rows.shape) < 0.6
    return rows if by_user else rows.T


def make_log(ratings: np.ndarray) -> Dataset:
    users, items = np.nonzero(ratings)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=len(ratings)))])
    return dataset(Events(offsets, items.astype(np.int32), values=ratings[users, items]), ratings.shape[1])


def similarities(key: str, ratings: np.ndarray, **settings: Any) -> np.ndarray:
    log, model_type = make_log(ratings), model_class(key)
    model: Any = model_type(model_type.Config(feedback="explicit", shrink=0.0, **settings), log.schema)
    model.fit(log, Run(0), None)
    if key == "item_knn":
        found: np.ndarray = model.similar(np.arange(ratings.shape[1], dtype=np.int32))
        return found
    users: Codes = np.arange(len(ratings), dtype=np.int32)
    of_users: np.ndarray = model.similar_users(Queries(log.histories, users, np.ones(len(users), np.bool_)))
    return of_users


@pytest.mark.parametrize("name", CENTERED)
@pytest.mark.parametrize("key", ["item_knn", "user_knn"])
@pytest.mark.parametrize("own", ["mean", "z_score"])
def test_constant_rows_have_no_similarity(key: str, own: str, name: str) -> None:
    ratings = make_ratings(by_user=key == "user_knn")
    normalization = {"mean": key.removesuffix("_knn")}.get(own, own)
    found = similarities(key, ratings, normalization=normalization, similarity=name)
    if name != "adjusted_cosine":  # it subtracts the means of columns, which constant rows differ from
        assert not found[:N_CONSTANT].any()
        assert not found[:, :N_CONSTANT].any()
    assert found[N_CONSTANT:, N_CONSTANT:].any()


@pytest.mark.parametrize("kind", ["user", "item"])
@pytest.mark.parametrize("key", ["item_knn", "user_knn"])
def test_a_log_of_equal_ratings_has_no_similar_rows(key: str, kind: str) -> None:
    ratings = np.where(make_ratings(by_user=False) > 0, 3.3, 0.0)
    for name in CENTERED:
        assert not similarities(key, ratings, normalization=kind, similarity=name).any(), name


@pytest.mark.parametrize("key", ["item_knn", "user_knn"])
def test_centered_cosine_equals_the_formula_in_double_precision(key: str) -> None:
    """LensKit's item-item and user-user models: cosine of rating vectors minus their mean, absent ratings as 0."""
    ratings = make_ratings(by_user=key == "user_knn")
    rows = ratings if key == "user_knn" else ratings.T
    is_rated = rows > 0
    centered = np.where(is_rated, rows - rows.sum(axis=1, keepdims=True) / is_rated.sum(axis=1, keepdims=True), 0.0)
    centered[np.isclose(centered, 0.0, atol=1e-9)] = 0.0
    norms = np.linalg.norm(centered, axis=1)
    scale = np.outer(norms, norms)
    expected = np.divide(centered @ centered.T, scale, out=np.zeros_like(scale), where=scale > 0)
    np.fill_diagonal(expected, 0.0)
    found = similarities(key, ratings, normalization=key.removesuffix("_knn"), similarity="cosine")
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("name", ["adjusted_cosine", "cosine", "pearson", "tanimoto"])
@pytest.mark.parametrize("key", ["item_knn", "user_knn"])
def test_orthogonal_rows_have_no_similarity(key: str, name: str) -> None:
    """A sum of products that is zero in exact arithmetic makes no neighbor, however small its rounding error."""
    rng = np.random.default_rng(5)
    rows = rng.integers(1, 6, (60, 20)) * (rng.random((60, 20)) < 0.3)
    if name == "adjusted_cosine":  # many small tables, in which orthogonal rows are frequent
        rows = np.kron(np.eye(20, dtype=int), np.ones((6, 4), int)) * rng.integers(1, 3, (120, 80))
    ratings = (rows if key == "user_knn" else rows.T).astype(float)
    compare = "values" if name == "adjusted_cosine" else "deviations"
    found = similarities(key, ratings, normalization=key.removesuffix("_knn"), similarity=name, compare=compare)
    is_orthogonal = np.array([[exact_product(x, y, rows, name) == 0 for y in rows] for x in rows])
    n_common = (rows > 0).astype(int) @ (rows > 0).T.astype(int)
    assert (is_orthogonal & (n_common > 1)).sum() > 20
    assert not found[is_orthogonal].any()


def exact_product(x: np.ndarray, y: np.ndarray, rows: np.ndarray, name: str) -> Fraction:
    """Return the product of deviations from the mean of the column, of the common columns (Pearson) or of the row."""
    is_common = (x > 0) & (y > 0)

    def deviation(row: np.ndarray, column: int) -> Fraction:
        used = {"adjusted_cosine": rows[:, column], "pearson": row[is_common]}.get(name, row)
        return int(row[column]) - Fraction(int(used.sum()), int((used > 0).sum()))

    return sum((deviation(x, column) * deviation(y, column) for column in np.flatnonzero(is_common)), Fraction(0))
