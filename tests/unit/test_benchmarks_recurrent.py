"""Benchmarks of recurrent models: comparisons, tables and plots."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import length_generalization, scaling, xlstm_blocks
from benchmarks.machine import describe
from segue.core.recommend import recommend
from segue.core.types import Events, Queries
from segue.testing import cycle, train_small

FACTS: dict[str, Any] = {
    "machine": describe(),
    "max_load_percent": 15.0,
    "load_before_percent": 50.0,
}


def test_truncated_history_still_excludes_the_whole_history() -> None:
    world = cycle()
    model: Any = train_small("lstm", world.train, epochs=2)
    queries = Queries.anonymous(Events.of([[3, 1, 4, 2, 5], [6], []]))
    cut = length_generalization.TruncatedHistory(model, 2, model.schema, model.scale)
    np.testing.assert_array_equal(cut.encode(queries), model.encode(Queries.anonymous(queries.history.last(2))))
    actual = recommend(cut, queries, 4)
    assert not set(actual.items[0, : actual.lengths[0]]) & {3, 1, 4, 2, 5}
    longer = length_generalization.TruncatedHistory(model, 9, model.schema, model.scale)
    np.testing.assert_array_equal(longer.score(queries), model.score(queries))


def test_length_generalization_page_has_a_row_per_group() -> None:
    rows = [
        {"read": cut, "above": above, "up_to": up_to, "queries": 7, "mean": 0.5, "low": 0.4, "high": 0.6}
        for cut in length_generalization.CUTS
        for above, up_to in ((None, None), (0, 50), (400, length_generalization.GROUPS[-1]))
    ]
    about = {"run": "r", "model": "xlstm", "data": "d", "hash": "h", "warnings": ["rebuilt"], "seed": 0}
    text = length_generalization.page({**about, "max_length": 200, "rows": rows, **FACTS})
    assert "warning: rebuilt" in text
    assert [line.split(" | ")[0] for line in text.splitlines() if "0.5000" in line] == [
        "| all",
        "| 1 to 50",
        "| more than 400",
    ]


def test_xlstm_blocks_pairs() -> None:
    for one, other in xlstm_blocks.PAIRS:
        assert one in xlstm_blocks.RUNS
        assert other in xlstm_blocks.RUNS
        assert one[1] == "segue"
        assert one[2] == other[2], "the same dropout on both runs"
    side = {"positions_per_second": 1.0, "milliseconds": 2.0, "cpu_milliseconds": 2.0, "peak_mib": 3.0}
    runs = [
        {"length": 50, "kind": k, "library": b, "dropout": d, "parameters": 4, **side} for k, b, d in xlstm_blocks.RUNS
    ]
    ratios = [
        {"length": 50, "of": list(a), "to": list(b), "faster": 2.0, "faster_by_cpu": 3.0} for a, b in xlstm_blocks.PAIRS
    ]
    settings = {**xlstm_blocks.SETTINGS, "threads": 1}
    text = xlstm_blocks.page({"settings": settings, "runs": runs, "ratios": ratios, **FACTS})
    assert text.count("| 2.00 | 3.00 |") == len(xlstm_blocks.PAIRS)
    assert "disturbed" in text


def test_scaling_plot_shows_every_model() -> None:
    points = [
        {
            "axis": axis,
            "value": value,
            "model": model,
            "loss": loss,
            "batch": 1,
            "milliseconds": 1.0,
            "cpu_milliseconds": 1.0,
            "positions_per_second": 10.0,
            "own_mib": 5.0,
        }
        for axis in ("length", "embedding_dim", "items")
        for value in (50, 100)
        for model in scaling.MODELS
        for loss in scaling.LOSSES[: 2 if axis == "items" else 1]
    ]
    svg = scaling.figure(points)
    assert svg.startswith("<svg")
    assert all(name in svg for name in scaling.MODELS)
    steps = [{"model": "lstm", "steps": [{"events": 10, "bytes": 8, "step_ms": 1.0, "encode_ms": 2.0}]}]
    text = scaling.page({"settings": {"threads": 1, "items": 5}, "points": points, "steps": steps, **FACTS})
    assert "| lstm | 8 | 10 | 1.00 | 2.00 |" in text
