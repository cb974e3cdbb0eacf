"""Benchmark of the knowledge graph: the same models without triples, the scores of fixed splits, and the page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

import segue
from benchmarks import knowledge
from benchmarks.pages import format_page
from segue.core.types import Split

N_ITEMS, N_GROUPS = 60, 6


@pytest.fixture(scope="module")
def parts() -> Split:
    """Every user likes the items of one entity, and every item has few events."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{item}", step)
        for user in range(80)
        for step, item in enumerate(rng.choice(np.arange(user % N_GROUPS, N_ITEMS, N_GROUPS), 4, replace=False))
    ]
    triples = [(f"i{item}", "group", f"g{item % N_GROUPS}") for item in range(N_ITEMS)]
    log = pl.DataFrame(rows, schema=("user_id", "item_id", "timestamp"), orient="row")
    return segue.split(
        segue.load(log, triples=pl.DataFrame(triples, schema=("head", "relation", "tail"), orient="row"))
    )


def test_without_triples_nothing_else_changes(parts: Split) -> None:
    bare = knowledge.without_triples(parts.train)
    assert bare.knowledge is not None
    assert parts.train.knowledge is not None
    assert len(parts.train.knowledge) == N_ITEMS
    assert len(bare.knowledge) == 0
    assert bare.knowledge.entities is parts.train.knowledge.entities
    np.testing.assert_array_equal(bare.knowledge.item_entities, parts.train.knowledge.item_entities)
    assert bare.histories is parts.train.histories


def test_the_graph_helps_where_it_holds_what_users_like(parts: Split) -> None:
    settings = ("training.epochs=20", "training.learning_rate=0.02", "training.batch_size=64", "model.embedding_dim=16")
    keys = ["popular", *knowledge.WITH_GRAPH]
    found = knowledge.measure("none", parts, keys, [0], lambda _: None, settings)
    for key in knowledge.WITH_GRAPH:
        one = found["tests"][f"{key} - {key}{knowledge.WITHOUT}"]
        assert one["difference"] > 0.02, key
        assert found["rows"][key]["test"]["recall@10"]["mean"] == pytest.approx(
            found["rows"][key + knowledge.WITHOUT]["test"]["recall@10"]["mean"] + one["difference"]
        )
    assert set(found["members"]) <= {*keys}
    found |= {"source": "kg-lastfm", "data": {"users": 80, "items": 60, "hash": "0"}}
    text = format_page("knowledge-kg-lastfm", json.loads(json.dumps(found)))
    assert "python -m benchmarks knowledge --source kg-lastfm --models " in text
    assert "| `lightkg without triples` |  |" in text
    assert "best published 0.3053: above it" in text


def test_verdicts_are_of_the_row_that_validation_chose() -> None:
    def row(valid: float, test: float) -> dict[str, Any]:
        interval = {"mean": test, "low": test - 0.01, "high": test + 0.01}
        return {"valid": {"recall@10": valid}, "test": {"recall@10": interval, "mrr@10": interval}}

    rows = {"a": row(0.2, 0.3), "b": row(0.1, 0.9)}
    recall, mrr = knowledge._target_lines(rows, {"X": (0.305, 0.1), "Y": (0.2, 0.5)})
    assert "`a`, the best on validation, 0.3000" in recall
    assert "best published 0.3050: on par" in recall
    assert "best published 0.5000: below it" in mrr


def test_fixed_splits_score_users_by_their_training_events(parts: Split) -> None:
    model = segue.train("item_knn", parts).model
    given = Split(parts.train, parts.valid, parts.test, {"strategy": "predefined"})
    assert knowledge._scorer(model, parts) is model
    scorer = knowledge._scorer(model, given)
    expected = model.score(parts.valid.queries)  # histories of leave-one-out validation are those of training
    np.testing.assert_array_equal(scorer.score(parts.test.queries), expected)
    assert not np.array_equal(model.score(parts.test.queries), expected)
