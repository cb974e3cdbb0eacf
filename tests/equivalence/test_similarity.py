"""Measures of likeness against formulas written out pair by pair, and against SciPy."""

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
from segue.similarity.nearest import likeness
from segue.similarity.row_pairs import pairs_of
from segue.similarity.similarity_registry import MEASURES, ONE_WAY, SEQUENCES
from segue.similarity.sparse_rows import Table

ROWS, COLUMNS = 14, 17
TABLES = [name for name in MEASURES if name not in SEQUENCES]
SHRINK = 2.5


def ratings(seed: int = 0, share: float = 0.6) -> np.ndarray:
    """Ratings of 1 to 5; NaN is not there. One row is empty, one constant, one column is empty."""
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


def ones(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), np.nan, 1.0)


def found(name: str, values: np.ndarray, shrink: float = 0.0) -> np.ndarray:
    table = Table.of(sparse(values))
    return likeness(table, table, MEASURES[name], shrink).astype(np.float64)


# --- one formula per measure, of two rows with NaN for what is not there ----------------------------------------------


def zeros(x: np.ndarray) -> np.ndarray:
    return np.nan_to_num(x)


def cosine(x: np.ndarray, y: np.ndarray, shrink: float) -> float:
    return ratio(zeros(x) @ zeros(y), np.linalg.norm(zeros(x)) * np.linalg.norm(zeros(y)) + shrink)


def correlation(x: np.ndarray, y: np.ndarray, shrink: float) -> float:
    common = ~np.isnan(x) & ~np.isnan(y)
    x, y = x[common] - x[common].mean(), y[common] - y[common].mean()
    return ratio(x @ y, np.sqrt((x @ x) * (y @ y))) * support(common.sum(), shrink)


def ratio(above: float, below: float) -> float:
    return above / below if below > 1e-9 else 0.0


def support(n: float, shrink: float) -> float:
    return n / (n + shrink)


def counts(x: np.ndarray, y: np.ndarray) -> tuple[int, int, int]:
    return int((~np.isnan(x) & ~np.isnan(y)).sum()), int((~np.isnan(x)).sum()), int((~np.isnan(y)).sum())


def near(distance: Callable[[np.ndarray, np.ndarray], float]) -> Callable[..., float]:
    return lambda x, y, shrink: 1 / (1 + distance(zeros(x), zeros(y))) * support(counts(x, y)[0], shrink)


def squared_difference(x: np.ndarray, y: np.ndarray, shrink: float) -> float:
    n = counts(x, y)[0]
    return 1 / (1 + np.nansum((x - y) ** 2) / n) * support(n, shrink)


def surprise(x: np.ndarray, y: np.ndarray, total: int, shrink: float) -> float:
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


def shares(x: np.ndarray) -> np.ndarray:
    return zeros(x) / zeros(x).sum()


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    smooth_p, smooth_q = (0.9 * r + 0.1 / len(r) for r in (p, q))
    return float((smooth_p * np.log(smooth_p / smooth_q)).sum())


def behind(x: np.ndarray, y: np.ndarray, shrink: float) -> float:
    return support(min(zeros(x).sum(), zeros(y).sum()), shrink)


