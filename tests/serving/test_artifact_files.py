"""Files of an artifact: names stay inside the folder, and special files and graphs with other contents are rejected."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from segue.core import bundle
from segue.core.events import Events
from segue.core.files import sha256, write_checked_json
from segue.serving.artifacts import manifest as manifest_module
from segue.serving.artifacts.artifact import MANIFEST, build_artifact, load_artifact, verify_artifact
from segue.serving.engines.golden_queries import GoldenQueries, check_coverage, check_reproduction
from segue.testing import dataset
from segue.testing.training import train_small
from tests.serving.test_artifact_mutations import DATA, load_model, update_hashes

SECRET = "the content of a file outside the artifact"


class Payload:
    """Object whose pickle creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "model"
    trained = bundle.create("ials", train_small("ials", DATA), DATA)
    build_artifact("model", trained, DATA.histories, folder, engine="native", n_golden=8)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text(SECRET)
    return Path(shutil.copytree(original, tmp_path / "library" / "model"))


def change_json(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text())
    content.pop("checksum")
    write_checked_json(path, {**content, **values})


NAMES = ["../../secret.txt", "/etc/hostname", "bundle/../../../secret.txt", "./popularity.npy", "bundle//bundle.json",
         "bundle/", "", ".", "..", "C:\\secret.txt", "C:secret.txt", "bundle\\bundle.json", "a.npy\x00", "a\nb",
         "//popularity.npy", "x" * 2_000]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("listing", [MANIFEST, "bundle/bundle.json"])
def test_listed_names_stay_inside_the_folder(folder: Path, tmp_path: Path, name: str, listing: str) -> None:
    hashes = json.loads((folder / listing).read_text())["sha256"]
    change_json(folder / listing, sha256={**hashes, name: "0" * 64})
    if listing != MANIFEST:
        hashes = json.loads((folder / MANIFEST).read_text())["sha256"]
        change_json(folder / MANIFEST, sha256={**hashes, listing: sha256(folder / listing)})
    with pytest.raises(ValueError, match="expected the relative path of a file in the folder") as caught:
        load_artifact(folder)
    assert sha256(tmp_path / "secret.txt") not in str(caught.value)
    if listing == MANIFEST:
        with pytest.raises(ValueError, match="expected the relative path"):
            verify_artifact(folder)
    else:
        assert "expected the relative path" in bundle.verify(folder / "bundle")[0]


