"""The benchmarks of two stages and of the speed of click-through models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import click_service, click_speed, two_stage
from segue.core.types import Events
from segue.data.splits import SplitSettings, split
from segue.testing import dataset

MACHINE = dict.fromkeys(("processor", "cores", "system", "python", "torch", "segue", "commit", "command", "date"), "x")


def test_rankers_are_compared_with_their_retriever() -> None:
    rng = np.random.default_rng(0)
    parts = split(dataset(Events.of([rng.permutation(20)[:8].tolist() for _ in range(40)]), 20), SplitSettings())
    rankers: dict[str, Any] = {"logistic_regression": {}}
    found = two_stage.measure("test", parts, ["popular"], rankers, [0], lambda text: None, quick=True)
    assert set(found["rows"]) == {"popular", "popular + logistic_regression"}
    rows, name = found["rows"], "popular + logistic_regression"
    difference = rows[name]["test"]["ndcg@10"]["mean"] - rows["popular"]["test"]["ndcg@10"]["mean"]
    assert found["tests"][f"{name} - popular"]["difference"] == pytest.approx(difference)
    assert rows[name]["recall"] == 1.0  # 200 candidates are the whole catalog
    assert rows["popular"]["recall"] is None
    about = {"data": {"items": 20, "hash": None}, "source": "frappe", "threads": 1}
    load = {"machine": MACHINE | {"memory_gib": 1}, "load_before_percent": 0.0, "max_load_percent": 15.0}
    text = two_stage.page({**found, **about, **load})
    assert "items of the history included" in text
    assert f"- {name} - popular: " in text


def test_all_libraries_read_the_same_examples() -> None:
    sizes = click_speed.QUICK_SIZES["small"]
    arrays = click_speed.examples(sizes)
    assert arrays["codes"].shape == (sizes["examples"], sizes["fields"])
    assert 0 <= arrays["codes"].min() <= arrays["codes"].max() < sizes["categories"]
    assert arrays["lengths"].min() >= 1
    assert 0.2 < arrays["labels"].mean() < 0.8


def test_the_page_has_ratios_of_wall_and_processor_time() -> None:
    runs = {
        f"deepfm, {library}": {
            "fit_seconds": seconds,
            "all_fit_seconds": [seconds],
            "all_cpu_seconds": [2 * seconds],
            "score_seconds": seconds,
            "score_cpu_seconds": seconds,
            "peak_mib": 100.0,
        }
        for library, seconds in (("Segue", 2.0), ("torch-rechub", 10.0))
    }
    sizes = click_speed.QUICK_SIZES["small"]
    table = click_speed.summarize(runs, sizes, click_speed.SETTINGS)
    found = {
        "settings": click_speed.SETTINGS,
        "threads": 1,
        "tables": {"small": table},
        "service": {
            "none": {"p50_ms": 1.5, "p99_ms": 2.0, "cpu_ms": 1.2, "fields": 0},
            "deepfm": {"p50_ms": 2.0, "p99_ms": 4.0, "cpu_ms": 1.9, "fields": 33},
        },
        "machine": MACHINE | {"memory_gib": 1},
        "load_before_percent": 0.0,
        "max_load_percent": 15.0,
    }
    text = click_speed.page(found)
    assert "| deepfm | torch-rechub | 400 | 5.00 | 5.00 | 400 | 5.00 | 5.00 | 100 |" in text
    assert "| deepfm | Segue | 2,000 |  |  | 2,000 |  |  | 100 |" in text
    assert "| none |  | 1.50 | 2.00 | 1.20 |  |" in text
    assert "| deepfm | 33 | 2.00 | 4.00 | 1.90 | 0.70 |" in text


def test_an_interrupted_run_continues(tmp_path: Path) -> None:
    file = tmp_path / "out" / "rows.json"
    assert click_speed.SavedRows(file, resume=True).get("a", lambda: 1) == 1
    assert click_speed.SavedRows(file, resume=True).get("a", lambda: 2) == 1
    assert click_speed.SavedRows(file, resume=False).get("a", lambda: 2) == 2


def test_second_stages_are_measured_over_http() -> None:
    found = click_service.measure_service("logistic_regression", quick=True)
    assert found["fields"] == 33
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    assert found["cpu_ms"] > 0
