"""Bundles round-trip, and modified files are detected."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from segue.core import bundle
from segue.core.files import write_checked_json
from segue.core.model import Solver
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries
from segue.testing import dataset


@pytest.fixture
def data() -> Dataset:
    return dataset(Events.of([[0, 1, 2], [1], []]), 4)


@pytest.fixture
def saved(data: Dataset, tmp_path: Path) -> Path:
    cls = model_class("popular")
    model = cls(cls.Config(smoothing=2.0), data.schema)
    assert isinstance(model, Solver)
    model.fit(data, Run(), None)
    bundle.save(tmp_path / "bundle", bundle.create("popular", model, data, {"note": "manual"}))
    return tmp_path / "bundle"


def test_saved_models_round_trip(saved: Path, data: Dataset) -> None:
    actual = bundle.load(saved)
    assert actual.key == "popular"
    assert actual.model.config.smoothing == 2.0
    assert actual.model.schema == data.schema
    assert actual.metadata["note"] == "manual"
    assert actual.items.decode(np.array([3])) == ["i3"]
    assert actual.users.encode(["u2", "x"])[1].tolist() == [True, False]
    assert actual.catalog.collect()["id"].to_list() == ["i0", "i1", "i2", "i3"]
    assert bundle.verify(saved) == []
    scores = np.exp(actual.model.score(Queries.anonymous(Events.of([[]]))))
    np.testing.assert_allclose(scores, [[3 / 12, 4 / 12, 3 / 12, 2 / 12]], rtol=1e-6)


def test_titles_are_saved_with_the_model(data: Dataset, tmp_path: Path) -> None:
    titles = pl.LazyFrame({"id": ["i0", "i1", "i2", "i3"], "title": ["Alien", "Brazil", "Cube", "Dune"]})
    with_titles = Dataset("films", data.users, data.items, data.histories, item_features=titles)
    cls = model_class("random")
    model = cls(cls.Config(), data.schema)
    assert isinstance(model, Solver)
    model.fit(with_titles, Run(), None)
    bundle.save(tmp_path / "b", bundle.create("random", model, with_titles))
    assert bundle.load(tmp_path / "b").catalog.collect()["title"].to_list()[3] == "Dune"


@pytest.mark.parametrize("name", ["arrays.safetensors", "items.parquet", "users.parquet"])
def test_a_flipped_bit_is_detected(saved: Path, name: str) -> None:
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / name).write_bytes(content)
    errors = bundle.verify(saved)
    assert len(errors) == 1
    assert name in errors[0]
    assert "expected" in errors[0]


def test_a_missing_file_is_detected(saved: Path) -> None:
    (saved / "items.parquet").unlink()
    assert [line for line in bundle.verify(saved) if "items.parquet: missing" in line]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": bundle.FORMAT + 1}, f"bundle format {bundle.FORMAT + 1}"),
        ({"model": "poplar"}, "did you mean 'popular'"),
        ({"config": {"smothing": 1}}, r"config\.smothing: unknown key, did you mean 'smoothing'"),
        (
            {"schema": {"n_users": 3, "n_items": 5, "actions": ["interaction"], "target": None}},
            r"items\.parquet: malformed: 4 rows, expected 5",
        ),
    ],
)
def test_incompatible_bundles_are_rejected(saved: Path, changes: dict[str, object], message: str) -> None:
    metadata = json.loads((saved / "bundle.json").read_text())
    metadata.pop("checksum")
    write_checked_json(saved / "bundle.json", metadata | changes)
    with pytest.raises(ValueError, match=message):
        bundle.load(saved)


def test_folder_without_bundle_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bundle\.json: no such file"):
        bundle.load(tmp_path)


def test_bundles_contain_no_pickle_files(saved: Path) -> None:
    assert sorted(path.suffix for path in saved.iterdir()) == [".json", ".parquet", ".parquet", ".safetensors"]
