"""The item catalog: ids, titles, features of all types, and conditions on them."""

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.serving import schemas
from segue.serving.catalog.lru_cache import LruCache
from tests.serving.reference_rules import make_catalog, matches

ITEMS = make_catalog(
    {
        "id": ["a", "b", "c", "d"],
        "title": ["Alien", None, "Cube", "Dune"],
        "genres": [["Horror", "War"], [], None, ["War", "War"]],
        "series": ["x", "y", None, "x"],
        "year": [1979, None, 1997, 1984],
        "price": [1.5, float("nan"), None, 2.0],
        "in_stock": [True, False, None, True],
    }
)


def matching(name: str, **condition: Any) -> list[int]:
    mask, unknown = ITEMS.mask({name: schemas.Condition(**condition)})
    assert unknown == []
    assert not mask.flags.writeable
    return np.flatnonzero(mask).tolist()


def test_ids_and_titles() -> None:
    codes, unknown = ITEMS.encode(["c", "x", "a", "c"])
    assert codes.tolist() == [2, 0, 2]
    assert unknown == ["x"]
    assert ITEMS.ids(codes) == ["c", "a", "c"]
    assert ITEMS.titles(np.array([0, 1])) == ["Alien", None]
    assert ITEMS.encode([])[0].tolist() == []


@pytest.mark.parametrize(
    ("name", "condition", "expected"),
    [
        ("genres", {"any": ["War"]}, [0, 3]),
        ("genres", {"none": ["Horror"]}, [1, 2, 3]),
        ("genres", {"any": ["War"], "none": ["Horror"]}, [3]),
        ("genres", {"any": ["war"]}, []),
        ("series", {"any": ["x", "z"]}, [0, 3]),
        ("series", {"none": ["x"]}, [1, 2]),
        ("series", {"any": ["", "xx", "zz", "ä", "y"]}, [1]),
        ("title", {"any": ["Cube"]}, [2]),
        ("year", {"any": [1979, 1984.0, 1997.5, 10**400, -(10**30)]}, [0, 3]),
        ("year", {"min": 1980.0}, [2, 3]),
        ("year", {"min": 1979.0, "max": 1984.0}, [0, 3]),
        ("year", {"none": [1979]}, [1, 2, 3]),
        ("price", {"any": [2, 1.25, 10**400]}, [3]),
        ("price", {"max": 1e300}, [0, 3]),
        ("price", {"min": 5.0, "max": 1.0}, []),
        ("in_stock", {"any": [True]}, [0, 3]),
        ("in_stock", {"any": [True, False]}, [0, 1, 3]),
        ("in_stock", {"none": [True]}, [1, 2]),
        ("year", {}, [0, 1, 2, 3]),
    ],
)
def test_conditions(name: str, condition: dict[str, Any], expected: list[int]) -> None:
    assert matching(name, **condition) == expected
    assert matching(name, **condition) == expected  # again, from the cache


@pytest.mark.parametrize(
    ("name", "condition", "message"),
    [
        ("year", {"any": ["1979"]}, "year: got '1979', but the feature holds numbers"),
        ("year", {"none": [True]}, "year: got True, but the feature holds numbers"),
        ("in_stock", {"any": [1]}, "in_stock: got 1, but the feature holds booleans"),
        ("in_stock", {"max": 1.0}, "in_stock: max 1.0 requires a feature of numbers, but it holds booleans"),
        ("genres", {"any": [1]}, "genres: got 1, but the feature holds lists of texts"),
        ("series", {"min": 0.0}, "series: min 0.0 requires a feature of numbers, but it holds texts"),
    ],
)
def test_values_of_the_wrong_type_raise(name: str, condition: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message):
        matching(name, **condition)


def test_several_conditions_and_unknown_features() -> None:
    where = {"genres": schemas.Condition(any=["War"]), "year": schemas.Condition(min=1980.0)}
    assert np.flatnonzero(ITEMS.mask(where)[0]).tolist() == [3]
    mask, unknown = ITEMS.mask({"color": schemas.Condition(any=["red"]), "year": schemas.Condition(min=0.0)})
    assert (mask.any(), unknown) == (False, ["color"])
    assert ITEMS.mask({"color": schemas.Condition(none=["red"])})[0].all()
    assert ITEMS.mask({})[0].all()


