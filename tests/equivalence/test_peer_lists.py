"""Lists, similarities and baselines against values that the unit tests of other libraries expect.

Only inputs and expected values are used. Where a library defines a quantity differently, the case is in DIFFERENCES
with both values; docs/guide/evaluating.md describes these definitions. Test values come from:

- RePlay (Apache 2.0), sb-ai-lab/RePlay: tests/metrics/test_metrics.py, tests/models/test_knn.py;
- RecTools (Apache 2.0), MobileTeleSystems/RecTools: tests/metrics/test_ranking.py and test_classification.py;
- LensKit (MIT), lenskit/lkpy: tests/eval/test_rank_*.py, tests/eval/topn-java-*.csv, tests/basic/test_bias.py;
- ranx (MIT), AmenRa/ranx: tests/unit/ranx/metrics_test.py;
- Surprise (BSD 3-Clause), NicolasHug/Surprise: tests/test_similarities.py.

Metrics beyond accuracy are in test_peer_beyond_accuracy.py. Segue has no counterpart of RePlay's RocAuc, Novelty,
Unexpectedness and CategoricalDiversity.
"""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.sparse import csr_array

from segue.core.types import Events, Recommendations
from segue.evaluation import metrics
from segue.evaluation.ranking import rank_lists
from segue.similarity.nearest import similarity_matrix
from segue.similarity.rating_baseline import RatingBaseline, mean_values
from segue.similarity.similarity_registry import MEASURES
from segue.similarity.sparse_rows import SparseRows
from segue.similarity.weighting import Corpus, bm25, tfidf

Lists = Sequence[Sequence[int]]

SECOND, THIRD = 1 / math.log2(3), 1 / math.log2(4)
"""Weights of the ranks 2 and 3 in NDCG; that of rank 1 is 1."""


def evaluate(name: str, lists: Lists, relevant: Lists, k: int) -> np.ndarray:
    """Return the value of each list of items, best first."""
    items = np.zeros((len(lists), max(1, *map(len, lists))), np.int32)
    for row, one in zip(items, lists, strict=True):
        row[: len(one)] = one
    lengths = np.array([len(one) for one in lists])
    ranks = rank_lists(Recommendations(items, np.zeros(items.shape, np.float32), lengths), Events.of(relevant))
    values: np.ndarray = getattr(metrics, name)(ranks, k)
    return values


def ranked(length: int, **at: int) -> list[int]:
    """Return a list with the given items at ranks ``r1``, ``r2``, ...; other ranks have items from 100."""
    return [at.get(f"r{rank}", 100 + rank) for rank in range(1, length + 1)]


# --- RePlay -----------------------------------------------------------------------------------------------------------

REPLAY_LISTS = [[3, 7, 10, 11, 2], [5, 8, 11, 1, 3], [4, 9, 2]]
REPLAY_RELEVANT = [[5, 6, 7, 8, 9, 10], [6, 7, 4, 10, 11], [1, 2, 3, 4, 5]]
REPLAY = {
    "precision": {3: 0.55555, 5: 0.333333, 10: 0.166666},
    "hit_rate": {3: 1.0, 5: 1.0, 10: 1.0},
    "mrr": {3: 0.61111, 5: 0.61111, 10: 0.61111},
    "map": {3: 0.35185, 5: 0.21111, 10: 0.198148},
    "ndcg": {3: 0.48975, 5: 0.35396, 10: 0.34018},
    "recall": {5: 0.31111, 10: 0.31111},
}


@pytest.mark.parametrize("name", REPLAY)
def test_means_of_replay(name: str) -> None:
    found = [evaluate(name, REPLAY_LISTS, REPLAY_RELEVANT, k).mean() for k in REPLAY[name]]
    np.testing.assert_allclose(found, list(REPLAY[name].values()), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hit_rate", [1.0, 1.0]),
        ("map", [1.0, 0.5]),
        ("mrr", [1.0, 1.0]),
        ("ndcg", [1.0, 0.6131471927654584]),
        ("precision", [1.0, 0.2]),
        ("recall", [0.5, 0.5]),
    ],
)
def test_values_of_one_user_in_replay(name: str, expected: list[float]) -> None:
    assert [evaluate(name, [[1, 3]], [[1, 2]], k)[0] for k in (1, 5)] == pytest.approx(expected)
    assert not any(evaluate(name, [[3, 4]], [[1, 2]], k)[0] for k in (1, 5))