def expected(name: str, values: np.ndarray, shrink: float = 0.0) -> np.ndarray:
    centred = values - np.nanmean(np.where(np.isnan(values).all(axis=0), 0.0, values), axis=0)
    ranks = np.full_like(values, np.nan)
    for row, own in zip(ranks, values, strict=True):
        row[~np.isnan(own)] = stats.rankdata(own[~np.isnan(own)])
    occupied = int((~np.isnan(values).all(axis=0)).sum())
    formulas: dict[str, Callable[..., float]] = {
        "cosine": cosine,
        "adjusted_cosine": lambda x, y, s: (
            ratio(np.nansum(x * y), np.sqrt(np.nansum(x**2 * ~np.isnan(y)) * np.nansum(y**2 * ~np.isnan(x))))
            * support(counts(x, y)[0], s)
        ),
        "pearson": correlation,
        "spearman": correlation,
        "jaccard": lambda x, y, s: counts(x, y)[0] / (counts(x, y)[1] + counts(x, y)[2] - counts(x, y)[0] + s),
        "dice": lambda x, y, s: 2 * counts(x, y)[0] / (counts(x, y)[1] + counts(x, y)[2] + s),
        "conditional": lambda x, y, s: counts(x, y)[0] / (counts(x, y)[2] + s),
        "tanimoto": lambda x, y, s: zeros(x) @ zeros(y) / (
            zeros(x) @ zeros(x) + zeros(y) @ zeros(y) - zeros(x) @ zeros(y) + s
        ),
        "log_likelihood": lambda x, y, s: surprise(x, y, occupied, s),
        "euclidean": near(lambda x, y: float(np.linalg.norm(x - y))),
        "manhattan": near(lambda x, y: float(np.abs(x - y).sum())),
        "hamming": near(lambda x, y: float((x != y).sum())),
        "msd": squared_difference,
        "bhattacharyya": lambda x, y, s: np.sqrt(shares(x) * shares(y)).sum() * behind(x, y, s),
        "jensen_shannon": lambda x, y, s: (1 - jensenshannon(shares(x), shares(y), base=2) ** 2) * behind(x, y, s),
        "kullback_leibler": lambda x, y, s: np.exp(
            -(divergence(shares(x), shares(y)) + divergence(shares(y), shares(x))) / 2
        ) * behind(x, y, s),
    }  # fmt: skip
    seen = {"adjusted_cosine": centred, "spearman": ranks}.get(name, values)
    out = np.zeros((ROWS, ROWS))
    for a, b in product(range(ROWS), repeat=2):
        if counts(values[a], values[b])[0]:
            out[a, b] = formulas[name](seen[a], seen[b], shrink)
    return out


@pytest.mark.parametrize("shrink", [0.0, SHRINK])
@pytest.mark.parametrize("name", TABLES)
def test_measures_against_their_formulas(name: str, shrink: float) -> None:
    for values in (ratings(), ones(ratings(1)), ratings(2, share=0.2), ratings(4) / 3 - 0.2):
        np.testing.assert_allclose(found(name, values, shrink), expected(name, values, shrink), atol=2e-5)


def test_every_measure_of_a_table_is_checked() -> None:
    listed = {*row_similarity.__all__, *distribution_similarity.__all__}
    assert listed == set(TABLES)
    assert set(sequence_similarity.__all__) == set(SEQUENCES)


@pytest.mark.parametrize("name", TABLES)
def test_direction_matters_to_one_only(name: str) -> None:
    likenesses = found(name, ratings(), SHRINK)
    assert np.allclose(likenesses, likenesses.T, atol=1e-6) != (name in ONE_WAY)


def test_against_scipy_where_all_is_there() -> None:
    values = np.random.default_rng(0).integers(1, 6, (9, 12)).astype(np.float64)
    near_of = {"cosine": ("cosine", lambda d: 1 - d), "euclidean": ("euclidean", lambda d: 1 / (1 + d)),
               "manhattan": ("cityblock", lambda d: 1 / (1 + d)), "pearson": ("correlation", lambda d: 1 - d),
               "hamming": ("hamming", lambda d: 1 / (1 + 12 * d))}  # fmt: skip
    for name, (metric, turned) in near_of.items():
        np.testing.assert_allclose(found(name, values), turned(cdist(values, values, metric)), atol=1e-5)
    np.testing.assert_allclose(found("spearman", values), stats.spearmanr(values, axis=1).statistic, atol=1e-5)


def test_against_scipy_on_sets() -> None:
    values = ones(ratings(3))
    sets = ~np.isnan(values)
    there = sets.any(axis=1)
    for name in ("jaccard", "dice"):
        np.testing.assert_allclose(
            found(name, values)[np.ix_(there, there)], 1 - cdist(sets[there], sets[there], name), atol=1e-6
        )
    g = found("log_likelihood", values)
    total = int(sets.any(axis=0).sum())
    for a, b in product(np.flatnonzero(there), repeat=2):
        both, own, other = (sets[a] & sets[b]).sum(), sets[a].sum(), sets[b].sum()
        table = np.array([[both, own - both], [other - both, total - own - other + both]])
        if g[a, b] > 0 and (table.sum(0) > 0).all() and (table.sum(1) > 0).all():
            wanted = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood").statistic
            assert g[a, b] == pytest.approx(wanted / (1 + wanted), abs=1e-5)


