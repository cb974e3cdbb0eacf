"""Ids of narrow integer types over more than half of their range, and of wide ones beyond int64, stay apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.typing import NDArray

import segue

IDS = {
    "int8": np.arange(-100, 120, dtype=np.int8),
    "int16": np.arange(-17_000, 17_000, dtype=np.int16),
    "uint64": np.uint64(2**63) + np.arange(-3, 4).astype(np.uint64),
}
"""Differences between int8 ids need more than int8, and so on; the ids lie close together, so a table maps them."""


@pytest.mark.parametrize("dtype", IDS)
@pytest.mark.parametrize(
    "source", [pd.DataFrame, pl.DataFrame, lambda table: pa.Table.from_pandas(pd.DataFrame(table))]
)
def test_close_ids_of_narrow_and_wide_types_are_not_merged(dtype: str, source: type) -> None:
    ids: NDArray[np.integer] = IDS[dtype]
    data = segue.load(source({"user_id": ids, "item_id": ids[::-1]}))
    assert (data.n_users, data.n_items) == (len(ids), len(ids))
    users, items = data.users.decode(data.histories.rows), data.items.decode(data.histories.items)
    found = {int(user): int(item) for user, item in zip(users, items, strict=True)}
    assert found == {int(user): int(item) for user, item in zip(ids, ids[::-1], strict=True)}


def test_users_of_a_frame_that_pandas_has_downcast_are_not_merged() -> None:
    frame = pd.DataFrame({"user_id": np.arange(-100, 100), "item_id": np.arange(200) % 7})
    narrow = frame.apply(pd.to_numeric, downcast="integer")
    assert narrow["user_id"].dtype == np.int8
    data = segue.load(narrow)
    assert data.n_users == 200
    np.testing.assert_array_equal(data.histories.items, segue.load(frame).histories.items)