@pytest.mark.parametrize(
    "name",
    ["bundle/items.parquet", "bundle/arrays.safetensors", "histories/items.npy", "popularity.npy", MANIFEST,
     "golden_queries.json", "bundle/bundle.json"],
)  # fmt: skip
def test_links_that_leave_the_folder_are_rejected(folder: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    shutil.move(folder / name, outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(ValueError, match="a symbolic link that leaves the folder"):
        load_artifact(folder)
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ValueError, match="a symbolic link that leaves the folder") as caught:
        load_artifact(folder)
    assert sha256(tmp_path / "secret.txt") not in str(caught.value)


def test_links_of_folders_that_leave_the_folder_are_rejected(folder: Path, tmp_path: Path) -> None:
    for name in ("histories", "bundle", "neighbors"):
        shutil.move(folder / name, tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name}: not in artifact\.json|leaves the folder"):
            load_artifact(folder)
        (folder / name).unlink()
        shutil.move(tmp_path / name, folder / name)
    load_artifact(folder)


def test_links_inside_the_folder_are_allowed(folder: Path, tmp_path: Path) -> None:
    (folder / "engine").mkdir()
    shutil.move(folder / "popularity.npy", folder / "engine" / "model.onnx")
    (folder / "popularity.npy").symlink_to(folder / "engine" / "model.onnx")
    hashes = json.loads((folder / MANIFEST).read_text())["sha256"]
    change_json(folder / MANIFEST, sha256={**hashes, "engine/model.onnx": hashes["popularity.npy"]})
    (tmp_path / "link").symlink_to(folder)
    assert load_artifact(tmp_path / "link").name == "model"


@pytest.mark.parametrize("name", [MANIFEST, "popularity.npy", "bundle/items.parquet", "golden_queries.json", "new"])
def test_special_files_are_rejected_without_opening_them(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)  # opening it would block
    with pytest.raises(ValueError, match=rf"{name}: (expected a regular file, got a special file|not in)"):
        load_artifact(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    (folder / name / "x").write_text("")
    with pytest.raises(ValueError, match=r"got a folder|not in artifact"):
        load_artifact(folder)


@pytest.mark.parametrize("name", ["popularity", "neighbors/codes", "histories/items", "histories/values"])
def test_arrays_of_objects_are_rejected_without_unpickling_them(folder: Path, tmp_path: Path, name: str) -> None:
    created = tmp_path / "created"
    array = np.load(folder / f"{name}.npy")
    objects = np.full(array.shape, Payload(created), object)
    np.save(folder / f"{name}.npy", objects, allow_pickle=True)
    update_hashes(folder)
    with pytest.raises(ValueError, match=r"malformed: object of shape"):
        load_model(folder)
    assert not created.exists()
    np.load(folder / f"{name}.npy", allow_pickle=True)
    assert created.exists(), "reading the file as a pickle would run code"


def test_large_and_deep_manifests_are_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (
        '{"format": 3, "metadata": ' + "[" * 100_000,
        "[" * 10_000 + "]" * 10_000,
        '{"format": ' + "9" * 9_999 + "}",
    ):
        (folder / MANIFEST).write_text(text)
        with pytest.raises(ValueError, match=r"not JSON|not the manifest"):
            load_artifact(folder)
    monkeypatch.setattr(manifest_module, "MAX_MANIFEST_BYTES", 1_000)
    with pytest.raises(ValueError, match="bytes, expected at most 1000"):
        load_artifact(folder)


def test_too_many_files_are_rejected(folder: Path) -> None:
    change_json(folder / MANIFEST, sha256={f"f{n}": "" for n in range(20_000)})
    with pytest.raises(ValueError, match="lists 20000 files, expected at most 10000"):
        load_artifact(folder)


def test_settings_that_need_more_memory_than_the_weights_are_rejected(tmp_path: Path) -> None:
    trained = bundle.create("sasrec", train_small("sasrec", DATA), DATA)
    build_artifact("model", trained, DATA.histories, tmp_path / "model", engine="native", n_golden=8)
    path = tmp_path / "model" / "bundle" / "bundle.json"
    before = json.loads(path.read_text())
    for change in ({"num_blocks": 10**12}, {"embedding_dim": 2**40}, {"max_length": 10**12}):
        change_json(path, config={**before["config"], **change})
        update_hashes(tmp_path / "model")
        with pytest.raises(ValueError, match="a model with these settings has larger arrays"):
            load_artifact(tmp_path / "model")


def test_tables_that_expand_to_any_size_are_rejected(folder: Path) -> None:
    path = folder / "bundle" / "users.parquet"
    count = 10_000_000
    pl.select(pl.repeat("same", count).alias("id")).write_parquet(path)
    schema = json.loads((folder / "bundle" / "bundle.json").read_text())["schema"]
    change_json(folder / "bundle" / "bundle.json", schema={**schema, "n_users": count})
    update_hashes(folder)
    with pytest.raises(ValueError, match=r"10000000 rows in .* bytes, which cannot hold as many different ids"):
        load_artifact(folder)


# Golden queries


def golden(n: int = 8, rows: list[list[int]] | None = None) -> dict[str, Any]:
    model = train_small("ials", DATA)
    from segue.core.types import Queries

    rows = [[item % 24, (item + 1) % 24] for item in range(n)] if rows is None else rows
    return GoldenQueries.from_model(model, Queries.anonymous(Events.of(rows))).to_json()


def check_golden(value: dict[str, Any]) -> list[str]:
    found = GoldenQueries.from_json(json.loads(json.dumps(value)))
    check_coverage(found, 20, 24)
    return check_reproduction(found, train_small("ials", DATA))


def test_golden_queries_must_be_able_to_detect_damage() -> None:
    assert check_golden(golden()) == []
    with pytest.raises(ValueError, match="golden queries: got 0, expected at least 8"):
        check_golden({"queries": []})
    with pytest.raises(ValueError, match="golden queries: got 7, expected at least 8"):
        check_golden(golden(7))
    with pytest.raises(ValueError, match="got 1 different ones with 16 events, expected at least 3"):
        check_golden(golden(rows=[[1, 2]] * 8))
    with pytest.raises(ValueError, match="got 1 different ones with 0 events"):
        check_golden(golden(rows=[[]] * 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": [], "scores": []}, "golden query 1: ranks 0 items, expected 22"),
        ({"items": [5], "scores": [1.0]}, "golden query 1: ranks 1 items, expected 22"),
        ({"items": [5] * 22}, "golden query 1: ranks 22 items, expected 22 different ones"),
        ({"items": [1, *range(3, 24)]}, "ones that are not in the history"),
        ({"scores": [float(n) for n in range(22)]}, "the best must be first"),
        ({"scores": [1.0] * 21}, "malformed"),
        ({"score_range": None}, "must be finite"),
        ({"history": {"items": [99]}}, "an item of a history is out of range"),
        ({"history": {"items": [1.5]}}, "must be integers"),
        ({"history": {}}, "malformed"),
        ({"user": 99}, "a user is out of range"),
        ({"user": "x"}, "malformed"),
    ],
)
def test_malformed_golden_queries_are_rejected(change: dict[str, Any], message: str) -> None:
    value = golden()
    value["queries"][1] = value["queries"][1] | change
    with pytest.raises(ValueError, match=message):
        check_golden(value)


@pytest.mark.parametrize("change", [{"score_range": 1e30}, {"score_range": 0.0}, {"scores": [0.5] * 22}])
def test_golden_queries_that_match_any_model_are_rejected(change: dict[str, Any]) -> None:
    value = golden()
    value["queries"] = [one | change for one in value["queries"]]
    assert check_golden(value)


def test_too_few_golden_queries_are_rejected_when_building(tmp_path: Path) -> None:
    trained = bundle.create("ials", train_small("ials", DATA), DATA)
    with pytest.raises(ValueError, match="n_golden: got 7, expected at least 8"):
        build_artifact("m", trained, DATA.histories, tmp_path / "m", engine="native", n_golden=7)


def test_tiny_log_has_enough_golden_queries(tmp_path: Path) -> None:
    data = dataset(Events.of([[0]]), 2)
    trained = bundle.create("ials", train_small("ials", data), data)
    assert build_artifact("m", trained, data.histories, tmp_path / "m", engine="native").n_golden == 64


# ONNX graphs


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    folder = tmp_path_factory.mktemp("exported") / "model"
    trained = bundle.create("sasrec", train_small("sasrec", DATA), DATA)
    build_artifact("model", trained, DATA.histories, folder, engine="onnx", n_golden=8)
    return folder


def test_other_graphs_with_valid_hashes_are_rejected(exported: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    folder = Path(shutil.copytree(exported, tmp_path / "model"))
    path = folder / "engine" / "model.onnx"
    whole = path.read_bytes()

    def changed(change: Any) -> bytes:
        model = onnx.load_from_string(whole)
        change(model)
        return bytes(model.SerializeToString())

    def rename(model: Any) -> None:
        model.graph.input[0].name = "other"

    def add_noise(model: Any) -> None:
        for tensor in model.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype == np.float32:
                noise = np.random.default_rng(0).normal(size=array.shape).astype(np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(array + noise, tensor.name))

    def refer(model: Any) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "../../secret.txt"

    def make_floats(model: Any) -> None:
        model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT

    def drop_nodes(model: Any) -> None:
        del model.graph.node[3:]

    (tmp_path / "secret.txt").write_text(SECRET)
    variants = [
        b"",
        b"x",
        whole[:1_000],
        whole[: len(whole) // 2],
        bytes(1_000),
        (folder / "popularity.npy").read_bytes(),
    ]
    variants += [changed(one) for one in (rename, add_noise, refer, make_floats, drop_nodes)]
    for number, content in enumerate(variants):
        path.write_bytes(content)
        update_hashes(folder)
        with pytest.raises(ValueError, match=r"onnx|golden query") as caught:
            load_artifact(folder, threads=1)
        assert SECRET not in str(caught.value), number
