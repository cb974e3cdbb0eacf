"""Nearest-neighbor predictions against reference values of LensKit, and similarities on real ratings.

``lenskit_predictions.csv`` has 300 of the 3,044 predictions in lenskit/lkpy (MIT License, Boise State University and
Drexel University): tests/models/item-item-preds.csv (k = 20) and user-user-preds.csv (k = 30), computed by the Java
version of LensKit on the release of MovieLens latest-small of October 2016, rounded to four digits. They include the 27
pairs whose predictions change if the deviations of constant rows are not exactly zero. Of all 3,044 predictions, 3,042
agree to 0.00001, and two differ by 0.006 and 0.011: see ``TIED``.
"""

import csv
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries
from segue.data.archives import find_archive
from segue.data.sources.ml_latest_small import ARCHIVE
from segue.testing import dataset

FILE = Path(__file__).with_name("lenskit_predictions.csv")
TIED = {("item_knn", 30, 4406), ("item_knn", 30, 48262), ("item_knn", 468, 6971)}
"""Pairs of user and item where the 20th and the 21st most similar item have equal similarities in exact arithmetic:
rounding decides which of them is used."""
RATINGS_OF_2016 = 100_004

pytestmark = pytest.mark.skipif(
    not os.environ.get("SEGUE_ARCHIVES"), reason="SEGUE_ARCHIVES names no folder of archives"
)


def read_ratings(columns: np.ndarray) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """Convert rows of user, item and rating to a dataset, and return the ids of users and items."""
    user_ids, users = np.unique(columns[:, 0].astype(int), return_inverse=True)
    item_ids, items = np.unique(columns[:, 1].astype(int), return_inverse=True)
    order = np.lexsort((items, users))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(users))])
    values = columns[order, 2].astype(np.float32)
    return dataset(Events(offsets, items[order].astype(np.int32), values=values), len(item_ids)), user_ids, item_ids


@pytest.fixture(scope="module")
def ratings_of_2016() -> tuple[Dataset, np.ndarray, np.ndarray]:
    archive = find_archive(ARCHIVE.members, "ml_latest_small")
    if archive is None:
        pytest.skip("SEGUE_ARCHIVES has no ml-latest-small")
    table = np.loadtxt(io.BytesIO(archive.read("ml-latest-small/ratings.csv")), delimiter=",", skiprows=1)
    if len(table) != RATINGS_OF_2016:
        pytest.skip(f"ml-latest-small has {len(table):,} ratings, expected the release of 2016")
    return read_ratings(table[:, :3])


@pytest.fixture(scope="module")
def ml_100k() -> tuple[Dataset, np.ndarray, np.ndarray]:
    archive = find_archive(("ml-100k/u.data",), "ml-100k")
    if archive is None:
        pytest.skip("SEGUE_ARCHIVES has no ml-100k")
    return read_ratings(np.loadtxt(io.BytesIO(archive.read("ml-100k/u.data")))[:, :3])


def fit(key: str, data: Dataset, **settings: Any) -> Any:
    kind: Any = model_class(key)
    model = kind(kind.Config(feedback="explicit", shrink=0.0, **settings), data.schema)
    model.fit(data, Run(0), None)
    return model


@pytest.mark.parametrize(("key", "k"), [("item_knn", 20), ("user_knn", 30)])
def test_predictions_of_lenskit(key: str, k: int, ratings_of_2016: Any) -> None:
    data, user_ids, item_ids = ratings_of_2016
    model = fit(key, data, k=k, similarity="cosine", normalization=key.removesuffix("_knn"))
    rows = [row for row in csv.DictReader(FILE.read_text().splitlines()) if row["model"] == key]
    pairs = np.array([[int(row["user"]), int(row["item"])] for row in rows])
    expected = np.array([float(row["prediction"]) for row in rows])
    users, items = np.searchsorted(user_ids, pairs[:, 0]), np.searchsorted(item_ids, pairs[:, 1])
    found = model.predict(users.astype(np.int32), items.astype(np.int32))
    differing = {(key, *pair) for pair in pairs[np.abs(found - expected) > 1e-4].tolist()}
    assert len(rows) == 150
    assert differing <= TIED
    np.testing.assert_allclose(found, expected, atol=0.03)


@pytest.mark.parametrize("own", ["mean", "z_score"])
@pytest.mark.parametrize("key", ["item_knn", "user_knn"])
@pytest.mark.parametrize("source", ["ratings_of_2016", "ml_100k"])
def test_constant_rows_of_real_ratings_have_no_similarity(
    source: str, key: str, own: str, request: pytest.FixtureRequest
) -> None:
    data, _, _ = request.getfixturevalue(source)
    rows = data.histories.items if key == "item_knn" else data.histories.rows
    counts = np.bincount(rows)
    spread = np.bincount(rows, data.histories.values.astype(float) ** 2) * counts
    is_constant = np.isclose(spread, np.bincount(rows, data.histories.values) ** 2)
    if key == "user_knn":  # no user rates like this: the first users get the same rating everywhere
        is_constant[:20] = True
        values = np.where(is_constant[rows], 3.3, data.histories.values)
        data = data.with_histories(Events(data.histories.offsets, data.histories.items, values=values))
    model = fit(key, data, normalization={"mean": key.removesuffix("_knn")}.get(own, own))
    constant, others = np.flatnonzero(is_constant)[:300].astype(np.int32), np.flatnonzero(~is_constant)[:300]
    for codes, columns in ((constant, slice(None)), (others.astype(np.int32), is_constant)):
        found = model.similar(codes) if key == "item_knn" else model.similar_users(of_users(data, codes))
        assert not found[:, columns].any()
    assert found.any()


def of_users(data: Dataset, users: np.ndarray) -> Queries:
    return Queries.of_users(users.astype(np.int32), data.histories.take(users))
