"""Compare similarity measures with formulas for each pair, and with SciPy."""

from collections.abc import Callable
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist, jensenshannon

from segue.core.types import Events
from segue.similarity import distribution_similarity, row_similarity, sequence_similarity, vector_similarity, weighting
from segue.similarity.nearest import similarity_matrix
from segue.similarity.row_pairs import pair_blocks
from segue.similarity.similarity_registry import ASYMMETRIC_MEASURES, MEASURES, SEQUENCE_MEASURES
from segue.similarity.sparse_rows import SparseRows

ROWS, COLUMNS = 14, 17
ROW_MEASURES = [name for name in MEASURES if name not in SEQUENCE_MEASURES]
SHRINK = 2.5


def ratings(seed: int = 0, share: float = 0.6) -> np.ndarray:
    """Create ratings of 1 to 5; NaN if missing. One row is empty, one is constant, one column is empty."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 6, (ROWS, COLUMNS)).astype(np.float64)
    values[rng.random(values.shape) > share] = np.nan
    values[3] = np.nan
    values[5, ~np.isnan(values[5])] = 4.0
    values[:, 2] = np.nan
    return values


def sparse(values: np.ndarray) -> csr_array[Any]:
    rows, columns = np.nonzero(~np.isnan(values))
    data = values[rows, columns].astype(np.float32)
    return csr_array((data, (rows, columns)), shape=values.shape)


def binary(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), np.nan, 1.0)


def compute(name: str, values: np.ndarray, shrink: float = 0.0) -> np.ndarray:
    table = SparseRows.from_csr(sparse(values))
    return similarity_matrix(table, table, MEASURES[name], shrink).astype(np.float64)


# --- one formula per measure, for two rows with NaN for missing values ---


def zeros(x: np.ndarray) -> np.ndarray:
    return np.nan_to_num(x)


def cosine(x: np.ndarray, y: np.ndarray, shrink: float) -> float:
    return divide(zeros(x) @ zeros(y), np.linalg.norm(zeros(x)) * np.linalg.norm(zeros(y)) + shrink)


def correlation(x: np.ndarray, y: np.ndarray, shrink: float) -> float:
    common = ~np.isnan(x) & ~np.isnan(y)
    x, y = x[common] - x[common].mean(), y[common] - y[common].mean()
    return divide(x @ y, np.sqrt((x @ x) * (y @ y))) * shrinkage(common.sum(), shrink)


def divide(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 1e-9 else 0.0


def shrinkage(n: float, shrink: float) -> float:
    return n / (n + shrink)


def counts(x: np.ndarray, y: np.ndarray) -> tuple[int, int, int]:
    return int((~np.isnan(x) & ~np.isnan(y)).sum()), int((~np.isnan(x)).sum()), int((~np.isnan(y)).sum())


def from_distance(distance: Callable[[np.ndarray, np.ndarray], float]) -> Callable[..., float]:
    return lambda x, y, shrink: 1 / (1 + distance(zeros(x), zeros(y))) * shrinkage(counts(x, y)[0], shrink)


def squared_difference(x: np.ndarray, y: np.ndarray, shrink: float) -> float:
    n = counts(x, y)[0]
    return 1 / (1 + np.nansum((x - y) ** 2) / n) * shrinkage(n, shrink)


def log_likelihood(x: np.ndarray, y: np.ndarray, total: int, shrink: float) -> float:
    n, a, b = counts(x, y)
    if n * total <= a * b:
        return 0.0
    cells = [
        (n, a * b),
        (a - n, a * (total - b)),
        (b - n, (total - a) * b),
        (total - a - b + n, (total - a) * (total - b)),
    ]
    g = 2 * sum(o * np.log(o * total / e) for o, e in cells if o)
    return g / (1 + g + shrink)


def proportions(x: np.ndarray) -> np.ndarray:
    return zeros(x) / zeros(x).sum()


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    smooth_p, smooth_q = (0.9 * r + 0.1 / len(r) for r in (p, q))
    return float((smooth_p * np.log(smooth_p / smooth_q)).sum())


def by_sum(x: np.ndarray, y: np.ndarray, shrink: float) -> float:
    return shrinkage(min(zeros(x).sum(), zeros(y).sum()), shrink)


def expected(name: str, values: np.ndarray, shrink: float = 0.0) -> np.ndarray:
    centered = values - np.nanmean(np.where(np.isnan(values).all(axis=0), 0.0, values), axis=0)
    ranks = np.full_like(values, np.nan)
    for row, row_values in zip(ranks, values, strict=True):
        row[~np.isnan(row_values)] = stats.rankdata(row_values[~np.isnan(row_values)])
    n_nonempty_columns = int((~np.isnan(values).all(axis=0)).sum())
    formulas: dict[str, Callable[..., float]] = {
        "cosine": cosine,
        "adjusted_cosine": lambda x, y, s: (
            divide(np.nansum(x * y), np.sqrt(np.nansum(x**2 * ~np.isnan(y)) * np.nansum(y**2 * ~np.isnan(x))))
            * shrinkage(counts(x, y)[0], s)
        ),
        "pearson": correlation,
        "spearman": correlation,
        "jaccard": lambda x, y, s: counts(x, y)[0] / (counts(x, y)[1] + counts(x, y)[2] - counts(x, y)[0] + s),
        "dice": lambda x, y, s: 2 * counts(x, y)[0] / (counts(x, y)[1] + counts(x, y)[2] + s),
        "conditional": lambda x, y, s: counts(x, y)[0] / (counts(x, y)[2] + s),
        "tanimoto": lambda x, y, s: zeros(x) @ zeros(y) / (
            zeros(x) @ zeros(x) + zeros(y) @ zeros(y) - zeros(x) @ zeros(y) + s
        ),
        "log_likelihood": lambda x, y, s: log_likelihood(x, y, n_nonempty_columns, s),
        "euclidean": from_distance(lambda x, y: float(np.linalg.norm(x - y))),
        "manhattan": from_distance(lambda x, y: float(np.abs(x - y).sum())),
        "hamming": from_distance(lambda x, y: float((x != y).sum())),
        "msd": squared_difference,
        "bhattacharyya": lambda x, y, s: np.sqrt(proportions(x) * proportions(y)).sum() * by_sum(x, y, s),
        "jensen_shannon": lambda x, y, s: (
            (1 - jensenshannon(proportions(x), proportions(y), base=2) ** 2) * by_sum(x, y, s)
        ),
        "kullback_leibler": lambda x, y, s: np.exp(
            -(divergence(proportions(x), proportions(y)) + divergence(proportions(y), proportions(x))) / 2
        ) * by_sum(x, y, s),
    }  # fmt: skip
    transformed = {"adjusted_cosine": centered, "spearman": ranks}.get(name, values)
    out = np.zeros((ROWS, ROWS))
    for a, b in product(range(ROWS), repeat=2):
        if counts(values[a], values[b])[0]:
            out[a, b] = formulas[name](transformed[a], transformed[b], shrink)
    return out


@pytest.mark.parametrize("shrink", [0.0, SHRINK])
@pytest.mark.parametrize("name", ROW_MEASURES)
def test_measures_equal_their_formulas(name: str, shrink: float) -> None:
    for values in (ratings(), binary(ratings(1)), ratings(2, share=0.2), ratings(4) / 3 - 0.2):
        np.testing.assert_allclose(compute(name, values, shrink), expected(name, values, shrink), atol=2e-5)


def test_every_row_measure_is_checked() -> None:
    listed = {*row_similarity.__all__, *distribution_similarity.__all__}
    assert listed == set(ROW_MEASURES)
    assert set(sequence_similarity.__all__) == set(SEQUENCE_MEASURES)


@pytest.mark.parametrize("name", ROW_MEASURES)
def test_only_asymmetric_measures_depend_on_the_direction(name: str) -> None:
    similarities = compute(name, ratings(), SHRINK)
    assert np.allclose(similarities, similarities.T, atol=1e-6) != (name in ASYMMETRIC_MEASURES)


def test_dense_rows_against_scipy() -> None:
    values = np.random.default_rng(0).integers(1, 6, (9, 12)).astype(np.float64)
    metrics = {"cosine": ("cosine", lambda d: 1 - d), "euclidean": ("euclidean", lambda d: 1 / (1 + d)),
               "manhattan": ("cityblock", lambda d: 1 / (1 + d)), "pearson": ("correlation", lambda d: 1 - d),
               "hamming": ("hamming", lambda d: 1 / (1 + 12 * d))}  # fmt: skip
    for name, (metric, to_similarity) in metrics.items():
        np.testing.assert_allclose(compute(name, values), to_similarity(cdist(values, values, metric)), atol=1e-5)
    np.testing.assert_allclose(compute("spearman", values), stats.spearmanr(values, axis=1).statistic, atol=1e-5)


def test_spearman_ranks_all_values_of_a_row() -> None:
    """SciPy ranks the common columns only; both are equal for rows with the same columns."""
    values = np.full((ROWS, COLUMNS), np.nan)
    values[0, :6], values[1, 1:7], values[2, :6] = [1, 5, 2, 2, 4, 3], [5, 2, 4, 1, 3, 1], [2, 4, 4, 1, 5, 3]
    similarities = compute("spearman", values)
    ranks = [stats.rankdata(values[0, :6])[1:], stats.rankdata(values[1, 1:7])[:-1]]
    assert similarities[0, 1] == pytest.approx(stats.pearsonr(*ranks).statistic, abs=1e-6)
    assert similarities[0, 1] != pytest.approx(stats.spearmanr(values[0, 1:6], values[1, 1:6]).statistic, abs=1e-3)
    assert similarities[0, 2] == pytest.approx(stats.spearmanr(values[0, :6], values[2, :6]).statistic, abs=1e-6)


def test_rows_with_one_common_column() -> None:
    values = np.full((ROWS, COLUMNS), np.nan)
    values[0, :2], values[1, 1:3] = [3, 5], [4, 2]
    for name in ("pearson", "spearman"):
        assert compute(name, values)[0, 1] == 0, name
    assert compute("cosine", values, 2.0)[0, 1] == pytest.approx(20 / (np.sqrt(34 * 20) + 2))
    assert compute("msd", values, 2.0)[0, 1] == pytest.approx(1 / 2 * 1 / 3)
    # the deviations from the mean of column 1 are 0.5 and -0.5
    assert compute("adjusted_cosine", values, 2.0)[0, 1] == pytest.approx(-1 / 3)


def test_sets_against_scipy() -> None:
    values = binary(ratings(3))
    sets = ~np.isnan(values)
    is_nonempty = sets.any(axis=1)
    for name in ("jaccard", "dice"):
        np.testing.assert_allclose(
            compute(name, values)[np.ix_(is_nonempty, is_nonempty)],
            1 - cdist(sets[is_nonempty], sets[is_nonempty], name),
            atol=1e-6,
        )
    g = compute("log_likelihood", values)
    total = int(sets.any(axis=0).sum())
    for a, b in product(np.flatnonzero(is_nonempty), repeat=2):
        n_common, n_left, n_right = (sets[a] & sets[b]).sum(), sets[a].sum(), sets[b].sum()
        table = np.array([[n_common, n_left - n_common], [n_right - n_common, total - n_left - n_right + n_common]])
        if g[a, b] > 0 and (table.sum(0) > 0).all() and (table.sum(1) > 0).all():
            expected_g = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood").statistic
            assert g[a, b] == pytest.approx(expected_g / (1 + expected_g), abs=1e-5)


def test_empty_and_constant_rows_have_no_similarity() -> None:
    for name in ROW_MEASURES:
        assert not compute(name, ratings())[3].any(), name
    for values in (ratings(), ratings() / 3):
        for name in ("pearson", "spearman"):
            assert not compute(name, values)[5].any()


@pytest.mark.parametrize("name", ROW_MEASURES)
def test_similarities_do_not_depend_on_blocks_and_reference(name: str) -> None:
    values = ratings(5)
    table = SparseRows.from_csr(sparse(values))
    reference_similarities = compute(name, values, SHRINK)
    for max_pairs in (1, 20, 10**6):
        blocks = list(pair_blocks(table, table, 2, ROWS, max_pairs))
        assert [block.first for block in blocks[1:]] == [block.stop for block in blocks[:-1]]
        out = np.zeros_like(reference_similarities)
        for block in blocks:
            out[block.left_rows, block.right_rows] = MEASURES[name](block, SHRINK)
        np.testing.assert_allclose(out[2:], reference_similarities[2:], rtol=1e-6)
    indices = np.array([7, 0, 7])
    taken_rows = table.take(indices)
    new_rows = SparseRows.from_csr(sparse(values)[indices], reference=table)
    for query_rows in (taken_rows, new_rows):
        np.testing.assert_allclose(
            similarity_matrix(query_rows, table, MEASURES[name], SHRINK), reference_similarities[indices], rtol=1e-6
        )


@given(seed=st.integers(0, 200), share=st.sampled_from([0.05, 0.3, 0.9]))
def test_similarity_is_bounded_and_largest_to_itself(seed: int, share: float) -> None:
    values = ratings(seed, share)
    for name in ROW_MEASURES:
        similarities = compute(name, values)
        assert np.isfinite(similarities).all()
        assert (np.abs(similarities) <= 1 + 1e-5).all(), name
        if name not in ("log_likelihood", "conditional", "adjusted_cosine", "pearson", "spearman"):
            assert (similarities.max(axis=1) <= np.diag(similarities) + 1e-5).all(), name


def test_negative_proportions_raise() -> None:
    with pytest.raises(ValueError, match=r"got a value of -1, expected values of at least 0"):
        compute("jensen_shannon", np.array([[1.0, -1.0]] * ROWS))


# --- weighting --------------------------------------------------------------------------------------------------------


def test_weights_equal_their_formulas() -> None:
    counts_RC = np.random.default_rng(1).integers(0, 4, (6, 8)).astype(np.float64)
    counts_RC[4] = 0
    corpus = weighting.Corpus.of(csr_array(counts_RC.astype(np.float32)))
    rows, containing = 5, (counts_RC > 0).sum(axis=0)
    tfidf = np.sqrt(counts_RC) * (1 + np.log((1 + rows) / (1 + containing)))
    k1, b, length = 1.5, 0.6, counts_RC.sum(axis=1, keepdims=True)
    idf = np.log(1 + (rows - containing + 0.5) / (containing + 0.5))
    bm25 = idf * counts_RC * (k1 + 1) / (counts_RC + k1 * (1 - b + b * length / (length.sum() / rows)))
    for name, expected_weights in (("tfidf", tfidf), ("bm25", bm25)):
        weight = getattr(weighting, name)
        all_weights = weight(csr_array(counts_RC.astype(np.float32)), corpus, k1, b).toarray()
        np.testing.assert_allclose(all_weights, expected_weights, rtol=1e-5)
        single_row = weight(csr_array(counts_RC[2:3].astype(np.float32)), corpus, k1, b).toarray()
        np.testing.assert_allclose(single_row[0], expected_weights[2], rtol=1e-5)


# --- sequences --------------------------------------------------------------------------------------------------------


def common_length(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    @lru_cache(None)
    def length(i: int, j: int) -> int:
        if not i or not j:
            return 0
        return length(i - 1, j - 1) + 1 if a[i - 1] == b[j - 1] else max(length(i - 1, j), length(i, j - 1))

    return length(len(a), len(b))


def edit_distance(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    @lru_cache(None)
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return distance(len(a), len(b))


def local_score(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """Apply the recurrence of the paper, which tries gaps of every length."""
    score = np.zeros((len(a) + 1, len(b) + 1))
    for i, j in product(range(1, len(a) + 1), range(1, len(b) + 1)):
        step = score[i - 1, j - 1] + (1.0 if a[i - 1] == b[j - 1] else -1 / 3)
        up = max(score[i - k, j] - (1 + k / 3) for k in range(1, i + 1))
        left = max(score[i, j - k] - (1 + k / 3) for k in range(1, j + 1))
        score[i, j] = max(0.0, step, up, left)
    return float(score.max())


SEQUENCE_FORMULAS: dict[str, Callable[[Any, Any], float]] = {
    "longest_common_subsequence": lambda a, b: common_length(a, b) / max(len(a), len(b)),
    "edit_distance": lambda a, b: 1 - edit_distance(a, b) / max(len(a), len(b)),
    "smith_waterman": lambda a, b: local_score(a, b) / min(len(a), len(b)),
}


def history_rows(rows: list[list[int]], n_items: int = 9) -> SparseRows:
    events = Events.of(rows)
    return SparseRows.from_csr(events.csr(n_items), histories=events)


@given(rows=st.lists(st.lists(st.integers(0, 5), max_size=9), min_size=2, max_size=6))
def test_alignments_against_recursion(rows: list[list[int]]) -> None:
    table = history_rows(rows)
    for name, formula in SEQUENCE_FORMULAS.items():
        expected_similarities = np.zeros((len(rows), len(rows)))
        for a, b in product(range(len(rows)), repeat=2):
            n = len({*rows[a]} & {*rows[b]})
            if n:
                expected_similarities[a, b] = formula(tuple(rows[a]), tuple(rows[b])) * n / (n + 0.5)
        np.testing.assert_allclose(
            similarity_matrix(table, table, MEASURES[name], 0.5), expected_similarities, atol=1e-5, err_msg=name
        )


def test_alignments_from_textbooks() -> None:
    def similarity(name: str, first: str, second: str) -> float:
        table = history_rows([[ord(letter) for letter in word] for word in (first, second)], 128)
        return float(similarity_matrix(table, table, MEASURES[name], 0.0)[0, 1])

    assert similarity("edit_distance", "kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert similarity("longest_common_subsequence", "ABCBDAB", "BDCABA") == pytest.approx(4 / 7)
    # the example of Smith and Waterman 1981: the best alignment scores 3.3
    assert similarity("smith_waterman", "AAUGCCAUUGACGG", "CAGCCUCGCUUAG") == pytest.approx((3 + 1 / 3) / 13, abs=1e-6)


def test_one_history_against_many_is_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    table = history_rows([rng.integers(9, size=12).tolist() for _ in range(40)])
    one = table.take(np.array([3]))
    alone = [similarity_matrix(one, table, MEASURES[name], 1.0) for name in SEQUENCE_MEASURES]
    monkeypatch.setattr("segue.core.numba_kernels.thread_count", lambda: 3)
    for name, expected in zip(SEQUENCE_MEASURES, alone, strict=True):
        np.testing.assert_array_equal(similarity_matrix(one, table, MEASURES[name], 1.0), expected)


# --- vectors ----------------------------------------------------------------------------------------------------------


def test_vectors_against_scipy() -> None:
    rng = np.random.default_rng(2)
    queries, vectors = rng.standard_normal((3, 5)).astype(np.float32), rng.standard_normal((7, 5)).astype(np.float32)
    np.testing.assert_allclose(
        vector_similarity.vector_cosine(queries, vectors), 1 - cdist(queries, vectors, "cosine"), atol=1e-6
    )
    np.testing.assert_allclose(
        vector_similarity.vector_euclidean(queries, vectors), 1 / (1 + cdist(queries, vectors)), atol=1e-6
    )
    np.testing.assert_allclose(vector_similarity.vector_dot(queries, vectors), queries @ vectors.T, atol=1e-6)
    assert not vector_similarity.vector_cosine(np.zeros((1, 5), np.float32), vectors).any()
