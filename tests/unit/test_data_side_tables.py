"""Side tables of items and users, from the file to the model."""

from __future__ import annotations

import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import segue
from segue.core.types import Dataset
from segue.data import Filters, load, open_dataset

LOG = pl.DataFrame(
    {
        "user_id": [1, 1, 1, 2, 2, 2, 3, 3],
        "item_id": [10, 11, 12, 10, 12, 11, 11, 10],
        "timestamp": list(range(8)),
    }
)


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))


def known(data: Dataset) -> list[dict[str, Any]]:
    assert data.item_features is not None
    return data.item_features.collect().to_dicts()


def written(folder: Path, kind: str) -> Path:
    path = folder / f"items.{kind}"
    rows = [{"item_id": 12, "color": "red"}, {"item_id": 10, "color": "blue"}, {"item_id": 99, "color": "red"}]
    if kind == "parquet":
        pl.DataFrame(rows).write_parquet(path)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        separator = "," if kind == "csv" else "\t"
        pl.DataFrame(rows).write_csv(path, separator=separator)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("source", ["table", "file", "folder"])
def test_side_tables_are_joined_to_any_log(kind: str, source: str, tmp_path: Path) -> None:
    messages: list[str] = []
    items, log = written(tmp_path, kind), tmp_path / "log.csv"
    LOG.write_csv(log)
    out = tmp_path / "ready" if source == "folder" else None
    data = load(LOG if source == "table" else log, items=items, out=out, log=messages.append)
    assert known(data) == [
        {"id": "10", "color": "blue"},
        {"id": "11", "color": None},
        {"id": "12", "color": "red"},
        {"id": "99", "color": "red"},
    ]
    assert any("items: 1 listed items have no events, such as '99'; they are in the catalog" in m for m in messages)
    assert any(text.startswith("items: joined 3 rows of ") and text.endswith("item_id, color") for text in messages)
    assert data.header["side_tables"]["items"]["columns"] == ["item_id", "color"]
    if out is not None:
        assert known(open_dataset(out)) == known(data)


def test_side_tables_change_hash_and_cache(tmp_path: Path) -> None:
    LOG.write_csv(tmp_path / "log.csv")
    tables = [None, pl.DataFrame({"id": ["10"], "x": [1.0]}), pl.DataFrame({"id": ["10"], "x": [2.0]})]
    actual = [load(tmp_path / "log.csv", items=table) for table in tables]
    assert len({data.header["hash"] for data in actual}) == len({data.header["folder"] for data in actual}) == 3
    assert load(tmp_path / "log.csv", items=tables[1]).header["folder"] == actual[1].header["folder"]
    in_memory = [load(LOG, items=table).header["hash"] for table in tables]
    assert in_memory == [data.header["hash"] for data in actual]


def test_side_tables_replace_columns_of_the_same_name(tmp_path: Path) -> None:
    plain = load("simulated?users=30&items=20")
    names = plain.item_features.collect_schema().names()  # type: ignore[union-attr]
    ids = plain.items.ids
    more = pl.DataFrame({"item_id": ids.reverse(), names[1]: ["new"] * len(ids), "text": [[1.0, 2.0]] * len(ids)})
    data = load("simulated?users=30&items=20", items=more, filters=Filters(min_user_events=2))
    table = data.item_features.collect()  # type: ignore[union-attr]
    assert set(table.columns) == {*names, "text"}
    assert table[names[1]].to_list() == ["new"] * data.n_items
    assert table[names[2]].to_list() == plain.item_features.collect()[names[2]].to_list()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ("nowhere.csv", "nowhere.csv: no such file"),
        ("items.xlsx", "expected a file with suffix .csv"),
        (7, "items: got int, expected a path or a table"),
        (pl.DataFrame({"sku": [1]}), "polars table: no id column 'id' or 'item_id'"),
        (pl.DataFrame({"id": [1.5]}), "column id: got Float64, expected ids"),
        (pl.DataFrame({"id": ["a", None]}), "column id: got String, expected ids: integers or text, without nulls"),
    ],
)
def test_invalid_side_tables(items: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        load(LOG, items=items)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "ndjson", "parquet", "table"])
def test_ids_of_features_are_read_as_those_of_the_log(kind: str, tmp_path: Path) -> None:
    ids = [f"{n:03}" for n in range(1, 120)] + ["x1"]  # leading zeros, and the first text after row 100
    log = pl.DataFrame({"user_id": ["u"] * len(ids), "item_id": ids})
    items = pl.DataFrame({"item_id": ids, "id": range(len(ids)), "size": [1.0] * 119 + [2.5], "kind": ["a", "b"] * 60})
    path = tmp_path / f"items.{kind}"
    if kind in ("csv", "tsv"):
        items.write_csv(path, separator="," if kind == "csv" else "\t")
    elif kind in ("jsonl", "ndjson"):
        items.write_ndjson(path)
    elif kind == "parquet":
        items.write_parquet(path)
    rows = known(load(log, items=items if kind == "table" else path))
    assert [row["id"] for row in rows] == ids
    assert [row["kind"] for row in rows] == ["a", "b"] * 60, "item_id holds the ids, not id"
    assert rows[-1]["size"] == 2.5


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_ids_of_features_may_have_the_name_of_the_log_column(kind: str, tmp_path: Path) -> None:
    log = pl.DataFrame({"who": ["a", "b"], "sku": ["001", "002"]})
    items = pl.DataFrame({"sku": ["001", "002"], "id": ["7", "8"], "kind": ["p", "q"]})
    path = tmp_path / f"items.{kind}"
    items.write_csv(path) if kind == "csv" else items.write_ndjson(path)
    data = load(log, columns={"user": "who", "item": "sku"}, items=path)
    assert [row["kind"] for row in known(data)] == ["p", "q"]


