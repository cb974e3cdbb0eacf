"""The catalogue of a service: ids, titles, features, and conditions on them, also of odd ones."""

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
from segue.serving.catalog.lru_cache import Cache
from tests.serving.catalogues import catalogue, meets

ITEMS = catalogue(
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


def met(name: str, **condition: Any) -> list[int]:
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
    assert met(name, **condition) == expected
    assert met(name, **condition) == expected  # and once more, as it is kept


@pytest.mark.parametrize(
    ("name", "condition", "message"),
    [
        ("year", {"any": ["1979"]}, "year: got '1979', the catalogue holds numbers there"),
        ("year", {"none": [True]}, "year: got True, the catalogue holds numbers there"),
        ("in_stock", {"any": [1]}, "in_stock: got 1, the catalogue holds true or false there"),
        ("in_stock", {"max": 1.0}, "in_stock: max 1.0 asks for numbers, the catalogue holds true or false there"),
        ("genres", {"any": [1]}, "genres: got 1, the catalogue holds lists of texts there"),
        ("series", {"min": 0.0}, "series: min 0.0 asks for numbers, the catalogue holds texts there"),
    ],
)
def test_what_a_feature_cannot_hold(name: str, condition: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message):
        met(name, **condition)


def test_several_conditions_and_features_that_are_not_there() -> None:
    where = {"genres": schemas.Condition(any=["War"]), "year": schemas.Condition(min=1980.0)}
    assert np.flatnonzero(ITEMS.mask(where)[0]).tolist() == [3]
    mask, unknown = ITEMS.mask({"colour": schemas.Condition(any=["red"]), "year": schemas.Condition(min=0.0)})
    assert (mask.any(), unknown) == (False, ["colour"])
    assert ITEMS.mask({"colour": schemas.Condition(none=["red"])})[0].all()
    assert ITEMS.mask({})[0].all()


def test_groups() -> None:
    groups = ITEMS.groups("genres")
    assert groups is not None
    assert groups.values.to_list() == ["Horror", "War"]
    assert groups.offsets.tolist() == [0, 2, 2, 2, 3]
    assert groups.codes.tolist() == [0, 1, 1]
    rows, codes = groups.of(np.array([3, 1, 0]))
    assert (rows.tolist(), codes.tolist()) == ([0, 2, 2], [1, 0, 1])
    years = ITEMS.groups("year")
    assert years is not None
    assert years.values.to_list() == [1979, 1984, 1997]
    assert ITEMS.groups("colour") is None


def test_an_item_is_fit_for_json() -> None:
    assert ITEMS.item(0, 0.5) == schemas.Item(
        id="a",
        title="Alien",
        features={"genres": ["Horror", "War"], "series": "x", "year": 1979, "price": 1.5, "in_stock": True},
        likeness=0.5,
    )
    assert ITEMS.item(1).features["price"] is None
    odd = catalogue(
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
    item = odd.item(0)
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


def test_conditions_on_odd_features() -> None:
    odd = catalogue(
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

    def met(name: str, **condition: Any) -> list[int]:
        return np.flatnonzero(odd.mask({name: schemas.Condition(**condition)})[0]).tolist()

    assert met("released", any=["2020-01-02"]) == [0]
    assert met("released", max=0.0) == [1]
    assert met("seen", any=["2020-01-02T04:00:00+01:00"]) == [0]
    assert met("seen", min=-(86400.0 * 366)) == [0, 2]
    assert met("sizes", any=[4, 9.0]) == [0, 1]
    assert met("sizes", min=5.0) == [1]
    assert met("pair", any=[6]) == [2]
    assert met("flags", any=[False]) == [1]
    assert met("kind", any=["k"]) == [0]
    assert met("huge", any=[1, -1, 2**70]) == [1]
    assert met("huge", any=[2**63 + 1]) == [0]
    assert met("nothing", any=["x"]) == []
    assert met("nothing", none=["x"]) == [0, 1, 2]
    with pytest.raises(
        ValueError, match="released: got 'soon', the catalogue holds times, in seconds since 1970 there"
    ):
        met("released", any=["soon"])
    with pytest.raises(ValueError, match="vector: nothing can be asked of it"):
        met("vector", any=[0.5])
    with pytest.raises(ValueError, match="vector: nothing"):
        odd.groups("vector")
    assert np.diff(odd.groups("nothing").offsets).tolist() == [0, 0, 0]


CELLS = {
    "texts": (pl.String, st.sampled_from(["a", "b", "ä", ""])),
    "truths": (pl.Boolean, st.booleans()),
    "whole": (pl.Int64, st.integers(-3, 3)),
    "numbers": (pl.Float64, st.sampled_from([-1.5, 0.0, 1.0, 2.5, float("nan")])),
}


@given(st.data())
def test_conditions_are_what_a_slow_reading_gives(data: st.DataObject) -> None:
    kind, cells = CELLS[data.draw(st.sampled_from(list(CELLS)))]
    tags = data.draw(st.booleans()) and kind != pl.Float64  # lists of those are vectors
    one = st.one_of(st.none(), cells)
    cell = st.one_of(st.none(), st.lists(one, max_size=3)) if tags else one
    column = data.draw(st.lists(cell, min_size=1, max_size=12))
    items = catalogue(pl.DataFrame({"x": pl.Series(column, dtype=pl.List(kind) if tags else kind)}))
    wanted = st.one_of(st.none(), st.lists(cells.filter(lambda value: value == value), min_size=1, max_size=3))
    bound = st.one_of(st.none(), st.sampled_from([-2.0, 0.0, 0.5, 2.5])) if kind.is_numeric() else st.none()
    condition = schemas.Condition(
        any=data.draw(wanted), none=data.draw(wanted), min=data.draw(bound), max=data.draw(bound)
    )
    told = [None if one is None else [part for part in one if part is not None] if tags else one for one in column]
    assert items.mask({"x": condition})[0].tolist() == [meets(one, condition) for one in told]


@pytest.mark.parametrize(
    "table",
    [
        {"id": ["only"]},
        {"id": ["only"], "title": [None]},
        {"id": ["only"], "genres": pl.Series([None], dtype=pl.List(pl.String)), "year": [None]},
        {"id": ["a", "b"], "title": [1, 2]},
    ],
)
def test_odd_catalogues(table: dict[str, Any]) -> None:
    items = catalogue(table)
    first = items.item(0)
    assert first.id == table["id"][0]
    assert first.title in (None, "1")
    assert items.search(table["id"][0], 5).tolist() == [0]
    assert items.search("", 5).tolist() == list(range(len(table["id"])))
    assert len(items.marks.values) == 0
    assert items.telling == {}
    items.prepare()
    for name in items.features:
        assert items.groups(name) is not None


def test_a_table_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="popularity has 3 rows, expected 2"):
        catalogue({"id": ["a", "b"]}, [1.0, 2.0, 3.0])


def test_what_tells_items_apart() -> None:
    table = {
        "kind": ["a", "a", "b", "b"],
        "own": ["p", "q", "r", "s"],
        "year": [1, 1, 2, 2],
        "same": ["z"] * 4,
        "new": [True, False, True, None],
        "title": ["t", "t", "u", "u"],
    }
    items = catalogue(table)
    assert list(items.telling) == ["kind", "new"]
    assert items.marks.values.to_list() == ["kind: a", "kind: b", "new: False", "new: True"]
    assert [items.marks.of(np.array([code]))[1].tolist() for code in range(4)] == [[0, 3], [0, 2], [1, 3], [1]]


def test_a_cache_forgets_what_was_not_asked_for_longest() -> None:
    cache: Cache[int] = Cache(10, entries=3)
    made = []

    def ask(key: str, size: int) -> None:
        cache.get(key, lambda: (made.append(key) or len(made), size))

    for key, size in [("a", 4), ("b", 4), ("a", 4), ("c", 4), ("a", 4), ("b", 4)]:
        ask(key, size)
    assert made == ["a", "b", "c", "b"]
    assert cache.nbytes == 8
    ask("large", 11)
    assert (len(cache), cache.nbytes) == (2, 8)
    for key in "xyzw":
        ask(key, 0)
    assert len(cache) == 3


def test_what_conditions_came_to_is_bounded() -> None:
    items = catalogue({"x": list(range(1000))})
    items.cache._most = 5_000
    for value in range(20):
        items.mask({"x": schemas.Condition(any=[value])})
    assert len(items.cache) == 5
