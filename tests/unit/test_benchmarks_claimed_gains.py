"""The benchmark of claimed gains: settings, relative gains and page."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import claimed_gains
from benchmarks.pages import format_page


def values(share: float, auc: float) -> dict[str, np.ndarray]:
    hits = (np.arange(200) < 200 * share).astype(float)
    cut = {
        f"{name}@{k}": hits / (k if name == "precision" else 1)
        for name in ("precision", "recall", "f1")
        for k in (5, 10)
    }
    return {**cut, "auc": np.full(200, auc)}


def test_a_gain_is_relative_to_the_baseline_and_needs_significance() -> None:
    found = claimed_gains.compare(
        {
            "fusion": [values(0.5, 0.9), values(0.5, 0.9)],
            "popular": [values(0.2, 0.5)] * 2,
            "als": [values(0.45, 0.899)] * 2,
        }
    )
    gains = {(one["metric"], one["baseline"]): one for one in found["gains"]}
    assert gains["precision@10", "popular"]["gain"] == pytest.approx(1.5)
    assert claimed_gains.outcome(gains["precision@10", "popular"]) == "reached"
    assert gains["precision@10", "popular"]["low"] < 1.5 < gains["precision@10", "popular"]["high"]
    assert gains["recall@5", "als"]["gain"] == pytest.approx(1 / 9)
    assert claimed_gains.outcome(gains["recall@5", "als"]) == "on par"  # the interval includes 18 %
    assert claimed_gains.outcome(gains["auc", "popular"]) == "reached"
    assert claimed_gains.outcome(gains["auc", "als"]) == "not reached"
    assert found["rows"]["als"]["recall@5"] == {"mean": pytest.approx(0.45), "seeds": [pytest.approx(0.45)] * 2}


def test_a_gain_whose_interval_includes_the_claim_is_on_par() -> None:
    gain = {"test": {"p_holm": 0.01}, "low": 0.134, "high": 0.188}
    assert [claimed_gains.outcome({**gain, "claim": claim}) for claim in (0.13, 0.15, 0.2)] == [
        "reached", "on par", "not reached"
    ]  # fmt: skip
    assert claimed_gains.outcome({**gain, "claim": 0.1, "test": {"p_holm": 0.06}}) == "not reached"


def test_a_worse_model_reaches_nothing() -> None:
    found = claimed_gains.compare({"fusion": [values(0.1, 0.4)], "popular": [values(0.5, 0.9)]})
    assert all(claimed_gains.outcome(one) == "not reached" for one in found["gains"])
    assert all(one["gain"] < 0 for one in found["gains"])


@pytest.mark.parametrize("source", ["ml-1m-text", "frappe"])
def test_only_fusion_reads_text_and_all_have_the_same_data(source: str) -> None:
    plans = claimed_gains.make_plans(source)
    assert plans["fusion"].model.backbone == "transformer_xl"  # type: ignore[attr-defined]
    assert [name for name, plan in plans.items() if plan.text.columns] == ["fusion"]
    assert len({(plan.filters.model_dump_json(), plan.split.model_dump_json()) for plan in plans.values()}) == 1
    assert claimed_gains.make_plans(source, quick=True)["fusion"].training.epochs == 1


def test_the_page_states_what_is_reached() -> None:
    found = claimed_gains.compare({"fusion": [values(0.5, 0.9)], "popular": [values(0.2, 0.89)]})
    found |= {
        "source": "frappe", "seeds": 1, "texts": ["title"], "queries": 200, "data_hash": "abc", "warnings": ["times"],
        "recipes": {"fusion": None, "popular": None}, "seconds": {"fusion": 3.0, "popular": 1.0},
        "machine": {"processor": "P", "cores": 2, "memory_gib": 1, "system": "S", "python": "3", "torch": "2",
                    "segue": "0", "commit": "c", "command": "python -m benchmarks claimed_gains", "date": "d"},
    }  # fmt: skip
    text = format_page("claimed_gains-frappe", found)
    assert "| Precision@10 | popular | +22 % | +150.0 % |" in text
    assert "| AUC | popular | +15 % | +1.1 % |" in text
    assert text.count("| reached |") == 6
    assert text.count("| not reached |") == 1
