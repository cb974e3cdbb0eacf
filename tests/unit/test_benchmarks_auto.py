"""``python -m benchmarks auto``: which recipes are compared, the verdicts and the page."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest

from benchmarks import auto

MACHINE = {
    **{"processor": "x", "cores": 2, "memory_gib": 4.0, "system": "s", "python": "3", "torch": "2", "segue": "0"},
    **{"commit": "c", "command": "python -m benchmarks auto", "date": "today"},
}


def row(valid: float = 0.30, test: float = 0.28, seconds: float = 590.0) -> dict[str, Any]:
    chosen = {
        **{"model": "sasrec", "kind": "model", "settings": {"epochs": 7}, "valid": valid, "test": test},
        **{"test_interval": [test - 0.01, test + 0.01], "baseline": "ease", "baseline_valid": 0.2, "attempts": 9},
        **{"skipped": {}, "seconds": seconds, "wall_seconds": seconds + 9.0},
    }
    references = [
        auto.Reference("popular", "baseline", 0.1, 0.1, 1.0),
        auto.Reference("ease", "baseline", 0.2, 0.19, 2.0),
        auto.Reference("xlstm", "recipe", 0.31, 0.29, 600.0, "stopped after 3 epochs"),
        auto.Reference("lightgcn", "recipe", None, None, 600.0, "no epoch finished"),
    ]
    return {"source": "log", "auto": chosen, "references": [vars(one) for one in references]}


def test_verdicts_are_about_validation_and_the_share_of_the_best_recipe() -> None:
    is_above, share = auto.verdicts(row())
    assert is_above
    assert share == pytest.approx(0.28 / 0.29)
    assert auto.verdicts(row(valid=0.19))[0] is False
    alone = row()
    alone["references"] = alone["references"][:2]
    assert auto.verdicts(alone) == (True, None)


def test_the_page_names_where_the_claim_fails() -> None:
    rows = [row(), {**row(valid=0.1, test=0.2, seconds=700.0), "source": "other"}]
    found = {"minutes": 10.0, "metric": "ndcg@10", "rows": rows, "missing": {"gone": "no such data"}}
    found |= {"threads": 1, "load_before_percent": 55.0, "max_load_percent": 15.0, "machine": MACHINE}
    text = auto.page(found)
    assert "* 1 thread on 2 processors; CPU load of other processes at the start: 55 % of all processors\n" in text
    assert "2 threads on 2 processors; " in auto.page({**found, "threads": 2})
    assert "55 % of all processors: **disturbed, not a result**" in auto.page({**found, "threads": 2})
    assert "* below the strongest simple baseline on validation: other" in text
    assert "* below the strongest simple baseline on the test part: none" in text
    assert "* below 95% of the best recipe on the test part: other" in text
    assert "* more than a tenth over the time: other" in text
    weak = auto.page({**found, "rows": [{**row(test=0.18), "source": "weak"}]})
    assert "* below the strongest simple baseline on the test part: weak" in weak
    assert "| log | sasrec | 0.3000 | ease 0.2000 | 0.2800 [0.2700, 0.2900] | xlstm 0.2900 | 96.6% | 590 s |" in text
    assert "| lightgcn | recipe |  |  | 600.0 | no epoch finished |" in text
    assert "* not measured: gone: no such data" in text


def test_recipes_with_the_same_protocol_are_compared() -> None:
    found = auto.recipes_of("ml-100k")
    assert found["xlstm"][0] == "recipe"
    assert "bpr" not in found, "its recipe has another split"
    assert "als" not in found, "it predicts ratings"
    assert set(auto.recipes_of("simulated?users=9&items=9")) == set(auto.DEFAULTS)
    assert set(auto.recipes_of("simulated", "ease,none")) == {"ease"}


def test_what_is_not_available_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "SOURCES", ("no-such-data",))
    monkeypatch.setattr(auto, "cpu_load", lambda: 0.0)
    options = Namespace(source=None, quick=False, minutes=None, models=None)
    found = auto.run(options, lambda text: None)
    assert found["rows"] == []
    assert "no-such-data" in found["missing"]
    with pytest.raises(ValueError, match="no-such-data"):
        auto.run(Namespace(source="no-such-data", quick=False, minutes=None, models=None), lambda text: None)
