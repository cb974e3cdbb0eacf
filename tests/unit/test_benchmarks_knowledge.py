"""Benchmark of the knowledge graph: the same models without triples, the scores of fixed splits, and the page."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

import segue
from benchmarks import knowledge
from benchmarks.knowledge_page import target_lines
from benchmarks.knowledge_rows import VECTORS, WITH_GRAPH, WITHOUT
from benchmarks.pages import format_page
from segue.core.types import Split
from tests.nightly import only_nightly

ROOT = Path(__file__).parents[2]
DATA = ("kg-lastfm", "kg-book-crossing", "ml-100k-kg", "ml-1m-kg")
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


@only_nightly
def test_the_graph_helps_where_it_holds_what_users_like(parts: Split) -> None:
    settings = ("training.epochs=20", "training.learning_rate=0.02", "training.batch_size=64", "model.embedding_dim=16")
    keys = ["popular", *WITH_GRAPH]
    found = knowledge.measure("none", parts, keys, [0], lambda _: None, settings)
    for key in WITH_GRAPH:
        one = found["tests"][f"{key} - {key}{WITHOUT}"]
        assert one["difference"] > 0.02, key
        assert (one["first"], one["second"]) == (key, key + WITHOUT)
        assert one["p_holm"] >= one["p"]
        assert found["rows"][key]["test"]["recall@10"]["mean"] == pytest.approx(
            found["rows"][key + WITHOUT]["test"]["recall@10"]["mean"] + one["difference"]
        )
    assert len(found["members"]) == 5
    assert set(found["members"]) <= {"popular", *WITH_GRAPH} - set(VECTORS)
    assert found["recipes"] == dict.fromkeys(keys)
    found |= {"source": "kg-lastfm", "data": {"users": 80, "items": 60, "hash": "0"}}
    text = format_page("knowledge-kg-lastfm", json.loads(json.dumps(found)))
    assert "python -m benchmarks knowledge --source kg-lastfm --models " in text
    assert "| `lightkg without triples` |  |" in text
    assert "| `hybrid` | yes |" in text
    assert "`transe`, `rotate` are `content`" in text
    assert "Aim, above 0.3053: met." in text


def test_the_same_model_is_compared_once(parts: Split) -> None:
    """Without triples `cease` is `ease` with the same `l2`, here the default."""
    found = knowledge.measure("none", parts, ["ease", "cease"], [0], lambda _: None)
    assert list(found["tests"]) == ["cease - cease without triples"]
    assert found["equal"] == {"ease": "cease without triples"}
    assert (
        found["tests"]["cease - cease without triples"]["p_holm"]
        == found["tests"]["cease - cease without triples"]["p"]
    )
    text = knowledge.page({**found, "source": "none", "data": {"users": 80, "items": 60, "hash": "0"}})
    assert "`ease` and `cease without triples` have the same values for every query" in text
    other = {"test": [{"recall@10": np.ones(3), "mrr@10": np.ones(3)}]}
    values = {key: {"test": [{"recall@10": np.zeros(3), "mrr@10": np.full(3, at)}]} for at, key in enumerate("ab")}
    rows = {"cease": other, "cease without triples": values["a"], "ease": values["b"]}
    tests, equal = knowledge._compare(rows)
    assert len(tests) == 2
    assert not equal
    assert all(test["p_holm"] == min(1.0, 2 * test["p"]) for test in tests.values())


def test_true_items_without_training_events_are_counted(parts: Split) -> None:
    before = knowledge.count_targets(parts, parts.test)
    true, events = parts.test.targets.items, parts.train.histories
    removed = np.intersect1d(true, events.items)[:2]
    fewer = replace(parts, train=replace(parts.train, histories=events.where(~np.isin(events.items, removed))))
    more = int(np.isin(true, removed).sum())
    assert knowledge.count_targets(fewer, parts.test) == {
        "all": len(true),
        "without_events": before["without_events"] + more,
    }
    assert before["without_events"] == sum(item not in events.items for item in true.tolist())
    assert more > 0


def test_verdicts_are_of_the_row_that_validation_chose() -> None:
    def row(valid: float, test: float) -> dict[str, Any]:
        interval = {"mean": test, "low": test - 0.01, "high": test + 0.01}
        return {"valid": {"recall@10": valid}, "test": {"recall@10": interval, "mrr@10": interval}}

    rows = {"a": row(0.2, 0.3), "b": row(0.1, 0.9)}
    published = {"X": (0.305, 0.1), "Y": (0.2, 0.5)}
    recall, mrr = target_lines(rows, published, has_equal_inputs=True)
    assert "Recall@10 of `a`, the best on validation: 0.3000" in recall
    assert "above Y (0.2000); holds X (0.3050). Aim, above 0.3050: not met." in recall
    assert "above X (0.1000); below Y (0.5000). Aim, above 0.5000: not met." in mrr
    above = {"X": (0.2, 0.1)}
    assert target_lines(rows, above, has_equal_inputs=True)[0].endswith("Aim, above 0.2000: met.")
    assert "not claimed, as the inputs may differ" in target_lines(rows, above, has_equal_inputs=False)[0]


@pytest.mark.parametrize(
    "path", [path for data in DATA for path in sorted((ROOT / "recipes" / data).glob("*.toml"))], ids=str
)
def test_recipes_list_figures_of_validation(path: Path) -> None:
    """The pages say so."""
    comment = " ".join(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    assert re.search(r"Validation Recall@10[^:]*: 0\.\d{4}", comment.replace(" # ", " "))


def test_fixed_splits_score_users_by_their_training_events(parts: Split) -> None:
    model = segue.train("item_knn", parts).model
    given = Split(parts.train, parts.valid, parts.test, {"strategy": "predefined"})
    assert knowledge._scorer(model, parts) is model
    scorer = knowledge._scorer(model, given)
    expected = model.score(parts.valid.queries)  # histories of leave-one-out validation are those of training
    np.testing.assert_array_equal(scorer.score(parts.test.queries), expected)
    assert not np.array_equal(model.score(parts.test.queries), expected)
