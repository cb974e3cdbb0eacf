"""The benchmarks of two stages and of the speed of click-through models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import click_service, click_speed, two_stage
from benchmarks.two_stage_baselines import make_baseline
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries, Split
from segue.data.splits import SplitSettings, split
from segue.testing import dataset
from segue.training.settings import Training
from segue.training.train import train
from tests.nightly import only_nightly

MACHINE = dict.fromkeys(("processor", "cores", "system", "python", "torch", "segue", "commit", "command", "date"), "x")


LOAD = {"machine": MACHINE | {"memory_gib": 1}, "load_before_percent": 0.0, "max_load_percent": 15.0}


def world() -> Split:
    rng = np.random.default_rng(0)
    return split(dataset(Events.of([rng.permutation(20)[:8].tolist() for _ in range(40)]), 20), SplitSettings())


def test_rankers_are_compared_with_their_retriever() -> None:
    parts = world()
    rankers: dict[str, Any] = {"logistic_regression": ({},)}
    found = two_stage.measure("test", parts, ["popular"], rankers, [0], lambda text: None, quick=True)
    assert set(found["rows"]) == {"popular", "popular + logistic_regression"}
    rows, name = found["rows"], "popular + logistic_regression"
    assert [test["metric"] for test in found["tests"]] == list(two_stage.METRICS)
    for test in found["tests"]:
        means = [rows[key]["test"][test["metric"]]["mean"] for key in (name, "popular")]
        assert test["difference"] == pytest.approx(means[0] - means[1])
        assert (test["first"], test["second"]) == (name, "popular")
    assert rows[name]["recall"] == rows["popular"]["recall"] == 1.0  # 200 candidates are the whole catalog
    text = two_stage.page(
        {**found, **LOAD, "data": {"items": 20, "hash": None}, "source": "test", "threads": 1, "options": []}
    )
    assert "seen items removed" in text
    assert f"| NDCG@10 | {name} − popular |" in text


def test_every_ranker_is_compared_with_transitions_once() -> None:
    rankers: dict[str, Any] = {"logistic_regression": ({},)}
    found = two_stage.measure("test", world(), ["transitions", "popular"], rankers, [0], lambda text: None, quick=True)
    assert found["baselines"] == ["transitions"]
    pairs = [(test["first"], test["second"]) for test in found["tests"] if test["metric"] == "ndcg@10"]
    assert pairs == [
        ("transitions + logistic_regression", "transitions"),
        ("popular + logistic_regression", "popular"),
        ("popular + logistic_regression", "transitions"),
    ]
    text = two_stage.page(
        {**found, **LOAD, "data": {"items": 20, "hash": None}, "source": "test", "threads": 1, "options": []}
    )
    assert "each ranker minus the simple baseline `transitions`. Paired" in text
    for source in ("ml-1m", "ml-1m-sasrec"):
        assert "transitions" in two_stage.retrievers_of(source)


def repeats() -> Dataset:
    """Users who return to three of twelve items; at home they choose the first of them. Odd items are paid."""
    rng = np.random.default_rng(0)
    firsts = rng.integers(12, size=40)
    steps = rng.integers(3, size=(40, 12))
    items = (firsts[:, None] + steps) % 12
    context = {
        "place": np.where(steps == 0, 0, 1).ravel().astype(np.int32),
        "cost": (items % 2).ravel().astype(np.int32),
    }
    histories = replace(Events.of(items.tolist()), context=context)
    data = dataset(histories, 12)
    return replace(data, header={**data.header, "context": {"place": ["home", "away"], "cost": ["free", "paid"]}})


def test_where_users_return_to_items_rankers_are_compared_with_own_frequency_on_equal_inputs() -> None:
    parts = split(repeats(), SplitSettings(use_query_context=True))
    rankers: dict[str, Any] = {"gradient_boosting": ({"iterations": 10, "min_examples": 2},)}
    found = two_stage.measure("frappe", parts, ["ease"], rankers, [0], lambda text: None, quick=True)
    name = "ease + gradient_boosting"
    assert list(found["rows"]) == [
        "own frequency",
        "own frequency, weighted",
        "own frequency in context",
        "own frequency in context, without cost",
        "ease",
        name,
        f"{name}, without cost",
        f"{name}, without context",
    ]
    allowed = {
        name: set(found["baselines"]),
        f"{name}, without cost": set(found["baselines"]) - {"own frequency in context"},
        f"{name}, without context": {"own frequency", "own frequency, weighted"},
    }
    others = [test for test in found["tests"] if test["second"] != "ease"]
    assert [test["first"] for test in others] == [key for key in allowed for _ in two_stage.METRICS]
    for test in others:
        means = {key: found["rows"][key]["test"][test["metric"]]["mean"] for key in allowed[test["first"]]}
        assert means[test["second"]] == max(means.values())
    assert found["left_out"] == {"cost": 1.0}
    text = two_stage.page(
        {**found, **LOAD, "data": {"items": 12, "hash": None}, "source": "frappe", "threads": 1, "options": []}
    )
    assert "items of the history included" in text
    assert "100.0 % have the same value in all their events" in text
    assert "* ease: `l2=0.1`: " in text


def test_a_column_that_is_left_out_is_not_read() -> None:
    data = two_stage.without_columns(repeats(), ["cost"])
    assert [one.name for one in data.event_context] == ["place"]
    assert list(data.histories.context) == ["place"]


def test_own_frequency_weighs_values_and_context() -> None:
    history = replace(
        Events.of([[0, 0, 1, 2]]),
        values=np.array([1, 1, 5, 2], np.float32),
        context={"place": np.array([1, 1, 1, 0], np.int32), "cost": np.array([-1, -1, -1, 0], np.int32)},
    )
    context = {"place": np.array([0], np.int32), "cost": np.array([-1], np.int32)}
    queries = replace(Queries.of_users(np.zeros(1, np.int32), history), context=context)
    data = dataset(Events.of([[3, 4], [4]]), 5)

    def order(columns: tuple[str, ...] = (), **settings: Any) -> list[int]:
        scores_1I = make_baseline(data, columns, settings).score(queries)
        return [int(item) for item in np.argsort(-scores_1I[0])[:4]]

    assert order()[0] == 0
    assert order()[3] == 4  # popularity decides between the others
    assert order(weights="value")[:3] == [1, 0, 2] or order(weights="value")[:3] == [1, 2, 0]
    assert order(("place",), strength=1.0)[:2] == [2, 0]
    assert order(("cost",), strength=1.0) == order()  # missing values differ


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
    assert "reached in 1 of 1 comparisons: deepfm, torch-rechub (small). By the lower end" in text
    assert "Segue is faster in 1." in text
    assert "reached by 1 of 1 second stages: deepfm (2.00 ms)" in text
    operations = 6.0 * ((4 + 2) * 16 * 256 + 256 * 128)
    assert click_speed.count_products("deepfm", sizes, click_speed.SETTINGS) == operations
    least = 4_000 * operations / 0.02e9
    assert f"can be more than {12.5 / least:.1f} (torch-rechub) times as fast" in text
    assert "| none |  | 1.50 | 2.00 | 1.20 |  | 0.25 |" in text
    assert "| deepfm | 33 | 2.00 | 4.00 | 1.90 | 0.70 | 0.30 |" in text


@only_nightly
def test_the_rate_of_matrix_products_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.subprocess_runner.cpu_load", lambda: 0.0)
    rates = click_speed._measure_rates(1, click_speed.SETTINGS | {"batch_size": 64})
    assert min(rates.values()) > 0


def test_rankers_share_what_does_not_depend_on_them() -> None:
    parts = world()
    shared: dict[str, Any] = {}
    config = {"retriever": "ease", "settings": {"gradient_boosting": {"iterations": 5, "min_examples": 2}}}
    inputs = (("retrieval",), ("history", "retrieval"))
    models: list[Any] = [
        train("ranker", {**config, "inputs": one}, Training(), parts.train, two_stage.SharedParts(0, shared))
        for one in inputs
    ]
    assert models[0].retriever is models[1].retriever
    assert models[0].ranker is not models[1].ranker
    alone: Any = train("ease", {}, Training(), parts.train, Run(0))
    queries = parts.test.queries
    np.testing.assert_array_equal(models[0].retriever.score(queries), alone.score(queries))
    for more, seed in ((config, 1), ({**config, "num_targets": 2}, 0)):
        count = len(shared)
        other: Any = train("ranker", more, Training(), parts.train, two_stage.SharedParts(seed, shared))
        assert other.ranker is not models[0].ranker
        assert len(shared) == count + (2 if seed else 1)  # fewer events are left for the retriever of the examples


def test_an_interrupted_run_continues(tmp_path: Path) -> None:
    file = tmp_path / "out" / "rows.json"
    assert click_speed.SavedRows(file, resume=True).get("a", lambda: 1) == 1
    assert click_speed.SavedRows(file, resume=True).get("a", lambda: 2) == 1
    assert click_speed.SavedRows(file, resume=False).get("a", lambda: 2) == 2


@only_nightly
def test_second_stages_are_measured_over_http() -> None:
    found = click_service.measure_services(["none", "logistic_regression"], quick=True)
    assert found["none"]["fields"] == 0
    row = found["logistic_regression"]
    assert row["fields"] == 33
    assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert min(row["cpu_ms"], row["health_ms"]) > 0
