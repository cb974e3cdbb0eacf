"""How columns of labeled examples become codes, numbers and vectors: known answers."""

from __future__ import annotations

import time
import zlib
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import polars as pl
import pytest

from segue.core.examples.column_fitter import fit_column, infer_kind
from segue.core.examples.columns import CellError, Column
from segue.core.examples.fields import MISSING, N_RESERVED, UNKNOWN
from segue.core.examples.settings import ExampleSettings


def fit(values: Any, dtype: Any = None, **settings: Any) -> Column:
    found = fit_column(pl.Series("x", values, dtype=dtype), ExampleSettings(**settings))
    assert isinstance(found, Column), found
    return found


def series(values: Any, dtype: Any = None) -> pl.Series:
    return pl.Series("x", values, dtype=dtype)


@pytest.mark.parametrize(
    ("values", "dtype", "kind"),
    [
        (["a"], pl.String, "category"),
        ([1], pl.Int64, "category"),
        ([True], pl.Boolean, "category"),
        ([1.5], pl.Float64, "number"),
        ([1.0, 2.0], pl.Float64, "number"),
        ([1.0, None], pl.Float64, "category"),  # integers with an empty cell are floats in pandas
        ([1.0, float("nan")], pl.Float64, "category"),
        ([["a"]], pl.List(pl.String), "tags"),
        ([[1]], pl.List(pl.Int64), "tags"),
        ([[0.5]], pl.List(pl.Float32), "vector"),
        ([date(2024, 5, 31)], pl.Date, "time"),
        ([datetime(2024, 5, 31)], pl.Datetime, "time"),
        (["1.5"], pl.Decimal(10, 2), "number"),
    ],
)
def test_kinds_are_inferred_from_types(values: Any, dtype: Any, kind: str) -> None:
    column = series(values).cast(dtype) if dtype == pl.Decimal(10, 2) else series(values, dtype)
    assert infer_kind(column) == kind


def test_unsupported_types_are_errors() -> None:
    with pytest.raises(ValueError, match="column 'x': unsupported type Duration"):
        infer_kind(series([timedelta(1)]))


def test_frequent_categories_have_codes_by_frequency() -> None:
    column = fit(["b", "a", "c", "b", "a", "b", "d", None])
    assert column.values.to_list() == ["b", "a"]  # c and d are rare
    assert column.size == 2 + N_RESERVED
    codes = column.codes(series(["b", "a", "c", "new", None]))
    assert codes.tolist() == [2, 3, UNKNOWN, UNKNOWN, MISSING]


def test_counts_and_maximum_of_categories() -> None:
    values = ["a", "a", "a", "b", "b", "c"]
    assert fit(values, min_count=1).values.to_list() == ["a", "b", "c"]
    assert fit(values, min_count=3).values.to_list() == ["a"]
    assert fit(values, min_count=1, max_categories=2).values.to_list() == ["a", "b"]


@pytest.mark.parametrize("other", [series([7, 8, 9]), series([7.0, 8.0, 9.0]), series(["7", "8", "9"])])
def test_whole_numbers_are_the_same_category_in_every_type(other: pl.Series) -> None:
    column = fit([7, 7, 8, 8, 8])
    assert column.codes(other).tolist() == [3, 2, UNKNOWN]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_dates_are_the_same_category_in_every_type(unit: Any) -> None:
    """CSV has times where Parquet may have dates or text."""
    days = [date(2024, 5, 31), date(2024, 5, 31), date(2024, 6, 1), date(2024, 6, 1)]
    column = fit(days, columns={"x": "category"})
    expected = column.codes(series([str(one) for one in days]))
    assert (expected >= N_RESERVED).all()
    times = series(days).cast(pl.Datetime(unit))
    for other in (series(days), times, times.dt.replace_time_zone("UTC")):
        assert column.codes(other).tolist() == expected.tolist()
    moments = series(["2024-05-31 18:30:00", None])
    same = moments.str.to_datetime(time_unit=unit)
    assert fit(moments, min_count=1).codes(same).tolist() == [N_RESERVED, MISSING]


