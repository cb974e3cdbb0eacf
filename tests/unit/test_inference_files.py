"""Files of ids and pairs for predictions and recommendations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import segue
from segue.core.types import Events, Queries, Vocab
from segue.evaluation.recommendation_files import read_recommendations
from segue.experiment.inference.files import read_ids, read_table, write_parts, write_table


@pytest.mark.parametrize(
    ("suffix", "separator", "other"), [(".csv", ",", ";"), (".csv", ",", "\t"), (".tsv", "\t", ",")]
)
def test_another_separator_is_an_error_that_names_it(tmp_path: Path, suffix: str, separator: str, other: str) -> None:
    path = tmp_path / f"pairs{suffix}"
    path.write_text(f"user_id{other}item_id\n1{other}2\n")
    with pytest.raises(ValueError, match="appear to be separated by") as error:
        read_table(path)
    assert f"separated by {other!r}, expected {separator!r} in a {suffix} file" in str(error.value)


def test_one_column_needs_no_separator(tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    path.write_text("user_id\n007\na;b\n")
    assert read_ids(path).to_list() == ["007", "a;b"]
    path.write_text('"a,b"\n1\n')
    assert read_table(path).columns == ["a,b"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_lists_are_joined_where_they_can_be_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write_table(path, pl.DataFrame({"items": [["a", "b"], None, []], "count": [1, 2, 3]}))
    assert read_table(path)["items"][0] == "a|b"
    ambiguous = pl.DataFrame({"items": [["a"], ["b", "c|d"]]})
    with pytest.raises(ValueError, match=r"column 'items': got a list with 'c\|d'"):
        write_table(path, ambiguous.lazy())
    with pytest.raises(ValueError, match=r"column 'items': got a list with 'c\|d'"):
        write_parts(path, iter([ambiguous, ambiguous]))
    assert read_table(path)["items"][0] == "a|b"


def test_keys_that_occur_twice_are_errors_in_every_table_of_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"user_id": "a", "item_id": "b"}\n{"user_id": "a", "item_id": "c", "user_id": "d"}\n')
    message = "rows.jsonl, line 2: 'user_id' occurs twice in"
    queries = Queries.of_users(np.array([0], np.int32), Events.of([[]]))
    log = pl.DataFrame({"user_id": ["a", "d"], "item_id": ["b", "c"]})
    readers: list[Callable[[], object]] = [
        lambda: read_table(path),
        lambda: segue.load(path),
        lambda: segue.load(log, users=path),
        lambda: segue.load_examples(path),
        lambda: read_recommendations(path, queries, Vocab(["a"]), Vocab(["b", "c"])),
    ]
    for read in readers:
        with pytest.raises(ValueError, match=message):
            read()
