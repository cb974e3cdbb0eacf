"""The benchmark of context: inputs of its rows, tests and page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import context
from benchmarks.pages import format_page
from segue.core.config import parse
from segue.core.registry import model_class
from segue.core.types import Events, Queries
from segue.data import load
from segue.data.sources.frappe import CONTEXT
from segue.data.splits import SplitSettings, split

MACHINE = {
    "processor": "P", "cores": 2, "memory_gib": 1, "system": "S", "python": "3", "torch": "2", "segue": "0",
    "commit": "c", "command": "python -m benchmarks context", "date": "d",
}  # fmt: skip


@pytest.mark.parametrize("source", context.STUDIES)
def test_rows_differ_in_their_inputs_only(source: str) -> None:
    study = context.make_study(source)
    for inputs in study.variants.values():
        parse(model_class(context.MODEL).Config, {"inputs": inputs}, "model")
    assert study.variants[context.NO_CONTEXT] == ()
    assert len(set(study.variants.values())) == len(study.variants)
    assert study.full in study.variants
    assert study.split.use_query_context == (source == "frappe")
    assert study.split.use_query_time == (source == "ml-100k")


def test_the_ablation_leaves_out_each_column_once() -> None:
    study = context.make_study("frappe")
    assert len(study.without) == len(CONTEXT)
    left_out = [{f"query_context:{name}" for name in CONTEXT} - set(study.variants[name]) for name in study.without]
    assert sorted(map(len, left_out)) == [1] * len(CONTEXT)
    assert set.union(*left_out) == {f"query_context:{name}" for name in CONTEXT}


def test_gains_are_tested_against_no_context_and_ablations_against_all_columns() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(300) / 2

    def values(gain: float) -> list[dict[str, np.ndarray]]:
        return [{metric: base + gain + rng.normal(0, 0.01, 300) for metric in context.METRICS} for _ in range(2)]

    found = context.compare(
        {context.NO_CONTEXT: values(0), "query": values(0.2), "query, without a": values(0.1)},
        "query",
        ["query, without a"],
    )
    tests = {(test["first"], test["second"]): test for test in found["tests"] if test["metric"] == "ndcg@10"}
    assert set(tests) == {("query", context.NO_CONTEXT), ("query, without a", "query")}
    assert tests["query", context.NO_CONTEXT]["significant"]
    assert tests["query, without a", "query"]["difference"] == pytest.approx(-0.1, abs=0.01)
    assert len(found["rows"]["query"]["ndcg@10"]["seeds"]) == 2


def test_simple_baselines_are_a_family_of_their_own() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(300) / 2
    values = {
        name: [dict.fromkeys(context.METRICS, base + gain)]
        for name, gain in {context.NO_CONTEXT: 0.0, "query": 0.1, "popular": -0.2, "ease": -0.1}.items()
    }
    tests = [test for test in context.compare(values, "query", [])["tests"] if test["metric"] == "ndcg@10"]
    assert [test["first"] for test in tests] == ["query", "popular", "ease"]
    assert tests[0]["p_holm"] == tests[0]["p"]
    assert tests[1]["p_holm"] == 2 * tests[1]["p"]
    assert all(test["significant"] for test in tests)


def test_own_frequency_ranks_by_uses_and_then_by_popularity() -> None:
    parts = split(load(context.planted_log(20), columns={"context": ["place", "noise"]}), SplitSettings())
    model = context._train_simple(parts, context.OWN, {})
    queries = Queries.anonymous(Events.of([[3, 3, 5], []]))
    scores = model.score(queries)
    assert scores.argsort(axis=1)[0, ::-1][:2].tolist() == [3, 5]
    np.testing.assert_array_equal(scores[1], model.log_popularity_I)
    candidates = np.array([[5, 0], [1, 2]], np.int32)
    np.testing.assert_array_equal(model.score(queries, candidates), np.take_along_axis(scores, candidates, axis=1))


def mean(study: dict[str, Any], name: str) -> float:
    value: float = study["rows"][name]["ndcg@10"]["mean"]
    return value


def test_the_part_runs_and_its_page_shows_every_row() -> None:
    found = context.run(argparse.Namespace(source=None, seeds=3, quick=True))
    text = format_page("context", {**found, "machine": MACHINE})
    for study in found["studies"]:
        assert study["seeds"] == 1
        assert all(f"| {name} |" in text for name in study["rows"])
        simple = {name for name in context.SIMPLE if name != context.OWN or study["full"] == "query"}
        assert set(study["grids"]) == {context.NO_CONTEXT, study["full"], *simple}
        for name, grid in study["grids"].items():
            assert study["chosen"][name] == max(grid, key=lambda one: one[1])[0]
        best = max(simple, key=lambda name, study=study: mean(study, name))  # type: ignore[misc]
        assert f"The strongest simple baseline on the test part is `{best}`" in text
    assert "query, without noise − query" in text
    with pytest.raises(ValueError, match=r"--source: got 'beauty', expected frappe or ml-100k"):
        context.run(argparse.Namespace(source="beauty", seeds=3, quick=True))
