"""Items that are added to a trained model with their text and features."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

import segue
from segue.cli.app import app
from segue.core import bundle
from segue.core.features import clip_numbers
from segue.core.model import Streaming
from segue.core.recommend import recommend
from segue.core.registry import model_class
from segue.core.types import DataSchema, Events, Feature, Queries
from segue.features.new_items import MODELS_FOR_NEW_ITEMS, InvalidItems, add_items, read_items
from segue.features.text.encode_items import encode_table
from segue.models.content.fusion import _is_encoder
from segue.testing import small, train_small
from tests.serving.text_world import EXTENSIBLE, N_ITEMS, ODD_TEXTS, new_item, trained, world


def of_history(items: list[int]) -> Queries:
    return Queries.anonymous(Events.of([items]))


@pytest.mark.parametrize("key", EXTENSIBLE)
def test_a_new_item_with_the_text_of_the_users_cluster_is_recommended(key: str) -> None:
    model = add_items(trained(key), [new_item("space"), {**new_item("kitchen"), "id": "other"}])
    space, kitchen = list(range(0, 16, 2)), list(range(1, 16, 2))
    codes, _ = model.items.encode(["new", "other"])
    assert codes.tolist() == [N_ITEMS, N_ITEMS + 1]
    for history, expected, other in ((space, codes[0], codes[1]), (kitchen, codes[1], codes[0])):
        ranked = recommend(model.model, of_history(history), N_ITEMS).items[0].tolist()
        assert ranked.index(expected) < 5
        assert ranked.index(expected) < ranked.index(other)


@pytest.mark.parametrize("key", EXTENSIBLE)
def test_other_items_keep_their_scores(key: str) -> None:
    model = trained(key)
    extended = add_items(model, [new_item()])
    queries = Queries.anonymous(Events.of([[0, 2, 4], [], [1, 5]]))
    before, after = model.model.score(queries), extended.model.score(queries)
    assert after.shape == (3, N_ITEMS + 1)
    np.testing.assert_allclose(after[:, :N_ITEMS], before, rtol=1e-5, atol=1e-6)
    assert len(model.items) == N_ITEMS
    assert model.model.schema.n_items == N_ITEMS


@pytest.mark.parametrize("key", EXTENSIBLE)
def test_an_added_item_is_scored_as_an_item_without_events(key: str) -> None:
    """Its vector is that of an item of the catalog that has the same features and no event."""
    original = trained(key)
    row = original.catalog.collect().row(3, named=True)
    twin = {name: value for name, value in row.items() if name not in ("id", "text_vector")}
    model: Any = original.model
    if key != "content":
        model = bundle.restore_model.__globals__["model_class"](key)(model.config, model.schema)
        arrays = dict(original.model.arrays())
        name = next(one for one in arrays if one.endswith("in_training_I"))
        arrays[name] = np.where(np.arange(N_ITEMS) == 3, False, arrays[name])
        model.restore(arrays)
    extended = add_items(original, [{"id": "twin", **twin}])
    np.testing.assert_allclose(extended.model.vectors[N_ITEMS], model.vectors[3], rtol=1e-4, atol=1e-5)  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", EXTENSIBLE)
def test_a_new_item_in_the_history_is_read(key: str) -> None:
    """By its features alone: an item with the same features is read in the same way, another is not."""
    twin = {**new_item(), "id": "twin"}
    model = add_items(trained(key), [new_item("space"), {**new_item("kitchen"), "id": "other"}, twin])
    new, other, same = (model.model.score(of_history([0, N_ITEMS + row])) for row in range(3))
    np.testing.assert_allclose(new, same, rtol=1e-5, atol=1e-6)
    assert not np.allclose(new, other, atol=1e-3)


def test_the_state_of_a_recurrent_model_continues_with_new_items() -> None:
    model: Any = add_items(trained("recurrent fusion"), [new_item()]).model
    assert isinstance(model, Streaming)
    state = model.step(model.state(of_history([0, N_ITEMS])), Events.of([[2]]))
    np.testing.assert_allclose(model.encode_state(state), model.encode(of_history([0, N_ITEMS, 2])), atol=1e-5)


@pytest.mark.parametrize("key", EXTENSIBLE)
def test_an_item_of_the_catalog_is_replaced_as_a_whole(key: str) -> None:
    original = trained(key)
    row = original.catalog.collect().row(1, named=True)
    replaced = add_items(original, [{"id": "i2", "plot": row["plot"]}])
    assert len(replaced.items) == N_ITEMS
    assert replaced.model.schema == original.model.schema
    found = replaced.catalog.collect().row(2, named=True)
    assert (found["plot"], found["title"], found["year"], found["tags"]) == (row["plot"], None, None, None)
    vectors, before = replaced.model.vectors, original.model.vectors  # type: ignore[attr-defined]
    assert not np.allclose(vectors[2], before[2])
    np.testing.assert_allclose(np.delete(vectors, 2, 0), np.delete(before, 2, 0), rtol=1e-5, atol=1e-6)
    again = add_items(
        replaced, [{k: v for k, v in original.catalog.collect().row(2, named=True).items() if k != "text_vector"}]
    )
    np.testing.assert_allclose(again.model.vectors, before, rtol=1e-5, atol=1e-6)  # type: ignore[attr-defined]


def test_adding_twice_is_adding_once() -> None:
    both = add_items(trained("fusion"), [new_item(), {**new_item("kitchen"), "id": "other"}])
    one_by_one = add_items(add_items(trained("fusion"), [new_item()]), [{**new_item("kitchen"), "id": "other"}])
    np.testing.assert_allclose(both.model.vectors, one_by_one.model.vectors, atol=1e-6)  # type: ignore[attr-defined]
    assert both.items.ids.to_list() == one_by_one.items.ids.to_list()
    assert both.catalog.collect().equals(one_by_one.catalog.collect())


@pytest.mark.parametrize("key", EXTENSIBLE)
def test_an_extended_model_is_saved_with_its_log(key: str, tmp_path: Path) -> None:
    extended = add_items(trained(key), [new_item(year=1993)])
    bundle.save(tmp_path / "saved", extended, extended.log)
    loaded = bundle.load(tmp_path / "saved")
    queries = of_history([0, 2, N_ITEMS])
    np.testing.assert_allclose(loaded.model.score(queries), extended.model.score(queries), atol=1e-5)
    assert loaded.items.ids[N_ITEMS] == "new"
    assert loaded.catalog.collect()["title"][N_ITEMS] == "New"
    assert loaded.log.n_items == N_ITEMS + 1
    assert loaded.log.histories.size == world().histories.size
    assert add_items(loaded, [{**new_item("kitchen"), "id": "other"}]).model.schema.n_items == N_ITEMS + 2


def test_the_text_is_encoded_as_that_of_the_catalog() -> None:
    model = trained("content")
    expected = encode_table(model.text_encodings, pl.DataFrame({"plot": [new_item()["plot"]]}))["text_vector"]
    found = add_items(model, [new_item()]).catalog.collect()["text_vector"]
    np.testing.assert_array_equal(found[N_ITEMS], expected[0])


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS.keys())
def test_odd_texts(text: str) -> None:
    extended = add_items(trained("content"), [{"id": "new", "plot": text}])
    scores = extended.model.score(of_history([0, 2]))
    assert np.isfinite(scores).all()
    assert extended.catalog.collect()["plot"][N_ITEMS] == text
    if "rocket" in text:
        assert scores[0, N_ITEMS] > np.median(scores[0, 1::2])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({}, r"items\[0\].id: got None, expected a text of 1 to 256 characters"),
        ({"id": ""}, r"items\[0\].id: got '', expected a text"),
        ({"id": "a\x00"}, r"items\[0\].id: got 'a\\x00', expected"),
        ({"id": "x" * 257}, r"items\[0\].id"),
        ({"id": 1.5}, r"items\[0\].id: got 1.5, expected"),
        ({"id": "n", "plto": "x"}, r"items\[0\].plto: got 'x', expected a feature of the catalog, did you mean 'plot'"),
        ({"id": "n", "plot": 5}, r"items\[0\].plot: got 5, expected a text"),
        ({"id": "n", "plot": "\ud800"}, r"items\[0\].plot"),
        ({"id": "n", "title": ["x"]}, r"items\[0\].title"),
        ({"id": "n", "tags": "long"}, r"items\[0\].tags: got 'long', expected a list of texts"),
        ({"id": "n", "tags": [1]}, r"items\[0\].tags: got \[1\], expected a list of texts"),
        ({"id": "n", "year": "1999"}, r"items\[0\].year: got '1999', expected a whole number \(Int64\)"),
        ({"id": "n", "year": 1999.5}, r"items\[0\].year"),
        ({"id": "n", "year": True}, r"items\[0\].year"),
        ({"id": "n", "year": 2**63}, r"items\[0\].year"),
        ({"id": "n", "rating": float("nan")}, r"items\[0\].rating: got nan, expected a finite number"),
        ({"id": "n", "is_free": 1}, r"items\[0\].is_free: got 1, expected true or false"),
        ({"id": "n", "released": "soon"}, r"items\[0\].released: got 'soon', expected a time in ISO 8601"),
        ({"id": "n", "released": 1e30}, r"items\[0\].released"),
        ({"id": "n", "text_vector": [0.0]}, r"items\[0\].text_vector: .* computed from the text of plot"),
    ],
)  # fmt: skip
def test_an_invalid_item_names_its_field(item: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidItems, match=message):
        add_items(trained("content"), [item])


def test_all_errors_are_reported_at_once() -> None:
    rows = [{"id": "a", "year": "x"}, {"id": "a"}, {"id": "b", "rating": "y"}]
    with pytest.raises(InvalidItems) as caught:
        add_items(trained("content"), rows)
    assert [(cell.row, cell.column) for cell in caught.value.cells] == [(0, "year"), (1, "id"), (2, "rating")]
    with pytest.raises(InvalidItems, match="and 3 more"):
        add_items(trained("content"), [{"id": str(row), "year": "x"} for row in range(8)])


def test_values_are_converted_to_the_types_of_the_catalog() -> None:
    item = {"id": 7, "year": 1999.0, "rating": 2, "tags": ["a", None, "b"], "released": "2001-02-03", "plot": None}
    table = read_items(
        trained("content"), [item, {"id": "8", "released": datetime(2002, 1, 1, 5)}, {"id": "9", "released": 0}]
    )
    assert table.schema == trained("content").catalog.collect_schema()
    assert table.row(0, named=True) | {"text_vector": None} == {
        **dict.fromkeys(table.columns), **item, "id": "7", "tags": ["a", "b"], "released": date(2001, 2, 3)
    }  # fmt: skip
    assert table["released"].to_list()[1:] == [date(2002, 1, 1), date(1970, 1, 1)]
    kept = read_items(trained("content"), [{"id": "n", "year": "x", "unknown": 1, "rating": 2.0}], skip_invalid=True)
    assert kept.row(0, named=True)["rating"] == 2.0
    assert kept["year"].to_list() == [None]


WIDE_TYPES: dict[str, pl.DataType | type[pl.DataType]] = {
    "half": pl.Float16(), "single": pl.Float32(), "double": pl.Float64(), "money": pl.Decimal(10, 2),
    "big": pl.Int128(), "unsigned": pl.UInt64(), "moment": pl.Datetime("ns"), "zoned": pl.Datetime("ns", "UTC"),
    "pair": pl.Array(pl.Float32, 2), "numbers": pl.List(pl.Float32), "embedding": pl.List(pl.Float32),
}  # fmt: skip


def wide() -> Any:
    model = trained("content")
    catalog = model.catalog.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in WIDE_TYPES.items())
    return replace(model, catalog=catalog)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("half", 7e4, "a finite number of at most 65504 in magnitude"),
        ("single", 1e300, r"a finite number of at most 1e\+15 in magnitude"),
        ("double", -2e15, r"a finite number of at most 1e\+15 in magnitude"),
        ("double", 10**400, "a finite number"),
        ("money", 1e9, "a finite number"),
        ("big", 2**127, r"a whole number \(Int128\)"),
        ("unsigned", -1, r"a whole number \(UInt64\)"),
        ("moment", "1600-01-01", "a time in ISO 8601"),
        ("zoned", "1600-01-01", "a time in ISO 8601"),
        ("pair", [1.0, None], "a list of 2 numbers"),
        ("pair", [1.0, 2.0, None, 3.0], "a list of 2 numbers"),
        ("numbers", [1.0, 3e38], r"a list of numbers of at most 1e\+15 in magnitude"),
    ],
)
def test_values_that_a_column_cannot_hold_are_invalid(name: str, value: Any, expected: str) -> None:
    rows = [{"id": "good"}, {"id": "bad", name: value}]
    with pytest.raises(InvalidItems, match=rf"items\[1\]\.{name}: got .*, expected {expected}") as caught:
        read_items(wide(), rows)
    assert [(cell.row, cell.column) for cell in caught.value.cells] == [(1, name)]
    table = read_items(wide(), rows, skip_invalid=True)
    assert (table["id"].to_list(), table[name].to_list()) == (["good", "bad"], [None, None])


def test_values_at_the_limits_of_their_columns_are_read() -> None:
    row = {"id": "n", "half": 65504, "single": 1e15, "money": 99999999, "big": 2**127 - 1, "unsigned": 2**64 - 1,
           "moment": "1700-01-01", "zoned": "2200-01-01", "pair": [1.0, None, 2.0], "numbers": [None, 1.0]}  # fmt: skip
    found = read_items(wide(), [row]).row(0, named=True)
    assert (found["big"], found["unsigned"], found["half"]) == (2**127 - 1, 2**64 - 1, 65504)
    assert (found["money"], found["pair"], found["numbers"]) == (99999999, [1.0, 2.0], [1.0])
    assert (found["moment"].year, found["zoned"].year) == (1700, 2200)
    again = read_items(wide(), pl.DataFrame([found["money"]], schema={"money": pl.Decimal(10, 2)}).insert_column(
        0, pl.Series("id", ["n"])))  # fmt: skip
    assert again["money"].to_list() == [99999999]


def test_a_vector_is_counted_without_its_unknown_numbers() -> None:
    features = (Feature("embedding", "vector", 4),)
    model = wide()
    reader: Any = SimpleNamespace(schema=replace(model.model.schema, item_features=features))
    with pytest.raises(InvalidItems, match=r"embedding: got \[1, None, 2, 3\], expected a list of 4 numbers"):
        read_items(replace(model, model=reader), [{"id": "n", "embedding": [1, None, 2, 3]}])


def test_an_id_with_a_lone_surrogate_is_invalid() -> None:
    with pytest.raises(InvalidItems, match=r"items\[0\]\.id: got 'a\\ud800', expected a text"):
        read_items(trained("content"), [{"id": "a\ud800"}])


def test_an_item_whose_score_is_not_finite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained("content")
    encode = type(model.model).encode_items  # type: ignore[attr-defined]

    def overflow(self: Any, table: pl.DataFrame) -> Any:
        return np.where((table["id"] == "bad").to_numpy()[:, None], np.float32(np.inf), encode(self, table))

    monkeypatch.setattr(type(model.model), "encode_items", overflow)
    with pytest.raises(InvalidItems, match=r"items\[1\]\.id: got 'bad', expected features that give a finite score"):
        add_items(model, [new_item(), {**new_item(), "id": "bad"}])


def test_texts_that_look_like_numbers_are_read_as_the_catalog_has_them(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("id,title,year\nn1,1984,1989\n", encoding="utf-8")
    found = segue.add_items(trained("content"), path).catalog.collect().row(-1, named=True)
    assert (found["title"], found["year"]) == ("1984", 1989)


def test_a_model_that_reads_no_features_names_those_that_do() -> None:
    data = world()
    popular = bundle.create("popular", train_small("popular", data), data)
    with pytest.raises(
        ValueError, match=r"items: cannot be added to a model of 'popular'.*content, fusion, maml or two_tower"
    ):
        add_items(popular, [new_item()])
    sasrec = bundle.create("sasrec", train_small("sasrec", data, epochs=1), data)
    with pytest.raises(ValueError, match=r'inputs=\["item_features"\]'):
        add_items(sasrec, [new_item()])


def test_the_error_names_the_models_that_read_features_by_default() -> None:
    kinds = {key: model_class(key) for key in ("content", "fusion", "two_tower", "sasrec", "popular", "als", "hybrid")}
    found = [key for key, kind in kinds.items() if hasattr(kind, "with_items")]
    assert found == ["content", "fusion", "two_tower", "sasrec"]
    assert all(key in MODELS_FOR_NEW_ITEMS for key in EXTENSIBLE)


SEQUENTIAL = [key for key in ("sasrec", "gru4rec", "lstm", "xlstm", "bert4rec", "narm", "nextitnet", "hstu", "esasrec",
                              "transformer_xl") if _is_encoder(key)]  # fmt: skip


@pytest.mark.parametrize("key", SEQUENTIAL)
def test_every_sequential_model_with_item_features_takes_new_items(key: str) -> None:
    feature = Feature("color", "category", categories=("blue", "red"))
    schema = DataSchema(3, 6, item_features=(feature,))
    overrides = {"inputs": ("item_features",), "item_bias": True}
    if key == "bert4rec":
        overrides["objective"] = "cloze"
    kind: Any = model_class(key)
    with torch.random.fork_rng():
        model: Any = kind(small(kind.Config, overrides), schema).eval()
    table = pl.DataFrame({"color": ["red", "blue", "red"]})
    assert model.can_add_items
    extended: Any = model.with_items(np.array([6, 2, 7], np.int32), table)
    assert extended.schema == replace(schema, n_items=8, n_without_events=2)
    queries = Queries.anonymous(Events.of([[0, 1], [3, 5, 4], []]))
    found = extended.score(queries)
    np.testing.assert_allclose(found[:, [0, 1, 3, 4, 5]], model.score(queries)[:, [0, 1, 3, 4, 5]], atol=1e-5)
    np.testing.assert_allclose(found[:, 6], found[:, 7], atol=1e-6)
    assert not np.allclose(found[:, 2], model.score(queries)[:, 2])


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_files_and_tables_in_python(tmp_path: Path, suffix: str) -> None:
    row = {"item_id": "new", "title": "New", "plot": new_item()["plot"], "year": 1999, "rating": 2.5}
    table, path = pl.DataFrame([row]), tmp_path / f"items{suffix}"
    write = {".jsonl": table.write_ndjson, ".parquet": table.write_parquet, ".csv": table.write_csv}[suffix]
    write(path)
    lines: list[str] = []
    for items in (path, table, table.to_pandas()):
        found = segue.add_items(trained("content"), items, log=lines.append).catalog.collect().row(-1, named=True)
        assert {name: found[name] for name in row if name != "item_id"} == {
            k: v for k, v in row.items() if k != "item_id"
        }
    assert lines[-1] == "items: 1 added, 0 replaced; the catalog has 25"
    for wrong in (None, pl.DataFrame(), pl.DataFrame({"sku": ["a"]})):
        with pytest.raises(ValueError, match="items: expected at least one row and a column 'id' or 'item_id'"):
            segue.add_items(trained("content"), wrong)


def test_items_are_added_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    segue.save(trained("content"), "model")
    pl.DataFrame([{"id": "new", "plot": new_item()["plot"]}, {"id": "i1", "plot": "oven"}]).write_ndjson("items.jsonl")
    result = CliRunner().invoke(app, ["add-items", "model", "items.jsonl", "--out", "extended", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"folder": "extended", "items": N_ITEMS + 1, "added": 1}
    assert "items: 1 added, 1 replaced" in result.stderr
    history = ",".join(f"i{item}" for item in range(0, 16, 2))
    result = CliRunner().invoke(app, ["recommend", "extended", "--history", history, "-k", "5", "--json"])
    assert result.exit_code == 0, result.output
    assert '"new"' in result.stdout
    assert result.exit_code == 0
    pl.DataFrame([{"id": "new", "plto": "x"}]).write_ndjson("items.jsonl")
    result = CliRunner().invoke(app, ["add-items", "model", "items.jsonl", "--out", "other"])
    assert "items[0].plto" in str(result.exception) + result.output
    assert not Path("other").exists()


def test_titles_have_a_limit(tmp_path: Path) -> None:
    model = trained("content")
    longest = "x" * 1024
    assert add_items(model, [new_item(title=longest)]).catalog.collect()["title"][-1] == longest
    pl.DataFrame([new_item(title=f"{longest}x")]).write_ndjson(tmp_path / "items.jsonl")
    for items in ([new_item(title=f"{longest}x")], str(tmp_path / "items.jsonl")):
        with pytest.raises(InvalidItems, match=r"items\[0\]\.title: got 'xx.* a text of at most 1024 characters"):
            add_items(model, items) if isinstance(items, list) else segue.add_items(model, items)
    kept = read_items(model, [new_item(title=f"{longest}x")], skip_invalid=True)
    assert kept["title"][0] == f"{longest}x", "items that are stored keep their titles"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,title\n", r"got a table without rows \(id, title\), expected at least one item"),
        ("name,title\na,b\n", "expected at least one row and a column 'id' or 'item_id'"),
    ],
)
def test_files_without_items_say_what_is_missing(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        segue.add_items(trained("content"), str(tmp_path / "items.csv"))
    assert "did you mean 'id'" not in str(error.value)


@cache
def numeric(key: str) -> Any:
    inputs: dict[str, Any] = {"inputs": ("item_features",)} if key == "gru4rec" else {}
    return bundle.create(key, train_small(key, world(), epochs=1, **inputs), world())


@pytest.mark.parametrize("key", [*EXTENSIBLE, "gru4rec", "maml"])
def test_numbers_outside_of_their_range_in_training_are_scored_as_the_nearest(key: str, tmp_path: Path) -> None:
    """A number near 1e15 must not put an item first."""
    model = numeric(key)
    huge: dict[str, Any] = {"rating": 1e15, "year": 10**15, "released": date(2900, 1, 1)}
    with pytest.warns(segue.SegueWarning, match=r"year: 1000000000000000 outside of 1990 to 1996, the range"):
        extended = add_items(model, [new_item(**huge)])
    assert extended.catalog.collect().row(-1, named=True)["rating"] == 1e15
    inside = add_items(model, [new_item(rating=2.0, year=1996, released=date(2000, 1, 9))])
    queries = Queries.anonymous(Events.of([[0, 2, 4], [1, 5]]))
    np.testing.assert_allclose(extended.model.score(queries)[:, -1], inside.model.score(queries)[:, -1], rtol=1e-5)
    bundle.save(tmp_path / "saved", extended)
    with pytest.warns(segue.SegueWarning, match="released: 2900-01-01 outside of 2000-01-01 to 2000-01-09"):
        again = add_items(bundle.load(tmp_path / "saved"), [{**new_item(**huge), "id": "another"}])
    scores = again.model.score(queries)
    np.testing.assert_allclose(scores[:, -1], scores[:, -2], rtol=1e-5)


def test_a_model_without_ranges_takes_numbers_as_they_are() -> None:
    features = (Feature("year", "number", center=1993.0, scale=2.0),)
    table = pl.DataFrame({"year": [10**15]})
    assert clip_numbers(features, table)[1] == {}


@pytest.mark.parametrize("key", ["maml", "transfer"])
def test_maml_and_transfer_take_new_items(key: str) -> None:
    model = bundle.create(key, train_small(key, world(), epochs=1), world())
    extended = add_items(model, [new_item("space"), {**new_item("kitchen"), "id": "other"}])
    scores = extended.model.score(Queries.anonymous(Events.of([[0, 2, 4]])))
    assert scores.shape == (1, N_ITEMS + 2)
    assert np.isfinite(scores).all()
    assert scores[0, -1] != scores[0, -2]
