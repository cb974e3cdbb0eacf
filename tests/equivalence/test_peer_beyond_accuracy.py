"""Metrics beyond accuracy against values that other libraries publish.

Only inputs and expected values are used. Where a library defines a quantity differently, the test states by how much;
docs/guide/evaluating.md describes these definitions. Values come from:

- RecTools (Apache 2.0), MobileTeleSystems/RecTools: docstrings of rectools/metrics/novelty.py, popularity.py and
  serendipity.py, and tests/metrics/test_novelty.py;
- RecBole (MIT), RUCAIBox/RecBole: tests/metrics/test_topk_metrics.py;
- RePlay (Apache 2.0), sb-ai-lab/RePlay: docstring of replay/metrics/coverage.py.
"""

import math
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from segue.core.types import Events, HeldOut, Queries, Recommendations
from segue.evaluation.beyond_accuracy import diversity, exposure, popularity
from segue.evaluation.beyond_accuracy.lists import Lists
from segue.evaluation.beyond_accuracy.training_data import TrainingData


def make(
    lists: Sequence[Sequence[int]],
    train: Sequence[Sequence[int]],
    n_items: int,
    k: int,
    targets: Sequence[Sequence[int]] | None = None,
    features: pl.LazyFrame | None = None,
) -> Lists:
    items = np.zeros((len(lists), max(map(len, lists))), np.int32)
    for row, one in zip(items, lists, strict=True):
        row[: len(one)] = one
    top = Recommendations(items, np.zeros(items.shape, np.float32), np.array([len(one) for one in lists]))
    history = Events.of(train if len(train) == len(lists) else [[]] * len(lists))
    held_out = HeldOut(Queries.anonymous(history), Events.of(targets or [[]] * len(lists)))
    return Lists.of(top, held_out, TrainingData(Events.of(train), n_items, features)).cut(k)


@pytest.mark.parametrize(("k", "expected"), [(1, [1.5849625, 1.5849625, 0.0]), (2, [1.5849625, 1.5849625, 0.79248125])])
def test_rectools_mean_inverse_user_frequency(k: int, expected: list[float]) -> None:
    found = popularity.novelty(make([[3], [2, 3], [1, 2]], [[1, 2], [1], [1]], 4, k))
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(("k", "expected"), [(1, [3.0, 1.0, 1.0]), (3, [2.5, 2.0, 1.5])])
def test_rectools_average_popularity(k: int, expected: list[float]) -> None:
    lists = make([[1, 2], [3, 1, 2], [3, 2]], [[1, 2], [1, 3], [1, 2]], 4, k)
    np.testing.assert_allclose(popularity.popularity(lists), expected)


def test_rectools_serendipity_is_relative_to_the_rank_by_popularity() -> None:
    """RecTools compares ranks by popularity where Segue takes the distance to the history.

    Both are 0 for the first and the third user, whose lists have no unexpected true item.
    """
    lists, train = [[1, 2], [2, 3], [3], [2, 3]], [[1, 2], [1, 2], [1], []]
    found = diversity.serendipity(make(lists, train, 5, 2, targets=[[1, 2], [2, 3], [2], [2]]))
    assert found[2] == 0.0
    assert found[1] > found[0]
    assert np.isnan(found[3])  # the user has no history; RecTools: 0.125


def test_rectools_diversity_by_hamming_distance_is_another_distance() -> None:
    """RecTools counts the features in which two items differ; both are 0 for equal items."""
    tags = [None, ["-"], ["-", "f2"], ["-", "f1", "f2"], ["-"]]
    features = pl.LazyFrame({"id": list("01234"), "features": tags}, schema_overrides={"features": pl.List(pl.String)})
    found = diversity.diversity(make([[1, 2, 3], [1, 4]], [[0]], 5, 3, features=features), "features")
    assert found[1] == pytest.approx(0.0)  # RecTools: 1.33 and 0
    cosines = [1 / math.sqrt(2), 1 / math.sqrt(3), 2 / math.sqrt(6)]
    assert found[0] == pytest.approx(1 - sum(cosines) / 3)


RECBOLE_LISTS = [[5, 7, 3], [4, 5, 2], [2, 3, 5], [1, 4, 6], [5, 3, 7]]
RECBOLE_TRAIN = [[2, 3, 4, 5, 6], [3, 4, 5, 6], [4, 5, 6], [5, 6], [6]]
"""Items 1 to 6 with 0 to 5 events, as in its ``item_count``."""


def test_recbole_coverage_gini_and_popularity() -> None:
    lists = make(RECBOLE_LISTS, RECBOLE_TRAIN, 8, 3)
    assert exposure.coverage(lists).mean() == pytest.approx(7 / 8)
    weighted = -7 * 0 - 5 * 1 - 3 * 1 - 1 * 2 + 1 * 2 + 3 * 2 + 5 * 3 + 7 * 4
    assert exposure.gini(lists).mean() == pytest.approx(weighted / (8 * 3 * 5))
    np.testing.assert_allclose(popularity.popularity(lists), [6 / 3, 8 / 3, 7 / 3, 8 / 3, 6 / 3])


def test_recbole_entropy_is_divided_by_the_number_of_recommended_items() -> None:
    counts = np.array([1, 2, 3, 2, 4, 1, 2])
    recbole = -np.mean(counts / 15 * np.log(counts / 15))
    found = exposure.entropy(make(RECBOLE_LISTS, RECBOLE_TRAIN, 8, 3)).mean()
    assert found * math.log(2) / 7 == pytest.approx(recbole)


def test_replay_coverage_counts_only_items_in_training() -> None:
    """The items are those with training events in RePlay, and the whole catalog in Segue."""
    lists = [[3, 7, 10, 11, 2], [5, 8, 11, 1, 3], [4, 9, 2]]
    train = [[5, 6, 8, 9, 2], [5, 8, 11, 1, 3], [4, 9, 2]]
    n_items, n_trained = 12, len({item for row in train for item in row})
    found = exposure.coverage(make(lists, train, n_items, 2)).mean() * n_items
    assert (found - 1) / n_trained == pytest.approx(0.5555555555555556)  # item 7 has no training event
