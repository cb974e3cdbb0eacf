"""Splits of labeled examples: parts are disjoint and complete, and keep together what belongs together."""

from __future__ import annotations

from itertools import chain, pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import segue
from segue.data.examples.splits import ExampleSplit

FEW = settings(max_examples=25)


def table(values: list[int]) -> pl.DataFrame:
    return pl.DataFrame({"row": np.arange(len(values)), "user": values, "time": values})


def parts(split: ExampleSplit) -> list[pl.DataFrame]:
    return [split.train.frame, split.valid.frame, split.test.frame]


@FEW
@given(
    st.lists(st.integers(0, 30), min_size=20, max_size=60),
    st.sampled_from(["random", "time", "user"]),
    st.sampled_from([0.0, 0.1, 0.3]),
    st.sampled_from([0.0, 0.1, 0.3]),
    st.integers(0, 5),
)
def test_parts_are_disjoint_and_complete(
    values: list[int], strategy: Any, valid: float, test: float, seed: int
) -> None:
    wanted: dict[str, Any] = {"valid": valid, "test": test}
    wanted |= {"seed": seed} if strategy != "time" else {}
    wanted |= {"column": "time"} if strategy == "time" else {}
    if strategy != "random" and len(set(values)) < 3:
        return
    split = segue.split_examples(table(values), strategy, **wanted)
    again = segue.split_examples(table(values), strategy, **wanted)
    rows = [part["row"].to_list() for part in parts(split)]
    assert rows == [part["row"].to_list() for part in parts(again)]
    assert sorted(chain(*rows)) == list(range(len(values)))
    assert all(part == sorted(part) for part in rows)
    assert (bool(rows[1]), bool(rows[2])) == (valid > 0, test > 0)
    if strategy == "random":
        assert abs(len(rows[1]) - valid * len(values)) <= 1
        assert abs(len(rows[2]) - test * len(values)) <= 1
        return
    groups = [{values[row] for row in part} for part in rows]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
    if strategy == "time":
        in_order = [group for group in groups if group]
        assert all(max(one) < min(other) for one, other in pairwise(in_order))


def test_a_split_is_80_10_10_by_default() -> None:
    split = segue.split_examples(table(list(range(100))))
    assert [len(part) for part in parts(split)] == [80, 10, 10]
    assert split.settings.strategy == "random"
    other = segue.split_examples(table(list(range(100))), seed=1)
    assert other.test.frame["row"].to_list() != split.test.frame["row"].to_list()


def test_times_may_be_dates_and_are_not_text() -> None:
    dates = pl.DataFrame({"label": [0, 1] * 5, "day": pl.Series(range(10)).cast(pl.Date)})
    split = segue.split_examples(dates, "time", column="day")
    assert split.test.frame["day"].to_list() == dates["day"].to_list()[9:]
    with pytest.raises(ValueError, match="'day' is text, such as '1970-01-01', whose order is not that of time"):
        segue.split_examples(dates.with_columns(pl.col("day").cast(pl.String)), "time", column="day")
    empty = dates.with_columns(day=pl.when(pl.col("day").dt.day() > 3).then("day"))
    with pytest.raises(ValueError, match="row 1, column 'day': got an empty cell"):
        segue.split_examples(empty, "time", column="day")


def test_given_parts() -> None:
    frame = pl.DataFrame({"label": [0, 1, 0, 1], "part": ["test", "train", "valid", "train"]})
    split = segue.split_examples(frame, "given", column="part")
    assert [part["label"].to_list() for part in parts(split)] == [[1, 1], [0], [0]]
    assert split.train.frame.columns == ["label"]  # the part is no input
    with pytest.raises(ValueError, match="row 2, column 'part': got 'dev', expected train, valid, test"):
        segue.split_examples(frame.with_columns(part=pl.Series(["test", "dev", "train", "valid"])), column="part",
                             strategy="given")  # fmt: skip
    separate = segue.load_examples(frame.drop("part"), valid={"label": [1]}, test={"label": [0, 0]})
    split = segue.split_examples(separate)
    assert [len(part) for part in parts(split)] == [4, 1, 2]
    again = segue.split_examples(separate, "random")
    assert again.train.frame.columns == ["label"]


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"strategy": "time"}, "split.column: got none, expected a column of polars table for 'time'"),
        ({"strategy": "given"}, "split.column: got none"),
        ({"strategy": "time", "column": "tim"}, "'tim' is no column of polars table, did you mean 'time'"),
        ({"strategy": "random", "column": "time"}, "split.column: got 'time', which only the strategies time"),
        ({"strategy": "time", "column": "time", "seed": 3}, "split.seed: got 3, which only the strategies random"),
        ({"valid": 0.6, "test": 0.4}, "split.test: got 0.4 with valid=0.6, expected a sum below 1"),
        ({"vald": 0.6}, "split.vald: unknown key, did you mean 'valid'"),
    ],
)
def test_settings_that_do_not_fit_are_errors(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segue.split_examples(table([1, 2, 3, 4]), **settings_)


def test_a_split_into_too_few_groups_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rows of polars table are left for"):
        segue.split_examples(table([1, 1, 1, 1]), "time", column="time")
    with pytest.raises(ValueError, match="got 2 rows in polars table, expected at least 3"):
        segue.split_examples(table([1, 2]))
