"""The benchmarks of two stages and of the speed of click-through models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import click_service, click_speed, two_stage
from segue.core.run import Run
from segue.core.types import Events
from segue.data.splits import SplitSettings, split
from segue.testing import dataset
from segue.training.settings import Training
from segue.training.train import train

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
    assert arrays["codes"].shape == (2 * sizes["examples"], sizes["fields"])
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
            "auc": 0.75,
            "log_loss": 0.5,
            "peak_mib": 100.0,
        }
        for library, seconds in (("Segue", 2.0), ("torch-rechub", 12.5))
    }
    sizes = click_speed.QUICK_SIZES["small"]
    table = click_speed.summarize(runs, sizes, click_speed.SETTINGS)
    found = {
        "settings": click_speed.SETTINGS,
        "threads": 1,
        "tables": {"small": table},
        "rates": {"square": 0.01, "dense": 0.02},
        "service": {
            "none": {"p50_ms": 1.5, "p99_ms": 2.0, "cpu_ms": 1.2, "fields": 0, "health_ms": 0.25},
            "deepfm": {"p50_ms": 2.0, "p99_ms": 4.0, "cpu_ms": 1.9, "fields": 33, "health_ms": 0.3},
        },
        "machine": MACHINE | {"memory_gib": 1},
        "load_before_percent": 0.0,
        "max_load_percent": 15.0,
    }
    text = click_speed.page(found)
    assert "| deepfm | torch-rechub | 320 | 6.25 | 6.25 | 320 | 6.25 | 6.25 | 0.7500 | 0.5000 | 100 |" in text
    assert "| deepfm | Segue | 2,000 |  |  | 2,000 |  |  | 0.7500 | 0.5000 | 100 |" in text
    assert "reached in 1 of 1 comparisons: deepfm, torch-rechub (small). Segue is faster in 1." in text
    assert "reached by 1 of 1 second stages: deepfm (2.00 ms)" in text
    operations = 6.0 * ((4 + 2) * 16 * 256 + 256 * 128)
    assert click_speed.count_products("deepfm", sizes, click_speed.SETTINGS) == operations
    least = 4_000 * operations / 0.02e9
    assert f"can be faster by more than {12.5 / least:.1f} (torch-rechub)" in text
    assert "A health check over HTTP takes 0.25 ms here." in text
    assert "| none |  | 1.50 | 2.00 | 1.20 |  |" in text
    assert "| deepfm | 33 | 2.00 | 4.00 | 1.90 | 0.70 |" in text


def test_the_rate_of_matrix_products_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.subprocess_runner.cpu_load", lambda: 0.0)
    rates = click_speed._measure_rates(1, click_speed.SETTINGS | {"batch_size": 64})
    assert min(rates.values()) > 0


def test_rankers_share_what_does_not_depend_on_them() -> None:
    rng = np.random.default_rng(0)
    parts = split(dataset(Events.of([rng.permutation(20)[:8].tolist() for _ in range(40)]), 20), SplitSettings())
    shared: dict[str, Any] = {}
    config = {"retriever": "ease", "settings": {"gradient_boosting": {"iterations": 5, "min_examples": 2}}}
    models: list[Any] = [
        train("ranker", config, Training(), parts.train, two_stage.SharedParts(0, shared)) for _ in range(2)
    ]
    assert models[0].retriever is models[1].retriever
    alone: Any = train("ease", {}, Training(), parts.train, Run(0))
    queries = parts.test.queries
    np.testing.assert_array_equal(models[0].retriever.score(queries), alone.score(queries))
    other: Any = train("ranker", config, Training(), parts.train, two_stage.SharedParts(1, shared))
    assert other.retriever is not models[0].retriever


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
