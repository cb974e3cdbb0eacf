"""Compare blockwise ranking with sorting one query at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.core import recommend as core
from segue.core.recommend import recommend, top_k
from segue.core.types import Codes, DataSchema, Events, HeldOut, Queries, Ranks, Scores
from segue.evaluation import metrics, ranking
from segue.evaluation.compiled.rank_counts import best_items, count_removed
from segue.evaluation.ranking import rank, rank_lists


@dataclass
class Table:
    """A model with given scores; row = user code."""

    table: Scores

    @property
    def schema(self) -> DataSchema:
        return DataSchema(*self.table.shape)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        return self.table[queries.users]


@dataclass
class Product(Table):
    """The same scores from integer factors, so that the order of summation does not matter."""

    left: Scores
    right: Scores
    offset: Scores

    def encode(self, queries: Queries) -> Scores:
        return self.left[queries.users]

    @property
    def vectors(self) -> Scores:
        return self.right

    @property
    def bias(self) -> Scores:
        return self.offset


@dataclass
class World:
    model: Table
    held_out: HeldOut
    exclude_seen: bool


@st.composite
def worlds(draw: st.DrawFn, most_items: int = 40) -> World:
    """Draw few distinct scores (many ties), histories with repeats, and targets that may be seen items."""
    n, n_items = draw(st.integers(1, 12)), draw(st.integers(1, most_items))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    left, right = (rng.integers(-2, 3, (size, 2)).astype(np.float32) for size in (n, n_items))
    offset = rng.integers(-1, 2, n_items).astype(np.float32) * draw(st.integers(0, 2))
    table = left @ right.T + offset
    model = Product(table, left, right, offset) if draw(st.booleans()) else Table(table)
    history = [rng.integers(0, n_items, rng.integers(0, n_items)) for _ in range(n)]
    targets = [rng.integers(0, n_items, rng.integers(0, draw(st.integers(1, 8)) + 1)) for _ in range(n)]
    queries = Queries.of_users(np.arange(n, dtype=np.int32), Events.of(history))
    return World(model, HeldOut(queries, Events.of(targets)), draw(st.booleans()))


def rank_by_sorting(world: World) -> tuple[list[tuple[int, int, int]], list[list[int]]]:
    """Compute (higher, tied, candidates) of each distinct target, and all candidates in order, with ``sorted``."""
    counts, orders = [], []
    for row in range(len(world.held_out)):
        scores = world.model.table[row].tolist()
        history = world.held_out.queries.history.rows_between(row, row + 1).items.tolist()
        seen = set(history) if world.exclude_seen else set()
        eligible = [item for item in range(len(scores)) if item not in seen]
        orders.append(sorted(eligible, key=lambda item: (-scores[item], item)))
        for target in dict.fromkeys(world.held_out.targets.rows_between(row, row + 1).items.tolist()):
            if target in seen:
                counts.append((len(eligible), 0, len(eligible)))
                continue
            greater = sum(scores[item] > scores[target] for item in eligible)
            equal = sum(scores[item] == scores[target] for item in eligible) - 1
            counts.append((greater, equal, len(eligible)))
    return counts, orders


def all_metrics(ranks: Ranks, k: int) -> dict[str, np.ndarray]:
    return {name: getattr(metrics, name)(ranks, k) for name in metrics.__all__ if name not in ("auc", "r_precision")}


@settings(deadline=None, max_examples=150)
@given(world=worlds(), k=st.integers(1, 45))
def test_ranks_and_lists_agree_with_a_sort(world: World, k: int) -> None:
    ranks = rank(world.model, world.held_out, k, world.exclude_seen)
    counts, orders = rank_by_sorting(world)
    actual = list(zip(ranks.n_higher, ranks.n_tied, ranks.n_candidates[ranks.rows], strict=True))
    assert actual == counts
    assert ranks.n_candidates.tolist() == [len(order) for order in orders]
    lists = [row[:length].tolist() for row, length in zip(ranks.top.items, ranks.top.lengths, strict=True)]
    assert lists == [order[:k] for order in orders]
    recommended = recommend(world.model, world.held_out.queries, k, exclude_seen=world.exclude_seen)
    np.testing.assert_array_equal(recommended.items, ranks.top.items)
    np.testing.assert_array_equal(recommended.scores, ranks.top.scores)


@settings(deadline=None, max_examples=50)
@given(world=worlds(), most=st.integers(1, 200), cached=st.integers(1, 100), places=st.integers(1, 9))
def test_block_sizes_do_not_change_the_result(world: World, most: int, cached: int, places: int) -> None:
    in_one_block = rank(world.model, world.held_out, 5, world.exclude_seen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "BLOCK_SCORES", most)
        patch.setattr(core, "CACHE_SCORES", cached)
        patch.setattr(core, "MIN_ROWS", 1)
        patch.setattr(ranking, "BLOCK_CELLS", places)
        in_blocks = rank(world.model, world.held_out, 5, world.exclude_seen)
        listed = rank_lists(in_one_block.top, world.held_out.targets)
    for name in ("offsets", "n_higher", "n_tied", "n_candidates"):
        np.testing.assert_array_equal(getattr(in_blocks, name), getattr(in_one_block, name))
    np.testing.assert_array_equal(in_blocks.top.items, in_one_block.top.items)
    np.testing.assert_array_equal(in_blocks.top.scores, in_one_block.top.scores)
    np.testing.assert_array_equal(listed.n_higher, rank_lists(in_one_block.top, world.held_out.targets).n_higher)


@settings(deadline=None, max_examples=50)
@given(
    levels=st.integers(1, 400), n_items=st.integers(1, 300), k=st.integers(1, 120), removed=st.floats(0, 1),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_compiled_lists_are_those_of_a_partition(levels: int, n_items: int, k: int, removed: float, seed: int) -> None:
    """Ties, minus infinity, short lists, and lists that are too long to insert items one by one."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(-levels, levels, (4, n_items)).astype(np.float32)
    scores[rng.random(scores.shape) < removed] = -np.inf
    compiled, expected = best_items(scores, k), top_k(scores, k)
    np.testing.assert_array_equal(compiled.lengths, expected.lengths)
    np.testing.assert_array_equal(compiled.items, expected.items)
    np.testing.assert_array_equal(compiled.scores, expected.scores)
    np.testing.assert_array_equal(count_removed(scores), np.isneginf(scores).sum(axis=1))