def test_feature_values() -> None:
    values = ITEMS.feature_values("genres")
    assert values is not None
    assert values.values.to_list() == ["Horror", "War"]
    assert values.offsets.tolist() == [0, 2, 2, 2, 3]
    assert values.codes.tolist() == [0, 1, 1]
    rows, codes = values.gather(np.array([3, 1, 0]))
    assert (rows.tolist(), codes.tolist()) == ([0, 2, 2], [1, 0, 1])
    years = ITEMS.feature_values("year")
    assert years is not None
    assert years.values.to_list() == [1979, 1984, 1997]
    assert ITEMS.feature_values("color") is None


def test_items_serialize_to_json() -> None:
    assert ITEMS.item(0, 0.5) == schemas.Item(
        id="a",
        title="Alien",
        features={"genres": ["Horror", "War"], "series": "x", "year": 1979, "price": 1.5, "in_stock": True},
        similarity=0.5,
    )
    assert ITEMS.item(1).features["price"] is None
    unusual = make_catalog(
        pl.DataFrame(
            {
                "released": [date(2020, 1, 2)],
                "seen": [datetime(2020, 1, 2, 3, tzinfo=UTC)],
                "length": [timedelta(minutes=2)],
                "cost": [Decimal("1.25")],
                "text": ["x" * 5000],
                "vector": [[0.5, 1.5]],
                "both": [{"a": 1}],
                "nothing": [None],
                "endless": [float("inf")],
                "kind": pl.Series(["k"], dtype=pl.Categorical),
                "sizes": [[3, 4]],
            }
        )
    )
    item = unusual.item(0)
    assert json.loads(item.model_dump_json())["features"] == {
        "released": "2020-01-02",
        "seen": "2020-01-02T03:00:00+00:00",
        "length": 120.0,
        "cost": 1.25,
        "text": "x" * 1023 + "…",
        "vector": None,
        "both": None,
        "nothing": None,
        "endless": None,
        "kind": "k",
        "sizes": [3, 4],
    }


def test_conditions_on_unusual_types() -> None:
    unusual = make_catalog(
        pl.DataFrame(
            {
                "released": [date(2020, 1, 2), date(1960, 5, 1), None],
                "seen": [datetime(2020, 1, 2, 3), None, datetime(1969, 1, 1)],
                "sizes": pl.Series([[3, 4], [9], []], dtype=pl.List(pl.Int32)),
                "pair": pl.Series([[1, 2], [3, 4], [5, 6]], dtype=pl.Array(pl.Int64, 2)),
                "flags": [[True], [False, None], None],
                "kind": pl.Series(["k", "l", None], dtype=pl.Categorical),
                "huge": pl.Series([2**63 + 1, 1, 2], dtype=pl.UInt64),
                "vector": [[0.5, 1.5], [1.0, 1.0], [0.0, 2.0]],
                "nothing": [None, None, None],
            }
        )
    )

    def matching(name: str, **condition: Any) -> list[int]:
        return np.flatnonzero(unusual.mask({name: schemas.Condition(**condition)})[0]).tolist()

    assert matching("released", any=["2020-01-02"]) == [0]
    assert matching("released", max=0.0) == [1]
    assert matching("seen", any=["2020-01-02T04:00:00+01:00"]) == [0]
    assert matching("seen", min=-(86400.0 * 366)) == [0, 2]
    assert matching("sizes", any=[4, 9.0]) == [0, 1]
    assert matching("sizes", min=5.0) == [1]
    assert matching("pair", any=[6]) == [2]
    assert matching("flags", any=[False]) == [1]
    assert matching("kind", any=["k"]) == [0]
    assert matching("huge", any=[1, -1, 2**70]) == [1]
    assert matching("huge", any=[2**63 + 1]) == [0]
    assert matching("nothing", any=["x"]) == []
    assert matching("nothing", none=["x"]) == [0, 1, 2]
    with pytest.raises(ValueError, match="released: got 'soon', but the feature holds times"):
        matching("released", any=["soon"])
    with pytest.raises(ValueError, match="vector: cannot be used in rules: the feature holds vectors"):
        matching("vector", any=[0.5])
    with pytest.raises(ValueError, match="vector: cannot"):
        unusual.feature_values("vector")
    assert np.diff(unusual.feature_values("nothing").offsets).tolist() == [0, 0, 0]


