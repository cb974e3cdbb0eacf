"""The benchmark of context: inputs of its rows, tests and page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import context
from benchmarks.pages import format_page
from segue.core.config import parse
from segue.core.registry import model_class
from segue.data.sources.frappe import CONTEXT

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


def test_the_part_runs_and_its_page_shows_every_row() -> None:
    found = context.run(argparse.Namespace(source=None, seeds=3, quick=True))
    text = format_page("context", {**found, "machine": MACHINE})
    for study in found["studies"]:
        assert study["seeds"] == 1
        assert all(f"| {name} |" in text for name in study["rows"])
        best = max(study["grid"], key=lambda one: one["ndcg@10"])
        assert study["chosen"] == {name: best[name] for name in ("learning_rate", "dropout")}
    assert "query, without noise − query" in text
    with pytest.raises(ValueError, match=r"--source: got 'beauty', expected frappe or ml-100k"):
        context.run(argparse.Namespace(source="beauty", seeds=3, quick=True))
