"""Run the code of docs/guide/extending.md at the locations that the page names."""

from __future__ import annotations

import importlib.util
import inspect
import re
import runpy
import shutil
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "guide" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r'^```\w+ [^\n]*title="([^"]+)"\}?\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL))
RATINGS = """user,item,value,time
ann,b1,5,1600000000
ann,b2,3,1600000060
ann,b3,4,1600000120
bob,b2,4,1600000000
bob,b3,5,1600000060
bob,b4,1,1600000120
cleo,b1,2,1600000000
cleo,b4,4,1600000060
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with every file of the page, and the metadata of an installed distribution."""
    for name, code in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, encoding="utf-8")
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    dist_info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    dist_info.mkdir()
    (dist_info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [
        f"[{group}]\n{key} = {value}"
        for group, entries in project["entry-points"].items()
        for key, value in entries.items()
    ]
    (dist_info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        origin = getattr(sys.modules[name], "__file__", None) or ""
        if origin.startswith(str(tmp_path)):
            del sys.modules[name]


def import_file(path: Path, name: str) -> ModuleType:
    """Import a file by its path."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_model_passes_the_contract(folder: Path) -> None:
    from segue.core.registry import model_keys

    assert "tiny_ease" in model_keys()
    runpy.run_path(str(folder / "test_tiny_ease.py"))


def test_model_is_used_like_any_other(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(folder / "use_model.py"))
    assert capsys.readouterr().out


def test_model_gives_the_scores_of_ease(folder: Path) -> None:
    import numpy as np

    from segue.testing import clusters, train_small

    world = clusters()
    ours, theirs = (train_small(key, world.train, l2=50.0) for key in ("tiny_ease", "ease"))
    actual, expected = ours.score(world.test.queries), theirs.score(world.test.queries)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


def test_metric(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(folder / "use_metric.py"))
    assert "top_share" in capsys.readouterr().out


def test_metric_values(folder: Path) -> None:
    import numpy as np

    from segue.core.types import Ranks, Recommendations

    metric = import_file(folder / "metrics.py", "page_metrics").top_share
    no_lists = Recommendations(np.zeros((2, 0), np.int32), np.zeros((2, 0), np.float32), np.zeros(2, np.int64))
    higher, tied = np.array([0, 50]), np.zeros(2, np.int64)
    ranks = Ranks(np.array([0, 2, 2]), higher, tied, np.array([100, 100]), no_lists)
    np.testing.assert_array_equal(metric(ranks, 10), [0.5, np.nan])


def test_metric_is_known_by_name(folder: Path) -> None:
    from segue.evaluation.metrics import resolve_metrics

    (metric,) = resolve_metrics(["top_share@10"])
    assert metric.function.__module__ == "metrics"


def test_source_from_a_table(folder: Path) -> None:
    (folder / "orders.csv").write_text("customer,sku,category,year,ts\na,x,c,2024,1\na,y,d,2024,2\nb,x,c,2023,3\n")
    data = import_file(folder / "shop.py", "page_shop").load_shop("orders.csv")
    assert (data.n_users, data.n_items, data.histories.size) == (1, 2, 2)
    assert data.item_features.collect()["category"].to_list() == ["c", "d"]


@pytest.mark.parametrize("location", ["plugin", "in segue"])
def test_source_with_a_name(folder: Path, location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import segue
    from segue.data import sources

    archives = folder / "archives"
    archives.mkdir()
    with zipfile.ZipFile(archives / "anything.zip", "w") as file:
        file.writestr("tiny-books/ratings.csv", RATINGS)
        file.writestr("tiny-books/books.csv", "id,title\nb1,One\nb2,Two\nb3,Three\nb4,Four\n")
    monkeypatch.setenv("SEGUE_ARCHIVES", str(archives))
    if location == "in segue":
        package = folder / "as_if_in_segue"
        package.mkdir()
        (folder / "tiny_books.py").rename(package / "tiny_books.py")
        (dist_info,) = folder.glob("*.dist-info")
        shutil.rmtree(dist_info)
        monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(package)])
    data = segue.load("tiny-books")
    assert (data.n_users, data.n_items, data.histories.size) == (3, 4, 8)
    assert sorted(data.item_features.collect()["title"]) == ["Four", "One", "Three", "Two"]
    with zipfile.ZipFile(archives / "anything.zip", "w") as file:
        file.writestr("tiny-books/ratings.csv", RATINGS.replace(",3,", ",three,"))
        file.writestr("tiny-books/books.csv", "id,title\nb1,One\n")
    with pytest.raises(ValueError, match=r"ratings.csv, line 3, column value: got 'three'"):
        segue.load("tiny-books")


def store_test_names() -> list[str]:
    """Return the names of the tests of all stores whose only argument is a store."""
    text = (ROOT / "tests" / "serving" / "test_stores.py").read_text(encoding="utf-8")
    return re.findall(r"^def (test_\w+)\(store: Store\) -> None:", text, re.MULTILINE)


@pytest.mark.parametrize("name", store_test_names())
def test_store_passes_the_tests_of_all_stores(folder: Path, name: str) -> None:
    check = getattr(import_file(ROOT / "tests" / "serving" / "test_stores.py", "stores_of_all"), name)
    check(import_file(folder / "dict_store.py", "page_store").DictStore())


def test_store_is_opened_by_its_url(folder: Path) -> None:
    from segue.serving.stores.open import open_store

    assert open_store("dict:").name == "dict"
    with pytest.raises(ValueError, match="unknown scheme 'dictionary'"):
        open_store("dictionary:")


def test_store_has_every_method(folder: Path) -> None:
    from segue.serving.stores.store import Store

    actual = import_file(folder / "dict_store.py", "page_store").DictStore
    for name, method in inspect.getmembers(Store, inspect.isfunction):
        if not name.startswith("_"):
            assert list(inspect.signature(getattr(actual, name)).parameters) == list(
                inspect.signature(method).parameters
            )


def test_text_encoder(folder: Path) -> None:
    import numpy as np

    import segue
    from segue.core.features import infer_features
    from segue.features.text.encoder import create_encoder

    data = segue.load("simulated?users=50&items=30")
    data = segue.add_text(data, ["description"], encoder="hashing", name="plot", cache="none", dimensions=16)
    (plot,) = [feature for feature in infer_features(data.item_features)[0] if feature.name == "plot"]
    assert (plot.kind, plot.size) == ("vector", 16)
    encoder = create_encoder("hashing")
    vectors = encoder.encode(["a b a", "b", " ", "A b a"])
    assert np.isnan(vectors).all(1).tolist() == [False, False, True, False]
    np.testing.assert_allclose(vectors[[0, 1]] @ vectors[[3, 1]].T, [[1, 5**-0.5], [5**-0.5, 1]], rtol=1e-5)