def test_precision_of_a_list_shorter_than_k_in_replay() -> None:
    np.testing.assert_allclose(evaluate("precision", REPLAY_LISTS, REPLAY_LISTS, 5), [1.0, 1.0, 0.6])


def test_bm25_weights_of_replay() -> None:
    """Items are documents, users are words; k1 = 1.2, b = 0.75."""
    counts_IU = csr_array(np.array([[1, 0, 1], [1, 1, 1]], np.float32))
    item_0, item_1 = (2.2 / (1 + 1.2 * (0.25 + 0.75 * n / 2.5)) for n in (2, 3))
    rare, common = math.log1p((2 - 1 + 0.5) / (1 + 0.5)), math.log1p((2 - 2 + 0.5) / (2 + 0.5))
    expected = [[item_0 * common, 0, item_0 * common], [item_1 * common, item_1 * rare, item_1 * common]]
    found = bm25(counts_IU, Corpus.of(counts_IU), 1.2, 0.75).toarray()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# --- RecTools ---------------------------------------------------------------------------------------------------------

RECTOOLS_LISTS = [
    ranked(9, r1=3, r9=1),
    ranked(3, r3=1),
    ranked(9, r1=1, r3=2, r5=3, r7=4, r9=5),
    [1],
    [1, 2, 3],
    [],
    ranked(2, r2=1),
    [2],
]
RECTOOLS_RELEVANT = [[1, 2], [1], [1, 2, 3, 4, 5, 6], [1], [1, 2, 3], [1], [1], [1]]


def test_map_of_rectools() -> None:
    """The divisor is the number of relevant items, or k (``divide_by_k``) where it is below that number."""
    assert evaluate("map", RECTOOLS_LISTS, RECTOOLS_RELEVANT, 1) == pytest.approx([0, 0, 1, 1, 1, 0, 0, 0])
    expected = [0, 1 / 3, (1 + 2 / 3) / 3, 1, 1, 0, 1 / 2, 0]
    assert evaluate("map", RECTOOLS_LISTS, RECTOOLS_RELEVANT, 3) == pytest.approx(expected)


def test_ndcg_and_mrr_of_rectools() -> None:
    lists = [ranked(9, r9=1), [2], [1, 2, 3], [1], ranked(9, r1=5, r3=1, r7=2, r9=3)]
    assert evaluate("ndcg", lists, [[1], [1], [1, 2, 3], [1], [1]], 1) == pytest.approx([0, 0, 1, 1, 0])
    assert evaluate("ndcg", lists, [[1], [1], [1, 2, 3], [1], [1]], 3) == pytest.approx([0, 0, 1, 1, THIRD])
    relevant = [[1], [1], [1, 2, 3], [1], [1, 2, 3, 4]]
    assert evaluate("mrr", lists, relevant, 1) == pytest.approx([0, 0, 1, 1, 0])
    assert evaluate("mrr", lists, relevant, 3) == pytest.approx([0, 0, 1, 1, 1 / 3])
    # relevant items listed twice, and a first relevant item after k
    assert evaluate("mrr", [[1, 2, 3], ranked(6, r4=1, r5=2, r6=3)], [[1, 2, 1], [1, 2, 3]], 3) == pytest.approx([1, 0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("precision", [0.5, 0.5, 0, 0]), ("recall", [1 / 3, 1, 0, 0]), ("hit_rate", [1, 1, 0, 0])],
)
def test_classification_metrics_of_rectools(name: str, expected: list[float]) -> None:
    lists, relevant = [[1, 2, 3], [1], [1], []], [[4, 2, 3], [1], [2], [2]]
    assert evaluate(name, lists, relevant, 2) == pytest.approx(expected)


# --- LensKit ----------------------------------------------------------------------------------------------------------

