"""Model artifacts: round trip, integrity checks, engine selection and golden queries."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.core import bundle
from segue.core.bundle import TrainedModel
from segue.core.events import Events
from segue.core.files import write_checked_json
from segue.core.model import Factored
from segue.core.recommend import recommend
from segue.core.types import Codes, Dataset, Queries, Scores
from segue.serving.artifacts import artifact as module
from segue.serving.artifacts.artifact import MANIFEST, build_artifact, load_artifact, verify_artifact
from segue.serving.engines import onnx
from segue.serving.engines.golden_queries import GoldenQueries, check_rankings
from segue.serving.engines.input_columns import detect_input_columns
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
def trained() -> TrainedModel:
    return bundle.create("item_knn", train_small("item_knn", DATA), DATA, {"user_features": ["age"]})


@pytest.fixture(scope="module")
def network() -> TrainedModel:
    return bundle.create("sasrec", train_small("sasrec", DATA), DATA)


@pytest.fixture(scope="module")
def artifact_folder(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "knn"
    build_artifact("knn", trained, DATA.histories, folder, engine="native", last_sequence=7, metadata={"data": "world"})
    return folder


@pytest.fixture
def copied(artifact_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifact_folder, tmp_path / "copy"))


def test_round_trip(artifact_folder: Path, trained: TrainedModel) -> None:
    found = load_artifact(artifact_folder)
    assert (found.name, found.last_sequence, found.engine.name, found.n_golden) == ("knn", 7, "native", 64)
    assert found.metadata["data"] == "world"
    assert found.user_features == ("age",)
    assert found.input_columns == ()
    assert not found.uses_query_time
    assert len(found.version) == 12
    assert json.loads((artifact_folder / MANIFEST).read_text())["sha256"]["bundle/arrays.safetensors"].startswith(
        found.version
    )
    assert found.histories is not None
    for name, column in DATA.histories.columns().items():
        np.testing.assert_array_equal(found.histories.columns()[name], column)
    np.testing.assert_array_equal(found.histories.offsets, DATA.histories.offsets)
    np.testing.assert_array_equal(found.popularity, np.bincount(DATA.histories.items, minlength=24))
    queries = Queries.anonymous(Events.of([[], [3], [1, 2, 3]]))
    np.testing.assert_array_equal(found.engine.model.score(queries), trained.model.score(queries))
    assert verify_artifact(artifact_folder) == []


def test_artifact_without_histories(trained: TrainedModel, tmp_path: Path) -> None:
    found = build_artifact("bare", trained, None, tmp_path / "bare", engine="native", n_golden=8)
    assert found.histories is None
    assert found.n_golden == 8
    assert not found.popularity.any()
    assert not found.neighbors.score(Events.of([[1, 2]])).any()


@pytest.fixture(scope="module")
def exported(network: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphed") / "n"
    found = build_artifact("n", network, DATA.histories, folder)
    assert found.engine.name == "onnx"
    assert found.metadata["engine_note"] == ""
    return folder


def test_network_is_exported_to_onnx(exported: Path) -> None:
    found, native = load_artifact(exported, threads=1), load_artifact(exported, engine="native")
    queries = Queries.of_users(np.arange(DATA.n_users, dtype=np.int32), DATA.histories)
    ours, theirs = (recommend(one.engine.model, queries, 10, exclude_seen=False) for one in (found, native))
    np.testing.assert_allclose(ours.scores, theirs.scores, 1e-4, 1e-5)
    assert b"/segue/" not in (exported / "engine" / "model.onnx").read_bytes(), "paths of this machine"


def test_onnx_requires_its_runtime(
    network: TrainedModel, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"onnxruntime is not installed: pip install 'segue\[onnx\]'"):
        load_artifact(exported)
    assert load_artifact(exported, engine="native").engine.name == "native"
    other = build_artifact("n", network, DATA.histories, tmp_path / "n")
    assert other.engine.name == "native"
    note = "onnx: onnx, onnxscript, onnxruntime not installed: pip install 'segue[onnx]'"
    assert other.metadata["engine_note"] == note
    with pytest.raises(ValueError, match=r"onnx is not available: .* does not exist"):
        load_artifact(tmp_path / "n", engine="onnx")


def test_engine_that_ranks_differently_is_rejected(
    network: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "export_encoder", lambda trained, path: path.write_bytes(b"graph"))
    monkeypatch.setattr(onnx, "_open_session", lambda *_: type("Session", (), {"get_providers": lambda self: []})())
    monkeypatch.setattr(onnx.OnnxEngine, "_encode", lambda self, queries: -network.model.encode(queries))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"onnx: golden query 0 \(history of 0 events\): ranked \[.*\], expected"):
        build_artifact("n", network, DATA.histories, tmp_path / "n", engine="onnx")
    assert not (tmp_path / "n").exists()
    assert not list(tmp_path.iterdir()), "temporary files remain"
    found = build_artifact("n", network, DATA.histories, tmp_path / "n")
    assert found.engine.name == "native"
    assert "golden query" in found.metadata["engine_note"]


def test_large_catalog_has_an_ann_index(tmp_path: Path) -> None:
    pytest.importorskip("usearch", reason="the extra 'ann' is not installed")
    trained = bundle.create("ials", train_small("ials", DATA), DATA)
    found = build_artifact("x", trained, DATA.histories, tmp_path / "x", engine="native", index_above=23)
    assert found.index is not None
    assert isinstance(found.engine.model, Factored)
    queries = Queries.anonymous(Events.of([[1, 2], [3]]))
    best = found.index.search(found.engine.model.encode(queries), 3, queries.history)
    np.testing.assert_array_equal(best.items, recommend(trained.model, queries, 3).items)
    assert build_artifact("x", trained, None, tmp_path / "x", engine="native", index_above=24).index is None


@pytest.mark.parametrize("engine", ["onnx", "auto"])
def test_only_networks_are_exported(trained: TrainedModel, tmp_path: Path, engine: str) -> None:
    if engine == "onnx":
        with pytest.raises(ValueError, match="onnx: ItemKNN is not a network that encodes histories"):
            build_artifact("x", trained, DATA.histories, tmp_path / "x", engine=engine)
    else:
        found = build_artifact("x", trained, DATA.histories, tmp_path / "x", engine=engine)
        assert found.metadata["engine_note"] == "onnx: ItemKNN is not a network that encodes histories"


FILES = ["bundle/arrays.safetensors", "bundle/bundle.json", "bundle/items.parquet", "histories/items.npy",
         "neighbors/codes.npy", "popularity.npy", "golden_queries.json"]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_flipped_bit_is_detected(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(bytes(content))
    with pytest.raises(ValueError, match=f"{name}: sha256 [0-9a-f]+, expected"):
        load_artifact(copied)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: missing"):
        load_artifact(copied)


def test_unlisted_file_is_named(copied: Path) -> None:
    (copied / "engine").mkdir()
    (copied / "engine" / "model.onnx").write_bytes(b"whatever")
    with pytest.raises(ValueError, match=r"model\.onnx: not in artifact\.json"):
        load_artifact(copied)


def _change(folder: Path, **values: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.pop("checksum")
    write_checked_json(folder / MANIFEST, {**manifest, **values})


def test_other_format_is_rejected(copied: Path) -> None:
    _change(copied, format=99)
    with pytest.raises(ValueError, match="artifact format 99, expected 3"):
        load_artifact(copied)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "1"}', '{"format": 2}', "\x00"])
def test_broken_manifest_raises(copied: Path, content: str) -> None:
    (copied / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=r"artifact\.json"):
        load_artifact(copied)


def test_manifest_without_hashes_is_rejected(copied: Path) -> None:
    _change(copied, sha256={})
    with pytest.raises(ValueError, match=r"bundle/arrays\.safetensors: not in artifact\.json"):
        load_artifact(copied)


def test_empty_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        load_artifact(tmp_path)


def test_failed_build_keeps_the_old_artifact(
    copied: Path, trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(module, "write_json", broken)
    with pytest.raises(OSError, match="disk full"):
        build_artifact("other", trained, DATA.histories, copied, engine="native")
    assert load_artifact(copied).name == "knn"
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_artifact_is_replaced_as_a_whole(copied: Path, trained: TrainedModel) -> None:
    before = load_artifact(copied)
    after = build_artifact("other", trained, None, copied, engine="native")
    assert (before.name, after.name) == ("knn", "other")
    assert not (copied / "histories").exists()
    assert before.histories is not None
    assert before.histories.items[:3].tolist() == DATA.histories.items[:3].tolist(), "still readable while open"


def test_other_folders_are_not_overwritten(trained: TrainedModel, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not a model artifact"):
        build_artifact("x", trained, None, tmp_path, engine="native")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_invalid_arguments_raise(trained: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown 'onx', did you mean 'onnx'"):
        build_artifact("x", trained, None, tmp_path / "x", engine="onx")
    with pytest.raises(ValueError, match="got 1 rows, expected one for each of 33 users"):
        build_artifact("x", trained, Events.of([[1]]), tmp_path / "x")


@pytest.mark.parametrize(
    ("key", "settings", "columns", "uses_query_time"),
    [
        ("item_knn", {"feedback": "explicit"}, ("values",), False),
        ("ease", {}, (), False),
        ("sasrec", {"inputs": ["value", "gap"]}, ("values", "times"), False),
        ("gru4rec", {"inputs": ["query_time"]}, ("times",), True),
        ("hstu", {"time_bias": True}, ("times",), False),
        ("factorization_machine", {"inputs": ["date"], "days": 1}, ("values", "times"), True),
        ("factorization_machine", {}, ("values",), False),
    ],
)
def test_input_columns_are_detected(key: str, settings: Any, columns: tuple[str, ...], uses_query_time: bool) -> None:
    model = train_small(key, DATA, **settings)
    found = detect_input_columns(model, Queries.of_users(np.arange(DATA.n_users, dtype=np.int32), DATA.histories))
    assert (found.columns, found.uses_query_time) == (columns, uses_query_time)


class Fixed:
    """A recommender with the same scores for all users."""

    def __init__(self, scores: list[float]) -> None:
        self.scores_I = np.array(scores, np.float32)
        self.schema = replace(DATA.schema, n_items=len(scores))

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        return np.tile(self.scores_I, (len(queries), 1))


def test_only_rounding_may_change_a_ranking() -> None:
    queries = Queries.anonymous(Events.of([[], [0]]))
    scores = [10.0, 9.0, 8.00001, 8.0, *np.linspace(7, 0, 30)]
    expected = GoldenQueries.from_json(
        json.loads(json.dumps(GoldenQueries.from_model(Fixed(scores), queries).to_json()))
    )
    assert check_rankings(expected, Fixed(scores)) == []
    near = [*scores[:2], scores[3], scores[2], *scores[4:]]
    assert check_rankings(expected, Fixed(near)) == [], "swapped scores differ by a millionth of the range"
    far = [scores[1], scores[0], *scores[2:]]
    assert len(check_rankings(expected, Fixed(far))) == 1, "the second query has seen item 0, so nothing changes for it"
    assert "ranked [1, 0, 2, 3, 4, 5, 6, 7, 8, 9], expected [0, 1, 2" in check_rankings(expected, Fixed(far))[0]
    stranger = [*scores[:-1], 99.0]
    assert len(check_rankings(expected, Fixed(stranger))) == 2


def test_ties_may_be_in_any_order() -> None:
    queries = Queries.anonymous(Events.of([[], [0]]))
    expected = GoldenQueries.from_model(Fixed([1.0] * 100), queries)
    assert check_rankings(expected, Fixed([1.0, *np.arange(99.0)])) == []
    few = GoldenQueries.from_model(Fixed([2.0, 1.0, 1.0]), queries)
    assert check_rankings(few, Fixed([2.0, 1.0, 1.0 + 1e-6])) == []
    assert len(check_rankings(few, Fixed([0.0, 1.0, 1.0]))) == 1, "the second query has seen item 0"


def test_golden_queries_round_trip() -> None:
    model = train_small("gru4rec", DATA, inputs=["value", "query_time"])
    history = replace(
        DATA.histories, values=np.where(np.arange(DATA.histories.size) % 3, np.nan, 4.0).astype(np.float32)
    )
    users = np.arange(DATA.n_users, dtype=np.int32)
    queries = Queries(history, users, users % 2 == 0, np.full(DATA.n_users, 1_700_000_000))
    note = GoldenQueries.from_model(model, queries)
    found = GoldenQueries.from_json(json.loads(json.dumps(note.to_json(), allow_nan=False)))
    assert found.queries.users[found.queries.known].tolist() == users[users % 2 == 0].tolist()
    np.testing.assert_array_equal(found.queries.times, queries.times)
    for name, column in history.columns().items():
        np.testing.assert_array_equal(found.queries.history.columns()[name], column)
    np.testing.assert_array_equal(found.recommendations.items[:, :10], note.recommendations.items[:, :10])
    np.testing.assert_array_equal(found.recommendations.scores[:, :10], note.recommendations.scores[:, :10])
    assert check_rankings(found, model) == []