def test_nothing_is_like_an_empty_row_nor_a_constant_one_in_correlation() -> None:
    for name in TABLES:
        assert not found(name, ratings())[3].any(), name
    for values in (ratings(), ratings() / 3):
        for name in ("pearson", "spearman"):
            assert not found(name, values)[5].any()


@pytest.mark.parametrize("name", TABLES)
def test_blocks_and_rows_beside_do_not_matter(name: str) -> None:
    values = ratings(5)
    table = Table.of(sparse(values))
    whole = found(name, values, SHRINK)
    for most in (1, 20, 10**6):
        blocks = list(pairs_of(table, table, 2, ROWS, most))
        assert [block.first for block in blocks[1:]] == [block.stop for block in blocks[:-1]]
        out = np.zeros_like(whole)
        for block in blocks:
            out[block.rows, block.others] = MEASURES[name](block, SHRINK)
        np.testing.assert_allclose(out[2:], whole[2:], rtol=1e-6)
    some = np.array([7, 0, 7])
    taken = table.take(some)
    fresh = Table.of(sparse(values)[some], beside=table)
    for asked in (taken, fresh):
        np.testing.assert_allclose(likeness(asked, table, MEASURES[name], SHRINK), whole[some], rtol=1e-6)


@given(seed=st.integers(0, 200), share=st.sampled_from([0.05, 0.3, 0.9]))
def test_likeness_is_bounded_and_greatest_to_oneself(seed: int, share: float) -> None:
    values = ratings(seed, share)
    for name in TABLES:
        likenesses = found(name, values)
        assert np.isfinite(likenesses).all()
        assert (np.abs(likenesses) <= 1 + 1e-5).all(), name
        if name not in ("log_likelihood", "conditional", "adjusted_cosine", "pearson", "spearman"):
            assert (likenesses.max(axis=1) <= np.diag(likenesses) + 1e-5).all(), name


def test_a_distribution_has_no_share_below_zero() -> None:
    with pytest.raises(ValueError, match=r"got a value of -1, expected none below 0"):
        found("jensen_shannon", np.array([[1.0, -1.0]] * ROWS))


# --- weighting --------------------------------------------------------------------------------------------------------


def test_weights_against_their_formulas() -> None:
    counted = np.random.default_rng(1).integers(0, 4, (6, 8)).astype(np.float64)
    counted[4] = 0
    corpus = weighting.Corpus.of(csr_array(counted.astype(np.float32)))
    rows, containing = 5, (counted > 0).sum(axis=0)
    tfidf = np.sqrt(counted) * (1 + np.log((1 + rows) / (1 + containing)))
    k, b, length = 1.5, 0.6, counted.sum(axis=1, keepdims=True)
    idf = np.log(1 + (rows - containing + 0.5) / (containing + 0.5))
    bm25 = idf * counted * (k + 1) / (counted + k * (1 - b + b * length / (length.sum() / rows)))
    for name, wanted in (("tfidf", tfidf), ("bm25", bm25)):
        weigh = getattr(weighting, name)
        whole = weigh(csr_array(counted.astype(np.float32)), corpus, k, b).toarray()
        np.testing.assert_allclose(whole, wanted, rtol=1e-5)
        alone = weigh(csr_array(counted[2:3].astype(np.float32)), corpus, k, b).toarray()
        np.testing.assert_allclose(alone[0], wanted[2], rtol=1e-5)


# --- sequences --------------------------------------------------------------------------------------------------------