FOUR, TWENTY, LONG = [1, 2, 3, 4], list(range(1, 21)), [1, 0, 150, 3, 10, 30, 120, 4, 17]
HUNDRED = list(range(100))


@pytest.mark.parametrize(
    ("name", "items", "relevant", "k", "expected"),
    [
        ("precision", [1, 3], [1, 3], 2, 1.0),
        ("precision", [1], [1, 3], 1, 1.0),
        ("precision", FOUR, [1, 3], 4, 0.5),
        ("precision", FOUR, [1, 3, 5], 4, 0.5),
        ("precision", FOUR, [5, 6, 7, 8, 9], 4, 0.0),
        ("precision", FOUR, [4, 5, 6, 7, 8, 9], 4, 0.25),
        ("precision", LONG[:5], HUNDRED, 5, 0.8),
        ("precision", LONG, HUNDRED, 5, 0.8),
        ("recall", [], [1, 3], 5, 0.0),
        ("recall", [1, 3], [], 2, math.nan),
        ("recall", [1, 3], [1, 3], 2, 1.0),
        ("recall", [1], [1, 3], 2, 0.5),
        ("recall", FOUR, [1, 3], 4, 1.0),
        ("recall", FOUR, [1, 3, 5], 4, 2 / 3),
        ("recall", FOUR, [5, 6, 7, 8, 9], 5, 0.0),
        ("recall", FOUR, [4, 5, 6, 7, 8], 5, 0.2),
        ("recall", [1, 2, 3], [1, 3, 5, 7], 4, 0.5),
        ("hit_rate", [], [1, 3], 5, 0.0),
        ("hit_rate", [1, 3], [], 2, math.nan),
        ("hit_rate", [1], [1, 3], 2, 1.0),
        ("hit_rate", FOUR, [5, 6, 7, 8, 9], 4, 0.0),
        ("hit_rate", FOUR, [4, 5, 6, 7, 8], 4, 1.0),
        ("hit_rate", [1, 2, 3], [5, 7], 3, 0.0),
        ("hit_rate", LONG, HUNDRED, 5, 1.0),
        ("hit_rate", [item + 200 for item in LONG], HUNDRED, 5, 0.0),
        ("hit_rate", LONG[:5], HUNDRED, 10, 1.0),
        ("mrr", [], [1, 3], 5, 0.0),
        ("mrr", [1, 2, 3], [4, 5], 3, 0.0),
        ("mrr", [1, 2, 3], [1, 4], 3, 1.0),
        ("mrr", [1, 2, 3], [5, 2, 3], 3, 0.5),
        ("mrr", TWENTY, [20, 10], 20, 0.1),
        ("mrr", TWENTY, [20, 10], 5, 0.0),
        ("mrr", TWENTY, [20, 10, 5], 5, 0.2),
        ("mrr", FOUR, [2], 10, 0.5),
        ("map", [1, 3, 5], [1, 3, 5], 3, 1.0),
        ("map", [1, 2, 3], [1, 3], 3, (1 + 2 / 3) / 2),
        ("map", [1, 2, 3], [2, 4], 3, 0.25),
        ("map", [1, 2, 3, 4, 5], [1, 3, 5], 3, (1 + 2 / 3) / 3),
        ("map", [1, 2, 3, 4, 5], [4, 5, 6], 2, 0.0),
        ("map", [10, 20, 30], [1, 2, 3], 3, 0.0),
        ("ndcg", [], [1, 2, 3], 3, 0.0),
        ("ndcg", [1, 2, 3], [], 3, math.nan),
        ("ndcg", [4], [1, 2, 3], 1, 0.0),
        ("ndcg", [2, 3, 1], [1, 2, 3], 3, 1.0),
        ("ndcg", [2, 3], [1, 2, 3], 2, 1.0),
        ("ndcg", [1, 2], [1, 2, 3], 2, 1.0),
    ],
)
def test_values_of_lenskit(name: str, items: list[int], relevant: list[int], k: int, expected: float) -> None:
    assert evaluate(name, [items], [relevant], k)[0] == pytest.approx(expected, nan_ok=True)


