"""Benchmark of click-through models: settings of its rows, simple baselines, and verdicts of the page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import click_through
from benchmarks.pages import format_page
from segue.experiment.clicks.click_plan import make_click_plan


@pytest.mark.parametrize("name", click_through.MODELS)
def test_every_row_has_valid_settings(name: str) -> None:
    key, settings = click_through.MODELS[name]
    plan = make_click_plan(
        {"model": key, "data": "frappe-x1"}, [f"{one}={json.dumps(value)}" for one, value in settings.items()]
    )
    assert plan.examples.min_count == 1


def test_simple_baselines_by_hand() -> None:
    train = pl.DataFrame({"user": [1, 1, 2, 2], "item": [5, 6, 5, 7], "label": [1, 0, 1, 1]})
    test = pl.DataFrame({"user": [1, 1, 3, 2], "item": [5, 6, 5, 9]})
    table: Any = SimpleNamespace
    found = click_through.baseline_scores(table(frame=train), table(frame=test))
    assert found["popularity of the item"].tolist() == [2, 0, 2, 0]
    assert found["the user used the item in training"].tolist() == [1, 0, 0, 0]
    np.testing.assert_allclose(found["both"], [1 + 2 / 3, 0, 2 / 3, 0])


def test_the_page_compares_with_published_figures() -> None:
    def figures(auc: float, loss: float) -> dict[str, Any]:
        around = [{"mean": mean, "low": mean - 0.001, "high": mean + 0.001} for mean in (auc, loss)]
        return {"auc": around[0], "log_loss": around[1], "aucs": [auc], "valid": [auc], "seconds": 3.0}

    found: dict[str, Any] = {
        "source": "frappe-x1", "rows": {"train": 2, "valid": 1, "test": 1}, "hash": 7, "notes": ["redrawn"], "seeds": 1,
        "settings": {name: click_through.MODELS[name] for name in ("deepfm", "gradient_boosting@pairs")},
        "baselines": {"both": 0.97},
        "models": {"deepfm": figures(0.982, 0.15), "gradient_boosting@pairs": figures(0.99, 0.131)},
        "machine": {"processor": "P", "cores": 2, "memory_gib": 1, "system": "S", "python": "3", "torch": "2",
                    "segue": "0", "commit": "c", "command": "python -m benchmarks click_through", "date": "d"},
    }  # fmt: skip
    text = format_page("click_through", found)
    assert "* `deepfm`: AUC -0.0022 against its published twin: not met" in text
    best = (
        "`gradient_boosting@pairs`, the best on validation, 0.9900 [0.9890, 0.9910]; best published 0.9861: beyond it"
    )
    assert f"* AUC: {best}" in text
    assert "best published 0.1311: on par" in text