@pytest.mark.parametrize(
    "items", [{"id": [10, 11]}, {"id": [10.0, 11.0]}, {"id": pl.Series(["10"], dtype=pl.Categorical)}]
)
def test_ids_of_features_may_have_another_type_than_those_of_the_log(items: Any) -> None:
    assert known(load(LOG, items=pl.DataFrame(items).with_columns(x=pl.lit(1.0))))[0]["x"] == 1.0


def test_features_without_any_id_of_the_log_are_rejected() -> None:
    with pytest.raises(
        ValueError, match="items: none of the 2 ids of polars table occurs in the log; they are such as '010'"
    ):
        load(LOG, items=pl.DataFrame({"id": ["010", "011"]}))
    with pytest.raises(ValueError, match="users: none of the 1 ids"):
        load(LOG, users=pl.DataFrame({"user_id": ["x"]}))


def test_repeated_ids_of_features_cause_a_warning() -> None:
    items = pl.DataFrame({"id": [10, 11, 10], "x": ["a", "b", "c"]})
    with pytest.warns(
        segue.SegueWarning, match="items: 1 of 3 rows of polars table repeat an id, the first is '10' in row 3"
    ):
        assert known(load(LOG, items=items))[0]["x"] == "a"


def test_prepared_folders_reject_side_tables(tmp_path: Path) -> None:
    load(LOG, out=tmp_path / "ready")
    with pytest.raises(ValueError, match="is already prepared"):
        load(tmp_path / "ready", items=pl.DataFrame({"id": ["10"]}))


def test_vector_features_change_the_scores(tmp_path: Path) -> None:
    """Train on a file with a vector per item, then save and load the model."""
    rng = np.random.default_rng(0)
    items = [f"a{at}" for at in range(8)] + [f"b{at}" for at in range(8)]
    users = np.repeat(np.arange(60), 7)
    half = users % 2
    log = pl.DataFrame(
        {
            "user_id": users,
            "item_id": [items[8 * h + at] for h, at in zip(half, rng.integers(7, size=420), strict=True)],
        }
    )
    # the last item of each half occurs once, for the last user, whose events are not in training
    log = pl.concat([log, pl.DataFrame({"user_id": [60, 60, 60], "item_id": ["a0", "a7", "b7"]}, schema=log.schema)])
    vectors = np.where(np.arange(16)[:, None] < 8, [1.0, 0.0], [0.0, 1.0]) + rng.normal(size=(16, 2)) * 0.05
    pl.DataFrame({"item_id": items, "text": vectors.tolist()}).write_parquet(tmp_path / "items.parquet")
    data = segue.load(log, items=tmp_path / "items.parquet")
    parts = segue.split(data)
    trained = segue.train(
        "gru4rec",
        parts,
        recipe="none",
        epochs=20,
        embedding_dim=16,
        learning_rate=0.01,
        dropout=0.0,
        inputs=["item_features"],
    )
    segue.save(trained, tmp_path / "saved")
    actual = segue.open(tmp_path / "saved")
    assert [(f.name, f.kind, f.size) for f in actual.model.schema.item_features] == [("text", "vector", 2)]
    for half_name, new in (("a", "a7"), ("b", "b7")):
        ranked = segue.recommend(actual, histories=[[f"{half_name}{at}" for at in range(5)]], k=11)["item_id"].to_list()
        assert ranked.index(new) < ranked.index("b7" if half_name == "a" else "a7")
        assert new in ranked[:3]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_of_side_tables_are_detected(separator: str, tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text(f"item_id{separator}color\n10{separator}red\n")
    assert known(load(LOG, items=items))[0] == {"id": "10", "color": "red"}


@pytest.mark.parametrize(("encoding", "command"), [("latin-1", "iconv -f WINDOWS-1252"), ("utf-16", "iconv -f UTF-16")])
def test_side_tables_in_another_encoding_are_rejected(encoding: str, command: str, tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_bytes("item_id,color\n10,r\xe9d\n".encode(encoding))
    with pytest.raises(ValueError, match=rf"items\.csv, line \d.*expected UTF-8 text.*{command} -t UTF-8"):
        load(LOG, items=items)


@pytest.mark.parametrize("kind", ["decimal", "uuid", "float"])
def test_ids_of_side_tables_have_any_type_that_a_log_may_have(kind: str) -> None:
    ids: dict[str, list[Any]] = {
        "decimal": [Decimal(2**60), Decimal(2**60 + 1)],
        "uuid": [uuid.UUID(int=1), uuid.UUID(int=2)],
        "float": [1.0, 2.0],
    }
    column = pl.Series(ids[kind], dtype=pl.Object if kind == "uuid" else None)
    log = pl.DataFrame({"user_id": [1, 2], "item_id": column})
    data = load(log, items=pl.DataFrame({"item_id": column, "color": ["red", "blue"]}))
    assert [row["color"] for row in known(data)] == ["red", "blue"]