JAVA = [
    ([], 0.0),
    ([1], 1.0),
    ([1, 10, 28, 91], 1.0),
    ([2, 5, 54], 0.5),
    ([3, 4, 10], 0.333333),
    ([4, 7, 17, 23], 0.25),
    ([5, 27, 35], 0.2),
    ([7, 13], 0.142857),
    ([8, 60], 0.125),
    ([9, 23, 35, 46], 0.111111),
    ([10, 22, 64, 95], 0.1),
    ([12, 45], 0.083333),
    ([15, 57, 86], 0.066667),
    ([20, 84], 0.05),
    ([34, 69], 0.029412),
    ([48], 0.020833),
    ([77], 0.012987),
    ([99], 0.010101),
]
"""Ranks of the five relevant items in lists of 100 items (topn-java-recs.csv and topn-java-truth.csv), and the
reciprocal rank (topn-java-metrics.csv). All 100 lists agree; their NDCG is graded and has no counterpart."""


@pytest.mark.parametrize(("found", "expected"), JAVA)
def test_reciprocal_ranks_of_the_java_version_of_lenskit(found: list[int], expected: float) -> None:
    items = ranked(100, **{f"r{rank}": number for number, rank in enumerate(found)})
    assert evaluate("mrr", [items], [[0, 1, 2, 3, 4]], 100)[0] == pytest.approx(expected, abs=1e-6)


def test_item_and_user_biases_of_lenskit() -> None:
    """One update of items, then of users, without regularization."""
    values = np.array([4, 5, 3, 2], np.float32)
    ratings = Events(np.array([0, 2, 3, 4]), np.array([0, 1, 0, 2], np.int32), values=values)
    baseline = RatingBaseline.fit(mean_values(ratings, 3), "baseline", True, 1, 0.0, 0.0)
    assert baseline.mean == pytest.approx(3.5)
    assert baseline.items_I == pytest.approx([0, 1.5, -1.5])
    assert baseline.users_U == pytest.approx([0.25, -0.5, 0])
    of_users = RatingBaseline.fit(mean_values(ratings, 3), "user", True, 1, 0.0, 0.0)
    assert of_users.users_U == pytest.approx([1.0, -0.5, -1.5])


# --- Surprise ---------------------------------------------------------------------------------------------------------


def surprise_rows() -> SparseRows:
    """Return eight rows over five columns."""
    columns = {
        0: {0: 3, 1: 3, 2: 3, 5: 1, 6: 1.5, 7: 3},
        1: {0: 4, 1: 4, 2: 4},
        2: {2: 5, 3: 2, 4: 3},
        3: {1: 1, 2: 4, 3: 2, 4: 3, 5: 3, 6: 3.5, 7: 2},
        4: {1: 5, 2: 1, 5: 2, 6: 2.5, 7: 2.5},
    }
    table = np.zeros((8, 5), np.float32)
    for column, cells in columns.items():
        for row, value in cells.items():
            table[row, column] = value
    return SparseRows.from_csr(csr_array(table))


def similarity(name: str, first: int, second: int) -> float:
    rows = surprise_rows()
    return float(similarity_matrix(rows, rows, MEASURES[name], 0.0)[first, second])


@pytest.mark.parametrize(
    ("name", "first", "second", "expected"),
    [
        ("msd", 0, 1, 1.0),
        ("msd", 0, 2, 1.0),
        ("msd", 3, 4, 0.5),
        ("msd", 0, 3, 0.0),
        ("msd", 0, 4, 0.0),
        ("pearson", 0, 1, 1.0),
        ("pearson", 0, 2, 1.0),
        ("pearson", 3, 4, 0.0),
        ("pearson", 2, 3, 0.0),
        ("pearson", 2, 4, 0.0),
        ("pearson", 0, 3, 0.0),
        ("pearson", 0, 4, 0.0),
        ("pearson", 5, 6, 1.0),
        # deviations (-1, 1, 0) and (0.5, -0.5, 0)
        ("pearson", 6, 7, -1.0),
        ("cosine", 3, 4, 1.0),
        ("cosine", 0, 3, 0.0),
        ("cosine", 0, 4, 0.0),
        ("cosine", 5, 6, (1 * 1.5 + 3 * 3.5 + 2 * 2.5) / math.sqrt((1 + 9 + 4) * (1.5**2 + 3.5**2 + 2.5**2))),
    ],
)
def test_similarities_of_surprise(name: str, first: int, second: int, expected: float) -> None:
    assert similarity(name, first, second) == pytest.approx(expected, abs=1e-6)
    assert similarity(name, second, first) == pytest.approx(expected, abs=1e-6)


