"""Publications: what goes in comes out, what was tampered with is refused, what is wrong never gets there."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.core import bundle
from segue.core.bundle import Bundle
from segue.core.events import Events
from segue.core.model import Factored
from segue.core.recommend import recommend
from segue.core.types import Codes, Dataset, Queries, Scores
from segue.serving.artifacts import artifact as module
from segue.serving.artifacts.artifact import MANIFEST, open_publication, publish, verify
from segue.serving.engines import onnx
from segue.serving.engines.golden_queries import Golden, check
from segue.serving.engines.input_columns import reads
from segue.testing import dataset
from segue.testing.training import train_small


def _log() -> Dataset:
    rng = np.random.default_rng(3)
    rows = Events.of([rng.permutation(24)[:n] for n in [0, 1, 20, *rng.integers(2, 12, 30)]])
    values = rng.integers(1, 6, rows.size).astype(np.float32)
    times = 1_600_000_000 + np.arange(rows.size) * 40_000
    return dataset(Events(rows.offsets, rows.items, np.zeros(rows.size, np.uint8), values, times), 24)


DATA = _log()


@pytest.fixture(scope="module")
def trained() -> Bundle:
    return bundle.of("item_knn", train_small("item_knn", DATA), DATA, {"user_features": ["age"]})


@pytest.fixture(scope="module")
def network() -> Bundle:
    return bundle.of("sasrec", train_small("sasrec", DATA), DATA)


@pytest.fixture(scope="module")
def made(trained: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "knn"
    publish("knn", trained, DATA.histories, folder, engine="native", place=7, facts={"data": "world"})
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def test_all_comes_back(made: Path, trained: Bundle) -> None:
    found = open_publication(made)
    assert (found.name, found.place, found.engine.name, found.golden) == ("knn", 7, "native", 64)
    assert found.facts["data"] == "world"
    assert found.user_features == ("age",)
    assert found.columns == ()
    assert not found.tells_time
    assert len(found.version) == 12
    assert json.loads((made / MANIFEST).read_text())["sha256"]["bundle/arrays.safetensors"].startswith(found.version)
    assert found.histories is not None
    for name, column in DATA.histories.columns().items():
        np.testing.assert_array_equal(found.histories.columns()[name], column)
    np.testing.assert_array_equal(found.histories.offsets, DATA.histories.offsets)
    np.testing.assert_array_equal(found.popularity, np.bincount(DATA.histories.items, minlength=24))
    queries = Queries.anonymous(Events.of([[], [3], [1, 2, 3]]))
    np.testing.assert_array_equal(found.engine.model.score(queries), trained.model.score(queries))
    assert verify(made) == []


def test_without_histories_nobody_is_known(trained: Bundle, tmp_path: Path) -> None:
    found = publish("bare", trained, None, tmp_path / "bare", engine="native", golden=5)
    assert found.histories is None
    assert found.golden == 5
    assert not found.popularity.any()
    assert not found.neighbours.scores(Events.of([[1, 2]])).any()


@pytest.fixture(scope="module")
def graphed(network: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphed") / "n"
    found = publish("n", network, DATA.histories, folder)
    assert found.engine.name == "onnx"
    assert found.facts["engine_note"] == ""
    return folder


def test_a_network_is_served_by_a_graph(graphed: Path) -> None:
    found, native = open_publication(graphed, threads=1), open_publication(graphed, engine="native")
    queries = Queries.of_users(np.arange(DATA.n_users, dtype=np.int32), DATA.histories)
    ours, theirs = (recommend(one.engine.model, queries, 10, repeats=True) for one in (found, native))
    np.testing.assert_allclose(ours.scores, theirs.scores, 1e-4, 1e-5)
    assert b"/segue/" not in (graphed / "engine" / "model.onnx").read_bytes(), "paths of the machine"


def test_a_graph_needs_its_runtime(
    network: Bundle, graphed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"onnxruntime is not installed: pip install 'segue\[onnx\]'"):
        open_publication(graphed)
    assert open_publication(graphed, engine="native").engine.name == "native"
    other = publish("n", network, DATA.histories, tmp_path / "n")
    assert other.engine.name == "native"
    told = "onnx: onnx, onnxscript, onnxruntime not installed: pip install 'segue[onnx]'"
    assert other.facts["engine_note"] == told
    with pytest.raises(ValueError, match=r"onnx is asked for, and there is no .*: it was published without"):
        open_publication(tmp_path / "n", engine="onnx")


def test_an_engine_that_ranks_otherwise_is_refused(
    network: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "export", lambda trained, path: path.write_bytes(b"graph"))
    monkeypatch.setattr(onnx, "_session", lambda *_: type("Session", (), {"get_providers": lambda self: []})())
    monkeypatch.setattr(onnx.Onnx, "_encode", lambda self, queries: -network.model.encode(queries))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"onnx: golden query 0, a history of 0 events: ranked \[.*\], the trained"):
        publish("n", network, DATA.histories, tmp_path / "n", engine="onnx")
    assert not (tmp_path / "n").exists()
    assert not list(tmp_path.iterdir()), "something was left behind"
    found = publish("n", network, DATA.histories, tmp_path / "n")
    assert found.engine.name == "native"
    assert "golden query" in found.facts["engine_note"]


def test_a_large_catalogue_has_a_graph_of_its_items(tmp_path: Path) -> None:
    pytest.importorskip("usearch", reason="the extra 'ann' is not installed")
    trained = bundle.of("ials", train_small("ials", DATA), DATA)
    found = publish("x", trained, DATA.histories, tmp_path / "x", engine="native", index_above=23)
    assert found.index is not None
    assert isinstance(found.engine.model, Factored)
    queries = Queries.anonymous(Events.of([[1, 2], [3]]))
    best = found.index.search(found.engine.model.encode(queries), 3, queries.history)
    np.testing.assert_array_equal(best.items, recommend(trained.model, queries, 3).items)
    assert publish("x", trained, None, tmp_path / "x", engine="native", index_above=24).index is None


@pytest.mark.parametrize("engine", ["onnx", "auto"])
def test_what_is_no_network_has_no_graph(trained: Bundle, tmp_path: Path, engine: str) -> None:
    if engine == "onnx":
        with pytest.raises(ValueError, match="onnx: ItemKNN is no network that reads histories"):
            publish("x", trained, DATA.histories, tmp_path / "x", engine=engine)
    else:
        found = publish("x", trained, DATA.histories, tmp_path / "x", engine=engine)
        assert found.facts["engine_note"] == "onnx: ItemKNN is no network that reads histories"


FILES = ["bundle/arrays.safetensors", "bundle/bundle.json", "bundle/items.parquet", "histories/items.npy",
         "neighbours/codes.npy", "popularity.npy", "golden.json"]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_found(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(bytes(content))
    with pytest.raises(ValueError, match=f"{name}: sha256 [0-9a-f]+, expected"):
        open_publication(copied)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: missing"):
        open_publication(copied)


def test_a_file_too_many_is_named(copied: Path) -> None:
    (copied / "engine").mkdir()
    (copied / "engine" / "model.onnx").write_bytes(b"whatever")
    with pytest.raises(ValueError, match=r"model\.onnx: not in publication\.json"):
        open_publication(copied)


def _change(folder: Path, **values: Any) -> None:
    about = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**about, **values}))


def test_a_newer_format_is_refused(copied: Path) -> None:
    _change(copied, format=99)
    with pytest.raises(ValueError, match="publication format 99, this Segue reads 1"):
        open_publication(copied)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "1"}', '{"format": 1}', "\x00"])
def test_a_broken_manifest_is_a_value_error(copied: Path, content: str) -> None:
    (copied / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=r"publication\.json"):
        open_publication(copied)


def test_a_manifest_without_hashes_is_refused(copied: Path) -> None:
    _change(copied, sha256={})
    with pytest.raises(ValueError, match=r"bundle/arrays\.safetensors: not in publication\.json"):
        open_publication(copied)


def test_no_publication_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        open_publication(tmp_path)


def test_what_fails_leaves_the_old_one(
    copied: Path, trained: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(module, "write_json", broken)
    with pytest.raises(OSError, match="disk full"):
        publish("other", trained, DATA.histories, copied, engine="native")
    assert open_publication(copied).name == "knn"
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_it_is_replaced_as_a_whole(copied: Path, trained: Bundle) -> None:
    before = open_publication(copied)
    after = publish("other", trained, None, copied, engine="native")
    assert (before.name, after.name) == ("knn", "other")
    assert not (copied / "histories").exists()
    assert before.histories is not None
    assert before.histories.items[:3].tolist() == DATA.histories.items[:3].tolist(), "still read while it is open"


def test_other_folders_are_left_alone(trained: Bundle, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is no publication"):
        publish("x", trained, None, tmp_path, engine="native")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_faulty_calls_are_told(trained: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown 'onx', did you mean 'onnx'"):
        publish("x", trained, None, tmp_path / "x", engine="onx")
    with pytest.raises(ValueError, match="1 histories for 33 users"):
        publish("x", trained, Events.of([[1]]), tmp_path / "x")


@pytest.mark.parametrize(
    ("key", "wanted", "columns", "asked"),
    [
        ("item_knn", {"learns": "values"}, ("values",), False),
        ("ease", {}, (), False),
        ("sasrec", {"inputs": ["value", "gap"]}, ("values", "times"), False),
        ("gru4rec", {"inputs": ["query_time"]}, ("times",), True),
        ("hstu", {"time_bias": True}, ("times",), False),
        ("factorization_machine", {"inputs": ["date"], "days": 1}, ("values", "times"), True),
        ("factorization_machine", {}, ("values",), False),
    ],
)
def test_what_a_model_reads_is_known(key: str, wanted: Any, columns: tuple[str, ...], asked: bool) -> None:
    model = train_small(key, DATA, **wanted)
    found = reads(model, Queries.of_users(np.arange(DATA.n_users, dtype=np.int32), DATA.histories))
    assert (found.columns, found.asked) == (columns, asked)


class Fixed:
    """A recommender with the same scores for everybody."""

    def __init__(self, scores: list[float]) -> None:
        self.scores_I = np.array(scores, np.float32)
        self.domain = replace(DATA.domain, n_items=len(scores))

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        return np.tile(self.scores_I, (len(queries), 1))


def test_only_rounding_may_change_a_ranking() -> None:
    queries = Queries.anonymous(Events.of([[], [0]]))
    scores = [10.0, 9.0, 8.00001, 8.0, *np.linspace(7, 0, 30)]
    expected = Golden.from_json(json.loads(json.dumps(Golden.of(Fixed(scores), queries).to_json())))
    assert check(expected, Fixed(scores)) == []
    near = [*scores[:2], scores[3], scores[2], *scores[4:]]
    assert check(expected, Fixed(near)) == [], "two scores that differ by a millionth of the spread changed places"
    far = [scores[1], scores[0], *scores[2:]]
    assert len(check(expected, Fixed(far))) == 1, "the second query had item 0: nothing changed for it"
    assert "ranked [1, 0, 2, 3, 4, 5, 6, 7, 8, 9], the trained model [0, 1, 2" in check(expected, Fixed(far))[0]
    stranger = [*scores[:-1], 99.0]
    assert len(check(expected, Fixed(stranger))) == 2


def test_equal_scores_may_come_in_any_order() -> None:
    queries = Queries.anonymous(Events.of([[], [0]]))
    expected = Golden.of(Fixed([1.0] * 100), queries)
    assert check(expected, Fixed([1.0, *np.arange(99.0)])) == []
    few = Golden.of(Fixed([2.0, 1.0, 1.0]), queries)
    assert check(few, Fixed([2.0, 1.0, 1.0 + 1e-6])) == []
    assert len(check(few, Fixed([0.0, 1.0, 1.0]))) == 1, "the other may not have item 0"


def test_golden_queries_survive_a_file() -> None:
    model = train_small("gru4rec", DATA, inputs=["value", "query_time"])
    history = replace(
        DATA.histories, values=np.where(np.arange(DATA.histories.size) % 3, np.nan, 4.0).astype(np.float32)
    )
    users = np.arange(DATA.n_users, dtype=np.int32)
    queries = Queries(history, users, users % 2 == 0, np.full(DATA.n_users, 1_700_000_000))
    told = Golden.of(model, queries)
    found = Golden.from_json(json.loads(json.dumps(told.to_json(), allow_nan=False)))
    assert found.queries.users[found.queries.known].tolist() == users[users % 2 == 0].tolist()
    np.testing.assert_array_equal(found.queries.times, queries.times)
    for name, column in history.columns().items():
        np.testing.assert_array_equal(found.queries.history.columns()[name], column)
    np.testing.assert_array_equal(found.answers.items[:, :10], told.answers.items[:, :10])
    np.testing.assert_array_equal(found.answers.scores[:, :10], told.answers.scores[:, :10])
    assert check(found, model) == []
