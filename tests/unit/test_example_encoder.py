"""Tables of labeled examples become arrays; everything is learned from the training rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import segue
from segue.core.examples.encoder import ExampleEncoder, fit_encoder, read_labels
from segue.core.examples.fields import MISSING, UNKNOWN
from segue.core.examples.settings import ExampleSettings

TABLE = pl.DataFrame(
    {
        "label": [1, 0, 1, 0],
        "user_id": [5, 5, 6, 6],
        "price": [1.5, None, 2.5, 3.5],
        "tags": [["a", "b"], ["a"], [], None],
        "text": [[0.5, 1.0], [1.0, 0.5], None, [0.0, 1.0]],
        "city": ["x", "x", "y", "y"],
        "constant": [1, 1, 1, 1],
    }
)


def fit(table: pl.DataFrame = TABLE, **settings: Any) -> ExampleEncoder:
    return fit_encoder(table, ExampleSettings(**settings))


def test_columns_become_fields_in_their_order() -> None:
    encoder = fit()
    assert [(one.name, one.kind) for one in encoder.fields] == [
        ("user_id", "category"),
        ("price", "number"),
        ("tags", "tags"),
        ("text", "vector"),
        ("city", "category"),
    ]
    assert encoder.unused == {"constant": "constant in training"}
    examples = encoder.encode(TABLE)
    assert examples.codes.tolist() == [[2, 2], [2, 2], [3, 3], [3, 3]]
    assert np.isnan(examples.numbers[1, 0])
    assert examples.lists["tags"].lengths.tolist() == [2, 1, 0, 0]
    assert np.isnan(examples.vectors["text"][2]).all()
    assert examples.labels is not None
    assert examples.labels.tolist() == [1, 0, 1, 0]
    assert examples.users is not None
    assert examples.users.tolist() == [1, 1, 2, 2]


def test_unknown_values_alone_are_encoded() -> None:
    encoder = fit()
    later = TABLE.with_columns(city=pl.Series(["p", "q", "r", None]))
    assert encoder.encode(later).codes[:, 1].tolist() == [UNKNOWN, UNKNOWN, UNKNOWN, MISSING]


def test_missing_columns_are_named() -> None:
    encoder = fit()
    with pytest.raises(ValueError, match="column 'city' is missing, did you mean 'cities'"):
        encoder.encode(TABLE.rename({"city": "cities"}))
    with pytest.raises(ValueError, match="column 'label' is missing"):
        encoder.encode(TABLE.drop("label"))
    assert encoder.encode(TABLE.drop("label", "constant"), needs_labels=False).labels is None
    for settings in ({"label": "clck"}, {"columns": {"prce": "number"}}, {"buckets": {"ctiy": 5}}, {"user": "usr"}):
        with pytest.raises(ValueError, match=r"is missing(, did you mean|; known)"):
            fit(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": {"label": "number"}}, "examples.columns: got 'label', which is no input"),
        ({"columns": {"price": "category"}, "position": "price"}, "examples.columns: got 'price', which is no input"),
        ({"buckets": {"label": 5}}, "examples.buckets: got 'label', which is no input"),
        ({"buckets": {"price": 5}}, "got 'price', which is a number, expected a category or tags or sequence"),
        ({"scaling": {"city": "log"}}, "examples.scaling: got 'city', which is a category, expected a number"),
    ],
)
def test_settings_of_a_column_without_effect_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(**settings)
    fit(columns={"label": "ignore"}, buckets={"constant": 5}, scaling={"price": "log"})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 1, 1, 1], "column 'label': all 4 labels are 1 in training, expected both 0 and 1"),
        ([1, 0, 2, 3], r"column 'label', row 3: got 2, expected 0 or 1 \(2 such rows\)"),
        ([1, 0, None, 0], "row 3: got None, expected 0 or 1"),
        ([1.0, 0.0, 0.5, 0.0], "row 3: got 0.5"),
        ([1.0, 0.0, float("nan"), 0.0], "row 3: got nan"),
        (["1", "0", "yes", "0"], "row 3: got 'yes'"),
    ],
)
def test_labels_other_than_0_and_1_are_errors(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(TABLE.with_columns(label=pl.Series(labels, strict=False)))


@pytest.mark.parametrize("labels", [[True, False], ["1", "0"], [1.0, 0.0]])
def test_labels_of_every_type(labels: Any) -> None:
    assert read_labels(pl.DataFrame({"label": labels}), "label").tolist() == [1, 0]


def test_a_model_whose_first_column_has_no_categories_can_be_saved(tmp_path: Path) -> None:
    table = TABLE.select("label", "price", "city")
    model = segue.train_clicks("logistic_regression", table, table, min_count=1)
    model.save(tmp_path / "model")
    assert segue.open_clicks(tmp_path / "model").predict(table).tolist() == model.predict(table).tolist()


def test_no_rows_and_no_usable_column_are_errors() -> None:
    with pytest.raises(ValueError, match="there are no rows in training"):
        fit(TABLE.clear())
    with pytest.raises(ValueError, match="no column can be used: constant: constant in training"):
        fit(TABLE.select("label", "constant"))


def test_a_column_with_the_name_of_an_input_of_a_time_is_an_error() -> None:
    times = pl.Series([f"2024-05-31 1{hour}:30" for hour in range(4)]).str.to_datetime()
    table = TABLE.select("label", pl.Series("t:hour", ["a", "a", "b", "b"]), t=times)
    with pytest.raises(ValueError, match="column 't:hour': the time 't' becomes an input of this name; rename one"):
        fit(table)
    for name in ("t", "t:hour"):
        assert fit(table, columns={name: "ignore"}).unused == {name: "ignored by columns"}
    assert len(fit(table.rename({"t:hour": "t:day"})).fields) == 4