# --- definitions that differ ------------------------------------------------------------------------------------------

DIFFERENCES = [
    # LensKit divides recall by min(relevant, k), and precision by the length of a list shorter than k
    ("recall", LONG[:5], HUNDRED, 5, 0.8, 4 / 100),
    ("recall", LONG[:5], HUNDRED, 10, 0.4, 4 / 100),
    ("precision", LONG[:3], HUNDRED, 5, 2 / 3, 2 / 5),
    # an empty list has no precision and no average precision in LensKit
    ("precision", [], [1, 3], 5, math.nan, 0.0),
    ("map", [], [1, 2, 3], 5, math.nan, 0.0),
    # LensKit weights the ranks by 1 / max(1, log2(rank))
    ("ndcg", [1, 2], [1, 2, 3], 3, 2 / (2 + SECOND), (1 + SECOND) / (1 + SECOND + THIRD)),
    # RecTools divides average precision by the number of relevant items, NDCG by the ideal of k relevant items
    ("map", RECTOOLS_LISTS[2], RECTOOLS_RELEVANT[2], 1, 1 / 6, 1.0),
    ("map", RECTOOLS_LISTS[4], RECTOOLS_RELEVANT[4], 1, 1 / 3, 1.0),
    ("map", RECTOOLS_LISTS[2], RECTOOLS_RELEVANT[2], 3, (1 + 2 / 3) / 6, (1 + 2 / 3) / 3),
    ("ndcg", [1], [1], 3, 1 / (1 + SECOND + THIRD), 1.0),
    # RecTools counts a relevant item that is listed twice as two
    ("map", [1, 2, 3], [1, 2, 1], 3, 3.5 / 3, 1.0),
    # RePlay and ranx give a query without relevant items the value 0
    ("ndcg", [1, 3], [], 5, 0.0, math.nan),
    # relevance in ranx is graded: 5, 4, 3 and 2 for the items 2, 4, 5 and 10
    (
        "ndcg",
        [1, 2, 3, 4, 5],
        [2, 4, 5, 10],
        10,
        (5 / math.log2(3) + 4 / math.log2(5) + 3 / math.log2(6)) / (5 + 4 * SECOND + 3 * THIRD + 2 / math.log2(5)),
        (SECOND + 1 / math.log2(5) + 1 / math.log2(6)) / (1 + SECOND + THIRD + 1 / math.log2(5)),
    ),
]


@pytest.mark.parametrize(("name", "items", "relevant", "k", "theirs", "ours"), DIFFERENCES)
def test_metrics_with_another_definition(
    name: str, items: list[int], relevant: list[int], k: int, theirs: float, ours: float
) -> None:
    assert evaluate(name, [items], [relevant], k)[0] == pytest.approx(ours, nan_ok=True)
    assert ours != pytest.approx(theirs, nan_ok=True)


def test_cosine_with_another_definition() -> None:
    """Surprise compares common columns only, so that rows with equal common values have similarity 1."""
    assert similarity("cosine", 0, 1) == pytest.approx((9 + 16) / math.sqrt(25 * (9 + 16 + 1 + 25)), abs=1e-6)


def test_tfidf_with_another_definition() -> None:
    """RePlay weights a user by ln(1 + items / items of the user), Segue by 1 + ln((1 + items) / (1 + items of it))."""
    counts_IU = csr_array(np.array([[1, 0, 1], [1, 1, 1]], np.float32))
    found = tfidf(counts_IU, Corpus.of(counts_IU), 1.2, 0.75).toarray()
    np.testing.assert_allclose(found[1], [1.0, 1 + math.log(3 / 2), 1.0], rtol=1e-6)
