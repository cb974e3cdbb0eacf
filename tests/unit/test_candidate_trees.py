"""Trees score candidates of a query as LightGBM does."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from segue.core.events import Events
from segue.core.examples.fields import Examples, Field
from segue.core.run import Run
from segue.solvers.boosting.candidate_trees import CandidateTrees
from segue.solvers.boosting.leaf_masks import LeafMasks
from segue.solvers.boosting.tree_columns import column_origins, count_columns, match_candidates, tree_columns
from segue.training.settings import Training
from segue.training.train import train

FIELDS = (
    Field("user", "category", 9),
    Field("item", "category", 40),
    Field("user.age", "number"),
    Field("item.price", "number"),
    Field("item.tags", "tags", 6),
    Field("item.text", "vector", 2),
    Field("context.hour", "category", 70),
    Field("history", "sequence", 40, shares="item"),
    Field("retrieval.score", "number"),
)


def draw(count: int, rng: np.random.Generator) -> Examples:
    """Return examples with missing numbers, empty lists and repeated items."""
    numbers = rng.normal(size=(count, 3))
    numbers[rng.random((count, 3)) < 0.2] = np.nan
    numbers[:, 2] = np.nan_to_num(numbers[:, 2])
    codes = np.stack([rng.integers(size, size=count) for size in (9, 40, 70)], axis=1)
    lists = {
        "item.tags": Events.of([rng.integers(6, size=n % 3) for n in range(count)]),
        "history": Events.of([rng.integers(40, size=n % 7) for n in range(count)]),
    }
    is_seen = np.array([code in lists["history"].rows_between(t, t + 1).items for t, code in enumerate(codes[:, 1])])
    logits = (codes[:, 1] % 3 == 0) + (codes[:, 2] % 5 == 0) * np.nan_to_num(numbers[:, 0]) + is_seen + numbers[:, 2]
    labels = (rng.random(count) < 1 / (1 + np.exp(1 - logits))).astype(np.float32)
    return Examples(FIELDS, codes, numbers, lists, {"item.text": rng.normal(size=(count, 2))}, labels)


def pairs_of(items: Examples, queries: Examples, rows: Any, chosen: Any, numbers: Any) -> Examples:
    """Return examples with the fields of items and those of queries."""
    own, other = items.take(chosen), queries.take(rows)
    codes, values = other.codes.copy(), other.numbers.copy()
    codes[:, 1], values[:, 1], values[:, 2:] = own.codes[:, 1], own.numbers[:, 1], numbers
    lists = {"item.tags": own.lists["item.tags"], "history": other.lists["history"]}
    return replace(own, codes=codes, numbers=values, lists=lists)


@pytest.mark.parametrize("num_leaves", [2, 31, 64])
def test_scores_of_candidates_equal_those_of_lightgbm(num_leaves: int) -> None:
    rng = np.random.default_rng(0)
    settings = {"iterations": 30, "num_leaves": num_leaves, "min_examples": 3, "min_category_examples": 2}
    model: Any = train("gradient_boosting", settings, Training(metric="auc"), draw(3_000, rng), Run(0))
    items, queries = draw(40, rng), draw(6, rng)
    items = replace(items, codes=np.stack([items.codes[:, 0], np.arange(40), items.codes[:, 2]], axis=1))
    rows, chosen = np.repeat([0, 2, 5], [40, 7, 1]), np.concatenate([np.arange(40), np.arange(7, 14), [3]])
    numbers = rng.normal(size=(len(rows), 1)).astype(np.float32)
    scorer = model.candidate_scorer(items, 1)
    assert scorer is not None
    nodes = scorer.masks
    assert len(nodes.of_items.trees_S)
    assert len(nodes.table_MT)
    expected = model.predict_logits(pairs_of(items, queries, rows, chosen, numbers))
    np.testing.assert_array_equal(scorer.score(queries, rows, chosen, numbers), expected)


def test_trees_that_cannot_be_divided_have_no_fast_scores() -> None:
    rng = np.random.default_rng(0)
    data, items = draw(4_000, rng), draw(40, rng)
    settings = {"iterations": 2, "min_examples": 3}
    large: Any = train("gradient_boosting", settings | {"num_leaves": 65}, Training(metric="auc"), data, Run(0))
    assert large.candidate_scorer(items, 1) is None
    sets = {"target_statistics": [["user", "item"]]}
    other: Any = train("gradient_boosting", settings | sets, Training(metric="auc"), data, Run(0))
    assert other.candidate_scorer(items, 1) is None
    small: Any = train("gradient_boosting", settings, Training(metric="auc"), data, Run(0))
    zeros = [re.sub(r"decision_type=\d+", "decision_type=4", block) for block in small.trees.blocks]
    assert LeafMasks.of(zeros, count_columns(FIELDS), (), ()) is None  # zeros are missing
    assert CandidateTrees.of(small.trees, items, 1) is not None


def test_matches_of_candidates_are_the_columns_of_pairs() -> None:
    rng = np.random.default_rng(0)
    data = draw(7, rng)
    origins = column_origins(FIELDS)
    assert len(origins) == count_columns(FIELDS)
    start = origins.index(("history", "count"))
    for row in range(7):
        history = data.lists["history"].rows_between(row, row + 1).items
        codes = np.arange(40, dtype=np.int32)
        pairs = pairs_of(data, data, np.full(40, row), np.full(40, row), data.numbers[[row], 2:])
        pairs = replace(pairs, codes=np.stack([pairs.codes[:, 0], codes, pairs.codes[:, 2]], axis=1))
        np.testing.assert_array_equal(match_candidates(history, codes), tree_columns(pairs)[:, start : start + 2])
