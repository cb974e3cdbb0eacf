"""Ratios of costs, and the benchmarks of the cost of text."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import fusion_speed, text_encoding
from benchmarks.pages import format_page
from benchmarks.speed_ratios import estimate_ratio, format_ratio
from benchmarks.table_rows import interval_cell, select_rows, significance_mark

MACHINE = {
    "processor": "P", "cores": 2, "memory_gib": 1, "system": "S", "python": "3", "torch": "2", "segue": "0",
    "commit": "c", "command": "python -m benchmarks", "date": "d",
}  # fmt: skip


def test_a_ratio_of_pairs_does_not_depend_on_drift() -> None:
    drift = np.array([1.0, 5.0, 2.0, 9.0])
    found = estimate_ratio((1.3 * drift).tolist(), drift.tolist())
    assert [found["ratio"], found["low"], found["high"]] == pytest.approx([1.3] * 3)
    assert format_ratio(found) == "1.30 [1.30, 1.30]"
    single = estimate_ratio([3.0], [2.0])
    assert (single["low"], format_ratio(single)) == (None, "1.50")


def test_the_interval_of_a_ratio_has_its_coverage() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        found = estimate_ratio((1.2 * np.exp(rng.normal(0, 0.1, 5))).tolist(), [1.0] * 5)
        assert found["low"] is not None
        assert found["high"] is not None
        held.append(found["low"] <= 1.2 <= found["high"])
    assert 0.92 < np.mean(held) < 0.98


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [([1.0], [1.0, 2.0], "got 1 and 2, expected as many"), ([0.0], [1.0], "expected values above 0")],
)
def test_costs_that_cannot_be_compared(first: list[float], second: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_ratio(first, second)


def test_the_cost_of_fusion_is_compared_with_its_twin() -> None:
    found = fusion_speed.run(argparse.Namespace(source=None, quick=True, threads=1))
    assert set(found["pairs"]) == {"fusion", "two_tower"}
    for name, pair in found["pairs"].items():
        assert pair["ratio"]["ratio"] == pytest.approx(pair["seconds"][name][0] / pair["seconds"][pair["twin"]][0])
    text = format_page("fusion_speed", {**found, "machine": MACHINE, "max_load_percent": 100.0})
    assert "| fusion | sasrec |" in text
    assert "one repetition: not known" in text


def test_a_ratio_is_within_the_aim_if_its_interval_is() -> None:
    outcomes = [
        fusion_speed._outcome({"ratio": 1.2, "low": low, "high": high, "pairs": 5})
        for low, high in ((1.1, 1.3), (1.1, 1.4), (1.31, 1.4))
    ]
    assert outcomes == ["yes", "within the interval", "no"]


def test_speeds_of_encoders_are_ratios_of_rounds() -> None:
    vectors = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    seconds = {text_encoding.PEER: [2.0, 4.0, 2.0], "Segue": [1.0, 2.0, 1.0]}
    cpu = {text_encoding.PEER: [3.0, 3.0, 3.0], "Segue": [2.0, 2.0, 2.0]}
    runs = text_encoding.summarize(seconds, cpu, dict.fromkeys(seconds, vectors), 30)
    assert runs["Segue"]["speed"]["ratio"] == pytest.approx(2.0)
    found = {"runs": runs, "texts": 30, "threads": 1, "load_before_percent": 0.0, "max_load_percent": 100.0}
    text = format_page("text_encoding", {**found, "machine": MACHINE})
    assert "| Segue | 30.0 | 2.00 [2.00, 2.00] | 1.50 [1.50, 1.50] |" in text


def test_rows_are_selected_by_name() -> None:
    rows = ["means", "a, b", "c"]
    assert select_rows(None, rows) == rows
    assert select_rows("c,a, b,c", rows, first="means") == ["means", "c", "a, b"]
    with pytest.raises(ValueError, match="--models: unknown 'd', expected some of means, a, b, c"):
        select_rows("c,d", rows)


def test_cells() -> None:
    assert interval_cell(0.5, [0.4, 0.6], "▲", bold=True) == "**0.5000** ▲ [0.400, 0.600]"
    marks = [
        significance_mark({"p": p, "p_holm": p_holm, "difference": difference}, lower_is_better=lower)
        for p, p_holm, difference, lower in (
            (0.01, 0.02, 1.0, False), (0.01, 0.02, 1.0, True), (0.01, 0.2, 1.0, False), (0.01, 0.2, -1.0, False),
            (0.06, 0.2, 1.0, False),
        )
    ]  # fmt: skip
    assert marks == ["▲", "▼", "△", "▽", ""]
    assert significance_mark(None) == ""