@settings(deadline=None, max_examples=100)
@given(world=worlds(), k=st.integers(1, 45))
def test_metrics_are_between_0_and_1_and_grow_with_k(world: World, k: int) -> None:
    ranks = rank(world.model, world.held_out, 1, world.exclude_seen)
    at_k, at_next_k = all_metrics(ranks, k), all_metrics(ranks, k + 1)
    counted = np.diff(ranks.offsets) > 0
    for name, values in at_k.items():
        assert np.isnan(values[~counted]).all(), name
        assert ((values[counted] >= 0) & (values[counted] <= 1 + 1e-12)).all(), name
    for name in ("recall", "hit_rate", "mrr"):
        assert (at_next_k[name][counted] >= at_k[name][counted]).all(), name
    single = np.diff(ranks.offsets) == 1
    np.testing.assert_array_equal(at_k["recall"][single], at_k["hit_rate"][single])
    for name in ("ndcg", "map"):
        assert (at_next_k[name][single] >= at_k[name][single]).all(), name


@settings(deadline=None, max_examples=60)
@given(world=worlds(), seed=st.integers(0, 2**32))
def test_the_order_of_the_catalog_does_not_matter(world: World, seed: int) -> None:
    n_items = world.model.schema.n_items
    new = np.random.default_rng(seed).permutation(n_items)  # old code -> new code
    table = np.empty_like(world.model.table)
    table[:, new] = world.model.table
    history, targets = world.held_out.queries.history, world.held_out.targets
    permuted = HeldOut(
        Queries.of_users(world.held_out.queries.users, Events(history.offsets, new[history.items])),
        Events(targets.offsets, new[targets.items]),
    )
    before = rank(world.model, world.held_out, 1, world.exclude_seen)
    after = rank(Table(table), permuted, 1, world.exclude_seen)
    np.testing.assert_array_equal(before.n_higher, after.n_higher)
    np.testing.assert_array_equal(before.n_tied, after.n_tied)
    for name, values in all_metrics(before, 3).items():
        np.testing.assert_array_equal(values, all_metrics(after, 3)[name])


@settings(deadline=None, max_examples=60)
@given(world=worlds())
def test_a_full_list_gives_the_metrics_of_its_ranking(world: World) -> None:
    """Without ties, the list of the whole ranking determines all metrics."""
    table = world.model.table + np.linspace(0, 0.5, world.model.schema.n_items, dtype=np.float32)
    ranks = rank(Table(table), world.held_out, world.model.schema.n_items, world.exclude_seen)
    listed = rank_lists(ranks.top, world.held_out.targets)
    np.testing.assert_array_equal(listed.expected_ranks, ranks.expected_ranks)


def test_expected_rank_of_ties_is_the_mean_over_random_orders() -> None:
    """Two targets among five tied items and two better items: compare mean ranks of the first and second target."""
    rng = np.random.default_rng(0)
    orders = rng.permuted(np.broadcast_to(np.arange(5), (40_000, 5)), axis=1)
    simulated = 3 + np.sort(orders[:, :2], axis=1).mean(axis=0)
    table = np.array([[1, 2, 1, 1, 2, 1, 1, 0]], np.float32)
    held_out = HeldOut(Queries.anonymous(Events.of([[]])), Events.of([[3, 0]]))
    ranks = rank(Table(table), held_out).expected_ranks
    np.testing.assert_allclose(np.sort(ranks), simulated, atol=0.02)


@pytest.mark.parametrize("n_items", [100, 1000])
@pytest.mark.parametrize("levels", [1, 3, 1_000_000])
def test_the_best_k_of_a_large_catalog(n_items: int, levels: int) -> None:
    """Catalogs above 16 k items are searched by groups; few levels give many ties at the cut."""
    scores = np.random.default_rng(1).integers(0, levels, (50, n_items)).astype(np.float32)
    scores[3] = -np.inf
    scores[4, 5:] = -np.inf
    top = top_k(scores, 5)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    usual = np.arange(50) != 3
    np.testing.assert_array_equal(top.items[usual], expected[usual])
    assert top.lengths.tolist() == [0 if row == 3 else 5 for row in range(50)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_rejected(bad: float) -> None:
    table = np.zeros((3, 4), np.float32)
    table[2, 1] = bad
    held_out = HeldOut(Queries.of_users(np.arange(3, dtype=np.int32), Events.of([[], [], []])), Events.of([[0]] * 3))
    with pytest.raises(ValueError, match="Table: score of item 1 for query 2 is"):
        rank(Table(table), held_out)


def test_targets_outside_the_catalog_are_rejected() -> None:
    held_out = HeldOut(Queries.anonymous(Events.of([[]])), Events.of([[4]]))
    with pytest.raises(ValueError, match=r"item codes 4 to 4, expected 0 to 3"):
        rank(Table(np.zeros((1, 4), np.float32)), held_out)