CELLS = {
    "texts": (pl.String, st.sampled_from(["a", "b", "ä", ""])),
    "truths": (pl.Boolean, st.booleans()),
    "whole": (pl.Int64, st.integers(-3, 3)),
    "numbers": (pl.Float64, st.sampled_from([-1.5, 0.0, 1.0, 2.5, float("nan")])),
}


@given(st.data())
def test_conditions_match_the_reference(data: st.DataObject) -> None:
    kind, cells = CELLS[data.draw(st.sampled_from(list(CELLS)))]
    tags = data.draw(st.booleans()) and kind != pl.Float64  # lists of floats are vectors
    one = st.one_of(st.none(), cells)
    cell = st.one_of(st.none(), st.lists(one, max_size=3)) if tags else one
    column = data.draw(st.lists(cell, min_size=1, max_size=12))
    items = make_catalog(pl.DataFrame({"x": pl.Series(column, dtype=pl.List(kind) if tags else kind)}))
    wanted = st.one_of(st.none(), st.lists(cells.filter(lambda value: value == value), min_size=1, max_size=3))
    bound = st.one_of(st.none(), st.sampled_from([-2.0, 0.0, 0.5, 2.5])) if kind.is_numeric() else st.none()
    condition = schemas.Condition(
        any=data.draw(wanted), none=data.draw(wanted), min=data.draw(bound), max=data.draw(bound)
    )
    known_cells = [
        None if one is None else [part for part in one if part is not None] if tags else one for one in column
    ]
    assert items.mask({"x": condition})[0].tolist() == [matches(one, condition) for one in known_cells]


@pytest.mark.parametrize(
    "table",
    [
        {"id": ["only"]},
        {"id": ["only"], "title": [None]},
        {"id": ["only"], "genres": pl.Series([None], dtype=pl.List(pl.String)), "year": [None]},
        {"id": ["a", "b"], "title": [1, 2]},
    ],
)
def test_unusual_catalogs(table: dict[str, Any]) -> None:
    items = make_catalog(table)
    first = items.item(0)
    assert first.id == table["id"][0]
    assert first.title in (None, "1")
    assert items.search(table["id"][0], 5).tolist() == [0]
    assert items.search("", 5).tolist() == list(range(len(table["id"])))
    assert len(items.item_values.values) == 0
    assert items.grouping_features == {}
    items.build_indexes()
    for name in items.features:
        assert items.feature_values(name) is not None


def test_wrong_number_of_rows_is_rejected() -> None:
    with pytest.raises(ValueError, match="popularity has 3 rows, expected 2"):
        make_catalog({"id": ["a", "b"]}, [1.0, 2.0, 3.0])


def test_grouping_features() -> None:
    table = {
        "kind": ["a", "a", "b", "b"],
        "own": ["p", "q", "r", "s"],
        "year": [1, 1, 2, 2],
        "same": ["z"] * 4,
        "new": [True, False, True, None],
        "title": ["t", "t", "u", "u"],
    }
    items = make_catalog(table)
    assert list(items.grouping_features) == ["kind", "new"]
    assert items.item_values.values.to_list() == ["kind: a", "kind: b", "new: False", "new: True"]
    assert [items.item_values.gather(np.array([code]))[1].tolist() for code in range(4)] == [
        [0, 3],
        [0, 2],
        [1, 3],
        [1],
    ]


def test_cache_evicts_least_recently_used() -> None:
    cache: LruCache[int] = LruCache(10, max_entries=3)
    made = []

    def get(key: str, size: int) -> None:
        cache.get(key, lambda: (made.append(key) or len(made), size))

    for key, size in [("a", 4), ("b", 4), ("a", 4), ("c", 4), ("a", 4), ("b", 4)]:
        get(key, size)
    assert made == ["a", "b", "c", "b"]
    assert cache.nbytes == 8
    get("large", 11)
    assert (len(cache), cache.nbytes) == (2, 8)
    for key in "xyzw":
        get(key, 0)
    assert len(cache) == 3


def test_cached_masks_are_bounded() -> None:
    items = make_catalog({"x": list(range(1000))})
    items.cache._max_bytes = 5_000
    for value in range(20):
        items.mask({"x": schemas.Condition(any=[value])})
    assert len(items.cache) == 5
