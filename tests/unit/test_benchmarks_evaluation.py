"""Evaluation next to other libraries: recorded values of RecTools, RecBole and LensKit, and the pages."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import evaluation_agreement, evaluation_speed
from benchmarks.evaluation_cases import FEATURE, Case, public_cases, random_cases
from benchmarks.evaluation_variants import VARIANTS
from benchmarks.pages import format_page
from segue.core.types import Events, HeldOut, Queries, Recommendations
from segue.evaluation.beyond_accuracy.training_data import TrainingData

MACHINE = {
    "processor": "P", "cores": 2, "memory_gib": 1, "system": "S", "python": "3", "torch": "2", "segue": "0",
    "commit": "c", "command": "python -m benchmarks", "date": "d",
}  # fmt: skip

LISTS = [[3, 1, 4, 0, 5, 9, 2, 6, 8, 7], [11, 2, 5], [7], [], [10, 3, 8, 1, 0, 2], [6, 4, 1, 11, 9, 5, 2, 3, 0, 8]]
TARGETS = [[1, 5, 10], [2], [3, 4], [0, 9], [], [11, 9, 2, 8, 6, 7, 10]]
GRADES = [[3, 5, 1], [4], [2, 2], [5, 1], [], [1, 2, 3, 4, 5, 1, 2]]
HISTORIES = [[11, 0], [0, 1, 3], [0, 1], [2, 3, 6, 0], [4, 5], [0, 1, 6]]
TAGS = [["a"], ["a", "b"], ["b"], ["c"], ["a", "c"], ["b"], ["c"], ["a"], ["b", "c"], ["c"], ["a"], ["a", "b", "c"]]
"""Lists of 0 to 10 items, one of them of a user without a target."""


def small_case() -> Case:
    items = np.zeros((len(LISTS), 10), np.int32)
    for row, one in zip(items, LISTS, strict=True):
        row[: len(one)] = one
    lists = Recommendations(items, np.zeros(items.shape, np.float32), np.array([len(one) for one in LISTS]))
    targets = replace(Events.of(TARGETS), values=np.concatenate([np.float32(row) for row in GRADES]).astype(np.float32))
    histories = Events.of(HISTORIES)
    features = pl.LazyFrame({"id": [str(item) for item in range(12)], FEATURE: TAGS})
    held_out = HeldOut(Queries.anonymous(histories), targets)
    return Case("small", "small lists", lists, held_out, TrainingData(histories, 12, features))


COMPLETED = [
    [3, 1, 4, 0, 5, 9, 2, 6, 8, 7], [11, 2, 5, 7, 0, 10, 9, 8, -1, 3], [7, 5, 11, 10, 9, 8, 6, 2, 0, 1],
    [5, 11, 10, 9, 8, 7, 6, 2, 0, 1], [6, 4, 1, 11, 9, 5, 2, 3, 0, 8],
]  # fmt: skip
"""The lists of the users with a target as RecBole 1.2.1 completes them; -1 is its padding item."""

RECORDED = {
    "RecTools": {
        "Precision@5": 0.24, "Precision(r_precision=True)@5": 0.4533333333, "Recall@5": 0.419047619, "HitRate@5": 0.6,
        "F1Beta@5": 0.2666666667, "Accuracy@5": 0.5333333333, "MCC@5": -0.01556689231, "NDCG@5": 0.2351222479,
        "NDCG(divide_by_achievable=True)@5": 0.3449974179, "MRR@5": 0.4, "MAP@5": 0.22,
        "MAP(divide_by_k=True)@5": 0.14, "PartialAUC@5": 0.3142857143, "PAP@5": 0.344,
        "MeanInvUserFreq@5": 2.089012753, "CatalogCoverage(normalize=True)@5": 1.0, "CatalogCoverage@5": 12.0,
        "AvgRecPopularity@5": 1.36, "AvgRecPopularity(normalize=True)@5": 0.085, "IntraListDiversity@5": 1.306666667,
        "Serendipity@5": 0.04444444444, "CoveredUsers@5": 0.8, "SufficientReco@5": 0.6, "UnrepeatedReco@5": 1.0,
    },
    "RecBole": {
        "Precision@5": 0.28, "Recall@5": 0.519047619, "Hit@5": 0.8, "MRR@5": 0.45, "MAP@5": 0.269,
        "NDCG@5": 0.3978110425, "ItemCoverage@5": 0.9230769231, "AveragePopularity@5": 1.24,
        "ShannonEntropy@5": 0.1971807735, "GiniIndex@5": 0.32, "TailPercentage@5": 0.04,
    },
    "LensKit": {
        "Precision@5": 0.2666666667, "Recall@5": 0.4533333333, "Hit@5": 0.6, "RecipRank@5": 0.4,
        "NDCG@5": 0.417174305, "NDCG(weight=LogRankWeight(offset=1))@5": 0.3449974179,
        "NDCG(gain='rating')@5": 0.4191701536, "DCG@5": 0.8722706232, "RBP@5": 0.130744125,
        "RBP(patience=0.8)@5": 0.157248, "RBP(normalize=True)@5": 0.3918649766, "ListGini@5": 0.2061403509,
        "ExposureGini@5": 0.2128312525, "MeanPopRank@5": 0.38,
    },
}  # fmt: skip
"""Values of RecTools 0.19.0, RecBole 1.2.1 and LensKit 2025.8.1 for the small lists."""

FAILED = {"LensKit": {"AveragePrecision@5": "ZeroDivisionError: float division by zero"}}


def compared(values: dict[str, dict[str, float]]) -> dict[str, Any]:
    case = replace(small_case(), completed=np.array(COMPLETED))
    found = evaluation_agreement.compare(case, values, FAILED, ks=(5,))
    return found | {"description": case.description}


def agreement(case: dict[str, Any]) -> dict[str, Any]:
    data = {"name": "n", "source": "s", "hash": "h", "queries": 6}
    versions = dict.fromkeys(evaluation_agreement.LIBRARIES, "1")
    return {"cases": {"small": case}, "versions": versions, "ks": [5], "data": data, "seed": 0, "machine": MACHINE}


def test_recorded_values_of_other_libraries_are_explained() -> None:
    found = compared(RECORDED)
    assert [row["name"] for row in found["rows"] if row["outcome"] == "unexplained"] == []
    assert [row["name"] for row in found["rows"] if row["outcome"] == "failed"] == ["AveragePrecision@5"]
    equal = {f"{row['library']} {row['name']}" for row in found["rows"] if row["outcome"] == "equal"}
    assert {"RecTools Recall@5", "RecTools MeanInvUserFreq@5", "LensKit ListGini@5"} <= equal
    assert "RecBole Recall@5" not in equal  # it completes short lists
    text = format_page("evaluation_agreement", agreement(found))
    assert "**0 are unexplained**" in text
    assert "UNEXPLAINED" not in text
    assert "| `MAP` | `map` | 0 of 1 | 1 |" in text


def test_a_value_without_an_explanation_is_reported() -> None:
    values = {library: dict(own) for library, own in RECORDED.items()}
    values["RecTools"]["MAP@5"] += 1e-4
    values["LensKit"]["ListGini@5"] += 1e-4
    found = agreement(compared(values))
    assert evaluation_agreement.unexplained(found) == ["RecTools MAP@5 (small)", "LensKit ListGini@5 (small)"]
    text = format_page("evaluation_agreement", found)
    assert "**2 are unexplained**" in text
    assert "**UNEXPLAINED DIFFERENCES:**" in text
    assert "* **RecTools MAP@5 (small)**" in text


def test_a_formula_must_hold_where_the_values_are_equal_too() -> None:
    values = {library: dict(own) for library, own in RECORDED.items()}
    values["RecTools"]["MAP@5"] = 0.244  # that of Segue, where the definition of RecTools gives another value
    assert evaluation_agreement.unexplained(agreement(compared(values))) == ["RecTools MAP@5 (small)"]


def test_every_metric_has_a_name_of_its_own() -> None:
    names = [(variant.library, variant.name) for variant in VARIANTS]
    assert len(set(names)) == len(names)


def test_random_cases_have_what_they_say() -> None:
    several, short, without_list, without_target, everything = random_cases(seed=1, users=60, items=50)
    assert several.n_relevant.max() > 10
    assert several.n_relevant.min() >= 1
    assert set(several.lengths) == {10}
    assert (short.lengths.min(), short.lengths.max()) == (1, 10)
    assert 0 in without_list.lengths
    assert 0 in without_target.n_relevant
    assert 0 in everything.lengths
    assert 0 in everything.n_relevant
    assert several.hits.sum() > 0
    targets = several.held_out.targets
    assert several.scores is not None
    assert np.isfinite(several.scores[targets.rows, targets.items]).all()
    assert several.arrays()["lists"].shape == (60, 10)


def test_public_cases_have_the_lists_of_the_model() -> None:
    cases, data = public_cases("simulated?users=60&items=60&seed=1", ("popular",))
    assert [case.name for case in cases] == ["simulated, popular"]
    assert data["queries"] == len(cases[0].lists)
    assert cases[0].tags.shape[0] == 60
    lists = cases[0].arrays()["lists"]
    assert ((lists >= 0).sum(axis=1) == cases[0].lengths).all()
    assert (lists[:, 0] >= 0).any()


def speeds(factor: float) -> dict[str, list[dict[str, Any]]]:
    """Return runs of two programs."""

    def runs(seconds: list[float]) -> list[dict[str, Any]]:
        more = {"peak_mib": 3.0, "before_mib": 2.0, "values": {"ndcg@10": 0.5}}
        return [{"fit_seconds": one, "cpu_seconds": one, **more} for one in seconds]

    return {"Segue": runs([1.0, 2.0, 4.0]), "RecTools": runs([factor, 2 * factor, 4 * factor])}


def test_speeds_are_ratios_of_rounds() -> None:
    parts = {"lists": evaluation_speed.summarize(speeds(8.0)), "scores": evaluation_speed.summarize(speeds(0.5))}
    ratio = parts["lists"]["rows"]["RecTools"]["ratios"]["Segue"]["fit_seconds"]
    assert ratio["ratio"] == pytest.approx(8.0)
    found = {"parts": parts, "sizes": evaluation_speed.QUICK_SIZES, "threads": 1, "rounds": 3, "machine": MACHINE}
    found |= {"load_before_percent": 0.0, "max_load_percent": 15.0}
    text = format_page("evaluation_speed", found)
    assert "* lists: `Segue` is 8.00 [8.00, 8.00] times as fast as `RecTools`" in text
    assert "lower end of the interval: reached." in text
    assert "* scores: `Segue` is 0.50 [0.50, 0.50] times as fast as `RecTools`" in text
    assert "lower end of the interval: not reached." in text
    assert "| RecTools | 16.000 | 16.000 | 3 | 2 | 8.00 [8.00, 8.00] |" in text


def test_programs_must_compute_the_same() -> None:
    evaluation_speed.check_values({"a": {"ndcg@10": 0.5}, "b": {"ndcg@10": 0.5 + 1e-7}})
    with pytest.raises(ValueError, match=r"b: ndcg@10: got 0.51, expected 0.5 as in a"):
        evaluation_speed.check_values({"a": {"ndcg@10": 0.5}, "b": {"ndcg@10": 0.51}})
    with pytest.raises(ValueError, match=r"b: map@5: got None"):
        evaluation_speed.check_values({"a": {"map@5": 0.5}, "b": {}})


def test_drawn_lists_and_histories_have_no_repetitions() -> None:
    sizes = evaluation_speed.QUICK_SIZES
    for arrays in (evaluation_speed.draw_lists(sizes), evaluation_speed.draw_vectors(sizes)):
        targets = Events(arrays["target_offsets"], arrays["target_items"])
        assert (targets.lengths.min(), targets.lengths.max()) == (1, sizes["targets"])
        keys = targets.rows * sizes["items"] + targets.items
        assert len(np.unique(keys)) == len(keys)
        if "lists" in arrays:
            assert all(len(set(row)) == 10 for row in arrays["lists"].tolist())
        else:
            history = Events(arrays["history_offsets"], arrays["history_items"])
            assert not np.isin(keys, history.rows * sizes["items"] + history.items).any()


@pytest.mark.parametrize("part", ["lists", "scores"])
def test_programs_of_segue_agree(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.subprocess_runner.measure_load", lambda: 0.0)
    programs = {name: one for name, one in evaluation_speed.PROGRAMS[part].items() if one[0] == "segue"}
    monkeypatch.setitem(evaluation_speed.PROGRAMS, part, programs)
    draw = {"lists": evaluation_speed.draw_lists, "scores": evaluation_speed.draw_vectors}[part]
    runs = evaluation_speed.measure(part, draw(evaluation_speed.QUICK_SIZES), 1, 1)
    assert all(some[0]["fit_seconds"] > 0 for some in runs.values())
    assert len(next(iter(runs.values()))[0]["values"]) == 12
