"""Prepared folders do not depend on the chunk size and are written atomically."""

from __future__ import annotations

import json
import mmap
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from segue.core.files import write_checked_json
from segue.data import Filters, load, open_dataset
from segue.data.writer import DatasetWriter

TABLE = pl.DataFrame(
    {
        "user_id": [1, 1, 2, 3, 3, 3],
        "item_id": [1, 2, 2, 1, 2, 3],
        "timestamp": [10, 20, 30, 40, 50, 60],
        "rating": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "action": ["a", "b", "a", "b", "a", "b"],
    }
)


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))


def test_in_memory_equals_folder(tmp_path: Path) -> None:
    memory, folder = load(TABLE), load(TABLE, out=tmp_path / "d")
    assert memory.header["hash"] == folder.header["hash"]
    for name, column in memory.histories.columns().items():
        assert np.array_equal(column, folder.histories.columns()[name])
    owner = folder.histories.items
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert isinstance(owner, mmap.mmap), "arrays stay on disk"
    assert not folder.histories.items.flags.writeable
    assert folder.header["counts"] == memory.header["counts"]
    assert folder.header["schema"] == {
        "offsets": "int64",
        "items": "int32",
        "times": "int64",
        "values": "float32",
        "actions": "uint8",
    }
    assert folder.header["counts"]["first_time"] == "1970-01-01T00:00:10+00:00"
    assert folder.header["counts"]["actions"] == {"a": 3, "b": 3}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d"]


def test_interactions_table(tmp_path: Path) -> None:
    load(TABLE, out=tmp_path / "d")
    frame = pl.read_parquet(tmp_path / "d" / "interactions.parquet")
    assert frame.equals(TABLE.with_columns(pl.col("user_id", "item_id").cast(pl.String)).cast({"rating": pl.Float32}))
    reloaded = load(tmp_path / "d" / "interactions.parquet")
    assert reloaded.header["hash"] == open_dataset(tmp_path / "d").header["hash"]


def test_chunked_writing_equals_one_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.data.writer.BLOCK", 2)  # so that the table is also streamed
    whole = load(TABLE, out=tmp_path / "whole")
    events = whole.histories
    with DatasetWriter(tmp_path / "parts", "table", actions=("a", "b")) as writer:
        for start, stop in ((0, 1), (1, 1), (1, 3)):
            part = events.rows_between(start, stop)
            writer.append(part.lengths, part.items, part.times, part.values, part.actions)
        writer.finish(whole.item_features.collect(), whole.user_features.collect())
    parts = open_dataset(tmp_path / "parts")
    assert parts.header["hash"] == whole.header["hash"]
    tables = [pl.read_parquet(d / "interactions.parquet") for d in (tmp_path / "whole", tmp_path / "parts")]
    assert tables[0].equals(tables[1])
    assert len(tables[0]) == 6


def _write(folder: Path, code: int = 0, finish: bool = True, stop: bool = False, times: bool = False) -> None:
    with DatasetWriter(folder, "d", times=times, values=False) as writer:
        writer.append(np.array([1]), np.array([code]))
        if stop:
            raise KeyboardInterrupt
        if finish:
            writer.finish(pl.DataFrame({"id": ["x"]}))


def test_error_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="times: got nothing for 1 events"):
        _write(tmp_path / "d", times=True)
    with pytest.raises(ValueError, match="was not finished"):
        _write(tmp_path / "d", finish=False)
    with pytest.raises(KeyboardInterrupt):
        _write(tmp_path / "d", stop=True)
    with pytest.raises(ValueError, match="items: got 1 rows, but code 4 occurs"):
        _write(tmp_path / "d", code=4)
    assert not list(tmp_path.iterdir())
    _write(tmp_path / "d")
    assert open_dataset(tmp_path / "d").histories.size == 1


def test_other_folders_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match="exists and is no prepared dataset"):
        load(TABLE, out=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    load(TABLE, out=tmp_path / "d")
    assert load(TABLE.head(3), out=tmp_path / "d").histories.size == 3


def test_open_prepared_folder(tmp_path: Path) -> None:
    prepared = load(TABLE, out=tmp_path / "d")
    assert load(tmp_path / "d").header["hash"] == prepared.header["hash"]
    with pytest.raises(ValueError, match="is already prepared"):
        load(str(tmp_path / "d"), filters=Filters(min_value=2))
    with pytest.raises(ValueError, match="no prepared dataset"):
        open_dataset(tmp_path)
    header = json.loads((tmp_path / "d" / "header.json").read_text())
    header.pop("checksum")
    write_checked_json(tmp_path / "d" / "header.json", header | {"format": 99})
    with pytest.raises(ValueError, match="dataset format 99, this version of Segue reads 2"):
        open_dataset(tmp_path / "d")
    write_checked_json(tmp_path / "d" / "header.json", header)
    whole = (tmp_path / "d" / "items.npy").read_bytes()
    (tmp_path / "d" / "items.npy").write_bytes(whole[:-4])
    with pytest.raises(ValueError, match=r"items\.npy: sha256"):
        open_dataset(tmp_path / "d")


def test_hash_depends_on_content() -> None:
    base = load(TABLE).header["hash"]
    other = [
        TABLE.with_columns(pl.col("rating") + 1),
        TABLE.with_columns(pl.col("user_id") + 1),
        TABLE.with_columns(pl.col("timestamp") + 1),
        TABLE.with_columns(pl.col("action") + "x"),
        TABLE.drop("rating"),
    ]
    assert len({base, *(load(table).header["hash"] for table in other)}) == 6
    assert load(TABLE, target="a").header["hash"] != base
    assert load(TABLE.sort("rating", descending=True)).header["hash"] == base


def test_filters_apply_to_simulated_data() -> None:
    address = "simulated?users=30&items=20&seed=2"
    plain = load(address)
    strict = load(address, filters=Filters(min_item_events=15))
    counts = np.bincount(plain.histories.items, minlength=plain.n_items)
    assert (np.bincount(strict.histories.items) >= 15).all()
    assert strict.histories.size <= counts[counts >= 15].sum()
    assert "title" in strict.item_features.collect_schema()
    assert load(address).header["folder"] == plain.header["folder"]
