"""Cells are read alike whatever type a reader gives them, and missing cells of every kind are predicted."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import polars as pl
import pytest

import segue
from segue.core.examples.click_model import ClickModel
from segue.core.examples.columns import read_lists

TRAIN = pl.DataFrame(
    {
        "label": [0, 1] * 40,
        "tags": [["1", "2"], ["3"]] * 40,
        "flag": [True, False] * 40,
        "digit": [1, 0] * 40,
        "price": [0.5, 1.5] * 40,
        "vec": [[0.1, 0.2], [0.3, 0.4]] * 40,
        "day": [datetime.date(2024, 1, 1), datetime.date(2024, 6, 2)] * 40,
    }
)


def trained(**settings: Any) -> ClickModel:
    split = segue.split_examples(TRAIN, valid=0.25, test=0.0)
    return segue.train_clicks("logistic_regression", split, label="label", **settings)


MODEL = trained()


def predict(**cells: Any) -> list[float]:
    rows = {name: TRAIN[name][:2] for name in TRAIN.columns if name != "label"} | cells
    found: list[float] = MODEL.predict(pl.DataFrame(rows)).tolist()
    return found


@pytest.mark.parametrize(
    "cells",
    [
        {"tags": [[1, 2], [3]]},
        {"tags": [[1.0, 2.0], [3.0]]},
        {"tags": [[1.0, 2.0, None], [3.0, float("nan")]]},
        {"flag": [1, 0]},
        {"flag": [1.0, 0.0]},
        {"flag": ["True", "false"]},
        {"flag": ["1", "0"]},
        {"digit": [True, False]},
        {"digit": [1.0, 0.0]},
        {"digit": ["1", "0"]},
    ],
)
def test_cells_in_other_types_are_the_same_values(cells: dict[str, Any]) -> None:
    np.testing.assert_allclose(predict(**cells), predict(), rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in TRAIN.columns if name != "label"])
def test_missing_cells_of_every_kind_are_predicted(name: str) -> None:
    typed = predict(**{name: pl.Series([None, None], dtype=TRAIN.schema[name])})
    assert predict(**{name: [None, None]}) == typed
    assert np.isfinite(typed).all()
    one = {column: TRAIN[column][:1].to_list() for column in TRAIN.columns if column != "label"}
    assert MODEL.predict(one | {name: [None]}).tolist() == pytest.approx(typed[:1])
    assert MODEL.predict({column: [] for column in one}).shape == (0,)


def test_lists_of_numbers_are_read_as_text() -> None:
    lists = pl.Series("x", [[1.0, 2.5], [None, 3.0], None, []], dtype=pl.List(pl.Float64))
    assert read_lists(lists, None).to_list() == [["1", "2.5"], ["3"], None, []]
    assert read_lists(pl.Series("x", [None, None], dtype=pl.String), None).to_list() == [None, None]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"price": [[1.0], [2.0]]}, r"column 'price': got the type List\(Float64\), expected a single value per row"),
        ({"flag": [[1], [2]]}, r"column 'flag': got the type List\(Int64\), expected a single value per row"),
    ],
)
def test_lists_where_values_are_expected(cells: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predict(**cells)


def test_columns_of_different_lengths() -> None:
    row = TRAIN.head(2).to_dict(as_series=False)
    with pytest.raises(ValueError, match=r"table: columns have different lengths: .*'label' "):
        MODEL.predict({**row, "label": [0]})


def test_a_mapping_needs_lists() -> None:
    row = dict(zip(TRAIN.columns, TRAIN.row(0), strict=True))
    with pytest.raises(ValueError, match="column 'label': got 0, expected a list with the value of each row"):
        MODEL.predict(row)
    assert MODEL.predict(TRAIN.lazy()).shape == (80,)


def test_a_separator_that_no_column_uses_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"examples\.separator: got '\|', which no column uses"):
        segue.train_clicks(
            "logistic_regression", TRAIN.select("label", "digit"), TRAIN.select("label", "digit"), separator="|"
        )


def test_a_column_without_a_frequent_value_is_left_out() -> None:
    table = TRAIN.select("label", "digit", price=pl.Series([f"{row},5" for row in range(80)]))
    model = segue.train_clicks("logistic_regression", table, table, min_count=2)
    assert [column.name for column in model.encoder.columns] == ["digit"]


def test_a_click_through_model_is_needed_to_rank() -> None:
    with pytest.raises(ValueError, match="ranker: got 'ease', expected a click-through model"):
        segue.train("ranker", "simulated?users=20&items=10&seed=1", ranker="ease")
