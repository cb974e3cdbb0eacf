"""Encoding of labeled examples: rows are independent, and only training rows are learned from."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.core.examples.encoder import ExampleEncoder, fit_encoder
from segue.core.examples.fields import Examples
from segue.core.examples.settings import ExampleSettings

FEW = settings(max_examples=8)


TIMES = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1))


@st.composite
def tables(draw: st.DrawFn, least: int = 4) -> pl.DataFrame:
    """Tables with a column of each kind; cells may be empty."""
    n = draw(st.integers(least, 12))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(st.none() | values, min_size=n, max_size=n))

    numbers = st.floats(-1e6, 1e6, width=32) | st.just(float("nan"))
    return pl.DataFrame(
        {
            "label": [0, 1, *draw(st.lists(st.integers(0, 1), min_size=n - 2, max_size=n - 2))],
            "city": pl.Series(column(st.sampled_from("abc")), dtype=pl.String),
            "item": pl.Series(column(st.integers(0, 3)), dtype=pl.Int64),
            "price": pl.Series(column(numbers), dtype=pl.Float64),
            "tags": pl.Series(column(st.lists(st.sampled_from("xyz"), max_size=4)), dtype=pl.List(pl.String)),
            "time": pl.Series(
                column(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1))), dtype=pl.Datetime("us")
            ),
            "known": ["u", "v", *["u"] * (n - 2)],  # at least one column is used
        }
    )


KINDS = st.fixed_dictionaries(
    {
        "min_count": st.integers(1, 3),
        "scaling": st.sampled_from(["standard", "log", "quantile"]),
        "max_length": st.integers(1, 3),
        "buckets": st.sampled_from([{}, {"city": 3}]),
        "columns": st.just({"price": "number"}),
    }
)


def arrays(examples: Examples) -> list[Any]:
    lists = [(one.offsets.tolist(), one.items.tolist()) for one in examples.lists.values()]
    numbers = np.nan_to_num(examples.numbers, nan=-99).tolist()
    return [examples.codes.tolist(), numbers, lists, np.asarray(examples.labels).tolist()]


def describe(encoder: ExampleEncoder) -> list[Any]:
    return [(one.name, one.kind, one.size, one.values.to_list(), one.center, one.scale, one.knots)
            for one in encoder.columns]  # fmt: skip


@FEW
@given(tables(), KINDS)
def test_a_row_is_encoded_alone_as_in_the_table(table: pl.DataFrame, kinds: dict[str, Any]) -> None:
    encoder = fit_encoder(table, ExampleSettings(**kinds))
    whole = encoder.encode(table)
    for row in range(0, len(table), 3):
        alone = encoder.encode(table[row : row + 1])
        assert arrays(alone) == arrays(whole.take(np.array([row])))


@FEW
@given(tables(), KINDS, st.randoms(use_true_random=False))
def test_fitting_is_deterministic_and_ignores_the_order_of_rows(
    table: pl.DataFrame, kinds: dict[str, Any], random: Any
) -> None:
    found = ExampleSettings(**kinds)
    encoder = fit_encoder(table, found)
    assert describe(fit_encoder(table, found)) == describe(encoder)
    order = list(range(len(table)))
    random.shuffle(order)
    shuffled = fit_encoder(table[order], found)
    for one, other in zip(encoder.columns, shuffled.columns, strict=True):
        assert (one.name, one.size, one.values.to_list()) == (other.name, other.size, other.values.to_list())
        np.testing.assert_allclose([one.center, one.scale], [other.center, other.scale], rtol=1e-9, atol=1e-9)


@FEW
@given(tables(), tables(), KINDS)
def test_encoding_other_rows_changes_nothing(train: pl.DataFrame, other: pl.DataFrame, kinds: dict[str, Any]) -> None:
    encoder = fit_encoder(train, ExampleSettings(**kinds))
    before, encoded = describe(encoder), arrays(encoder.encode(train))
    codes = encoder.encode(other).codes
    assert describe(encoder) == before
    assert arrays(encoder.encode(train)) == encoded
    sizes = [field.size for field in encoder.fields if field.kind == "category"]
    assert (codes >= 0).all()
    assert (codes < np.array(sizes)).all()
