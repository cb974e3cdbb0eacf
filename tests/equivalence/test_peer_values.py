"""Metrics against values that the unit tests of other libraries expect.

Only inputs and expected values are used. Definitions that differ:

- Segue's relevance is binary: the graded NDCG of ranx and the raw scores of Recommenders have no counterpart.
- Cornac's cutoff of -1 means the length of the list; here it is given as k.
- Segue has no coverage, novelty, entropy or AUC.

Values of RePlay, RecTools, LensKit and Surprise are in test_peer_lists.py, with the definitions that differ.
Licenses: RecBole, ranx and Recommenders MIT, Cornac Apache 2.0.
"""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from segue.core.types import Ranks, Recommendations
from segue.evaluation import metrics, rating_metrics
from segue.evaluation.rating_metrics import PredictionErrors

NOT_FOUND = 1_000_000


def compute(name: str, lists: Sequence[Sequence[int]], relevant: Sequence[Sequence[int]], k: int) -> np.ndarray:
    """Return the value of each list of items, best first."""
    offsets = np.concatenate([[0], np.cumsum([len(items) for items in relevant])])
    n_higher = [
        one.index(item) if item in one else NOT_FOUND
        for one, items in zip(map(list, lists), relevant, strict=True)
        for item in items
    ]
    size = np.full(len(lists), NOT_FOUND + 1)
    ranks = Ranks(offsets, np.array(n_higher), np.zeros(len(n_higher), int), size, Recommendations.concat([], 1))
    values: np.ndarray = getattr(metrics, name)(ranks, k)
    return values


# RecBole, tests/metrics/test_topk_metrics.py: which of the first three items are relevant, and the number of relevant
# items; the expected values are those at the cutoffs 1, 2 and 3
RECBOLE_LISTS = [[90, 91, 92], [0, 1, 2], [0, 91, 1], [90, 91, 0]]
RECBOLE_RELEVANT = [[0], [0, 1, 2], [0, 1, 2, 3], [0, 1]]
SECOND, THIRD = 1 / math.log2(3), 1 / math.log2(4)
RECBOLE = {
    "hit_rate": [[0, 0, 0], [1, 1, 1], [1, 1, 1], [0, 0, 1]],
    "ndcg": [
        [0, 0, 0],
        [1, 1, 1],
        [1, 1 / (1 + SECOND), (1 + THIRD) / (1 + SECOND + THIRD)],
        [0, 0, THIRD / (1 + SECOND)],
    ],
    "mrr": [[0, 0, 0], [1, 1, 1], [1, 1, 1], [0, 0, 1 / 3]],
    "map": [[0, 0, 0], [1, 1, 1], [1, 1 / 2, (1 + 2 / 3) / 3], [0, 0, 1 / 6]],
    "recall": [[0, 0, 0], [1 / 3, 2 / 3, 1], [1 / 4, 1 / 4, 2 / 4], [0, 0, 1 / 2]],
    "precision": [[0, 0, 0], [1, 1, 1], [1, 1 / 2, 2 / 3], [0, 0, 1 / 3]],
}


@pytest.mark.parametrize("name", RECBOLE)
def test_values_of_recbole(name: str) -> None:
    found = np.stack([compute(name, RECBOLE_LISTS, RECBOLE_RELEVANT, k) for k in (1, 2, 3)], axis=1)
    np.testing.assert_allclose(found, RECBOLE[name], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "ranked", "relevant", "k", "expected"),
    [
        # Cornac, tests/cornac/metrics/test_ranking.py
        ("ndcg", [0], [0], 1, 1.0),
        ("ndcg", [0, 2, 1], [0, 2], 3, 1.0),
        ("ndcg", [1, 2, 0], [2], 2, 0.63),
        ("mrr", [0, 2, 1], [0, 2], 3, 1.0),
        ("mrr", [1, 2, 0], [0, 2], 3, 1 / 2),
        ("precision", [0, 2, 1], [0, 2], 3, 2 / 3),
        ("precision", [1, 2, 0], [2], 3, 1 / 3),
        ("precision", [1, 2, 0], [2], 2, 0.5),
        ("recall", [0, 2, 1], [0, 2], 3, 1.0),
        ("recall", [1, 2, 0], [2], 2, 1.0),
        ("f1", [0, 2, 1], [0, 2], 3, 4 / 5),
        ("f1", [1, 2, 0], [2], 3, 1 / 2),
        ("f1", [1, 2, 0], [2], 2, 2 / 3),
        ("f1", [1, 2], [0], 2, 0.0),
        # ranx, tests/unit/ranx/metrics_test.py
        ("hit_rate", [1, 2, 3, 4, 5, 7], [9, 6, 8], 5, 0.0),
        ("hit_rate", [1, 2, 4, 3, 5, 7], [1, 2, 4], 5, 1.0),
        ("mrr", [2, 3, 1, 4, 5], [3], 5, 0.5),
        ("mrr", [2, 1, 4, 5], [3], 5, 0.0),
        ("recall", [2, 4, 3, 1, 5, 6, 7], [1, 2, 3], 2, 1 / 3),
        ("recall", [2, 4, 3, 1, 5, 6, 7], [1, 2], 2, 1 / 2),
    ],
)
def test_values_of_cornac_and_ranx(name: str, ranked: list[int], relevant: list[int], k: int, expected: float) -> None:
    assert compute(name, [ranked], [relevant], k)[0] == pytest.approx(
        expected, abs=0.005 if expected == 0.63 else 1e-12
    )


@pytest.mark.parametrize(
    ("name", "expected"), [("ndcg", 0.38172), ("map", 0.23613), ("precision", 0.26666), ("recall", 0.37777)]
)
def test_values_of_recommenders(name: str, expected: float) -> None:
    """Recommenders, tests/unit/recommenders/evaluation: three users, cutoff 10, relative tolerance 1e-4."""
    relevant = [[1, 2, 3], [1, 4, 5, 6, 7], [2, 5, 6, 8, 9, 10, 11, 12, 13, 14]]
    lists = [[3, 10, 12], [10, 3, 5, 11, 13], [4, 10, 7, 13, 1, 3, 5, 2, 11, 14]]
    assert compute(name, lists, relevant, 10).mean() == pytest.approx(expected, rel=1e-4)
    assert compute(name, relevant, relevant, 10).mean() == pytest.approx(0.6 if name == "precision" else 1.0)
    assert not compute(name, [[100]] * 3, relevant, 10).any()


@pytest.mark.parametrize(
    ("true", "predicted", "rows", "rmse", "mae"),
    [
        # Recommenders, tests/unit/recommenders/evaluation/test_python_evaluation.py
        ([3, 3, 5, 5, 3, 3, 2, 1], [14, 12, 7, 8, 13, 6, 11, 5], [0, 1, 2, 2, 2, 2, 2, 2], 7.254309, 6.375),
        # Cornac, tests/cornac/metrics/test_rating.py
        ([0], [0], [0], 0.0, 0.0),
        ([0, 1], [1, 0], [0, 1], 1.0, 1.0),
        ([0, 1], [2, 3], [0, 0], 2.0, 2.0),
    ],
)
def test_errors_of_recommenders_and_cornac(
    true: list[int], predicted: list[int], rows: list[int], rmse: float, mae: float
) -> None:
    items = np.zeros(len(rows), np.int32)
    errors = PredictionErrors(np.array(rows), items, np.subtract(predicted, true).astype(float), max(rows) + 1)
    assert rating_metrics.rmse(errors).mean() == pytest.approx(rmse, rel=1e-4)
    assert rating_metrics.mae(errors).mean() == pytest.approx(mae, rel=1e-4)