def test_hash_buckets_are_the_same_on_every_machine() -> None:
    column = fit(["a", "b"], buckets={"x": 10})
    assert column.size == 10 + N_RESERVED
    assert not len(column.values)
    texts = ["a", "never seen", "b", None]
    expected = [MISSING if one is None else zlib.crc32(one.encode()) % 10 + N_RESERVED for one in texts]
    assert column.codes(series(texts)).tolist() == expected


def test_standard_scaling() -> None:
    column = fit([1.5, 2.5, 3.5, None])
    scaled = column.numbers(series([1.5, 2.5, 3.5, None, float("nan"), 1e6]))
    np.testing.assert_allclose(scaled[:3], np.array([-1, 0, 1]) * np.sqrt(1.5), rtol=1e-6)
    assert np.isnan(scaled[3:5]).all()
    assert scaled[5] == 10.0  # clipped


def test_logarithmic_scaling_is_symmetric() -> None:
    column = fit([-10.5, 0.0, 10.5], scaling="log")
    scaled = column.numbers(series([-10.5, 0.0, 10.5, 100.0]))
    assert scaled[0] == -scaled[2]
    assert scaled[1] == 0
    assert scaled[3] / scaled[2] == pytest.approx(np.log1p(100) / np.log1p(10.5))


def test_scaling_by_rank_is_uniform_and_invariant_to_monotonic_functions() -> None:
    values = np.random.default_rng(0).lognormal(size=2_000)
    column, other = (fit(one, scaling="quantile") for one in (values, np.log(values)))
    scaled = column.numbers(series(values))
    assert scaled.min() == -1
    assert scaled.max() == 1
    assert abs(np.sort(scaled) - np.linspace(-1, 1, 2_000)).max() < 0.002
    np.testing.assert_allclose(scaled, other.numbers(series(np.log(values))), atol=0.002)
    assert column.numbers(series([-5.0, 1e9])).tolist() == [-1, 1]


def test_scaling_by_column() -> None:
    settings = ExampleSettings(scaling={"x": "log"})
    assert (settings.scaling_of("x"), settings.scaling_of("y")) == ("log", "standard")


def test_times_become_calendar_fields() -> None:
    moment = datetime(2024, 5, 31, 18, 30)  # a Friday
    column = fit([moment], columns={"x": "time"})
    assert [(one.name, one.size) for one in column.fields] == [
        ("x:hour", 26),
        ("x:weekday", 9),
        ("x:month", 14),
    ]
    expected = [[18 + N_RESERVED, 4 + N_RESERVED, 4 + N_RESERVED], [MISSING] * 3]
    assert column.codes(series([moment, None])).tolist() == expected
    seconds = moment.replace(tzinfo=timezone.utc).timestamp()  # noqa: UP017
    assert column.codes(series([seconds, None])).tolist() == expected
    assert column.codes(series(["2024-05-31 18:30", None])).tolist() == expected
    there = moment.replace(tzinfo=timezone(timedelta(hours=2)))
    assert column.codes(series([there]))[0, 0] == 16 + N_RESERVED


def test_tags_and_sequences_keep_the_last_values() -> None:
    column = fit(["a|b", "b|c", "", None], separator="|", columns={"x": "sequence"}, min_count=1, max_length=2)
    assert column.values.to_list() == ["b", "a", "c"]
    lists = column.lists(series(["a|b|c", None, "new|b", ""]))
    assert lists.lengths.tolist() == [2, 0, 2, 0]
    assert lists.items.tolist() == [2, 4, UNKNOWN, 2]
    same = column.lists(series([["a", "b", "c"], None, ["new", "b"], []], pl.List(pl.String)))
    assert same.items.tolist() == lists.items.tolist()


def test_vectors_are_scaled_by_their_mean_square_norm() -> None:
    column = fit([[3.0, 4.0], [0.0, 0.0], None])
    assert column.size == 2
    vectors = column.vectors(series([[3.0, 4.0], None]))
    np.testing.assert_allclose(vectors[0], np.array([3, 4]) / np.sqrt(12.5), rtol=1e-6)
    assert np.isnan(vectors[1]).all()


