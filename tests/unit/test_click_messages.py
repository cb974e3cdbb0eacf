"""Errors and notes of click-through models name the file, the column and the setting."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call

import segue
from segue.core.messages import SegueWarning

FAST: dict[str, Any] = {"epochs": 1, "embedding_dim": 2, "batch_size": 64}


def world(size: int = 120) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(size=size)
    return pl.DataFrame(
        {
            "label": (x + rng.normal(size=size) > 0).astype(int),
            "user": [f"u{one}" for one in rng.integers(6, size=size)],
            "x": x,
            "position": rng.integers(1, 4, size=size),
        }
    )


def both(capsys: pytest.CaptureFixture[str], path: Path, out: Path, **settings: Any) -> list[str]:
    """Return the errors of Python and of the command line."""
    with pytest.raises(ValueError) as error:  # noqa: PT011
        segue.train_clicks("logistic_regression", segue.split_examples(str(path)), iterations=1, **settings)
    options = [f"--set={key}={str(value).replace(chr(39), chr(34))}" for key, value in settings.items()]
    status, _, err = call(capsys, "clicks", "train", "logistic_regression", "--data", path, *options, "--out", out)
    assert status == 2
    return [str(error.value), err]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_errors_of_positions_name_file_and_line(capsys: pytest.CaptureFixture[str], kind: str, tmp_path: Path) -> None:
    table = world()
    cases = {
        "wrong": (table.with_columns(position=pl.when(pl.int_range(120) % 5 == 0).then(0).otherwise("position")),
                  {"position": "position"}, "column 'position': got 0, expected a position"),
        "none": (table.with_columns(position=pl.lit(None, pl.Int64)),
                 {"position": "position"}, "propensities: no example has a position"),
        "items": (table.with_columns(position=1),
                  {"position": "position", "propensities": "items", "position_item": "user"},
                  "propensities: no item was shown at two positions"),
    }  # fmt: skip
    for name, (frame, settings, message) in cases.items():
        path = tmp_path / f"{name}.{kind}"
        frame.write_csv(path) if kind == "csv" else frame.write_parquet(path)
        for text in both(capsys, path, tmp_path / name, **settings):
            assert message in text
            assert f"{path}{', line ' if kind == 'csv' else ', row '}" in text or name != "wrong"
            assert str(path) in text


def test_rows_without_a_user_are_no_query(tmp_path: Path) -> None:
    """They are left out and reported; the model is the one that is trained without them."""
    table = world()
    some = table.with_columns(user=pl.when(pl.int_range(120) < 80).then("user"))
    for name, settings in {
        "gradient_boosting": {"objective": "lambdarank", "iterations": 5},
        "deepfm": {"objective": "softmax", **FAST},
    }.items():
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            model = segue.train_clicks(name, some, columns={"user": "ignore"}, user="user", **settings)
        texts = [str(one.message) for one in found]
        assert sum("40 of 120 rows of training have no user and are left out" in text for text in texts) == 1
        columns = {"user": "ignore", "position": "category"}
        with pytest.raises(ValueError, match="compares the examples of a user or query, and no row of training has"):
            segue.train_clicks(name, table.with_columns(user=pl.lit(None, pl.String)), columns=columns, user="user",
                               **settings)  # fmt: skip
        assert np.isfinite(model.predict(table)).all()


def test_lambdarank_without_the_rows_is_the_same_model() -> None:
    table = world()
    settings = {"objective": "lambdarank", "iterations": 20, "min_examples": 5}
    columns = {"user": "ignore", "position": "number"}
    some = table.with_columns(user=pl.when(pl.int_range(120) < 100).then("user"), position=pl.lit(1.5) + pl.col("x"))
    with pytest.warns(SegueWarning, match="20 of 120 rows"):
        trained = segue.train_clicks("gradient_boosting", some, columns=columns, user="user", **settings)
    examples = trained.encoder.encode(some, needs_labels=True).take(np.arange(100))
    again = type(trained.model)(trained.model.config, trained.model.schema)
    from segue.core.run import Run

    again.fit(examples, Run(0), None)
    whole = trained.encoder.encode(some)
    np.testing.assert_array_equal(again.predict_logits(whole), trained.model.predict_logits(whole))


def test_columns_whose_values_are_all_unknown_are_reported_everywhere(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tags = pl.Series([["a", "b"], ["b"], None] * 40, dtype=pl.List(pl.String))
    words = pl.Series(["red shoes", "blue shoes", ""] * 40)
    table = world().with_columns(tags=tags, title=words)
    columns = {"title": "text", "position": "number"}
    options: dict[str, Any] = {"columns": columns, "text_options": {"size": 2, "min_texts": 1, "max_share": 1.0}}
    model = segue.train_clicks("logistic_regression", table, table, iterations=1, folder=tmp_path / "m", **options)
    known = table[:3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(known)
        model.predict(known.with_columns(user=pl.lit(None, pl.String), title=pl.lit("")))
    cases = {
        "user": known.with_columns(user=pl.lit("stranger")),
        "tags": known.with_columns(tags=pl.Series([["z"], ["y", "z"], None])),
        "title": known.with_columns(title=pl.lit("green hats")),
    }
    for name, rows in cases.items():
        with pytest.warns(SegueWarning, match=f"column '{name}': none of its values is known from training"):
            model.predict(rows)
        other = pl.concat([rows.with_columns(label=0), rows.with_columns(label=1)])
        path = tmp_path / f"{name}.parquet"
        other.write_parquet(path)
        message = f"column '{name}' of {path}: none of its values is known from training"
        for arguments in (("evaluate", tmp_path / "m", path),
                          ("predict", tmp_path / "m", path, "--out", tmp_path / "p.csv")):  # fmt: skip
            status, _, err = call(capsys, "clicks", *arguments, *(["--json"] if name == "user" else []))
            if arguments[0] == "predict" and name == "tags":
                continue  # CSV has no lists
            assert status == 0, err
            assert f"warning: {message}" in err
        with pytest.warns(SegueWarning, match=r"column .* of .*: none of its values is known"):
            segue.train_clicks("logistic_regression", table, other, iterations=1, **options)


def test_an_empty_validation_part_names_the_setting(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = world()
    with pytest.raises(ValueError, match=r"valid: the validation part has no rows .*set a greater split\.valid"):
        segue.train_clicks("logistic_regression", table, table[:0], iterations=1)
    with pytest.raises(ValueError, match=r"no validation rows to fit it on, expected some; set a greater split\.valid"):
        segue.train_clicks("logistic_regression", segue.split_examples(table, valid=0), calibration="platt")
    with pytest.raises(ValueError, match=r"valid: .*column 'label': all \d+ labels are 1 in validation, expected both"):
        segue.train_clicks("logistic_regression", table, table.filter(label=1), iterations=1)
    marked = table.with_columns(part=pl.when(pl.int_range(120) < 100).then(pl.lit("train")).otherwise(pl.lit("test")))
    marked.write_csv(path := tmp_path / "marked.csv")
    train = ("clicks", "train", "logistic_regression", "--data", path, "--set", "iterations=1", "--split", "given",
             "--column", "part")  # fmt: skip
    status, _, err = call(capsys, *train, "--calibration", "platt", "--out", tmp_path / "a")
    assert status == 2
    assert "with split.strategy=given, mark rows as valid" in err
    status, _, err = call(capsys, *train, "--out", tmp_path / "b")
    assert status == 0
    assert "there are no validation rows" in err
    assert "set a greater split.valid" in err


def test_errors_of_text_encoders_name_file_and_column(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    titles = {"unique": [f"word{at}" for at in range(120)], "signs": ["!?"] * 120}
    for name, texts in titles.items():
        path = tmp_path / f"{name}.csv"
        world().with_columns(title=pl.Series(texts)).write_csv(path)
        for text in both(capsys, path, tmp_path / name, columns={"title": "text"}):
            assert f"{path}: column 'title': tfidf: none of" in text
