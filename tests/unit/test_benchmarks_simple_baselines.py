"""The benchmark of simple baselines, and what other pages say about them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import simple_baselines, stronger_baselines
from benchmarks.simple_baselines import GRID, METRICS, TUNED
from segue.core.types import Events, Split
from segue.data.splits import SplitSettings, split
from segue.experiment.records.held_out_readings import TEST_READINGS
from segue.testing import dataset

MACHINE = {
    **dict.fromkeys(("processor", "cores", "memory_gib", "system", "python", "torch", "segue", "commit"), "x"),
    **{"command": "x", "date": "x"},
}
N_ITEMS = 30


def world() -> Split:
    """Users who walk along a circle of items, up to the validation item; the test item is a random one."""
    rng = np.random.default_rng(0)
    walks = [[(start + step) % N_ITEMS for step in range(9)] for start in rng.integers(N_ITEMS, size=60)]
    rest = [[item for item in range(N_ITEMS) if item not in walk] for walk in walks]
    items = [[*walk, int(rng.choice(others))] for walk, others in zip(walks, rest, strict=True)]
    return split(dataset(Events.of(items), N_ITEMS), SplitSettings())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    return tmp_path


def test_settings_and_the_strongest_are_chosen_on_validation(home: Path) -> None:
    parts = world()
    found = simple_baselines.measure(parts, lambda text: None)
    rows = found["rows"]
    assert set(rows) >= {"transitions", "popular", "ease", "item_knn", "user_knn"}
    assert "frequent" in found["skipped"]
    assert "frequent" not in rows
    valid = {name: row["valid"]["ndcg@10"][0] for name, row in rows.items()}
    assert found["strongest"] == next(iter(rows)) == max(valid, key=lambda name: valid[name])
    assert rows["transitions"]["valid"]["hit_rate@10"][0] == 1.0  # the order predicts the validation item only
    assert rows["transitions"]["test"]["hit_rate@10"][0] < 0.8
    assert [settings for settings, _ in found["grid"]] == list(GRID)
    best = max(value for _, value in found["grid"])
    assert rows[TUNED]["valid"]["ndcg@10"][0] == pytest.approx(best)
    assert rows[TUNED]["settings"] == next(settings for settings, value in found["grid"] if value == best)
    for test in found["tests"]:
        first, second = (rows[name]["test"][test["metric"]][0] for name in (found["strongest"], found["second"]))
        assert test["difference"] == pytest.approx(first - second)
    assert rows[found["second"]]["model"] != rows[found["strongest"]]["model"]
    readings = [json.loads(line) for line in (home / "runs" / TEST_READINGS).read_text("utf-8").splitlines()]
    assert sorted(one["run"] for one in readings) == sorted(rows)
    assert {one["split"] for one in readings} == {parts.test.test_id}
    text = simple_baselines.page(
        found
        | {"source": "small", "data": {"users": 60, "items": 30, "events": 600, "hash": "0"}, "seconds": 60.0}
        | {"machine": MACHINE}
    )
    low, high = rows[found["strongest"]]["test"]["ndcg@10"][1:]
    assert (
        f"On the test part it has {rows[found['strongest']]['test']['ndcg@10'][0]:.4f} [{low:.3f}, {high:.3f}]" in text
    )
    assert text.count("**") == 2  # one bold value of the grid


def test_another_test_part_changes_no_choice(home: Path) -> None:
    parts = world()
    other = replace(parts, test=parts.valid)
    one, two = (simple_baselines.measure(each, lambda text: None) for each in (parts, other))
    assert one["grid"] == two["grid"]
    assert (one["strongest"], one["second"]) == (two["strongest"], two["second"])
    for name, row in two["rows"].items():
        assert row["valid"] == row["test"] == one["rows"][name]["valid"]


def row(model: str, valid: float, test: float, **settings: Any) -> dict[str, Any]:
    both = {part: {name: [value, 0.0, 1.0] for name in METRICS} for part, value in (("valid", valid), ("test", test))}
    return {"model": model, "settings": settings, **both}


def test_other_pages_quote_the_measured_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stronger_baselines, "FOLDER", tmp_path)
    assert stronger_baselines.baseline_lines("ml-1m") == []  # not measured
    tuned = row("item_knn", 0.4, 0.3, half_life=1.0, k=500, weighting="bm25")
    rows = {"transitions": row("transitions", 0.6, 0.5), TUNED: tuned, "popular": row("popular", 0.1, 0.1)}
    found = {"rows": rows, "strongest": "transitions"}
    (tmp_path / "simple_baselines-ml-1m.json").write_text(json.dumps(found), encoding="utf-8")
    (line, _) = stronger_baselines.baseline_lines("two_stage-ml-1m")
    assert line == (
        "**Simple baselines that are stronger on validation are not in the tables**: the NDCG@10 of `transitions` is "
        "0.6000 on validation and 0.5000 on the test part; that of `item_knn` with half_life=1, k=500, weighting=bm25 "
        "is 0.4000 on validation and 0.3000 on the test part ([simple baselines](simple_baselines-ml-1m.md))."
    )
    earlier = f"{line} On this page `item_knn` has an earlier recipe, with half_life=10."
    assert stronger_baselines.baseline_lines("ml-1m")[0] == earlier
    assert "over the whole catalog, the NDCG@10" in stronger_baselines.baseline_lines("ml-1m-among-100")[0]
    assert "the Recall@10 of" in stronger_baselines.baseline_lines("knowledge-ml-1m-kg")[0]
    assert stronger_baselines.baseline_lines("two_stage-ml-1m", ["transitions", "ease"]) == []
    assert stronger_baselines.baseline_lines("other") == []