def test_constant_and_empty_columns_are_left_out() -> None:
    settings = ExampleSettings()
    assert fit_column(series([1.5, 1.5]), settings) == "constant in training"
    assert fit_column(series(["a", "a"]), settings) == "constant in training"
    assert fit_column(series([None, None], pl.Float64), settings) == "no value in training"
    assert fit_column(series([float("nan")] * 2), settings) == "no value in training"
    assert fit_column(series([None], pl.List(pl.String)), settings) == "no value in training"
    assert fit_column(series([1]), ExampleSettings(columns={"x": "ignore"})) == "ignored by columns"
    assert isinstance(fit_column(series([1.5, 1.5, None]), settings), Column)  # whether it is missing may matter
    assert isinstance(fit_column(series(["a", "a", None]), settings), Column)


@pytest.mark.parametrize(
    ("kind", "good", "bad", "message"),
    [
        ("number", [0.5, 1.5], [1.5, float("inf")], "column 'x', row 2: got 'inf', expected a number of at most 1e"),
        ("number", [0.5, 1.5], [-float("inf")], "row 1: got '-inf'"),
        ("number", ["1", "2.5"], ["1", "many"], "row 2: got 'many', expected a number"),
        ("vector", [[1.0, 2.0]], [[1.0, 2.0], [1.0]], r"row 2: got '\[1.0\]', expected vectors of 2 numbers"),
        ("vector", [[1.0, 2.0]], [[1.0, float("nan")]], "row 1: got .*, expected finite numbers"),
        ("time", ["2024-05-31"], ["2024-05-31", "soon"], "row 2: got 'soon', expected a date and time"),
        ("time", ["2024-05-31"], ["soon"], "row 1: got 'soon', expected a date and time"),
        ("time", ["2024-05-31"], ["", ""], r"row 1: got '', expected a date and time .* \(2 such rows\)"),
        ("time", [1.7e9, None], [1.7e9, 1.7e12], "row 2: got '1700000000000.0', expected seconds since"),
        ("time", [1_700_000_000], [10**15], "row 1: got '1000000000000000', expected seconds since 1970"),
    ],
)
def test_unusable_cells_are_errors_that_name_the_row(kind: Any, good: Any, bad: Any, message: str) -> None:
    column = fit(good, columns={"x": kind})
    apply = {"number": column.numbers, "vector": column.vectors, "time": column.codes}[kind]
    with pytest.raises(CellError, match=message):
        apply(series(bad))
    with pytest.raises(CellError, match="got"):
        fit([*good, *bad], columns={"x": kind})


def test_vectors_have_numbers() -> None:
    with pytest.raises(CellError, match=r"row 1: got '\[\]', expected vectors of at least one number"):
        fit([[], [1.0, 2.0]], pl.List(pl.Float64))


def test_lists_of_lists_are_errors() -> None:
    nested = series([[["a"]]])
    with pytest.raises(ValueError, match=r"got the type List\(List\(String\)\), expected lists of values or text"):
        fit(nested)
    with pytest.raises(ValueError, match="expected lists of values or text"):
        fit([["a"]], min_count=1).lists(nested)


def test_lists_as_text_need_a_separator() -> None:
    with pytest.raises(ValueError, match=r"column 'x': lists are written as text, such as 'a\|b'; set separator"):
        fit(["a|b"], columns={"x": "tags"})
    with pytest.raises(ValueError, match="column 'x': got the type Int64, expected lists of values or text"):
        fit([1], columns={"x": "tags"})


def test_a_million_categories_take_about_a_second() -> None:
    ids = pl.Series("x", np.random.default_rng(0).permutation(1_000_000))
    start = time.process_time()
    column = fit(ids, min_count=1)
    codes = column.codes(ids)
    assert time.process_time() - start < 20
    assert column.size == 1_000_000 + N_RESERVED
    assert len(np.unique(codes)) == 1_000_000
    assert codes.min() == N_RESERVED