def common_length(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    @lru_cache(None)
    def at(i: int, j: int) -> int:
        if not i or not j:
            return 0
        return at(i - 1, j - 1) + 1 if a[i - 1] == b[j - 1] else max(at(i - 1, j), at(i, j - 1))

    return at(len(a), len(b))


def edits(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    @lru_cache(None)
    def at(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(at(i - 1, j) + 1, at(i, j - 1) + 1, at(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return at(len(a), len(b))


def local_score(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """The recurrence as it stands in the paper: gaps of every length are tried."""
    score = np.zeros((len(a) + 1, len(b) + 1))
    for i, j in product(range(1, len(a) + 1), range(1, len(b) + 1)):
        step = score[i - 1, j - 1] + (1.0 if a[i - 1] == b[j - 1] else -1 / 3)
        up = max(score[i - k, j] - (1 + k / 3) for k in range(1, i + 1))
        left = max(score[i, j - k] - (1 + k / 3) for k in range(1, j + 1))
        score[i, j] = max(0.0, step, up, left)
    return float(score.max())


ALIGNED: dict[str, Callable[[Any, Any], float]] = {
    "longest_common_subsequence": lambda a, b: common_length(a, b) / max(len(a), len(b)),
    "edit_distance": lambda a, b: 1 - edits(a, b) / max(len(a), len(b)),
    "smith_waterman": lambda a, b: local_score(a, b) / min(len(a), len(b)),
}


def histories_table(rows: list[list[int]], n_items: int = 9) -> Table:
    events = Events.of(rows)
    return Table.of(events.csr(n_items), histories=events)


@given(rows=st.lists(st.lists(st.integers(0, 5), max_size=9), min_size=2, max_size=6))
def test_alignments_against_recursion(rows: list[list[int]]) -> None:
    table = histories_table(rows)
    for name, formula in ALIGNED.items():
        wanted = np.zeros((len(rows), len(rows)))
        for a, b in product(range(len(rows)), repeat=2):
            n = len({*rows[a]} & {*rows[b]})
            if n:
                wanted[a, b] = formula(tuple(rows[a]), tuple(rows[b])) * n / (n + 0.5)
        np.testing.assert_allclose(likeness(table, table, MEASURES[name], 0.5), wanted, atol=1e-5, err_msg=name)


def test_alignments_of_textbooks() -> None:
    def of(name: str, first: str, second: str) -> float:
        table = histories_table([[ord(letter) for letter in word] for word in (first, second)], 128)
        return float(likeness(table, table, MEASURES[name], 0.0)[0, 1])

    assert of("edit_distance", "kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert of("longest_common_subsequence", "ABCBDAB", "BDCABA") == pytest.approx(4 / 7)
    # the example of Smith and Waterman 1981: the best alignment scores 3.3
    assert of("smith_waterman", "AAUGCCAUUGACGG", "CAGCCUCGCUUAG") == pytest.approx((3 + 1 / 3) / 13, abs=1e-6)


def test_one_history_against_many_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    table = histories_table([rng.integers(9, size=12).tolist() for _ in range(40)])
    one = table.take(np.array([3]))
    alone = [likeness(one, table, MEASURES[name], 1.0) for name in SEQUENCES]
    monkeypatch.setattr("segue.core.numba_kernels.threads", lambda: 3)
    for name, wanted in zip(SEQUENCES, alone, strict=True):
        np.testing.assert_array_equal(likeness(one, table, MEASURES[name], 1.0), wanted)


# --- vectors ----------------------------------------------------------------------------------------------------------


def test_vectors_against_scipy() -> None:
    rng = np.random.default_rng(2)
    asked, vectors = rng.standard_normal((3, 5)).astype(np.float32), rng.standard_normal((7, 5)).astype(np.float32)
    np.testing.assert_allclose(
        vector_similarity.vector_cosine(asked, vectors), 1 - cdist(asked, vectors, "cosine"), atol=1e-6
    )
    np.testing.assert_allclose(
        vector_similarity.vector_euclidean(asked, vectors), 1 / (1 + cdist(asked, vectors)), atol=1e-6
    )
    np.testing.assert_allclose(vector_similarity.vector_dot(asked, vectors), asked @ vectors.T, atol=1e-6)
    assert not vector_similarity.vector_cosine(np.zeros((1, 5), np.float32), vectors).any()
