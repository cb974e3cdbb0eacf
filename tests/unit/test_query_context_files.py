"""Tables of users with the context of their queries are read like the columns of the log, missing cells included."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import segue
from segue.core.bundle import TrainedModel
from segue.experiment.inference.files import read_table
from segue.experiment.inference.user_tables import read_user_columns, read_users

CELLS = ("1.5", "NA", "", " N/A ", "null", "\\N", " 2 ", "1e3", "-0.5")


def log(cells: tuple[str, ...] = CELLS) -> pl.DataFrame:
    users = [f"u{row % 3}" for row in range(len(cells))]
    return pl.DataFrame(
        {"user_id": users, "item_id": [f"i{row % 4}" for row in range(len(cells))], "heat": cells, "device": cells}
    )


@cache
def trained() -> TrainedModel:
    data = segue.load(log(), columns={"context_number": ["heat"], "context": ["device"]})
    return segue.train("gru4rec", data, recipe="none", inputs=["context"], epochs=1, embedding_dim=4)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "memory"])
def test_cells_are_missing_where_the_log_has_them_missing(suffix: str, tmp_path: Path) -> None:
    context = trained().log.histories.context
    names = trained().model.schema.event_context
    categories = next(one.categories for one in names if one.name == "device")
    by_user: dict[str, list[Any]] = {"heat": [], "device": []}
    for user in range(3):  # the log is sorted by user
        for row in range(user, len(CELLS), 3):
            place = sum(len(range(other, len(CELLS), 3)) for other in range(user)) + row // 3
            by_user["heat"].append((row, context["heat"][place]))
            by_user["device"].append((row, context["device"][place]))
    table = log().drop("item_id").with_columns(user_id=pl.Series([f"new{row}" for row in range(len(CELLS))]))
    path = tmp_path / f"users.{suffix}"
    if suffix == "memory":
        rows = read_user_columns(trained(), table).context
    else:
        write: dict[str, Any] = {"csv": table.write_csv, "jsonl": table.write_ndjson, "parquet": table.write_parquet,
         "tsv": lambda file: table.write_csv(file, separator="\t")}  # fmt: skip
        write[suffix](path)
        rows = read_user_columns(trained(), read_table(path), str(path)).context
    assert rows is not None
    for row, value in by_user["heat"]:
        found = rows[row]["heat"]
        assert np.float32(np.nan if found is None else found) == pytest.approx(value, nan_ok=True)
    for row, code in by_user["device"]:
        assert rows[row]["device"] == (None if code < 0 else categories[code])


@pytest.mark.parametrize("cell", ["hot", "nan", "inf", "1,5", "12 C"])
def test_other_cells_are_errors_that_name_row_and_value(cell: str, tmp_path: Path) -> None:
    table = pl.DataFrame({"user_id": ["a", "b", "c"], "heat": ["1", "NA", cell]})
    table.write_csv(tmp_path / "users.csv")
    expected = f"row 3, column heat: got '{cell}', expected a finite number"
    with pytest.raises(ValueError, match=f"users.csv, {expected}"):
        read_users(trained(), tmp_path / "users.csv")
    with pytest.raises(ValueError, match=f"users=?, {expected}"):
        segue.recommend(trained(), table)


@pytest.mark.filterwarnings("ignore:'gradient_boosting' also reads query_context")
def test_numbers_that_a_model_scales_are_read_from_the_log() -> None:
    """The schema of a click-through model has the scale of each number, that of the log does not."""
    data = segue.load(log(("1", "2.5", "3", "-4", "5", "6") * 3), columns={"context_number": ["heat"]})
    model = segue.train("gradient_boosting", data, recipe="none", iterations=3, min_examples=2)
    found = segue.recommend(model, users=["u1"], k=2, exclude_seen=False)
    assert found["item_id"].len() == 2
