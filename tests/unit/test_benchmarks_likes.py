"""Benchmark of likes: its tables hold no label of validation or test, and its page names what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

import segue
from benchmarks import likes
from benchmarks.pages import format_page
from segue.core.types import Dataset
from segue.experiment.clicks.click_plan import make_click_plan

FILMS = pl.DataFrame(
    {"item_id": [f"i{item}" for item in range(40)], "genres": [["a", "b"], ["b"]] * 20, "year": [1990.0, 1991.5] * 20}
)


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{item}", float(rng.integers(1, 6)), step)
        for user in range(60)
        for step, item in enumerate(rng.permutation(40)[:30])
    ]
    people = pl.DataFrame({"user_id": [f"u{user}" for user in range(60)], "age": ["18", "25"] * 30})
    people = people.with_columns(gender=pl.lit("F"), occupation=pl.lit("other"))
    log = pl.DataFrame(rows, schema=("user_id", "item_id", "rating", "timestamp"), orient="row")
    return segue.load(log, items=FILMS, users=people)


@pytest.mark.parametrize("source", likes.SOURCES)
@pytest.mark.parametrize("name", likes.MODELS)
def test_every_row_has_valid_settings(name: str, source: str) -> None:
    for one in likes.grid_of(source, name):
        values = {**likes.MODELS[name], "columns": dict(likes.SOURCES[source].kinds), "shares": {"history": "item"}}
        values = likes.combine(values, one)
        make_click_plan({"model": name, "data": "x"}, [f"{key}={json.dumps(value)}" for key, value in values.items()])


def test_histories_hold_no_item_of_validation_or_test(data: Dataset) -> None:
    parts = likes.split_table("ml-1m", likes.derive("ml-1m", data))
    held_out = pl.concat([part.frame.select("user", "item") for part in (parts.valid, parts.test)]).rows()
    for part in (parts.train, parts.valid, parts.test):
        pairs = part.frame.select("user", "history").explode("history").drop_nulls().rows()
        assert pairs
        assert not set(pairs) & set(held_out)
        assert "time" not in part.columns
    whole = likes.derive("ml-1m", data).frame.select("user", "history").explode("history").drop_nulls().rows()
    assert set(whole) & set(held_out)


def test_means_by_hand() -> None:
    train: Any = pl.DataFrame({"user": ["u", "u", "v", "v"], "item": ["a", "b", "a", "c"], "label": [1, 0, 1, 0]})
    test: Any = pl.DataFrame({"user": ["u", "w"], "item": ["a", "d"]})

    class Table:
        def __init__(self, frame: pl.DataFrame) -> None:
            self.frame = frame

    known, unknown = likes.mean_scores(Table(train), Table(test))  # type: ignore[arg-type]
    shares = np.array([(2 + 2.5) / 7, (1 + 2.5) / 7])
    assert known == pytest.approx(np.log(shares / (1 - shares)).sum())
    assert unknown == pytest.approx(0.0)


def test_the_page(data: Dataset) -> None:
    found = likes.measure("ml-1m", data, ["logistic_regression", "din"], 1, True, lambda _: None)
    found |= {"source": "ml-1m", "data_hash": "0"}
    text = format_page("likes-ml-1m", json.loads(json.dumps(found)))
    assert "python -m benchmarks likes --source ml-1m --models logistic_regression,din --seeds 1" in text
    assert "item mean + user mean (simple baseline)" in text
    for name in ("logistic_regression", "din"):
        assert f"| `{name}` | {max(value for _, value in found['rows'][name]['grid']):.4f} |" in text


def test_unknown_source() -> None:
    with pytest.raises(ValueError, match="--source: got 'x', expected ml-1m or collm-ml-1m"):
        likes.run("x", None, 1, print)
