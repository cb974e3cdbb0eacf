"""Text of items becomes an item feature: rows, errors, cache, and encoding of new items."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from letter_encoders.letters import Letters

import segue
from segue.core import bundle
from segue.core.config import parse
from segue.core.features import encode_features, infer_features
from segue.core.messages import SegueWarning
from segue.core.run import Run
from segue.core.types import Dataset, Events
from segue.features.text import cache as module
from segue.features.text.cache import cache_folder, encode_cached
from segue.features.text.encode_items import add_text_features, encode_table, join_texts
from segue.features.text.encoder import create_encoder, encoder_class, encoder_keys
from segue.features.text.settings import TextSettings
from segue.testing import dataset, train_small

ITEMS = pl.DataFrame(
    {
        "id": ["i0", "i1", "i2", "i3", "i4"],
        "title": ["aab", "b", None, "  ", "zzz"],
        "plot": ["c", None, None, "", ""],
        "tags": [["a", "b"], [], None, [None, "c"], ["x"]],
        "year": [1999, 2000, 2001, 2002, 2003],
    }
)


@pytest.fixture(autouse=True)
def letters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Letters]]:
    monkeypatch.setattr("segue.features.text.encoder.ENCODERS", "letter_encoders")
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    yield Letters
    Letters.encoded.clear()
    Letters.fits.clear()


@pytest.fixture
def data() -> Dataset:
    return Dataset(**{**vars(dataset(Events.of([[0, 1, 2], [3, 4]]), 5)), "item_features": ITEMS.lazy()})


def settings(*columns: str, **values: Any) -> TextSettings:
    return parse(TextSettings, {"columns": columns, "encoder": "letters", **values}, "text")


def vectors_of(data: Dataset, name: str = "text_vector") -> list[list[float] | None]:
    assert data.item_features is not None
    return [None if row is None else list(row) for row in data.item_features.collect()[name]]


def test_every_item_gets_the_vector_of_its_text(data: Dataset) -> None:
    found = add_text_features(data, settings("title"), Run())
    assert vectors_of(found) == [[2, 1, 0], [0, 1, 0], None, None, None]
    features = {feature.name: feature for feature in infer_features(found.item_features)[0]}
    assert (features["text_vector"].kind, features["text_vector"].size) == ("vector", 3)
    assert found.item_features is not None
    rows = encode_features([features["text_vector"]], found.item_features.collect())
    assert np.isnan(rows).any(1).tolist() == [False, False, True, True, True]


def test_the_texts_of_several_columns_and_of_lists_are_joined_in_order(data: Dataset) -> None:
    table = ITEMS.select("title", "plot", "tags")
    assert join_texts(table, ["plot", "title", "tags"]) == ["c\naab\na, b", "b", "", "c", "zzz\nx"]
    assert vectors_of(add_text_features(data, settings("title", "tags"), Run()))[:2] == [[3, 2, 0], [0, 1, 0]]


def test_several_texts_can_be_encoded_one_after_the_other(data: Dataset) -> None:
    both = add_text_features(add_text_features(data, settings("title"), Run()), settings("plot", name="story"), Run())
    assert vectors_of(both)[0] == [2, 1, 0]
    assert vectors_of(both, "story")[:2] == [[0, 0, 1], None]
    assert [one.settings["name"] for one in both.text_encodings] == ["text_vector", "story"]


def test_without_columns_nothing_changes(data: Dataset) -> None:
    assert add_text_features(data, TextSettings(), Run()) is data


def test_what_was_encoded_is_reported(data: Dataset) -> None:
    lines: list[str] = []
    add_text_features(data, settings("title", "plot"), Run(), log=lines.append)
    assert lines == ["text: letters encoded title, plot of 2 of 5 items as text_vector, vectors of 3 numbers"]


@pytest.mark.parametrize(
    ("columns", "values", "message"),
    [
        (["titel"], {}, "no item feature 'titel', did you mean 'title'?"),
        (["nothing"], {}, "no item feature 'nothing'"),
        (["year"], {}, "'year' holds Int64, expected texts or lists of texts"),
        (["title"], {"name": "year"}, "items of 'world' have a feature 'year' already"),
    ],
)
def test_unusable_columns_are_named(data: Dataset, columns: list[str], values: Any, message: str) -> None:
    with pytest.raises(ValueError, match="text") as error:
        add_text_features(data, settings(*columns, **values), Run())
    assert message in str(error.value)


def test_a_catalog_without_text_is_an_error(data: Dataset) -> None:
    empty = Dataset(**{**vars(data), "item_features": ITEMS.with_columns(title=pl.lit("")).lazy()})
    with pytest.raises(ValueError, match="none of 5 items has a text"):
        add_text_features(empty, settings("title"), Run())
    with pytest.raises(ValueError, match="letters knows no word of the texts of 3 items"):
        add_text_features(data, settings("title", options={"alphabet": "q"}), Run())
    bare = Dataset(**{**vars(data), "item_features": None})
    with pytest.raises(ValueError, match="no item feature 'title'; it has none"):
        add_text_features(bare, settings("title"), Run())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"columns": ["title"], "encoder": "leters"}, "text.encoder: unknown 'leters', did you mean 'letters'?"),
        ({"options": {"alphabt": "a"}}, "text.options.alphabt: unknown key, did you mean 'alphabet'?"),
        ({"columns": ["title", "title"]}, "text.columns: got title, title, expected each column once"),
        ({"name": "title"}, "text.name: got 'title'"),
        ({"colums": ["title"]}, "text.colums: unknown key, did you mean 'columns'?"),
    ],
)
def test_invalid_settings_are_rejected(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match="text") as error:
        parse(TextSettings, {"columns": ["title"], "encoder": "letters", **values}, "text")
    assert message in str(error.value)


def test_settings_record_every_setting_of_the_encoder() -> None:
    assert settings("title").options == {"alphabet": "abc", "learns": False, "batch_size": 1}
    assert settings("title", options={"learns": True}).options["learns"] is True
    assert parse(TextSettings, {"columns": "title", "encoder": "letters"}, "text").columns == ("title",)


def test_the_registry_finds_encoders_by_file() -> None:
    assert encoder_keys() == ["letters"]
    assert encoder_class("letters") is Letters
    assert create_encoder("letters", {"alphabet": "x"}).size == 1


# The cache


def test_a_text_is_encoded_once(tmp_path: Path) -> None:
    first = encode_cached(create_encoder("letters"), ["a", "b", "a", "q"], Run(), tmp_path)
    assert sorted(Letters.encoded) == ["a", "b", "q"]
    again = encode_cached(create_encoder("letters"), ["q", "c", "a"], Run(), tmp_path)
    assert Letters.encoded[3:] == ["c"]
    np.testing.assert_array_equal(first, [[1, 0, 0], [0, 1, 0], [1, 0, 0], [np.nan] * 3])
    np.testing.assert_array_equal(again, [[np.nan] * 3, [0, 0, 1], [1, 0, 0]])


def test_settings_that_change_vectors_are_part_of_the_key(tmp_path: Path) -> None:
    encode_cached(create_encoder("letters"), ["a"], Run(), tmp_path)
    encode_cached(create_encoder("letters", {"batch_size": 7}), ["a"], Run(), tmp_path)
    assert Letters.encoded == ["a"]
    assert encode_cached(create_encoder("letters", {"alphabet": "ba"}), ["a"], Run(), tmp_path).tolist() == [[0, 1]]
    assert Letters.encoded == ["a", "a"]


def test_an_interrupted_encoding_continues_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_TEXTS", 2)
    texts, encode = [f"a{n}" for n in range(7)], Letters.encode

    def interrupt(self: Letters, batch: list[str]) -> Any:
        if len(Letters.encoded) == 4:
            raise KeyboardInterrupt
        return encode(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Letters, "encode", interrupt)
        with pytest.raises(KeyboardInterrupt):
            encode_cached(create_encoder("letters"), texts, Run(), tmp_path)
    stored = Letters.encoded.copy()
    vectors = encode_cached(create_encoder("letters"), texts, Run(), tmp_path)
    assert len(stored) == 4
    assert sorted(Letters.encoded) == sorted(texts), "every text is encoded once in the two attempts"
    assert vectors.tolist() == [[1, 0, 0]] * 7


def test_damaged_rows_are_encoded_again(tmp_path: Path) -> None:
    encode_cached(create_encoder("letters"), ["a", "b", "c"], Run(), tmp_path)
    (path,) = tmp_path.glob("*.sqlite")
    with sqlite3.connect(path) as file:
        file.execute("UPDATE vectors SET checksum = checksum + 1 WHERE key = (SELECT min(key) FROM vectors)")
    file.close()
    found = encode_cached(create_encoder("letters"), ["a", "b", "c"], Run(), tmp_path)
    assert found.tolist() == np.eye(3).tolist()
    assert len(Letters.encoded) == 4


def test_a_broken_file_is_replaced(tmp_path: Path) -> None:
    encode_cached(create_encoder("letters"), ["a"], Run(), tmp_path)
    (path,) = tmp_path.glob("*.sqlite")
    path.write_bytes(b"not a database" * 100)
    with pytest.warns(SegueWarning, match="not a database; the file is replaced"):
        encode_cached(create_encoder("letters"), ["a"], Run(), tmp_path)
    encode_cached(create_encoder("letters"), ["a"], Run(), tmp_path)
    assert Letters.encoded == ["a", "a"]


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(SegueWarning, match="continuing without the cache"):
        found = encode_cached(create_encoder("letters"), ["a"], Run(), tmp_path / "file")
    assert found.tolist() == [[1, 0, 0]]


def test_several_threads_share_the_cache(tmp_path: Path) -> None:
    texts, results = [f"{'a' * n}b" for n in range(40)], []

    def encode(part: list[str]) -> None:
        results.append(encode_cached(create_encoder("letters"), part, Run(), tmp_path))

    threads = [threading.Thread(target=encode, args=(texts[start:],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(found) for found in results) == [37, 38, 39, 40]
    Letters.encoded.clear()
    assert encode_cached(create_encoder("letters"), texts, Run(), tmp_path)[:, 0].tolist() == list(range(40))
    assert Letters.encoded == []


@hypothesis.settings(max_examples=15)
@given(st.lists(st.text(alphabet=st.characters(), max_size=8), max_size=6), st.integers(0, 6))
def test_the_cache_changes_no_vector(texts: list[str], known: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        encode_cached(create_encoder("letters"), texts[:known], Run(), Path(folder))
        found = encode_cached(create_encoder("letters"), texts, Run(), Path(folder))
        np.testing.assert_array_equal(found, encode_cached(create_encoder("letters"), texts, Run(), None))
        np.testing.assert_array_equal(found, create_encoder("letters").encode(texts))


def test_what_an_encoder_learned_is_cached_by_texts_settings_and_seed(data: Dataset, tmp_path: Path) -> None:
    learning = settings("title", options={"learns": True})
    expected = vectors_of(add_text_features(data, learning, Run(), tmp_path))
    assert vectors_of(add_text_features(data, learning, Run(), tmp_path)) == expected
    assert expected[0] == [5, 4, 3]
    assert Letters.fits == [3]
    add_text_features(data, learning, Run(seed=1), tmp_path)
    add_text_features(data, settings("title", "plot", options={"learns": True}), Run(), tmp_path)
    assert Letters.fits == [3, 3, 3]
    (tmp_path / "broken").mkdir()
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"broken")
    with pytest.warns(SegueWarning, match="the text encoder is trained again"):
        assert vectors_of(add_text_features(data, learning, Run(), tmp_path)) == expected


def test_an_encoder_that_only_checks_the_texts_is_fitted_once(data: Dataset, tmp_path: Path) -> None:
    for _ in range(2):
        assert vectors_of(add_text_features(data, settings("title"), Run(), tmp_path))[0] == [2, 1, 0]
    assert Letters.fits == [3]


def test_the_device_of_the_run_reaches_the_encoder(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    devices, encode = [], Letters.encode
    monkeypatch.setattr(Letters, "encode", lambda self, texts: devices.append(self.device) or encode(self, texts))
    for cache in (None, tmp_path, tmp_path):
        add_text_features(data, settings("title", options={"learns": True}), Run(device="meta"), cache)
    assert devices == ["meta", "meta"], "the third time nothing is encoded"


def test_the_progress_of_texts_that_are_not_cached_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_cached(create_encoder("letters"), ["a", "b"], Run(), tmp_path)
    encode_cached(create_encoder("letters"), ["a", "b", "c", "cc"], Run(show_progress=True), tmp_path)
    assert "encode text" in (shown := capsys.readouterr().err)
    assert "2/2" in shown


# New items


def test_new_items_are_encoded_as_those_of_the_catalog(data: Dataset) -> None:
    learning = settings("title", "tags", options={"learns": True})
    both = add_text_features(add_text_features(data, learning, Run()), settings("plot", name="story"), Run())
    new = pl.DataFrame({"id": ["n0", "n1"], "title": ["ab", None], "tags": [["c"], None]})
    found = encode_table(both.text_encodings, new)
    assert found["text_vector"].to_list() == [[5, 5, 5], None]
    assert found["story"].to_list() == [None, None]
    assert both.item_features is not None
    catalog = both.item_features.collect()
    again = encode_table(both.text_encodings, ITEMS)
    assert again["text_vector"].equals(catalog["text_vector"])
    assert again["story"].equals(catalog["story"])


def test_encoders_are_stored_with_the_model(data: Dataset, tmp_path: Path) -> None:
    learning = settings("title", options={"learns": True})
    encoded = add_text_features(add_text_features(data, learning, Run()), settings("plot", name="story"), Run())
    bundle.save(tmp_path / "saved", bundle.create("popular", train_small("popular", encoded), encoded))
    Letters.fits.clear()
    opened = bundle.load(tmp_path / "saved")
    found = encode_table(opened.text_encodings, ITEMS.select("id", "title", "plot"))
    assert found["text_vector"].to_list() == vectors_of(encoded)
    assert found["story"].to_list() == vectors_of(encoded, "story")
    assert Letters.fits == []
    bundle.save(tmp_path / "again", opened)
    assert [one.settings for one in bundle.load(tmp_path / "again").text_encodings] == [
        one.settings for one in opened.text_encodings
    ]
    (tmp_path / "again" / "text.safetensors").unlink()
    with pytest.raises(ValueError, match=r"text\.safetensors: missing"):
        bundle.load(tmp_path / "again")


def test_an_encoder_that_changed_since_training_is_an_error(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = add_text_features(data, settings("title"), Run())
    monkeypatch.setattr(Letters, "source_digest", lambda self: "other weights")
    with pytest.raises(ValueError, match="its files or code have changed since the model was trained"):
        encode_table(encoded.text_encodings, ITEMS)


# Python


def test_add_text_of_the_python_api(data: Dataset) -> None:
    lines: list[str] = []
    found = segue.add_text(data, "title", encoder="letters", name="words", alphabet="ba", log=lines.append)
    assert vectors_of(found, "words")[0] == [1, 2]
    assert len(lines) == 1
    assert list(cache_folder().glob("*.sqlite"))
    with pytest.raises(ValueError, match=r"text\.columns: got none"):
        segue.add_text(data, [])
    with pytest.raises(ValueError, match=r"text\.options\.width: unknown key"):
        segue.add_text(data, ["title"], encoder="letters", width=3)


def test_nothing_is_cached_on_request(data: Dataset, tmp_path: Path) -> None:
    segue.add_text(data, ["title"], encoder="letters", cache="none")
    assert not cache_folder().exists()
    segue.add_text(data, ["title"], encoder="letters", cache=tmp_path / "mine")
    assert list((tmp_path / "mine").glob("*.sqlite"))
