"""Bundles: what goes in comes out, and what was tampered with is found."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from segue.core import bundle
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
    kind = model_class("popular")
    model = kind(kind.Config(smoothing=2.0), data.schema)
    assert isinstance(model, Solver)
    model.fit(data, Run(), None)
    bundle.save(tmp_path / "bundle", bundle.create("popular", model, data, {"note": "by hand"}))
    return tmp_path / "bundle"


def test_all_comes_back(saved: Path, data: Dataset) -> None:
    found = bundle.load(saved)
    assert found.key == "popular"
    assert found.model.config.smoothing == 2.0
    assert found.model.schema == data.schema
    assert found.metadata["note"] == "by hand"
    assert found.items.decode(np.array([3])) == ["i3"]
    assert found.users.encode(["u2", "x"])[1].tolist() == [True, False]
    assert found.catalog.collect()["id"].to_list() == ["i0", "i1", "i2", "i3"]
    assert bundle.verify(saved) == []
    scores = np.exp(found.model.score(Queries.anonymous(Events.of([[]]))))
    np.testing.assert_allclose(scores, [[3 / 12, 4 / 12, 3 / 12, 2 / 12]], rtol=1e-6)


def test_titles_travel_with_the_model(data: Dataset, tmp_path: Path) -> None:
    titles = pl.LazyFrame({"id": ["i0", "i1", "i2", "i3"], "title": ["Alien", "Brazil", "Cube", "Dune"]})
    described = Dataset("films", data.users, data.items, data.histories, item_features=titles)
    kind = model_class("random")
    model = kind(kind.Config(), data.schema)
    assert isinstance(model, Solver)
    model.fit(described, Run(), None)
    bundle.save(tmp_path / "b", bundle.create("random", model, described))
    assert bundle.load(tmp_path / "b").catalog.collect()["title"].to_list()[3] == "Dune"


@pytest.mark.parametrize("name", ["arrays.safetensors", "items.parquet", "users.parquet"])
def test_one_flipped_bit_is_found(saved: Path, name: str) -> None:
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / name).write_bytes(content)
    faults = bundle.verify(saved)
    assert len(faults) == 1
    assert name in faults[0]
    assert "expected" in faults[0]


def test_a_missing_file_is_found(saved: Path) -> None:
    (saved / "items.parquet").unlink()
    assert [line for line in bundle.verify(saved) if "items.parquet: missing" in line]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": bundle.FORMAT + 1}, "bundle format 2"),
        ({"model": "poplar"}, "did you mean 'popular'"),
        ({"config": {"smothing": 1}}, r"config\.smothing: unknown key, did you mean 'smoothing'"),
        ({"schema": {"n_users": 3, "n_items": 5, "actions": ["interaction"], "target": None}}, "log_popularity"),
    ],
)
def test_what_does_not_fit_is_refused(saved: Path, change: dict[str, object], message: str) -> None:
    facts = json.loads((saved / "bundle.json").read_text())
    (saved / "bundle.json").write_text(json.dumps(facts | change))
    with pytest.raises(ValueError, match=message):
        bundle.load(saved)


def test_no_bundle_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bundle\.json: no such file"):
        bundle.load(tmp_path)


def test_nothing_in_it_is_pickled(saved: Path) -> None:
    assert sorted(path.suffix for path in saved.iterdir()) == [".json", ".parquet", ".parquet", ".safetensors"]
