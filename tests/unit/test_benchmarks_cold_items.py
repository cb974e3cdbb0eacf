"""Benchmark of cold items: settings of its runs, averages over draws, tests and page."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import cold_item_page, cold_items
from benchmarks.pages import format_page
from segue.core.events import Events
from segue.data import SplitSettings, split
from segue.testing import dataset

SHARES = {
    "fusion": 0.9,
    "two_tower": 0.8,
    "sasrec": 0.9,
    "two_tower@ids": 0.95,
    "content": 0.5,
    "content@features": 0.5,
    "popular": 0.1,
    "random": 0.1,
}


def draw(share: float, seed: int, users: range = range(200)) -> dict[str, pl.DataFrame]:
    rng = np.random.default_rng(seed)
    hits = (rng.random(len(users)) < share).astype(float)
    table = pl.DataFrame({"user": [str(user) for user in users], "hit_rate@10": hits, "ndcg@10": hits / 2})
    return dict.fromkeys(cold_items.MEASURES, table)


@pytest.mark.parametrize("source", cold_items.TASKS)
def test_all_models_are_trained_and_evaluated_on_the_same_queries(source: str) -> None:
    plans = cold_items.make_plans(source, list(cold_items.MODELS), 2)
    assert len({plan.split.model_dump_json() for plan in plans.values()}) == 1
    assert len({plan.filters.model_dump_json() for plan in plans.values()}) == 1
    assert {(plan.split.cold_items, plan.split.seed, plan.run.seed) for plan in plans.values()} == {(0.1, 2, 2)}
    reads_text = {name for name, plan in plans.items() if plan.text.columns}
    assert reads_text == {"fusion", "two_tower", "sasrec@features", "content"}
    twins = {name: plans[twin] for name, twin in cold_items.TWINS.items()}
    assert "item_features" not in [*twins["fusion"].model.inputs, *twins["two_tower"].model.inputs]  # type: ignore[attr-defined]
    quick = cold_items.make_plans(source, ["fusion"], 0, quick=True)["fusion"]
    assert quick.training.epochs == 1


def test_twins_need_equal_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    variant = replace(cold_items.MODELS["two_tower"], settings=("model.embedding_dim=24",))
    monkeypatch.setitem(cold_items.MODELS, "two_tower", variant)
    with pytest.raises(ValueError, match=r"model\.embedding_dim: 24 of two_tower, \d+ of two_tower@ids"):
        cold_items.make_plans("frappe", ["two_tower", "two_tower@ids"], 0)


def test_figures_are_means_over_targets() -> None:
    first, second = draw(1.0, 0, range(4)), draw(0.0, 0, range(2, 4))
    pooled = cold_items.pool([first, second])[cold_items.COLD]
    assert pooled["user"].to_list() == ["0", "1", "2", "3"]
    np.testing.assert_allclose(pooled["hit_rate@10"], 4 / 6)  # each user has one hit; 4 users have 6 targets
    found = cold_items.summarize([first, second])["measures"][cold_items.COLD]
    assert (found["users"], found["targets"], found["hit_rate@10"]["draws"]) == (4, 6, [1.0, 0.0])
    assert found["hit_rate@10"]["mean"] == pytest.approx(4 / 6)


def test_a_feature_ranks_items_and_both_kinds_of_cold_targets_are_shown() -> None:
    sizes = pl.LazyFrame({"id": [*"pqrs", "new"], "size": [1.0, 2.0, 9.0, 7.0, 8.0]})
    data = replace(dataset(Events.of([[0, 1, 4], [0, 1, 2], [0, 1, 3]]), 5), item_features=sizes)
    parts = split(data, SplitSettings(strategy="leave_one_out"))
    values = pl.DataFrame({"user": ["a", "b", "c"]})
    found = cold_items.measure_column(parts, "size", values, 1, np.array([False, True, True]))
    assert {name: len(found[name]) for name in found} == {
        cold_items.COLD: 3, cold_items.COLD_ONLY: 3, cold_items.HELD_OUT: 2, cold_items.NO_EVENTS: 1,
        cold_items.WARM: 0, cold_items.WARM_ONLY: 0, cold_items.ALL: 3,
    }  # fmt: skip
    ranks = {"a": 2, "b": 1, "c": 3}  # by size: r, new, s
    order = found[cold_items.COLD_ONLY]["user"].to_list()
    np.testing.assert_allclose(
        found[cold_items.COLD_ONLY]["ndcg@10"], [1 / np.log2(1 + ranks[user]) for user in order], rtol=1e-6
    )


def test_users_whom_no_model_knows_are_not_averaged() -> None:
    table = pl.DataFrame({"user": ["a", None, None], "hit_rate@10": [1.0, 0.0, 1.0], "ndcg@10": [1.0, 0.0, 1.0]})
    named = [cold_items._name_users(table, number) for number in (1, 2)]
    pooled = cold_items.pool([dict.fromkeys(cold_items.MEASURES, one) for one in named])[cold_items.COLD]
    assert pooled["user"].to_list() == [
        "a", "query 1 of draw 1", "query 1 of draw 2", "query 2 of draw 1", "query 2 of draw 2"
    ]  # fmt: skip
    cold_items.check_claims(
        {
            "fusion": dict.fromkeys(cold_items.MEASURES, pooled),
            "popular": dict.fromkeys(cold_items.MEASURES, pooled),
        }
    )


def test_claims_need_a_significant_difference_on_cold_items_and_none_below_on_warm_ones() -> None:
    pooled = {name: cold_items.pool([draw(share, number)]) for number, (name, share) in enumerate(SHARES.items())}
    lines = cold_items.check_claims(pooled)
    met = {(line["measure"], line["first"], line["second"]): line["outcome"] for line in lines}
    assert all(met[cold_items.COLD, "fusion", other] == "better" for other in cold_items.BASELINES if other in SHARES)
    assert met[cold_items.WARM, "fusion", "sasrec"] != "worse"
    assert met[cold_items.WARM, "two_tower", "two_tower@ids"] == "worse"
    assert not any(line["measure"] == cold_items.ALL for line in lines)
    weak = cold_items.check_claims({**pooled, "fusion": pooled["popular"]})
    assert not any(
        line["outcome"] == "better" for line in weak if line["measure"] == cold_items.COLD and line["first"] == "fusion"
    )
    with pytest.raises(ValueError, match="fusion and content have 200 and 3 users, expected the same queries"):
        cold_items.check_claims({**pooled, "content": cold_items.pool([draw(0.5, 0, range(3))])})


def test_the_page_shows_every_model_and_claim() -> None:
    rows: dict[str, Any] = {}
    for number, (name, share) in enumerate(SHARES.items()):
        rows[name] = cold_items.summarize([draw(share, number), draw(share, number + 50)])
        rows[name] |= {"seconds": 3.0, "parameters": 7, "recipe": None, "runs": ["a", "b"], "what": "ids"}
    found = {
        "source": "ml-1m-text", "draws": 2, "share": 0.1, "texts": ["plot"], "rows": rows, "held_out_items": 370,
        "tests": cold_items.check_claims({name: cold_items.pool([draw(share, 0)]) for name, share in SHARES.items()}),
        "counts": {"items": 3706}, "data_hash": "abc", "warnings": ["times"], "test_readings": None,
        "machine": {"processor": "P", "cores": 2, "memory_gib": 1, "system": "S", "python": "3", "torch": "2",
                    "segue": "0", "commit": "c", "command": "python -m benchmarks cold_items", "date": "d"},
    }  # fmt: skip
    text = format_page("cold_items-ml-1m-text", found)
    assert "10% of the items (370 of 3,706)" in text
    assert "## Cold targets among all items\n\n400 targets of 200 users." in text
    assert text.index("| fusion | ids |") < text.index("| content | ids |")
    assert "| cold targets among all items | HitRate@10 | fusion − popular |" in text
    assert text.count("| better |") == sum(line["outcome"] == "better" for line in found["tests"])
    assert "warning: times" in text


def test_equivalence_on_warm_items_is_that_within_a_fixed_margin() -> None:
    users = range(4000)
    equal, noisy = draw(0.5, 0, users), draw(0.5, 1, range(60))
    lines = cold_items.check_warm({name: cold_items.pool([equal]) for name in ("fusion", "sasrec")})
    assert [line["measure"] for line in lines] == [cold_items.WARM, cold_items.WARM_ONLY]
    assert all(line["p_equivalent"] < 0.05 and line["margin"] == cold_items.WARM_MARGIN for line in lines)
    few = {"fusion": cold_items.pool([noisy]), "sasrec": cold_items.pool([draw(0.5, 2, range(60))])}
    assert all(line["p_equivalent"] > 0.05 and line["p_not_worse"] > 0.05 for line in cold_items.check_warm(few))
    text = "\n".join(cold_item_page.equivalence_lines({"equivalence": [*lines, *cold_items.check_warm(few)]}))
    assert text.count("| equivalent |") == 2
    assert text.count("|  |") == 2
    assert cold_item_page.equivalence_lines({}) == []


def test_an_unknown_model_is_an_error() -> None:
    with pytest.raises(ValueError, match="--models: unknown 'tower'"):
        cold_items.run(None, "tower", 1, print)
