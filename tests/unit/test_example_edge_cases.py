"""Unusual tables in Python and on the command line, from files of every kind: an error with a row, or a decision."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call

import segue
from segue.core.messages import SegueWarning
from segue.evaluation.evaluate_examples import evaluate_predictions

FORMATS = ("csv", "tsv", "jsonl", "parquet", "arrow", "sqlite", "streamed")
WRITERS: dict[str, Any] = {
    "csv": pl.DataFrame.write_csv,
    "tsv": lambda table, path: table.write_csv(path, separator="\t"),
    "jsonl": pl.DataFrame.write_ndjson,
    "parquet": lambda table, path: table.write_parquet(path, row_group_size=16),
    "arrow": pl.DataFrame.write_ipc,
}
MODELS = {"streamed": "ctr_factorization_machine"}
SMALL = {
    "ctr_factorization_machine": {"epochs": 1, "embedding_dim": 2, "batch_size": 64, "memory": "streamed"},
    "logistic_regression": {"iterations": 2},
}


def world(size: int = 60) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(size=size)
    return pl.DataFrame({"label": (x > 0).astype(int), "user": rng.integers(4, size=size), "x": x})


def write(table: pl.DataFrame, kind: str, folder: Path, name: str = "t") -> dict[str, str]:
    """Write a table and return how it is read."""
    if kind == "sqlite":
        path = folder / f"{name}.db"
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"CREATE TABLE shown ({', '.join(table.columns)})")
            marks = ", ".join("?" * table.width)
            rows = [[None if one is None else one for one in row] for row in table.rows()]
            connection.executemany(f"INSERT INTO shown VALUES ({marks})", rows)
        return {"data": f"sqlite:///{path}", "query": "SELECT * FROM shown"}
    if kind == "streamed":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    suffix = "parquet" if kind == "streamed" else kind
    path = folder / f"{name}.{suffix}"
    WRITERS[suffix](table, path)
    return {"data": str(path)}


def train_both(
    capsys: pytest.CaptureFixture[str], kind: str, source: dict[str, str], folder: Path, **settings: Any
) -> tuple[list[str], segue.ClickModel | None]:
    """Train in Python and on the command line, and return what both report: an error, or messages and the model."""
    model = MODELS.get(kind, "logistic_regression")
    settings = {**SMALL[model], **settings}
    label = settings.pop("label", "label")
    messages: list[str] = []
    trained = None
    try:
        memory = settings.get("memory", "all")
        table = segue.load_examples(source["data"], query=source.get("query"), memory=memory)
        split = segue.split_examples(table, valid=0.3, test=0.0)
        trained = segue.train_clicks(model, split, label=label, log=messages.append, **settings)
        python = "\n".join(messages)
    except ValueError as error:
        python = str(error)
    words = [part for name, value in settings.items() for part in ("--set", f"{name}={_json(value)}")]
    query = ("--query", source["query"]) if "query" in source else ()
    split_words = ("--set", "split.valid=0.3", "--set", "split.test=0", "--label", label)
    status, out, err = call(
        capsys, "clicks", "train", model, "--data", source["data"], *query, *words, *split_words, "--out", folder / "m"
    )
    assert (status == 2) == (trained is None), err
    return [python, out + err], trained


def _json(value: Any) -> str:
    return str(value).replace("'", '"')


@pytest.mark.parametrize("kind", FORMATS)
def test_infinite_numbers_and_wrong_labels_name_their_row(
    capsys: pytest.CaptureFixture[str], kind: str, tmp_path: Path
) -> None:
    cases: dict[str, tuple[pl.DataFrame, str]] = {
        "label": (world().with_columns(label=pl.when(pl.int_range(60) == 20).then(2).otherwise("label")),
                  "column 'label': got 2, expected 0 or 1"),
        "negative": (world().with_columns(label=pl.when(pl.int_range(60) == 20).then(-0.5).otherwise("label")),
                     "column 'label': got -0.5, expected 0 or 1"),
    }  # fmt: skip
    if kind != "jsonl":  # JSON has no infinite numbers
        infinite = world().with_columns(x=pl.when(pl.int_range(60) == 20).then(np.inf).otherwise("x"))
        cases["infinite"] = infinite, "column 'x': got 'inf', expected a number of at most 1e"
    for name, (table, message) in cases.items():
        place = {"csv": "line 22", "tsv": "line 22", "jsonl": "line 21"}.get(kind, "row 21")
        for found in train_both(capsys, kind, write(table, kind, tmp_path, name), tmp_path / name)[0]:
            assert f"{place}, {message}" in found


@pytest.mark.parametrize("kind", FORMATS)
def test_one_class_alone_is_an_error(capsys: pytest.CaptureFixture[str], kind: str, tmp_path: Path) -> None:
    source = write(world().with_columns(label=1), kind, tmp_path)
    for found in train_both(capsys, kind, source, tmp_path)[0]:
        assert "column 'label': all 42 labels are 1 in training, expected both 0 and 1" in found


@pytest.mark.parametrize("kind", FORMATS)
def test_constant_empty_and_missing_cells_are_reported_or_read(
    capsys: pytest.CaptureFixture[str], kind: str, tmp_path: Path
) -> None:
    table = world().with_columns(
        constant=pl.lit("a"),
        empty=pl.lit(None, pl.String),
        x=pl.when(pl.int_range(60) % 7 == 0).then(None if kind in ("jsonl", "sqlite") else np.nan).otherwise("x"),
    )
    found, model = train_both(capsys, kind, write(table, kind, tmp_path), tmp_path)
    assert model is not None
    for text in found:
        assert "column 'constant' is left out: constant in training" in text
        assert "column 'empty' is left out: no value in training" in text
    predicted = model.predict({"user": [1, 1, 77], "x": [0.5, None, float("nan")]})
    assert np.isfinite(predicted).all()
    if kind != "streamed":  # one epoch of a network learns little
        assert predicted[0] > predicted[1]
    with pytest.raises(ValueError, match="column 'x', row 2: got 'inf', expected a number"):
        model.predict({"user": [1, 1], "x": [0.5, float("inf")]})
    unknown = table.with_columns(user=pl.lit(99))
    with pytest.warns(SegueWarning, match="column 'user' of .*: none of its values is known from training"):
        segue.evaluate_clicks(model, unknown)
    with pytest.raises(ValueError, match=r"all \d+ are equal"):
        segue.evaluate_clicks(model, table.filter(label=1))


def test_libfm(tmp_path: Path) -> None:
    lines = ["1 1:1 2:0.5", "0 1:0 2:1.5", "1 1:2 2:nan", "0 1:1 2:2.5"] * 5
    (tmp_path / "good.libfm").write_text("\n".join(lines))
    model = segue.train_clicks("logistic_regression", tmp_path / "good.libfm", iterations=1,
                               columns={"x1": "number", "x2": "number"})  # fmt: skip
    assert np.isfinite(model.predict({"x1": [0.0], "x2": [None]})).all()
    for line, message in (
        ("1 1:inf 2:1", r"bad.libfm, line 21, column 'x1': got 'inf', expected a number"),
        ("0.5 1:1 2:1", r"bad.libfm, line 21: got the label '0.5', expected a label of 0 or 1"),
    ):
        (tmp_path / "bad.libfm").write_text("\n".join([*lines, line]))
        with pytest.raises(ValueError, match=message):
            segue.train_clicks("logistic_regression", tmp_path / "bad.libfm", iterations=1)
    (tmp_path / "bad.libfm").write_text("\n".join(line for line in lines if line[0] == "1"))
    with pytest.raises(ValueError, match=r"all 10 labels are 1 in training"):
        segue.train_clicks("logistic_regression", tmp_path / "bad.libfm", iterations=1)


def test_rows_without_a_user_are_left_out_of_metrics_per_user() -> None:
    rng = np.random.default_rng(0)
    labels, p = rng.integers(2, size=90), rng.random(90)
    users = np.where(np.arange(90) < 60, np.arange(90) % 4, np.nan)
    found = evaluate_predictions(labels, p, users)
    assert found["uauc"].mean == evaluate_predictions(labels[:60], p[:60], users[:60])["uauc"].mean
    assert found["gauc"].mean == evaluate_predictions(labels[:60], p[:60], users[:60])["gauc"].mean
    assert "uauc" not in evaluate_predictions(labels, p, np.full(90, np.nan))
    table = world().with_columns(user=pl.when(pl.int_range(60) < 40).then("user"))
    model = segue.train_clicks("logistic_regression", table, world(), iterations=1)
    assert segue.evaluate_clicks(model, table)["uauc"].mean == segue.evaluate_clicks(model, table[:40])["uauc"].mean


def test_a_field_of_a_million_values_is_stored_and_predicted(tmp_path: Path) -> None:
    """Each value occurs once, so that none has a code of its own unless ``min_count`` is 1; buckets bound the table."""
    size = 100_000  # test_example_columns encodes a million
    table = pl.DataFrame({"label": np.arange(size) % 2, "id": np.arange(size), "x": np.arange(size) / size})
    with pytest.warns(SegueWarning):
        model = segue.train_clicks("logistic_regression", table, iterations=1, buckets={"id": 100})
    assert model.encoder.columns[0].size == 102
    rare = segue.train_clicks("logistic_regression", table, table[:100], iterations=1)
    assert rare.encoder.unused is not None
    assert rare.encoder.unused["id"] == "no value occurs min_count=2 times in training"
    every = segue.train_clicks("logistic_regression", table, table[:100], iterations=1, min_count=1)
    assert every.encoder.columns[0].size == size + 2
    every.save(tmp_path / "m")
    np.testing.assert_array_equal(segue.open_clicks(tmp_path / "m").predict(table[:50]), every.predict(table[:50]))


@pytest.mark.parametrize("cells", [[[1], [0]], [{"a": 1}, {"a": 0}], [timedelta(0), timedelta(1)]])
def test_columns_that_cannot_be_labels(cells: list[Any]) -> None:
    table = world().with_columns(label=pl.Series(cells * 30))
    with pytest.raises(ValueError, match=r"column 'label': got the type .*, expected labels of 0 or 1"):
        segue.train_clicks("logistic_regression", table)
