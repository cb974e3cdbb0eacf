"""Files of recommendation lists: their columns and order, the rows named in errors, and failed writes."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from segue.core.messages import SegueWarning
from segue.core.types import Events, Queries, Recommendations, Vocab
from segue.evaluation.recommendation_files import read_recommendations, write_recommendations

USERS = Vocab(["ann", "bob", "cid"])
ITEMS = Vocab(["x", "y", "z", "w"])


def queries(*users: int) -> Queries:
    return Queries.of_users(np.array(users, np.int32), Events.of([[]] * len(users)))


def lists(probabilities: bool = True) -> Recommendations:
    items = np.array([[3, 1, 0], [2, 0, 0]], np.int32)
    scores = np.array([[2.5, 1.5, 0.5], [-1.0, 0.0, 0.0]], np.float32)
    return Recommendations(items, scores, np.array([3, 1]), scores / 10 if probabilities else None)


def frame(*rows: tuple[str, str, float]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user_id", "item_id", "rank"], orient="row")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_file_has_one_row_per_item_with_ranks_from_one(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"lists{suffix}"
    if suffix != ".parquet":
        path.parent.mkdir()
    write_recommendations(path, lists(), queries(2, 0), USERS, ITEMS)
    if suffix == ".parquet":
        table = pl.read_parquet(path)
    elif suffix == ".jsonl":
        table = pl.read_ndjson(path)
    else:
        table = pl.read_csv(path, separator="\t" if suffix == ".tsv" else ",")
    assert table.columns == ["user_id", "item_id", "rank", "score", "probability"]
    assert table.select("user_id", "item_id", "rank", "score").rows() == [
        ("cid", "w", 1, 2.5),
        ("cid", "y", 2, 1.5),
        ("cid", "x", 3, 0.5),
        ("ann", "z", 1, -1.0),
    ]
    np.testing.assert_allclose(table["probability"], [0.25, 0.15, 0.05, -0.1], rtol=1e-6)
    write_recommendations(path, lists(probabilities=False), queries(2, 0), USERS, ITEMS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = read_recommendations(path, queries(0, 2), USERS, ITEMS)
    assert back.items.tolist() == [[2, 0, 0], [3, 1, 0]]
    assert back.lengths.tolist() == [1, 3]
    assert back.scores.tolist() == [[-1.0, 0.0, 0.0], [-1.0, -2.0, -3.0]], "by rank, the score is the negative rank"


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lists.parquet"
    path.write_bytes(b"old")

    def fail(self: pl.DataFrame, file: object) -> None:
        assert Path(str(file)).name.startswith(".lists.parquet."), "hidden, and named after the file"
        assert Path(str(file)).parent == tmp_path, "on the same file system, so that replacing is atomic"
        Path(str(file)).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", fail)
    with pytest.raises(OSError, match="disk full"):
        write_recommendations(path, lists(), queries(2, 0), USERS, ITEMS)
    assert [file.name for file in tmp_path.iterdir()] == ["lists.parquet"]
    assert path.read_bytes() == b"old"


def test_an_error_names_the_first_wrong_row_and_counts_them() -> None:
    base = ("ann", "x", 1.0)
    for rows, message in (
        ([base, ("ann", "q", 2), ("bob", "r", 1)], r"row 2: user_id 'ann', item_id 'q': .* \(2 such rows\)"),
        ([base, ("bob", "y", 1), ("ann", "x", 2)], r"row 1: .*the item appears twice in its list \(2 such rows\)"),
        ([base, ("ann", "y", 0.5), ("bob", "y", 0)], r"row 2: .*expected a rank of at least 1 \(2 such rows\)"),
        ([base, ("ann", "z", 3), ("ann", "y", 3)], r"row 2: .*the rank appears twice"),
        ([base, ("bob", "y", float("nan"))], r"row 2: .*a value is missing \(1 such rows\)"),
    ):
        with pytest.raises(ValueError, match=message):
            read_recommendations(frame(*rows), queries(0, 1), USERS, ITEMS)


def test_lists_without_a_query_and_queries_without_a_list_are_counted() -> None:
    table = frame(("ann", "x", 1), ("bob", "y", 1), ("dan", "z", 1), ("eve", "z", 1))
    with pytest.warns(SegueWarning, match="1 of 2 queries have no list, which counts as an empty one; 3 of 4 lists"):
        found = read_recommendations(table, queries(2, 0), USERS, ITEMS)
    assert found.lengths.tolist() == [0, 1]
    with pytest.warns(SegueWarning, match="0 of 1 queries have no list.*; 1 of 2 lists"):
        read_recommendations(table[:2], queries(0), USERS, ITEMS)
    with pytest.warns(SegueWarning, match="1 of 2 queries have no list.*; 0 of 1 lists"):
        read_recommendations(table[:1], queries(0, 1), USERS, ITEMS)
    with pytest.raises(ValueError, match=r"none of its 2 user ids, such as 'dan', is that of a query; the 2 queries"):
        read_recommendations(table[2:], queries(2, 0), USERS, ITEMS)
    with pytest.warns(SegueWarning, match="2 of 2 queries have no list"):
        assert read_recommendations(table[:0], queries(2, 0), USERS, ITEMS).items.shape == (2, 1)
    with pytest.raises(ValueError, match="got 2 queries of 1 users, expected one per user"):
        read_recommendations(table, queries(0, 0), USERS, ITEMS)


def test_higher_scores_come_first_and_ties_keep_the_order_of_rows() -> None:
    table = pl.DataFrame({"user_id": ["ann"] * 4, "item_id": ["x", "y", "z", "w"], "score": [1.0, 3.0, 3.0, 2.0]})
    found = read_recommendations(table, queries(0), USERS, ITEMS)
    assert found.items.tolist() == [[1, 2, 3, 0]]
    assert found.scores.tolist() == [[3.0, 3.0, 2.0, 1.0]]
    in_order = read_recommendations(table.drop("score"), queries(0), USERS, ITEMS)
    assert in_order.items.tolist() == [[0, 1, 2, 3]]
    both = table.with_columns(rank=pl.Series([4, 3, 2, 1]))
    assert read_recommendations(both, queries(0), USERS, ITEMS).items.tolist() == [[3, 2, 1, 0]], "the rank decides"


def test_numbers_are_ids_if_they_are_whole() -> None:
    numbers = Vocab(["1", "2", "3.5"])
    table = pl.DataFrame({"user_id": [1.0, 2.0], "item_id": ["x", "y"]})
    assert read_recommendations(table, queries(0, 1), numbers, ITEMS).items.tolist() == [[0], [1]]
    table = pl.DataFrame({"user_id": [2.0, 3.5], "item_id": ["x", "y"]})
    assert read_recommendations(table[1:], queries(2), numbers, ITEMS).items.tolist() == [[1]]


def test_errors_name_the_file_or_the_table(tmp_path: Path) -> None:
    path = tmp_path / "lists.csv"
    path.write_text("user_id,item_id\nann,q\n")
    with pytest.raises(
        ValueError, match=rf"^{path}: row 1: user_id 'ann', item_id 'q': the item is not in the catalog"
    ):
        read_recommendations(path, queries(0), USERS, ITEMS)
    with pytest.raises(ValueError, match=r"^table: row 1: user_id 'ann', item_id 'q'"):
        read_recommendations(frame(("ann", "q", 1)), queries(0), USERS, ITEMS)
    path.write_text("user_id,item_id\n007,x\n")
    assert read_recommendations(path, queries(0), Vocab(["007"]), ITEMS).items.tolist() == [[0]], "ids are text"


def test_writing_closes_its_files(tmp_path: Path) -> None:
    n_open = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        write_recommendations(tmp_path / "lists.parquet", lists(), queries(2, 0), USERS, ITEMS)
    assert len(list(Path("/proc/self/fd").iterdir())) <= n_open
