"""Damaged models are rejected with the name of the file: nothing crashes, and no model answers from damaged state."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segue.core import bundle
from segue.core.files import load_arrays, save_arrays, sha256, write_checked_json
from segue.core.registry import model_keys
from segue.core.types import Events, Queries
from segue.testing import subject
from tests.nightly import some_models

Arrays = dict[str, NDArray[Any]]


def save(key: str, folder: Path) -> Path:
    it = subject(key)
    bundle.save(folder, bundle.create(key, it.model, it.data), it.data)
    return folder


def it_has_knowledge(key: str) -> bool:
    return subject(key).data.knowledge is not None


def flip(content: bytes, rng: np.random.Generator) -> bytes:
    position = int(rng.integers(len(content)))
    changed = content[position] ^ int(rng.integers(1, 256))
    return content[:position] + bytes([changed]) + content[position + 1 :]


def truncate(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(len(content)))]


def append(content: bytes, rng: np.random.Generator) -> bytes:
    return content + bytes([int(rng.integers(256))])


def read(folder: Path) -> None:
    """Load a model with all that is read later: ids and log."""
    trained = bundle.load(folder)
    assert len(trained.items.ids) == trained.model.schema.n_items
    assert trained.log.n_users == len(trained.users.ids)


@pytest.mark.parametrize("key", model_keys())
def test_damaged_files_are_named(key: str, tmp_path: Path) -> None:
    folder = save(key, tmp_path / "model")
    read(folder)
    rng = np.random.default_rng(len(key))
    names = sorted(path.name for path in folder.iterdir())
    absent = {bundle.TEXT, bundle.USER_TEXT, *(() if it_has_knowledge(key) else (bundle.KNOWLEDGE, bundle.ENTITIES))}
    assert set(names) == bundle.FILES - absent
    for name in names:
        path = folder / name
        whole, other = path.read_bytes(), (folder / names[names.index(name) - 1]).read_bytes()
        for damaged in [*(flip(whole, rng) for _ in range(12)), truncate(whole, rng), append(whole, rng), other, b""]:
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=name.replace(".", r"\.")):
                bundle.load(folder)
            assert any(name in line for line in bundle.verify(folder))
        path.unlink()
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            bundle.load(folder)
        path.write_bytes(whole)
    read(folder)


def test_files_of_another_model_are_named(tmp_path: Path) -> None:
    first, second = save("item_knn", tmp_path / "a"), save("user_knn", tmp_path / "b")
    (first / "arrays.safetensors").write_bytes((second / "arrays.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"arrays\.safetensors: sha256"):
        bundle.load(first)


def replace_arrays(folder: Path, name: str, arrays: Arrays) -> None:
    """Replace the arrays of a file and update all hashes."""
    save_arrays(folder / name, arrays)
    metadata = json.loads((folder / "bundle.json").read_text())
    del metadata["checksum"]
    metadata["sha256"][name] = sha256(folder / name)
    write_checked_json(folder / "bundle.json", metadata)


def malformed(name: str, array: NDArray[Any]) -> Iterator[tuple[str, Arrays]]:
    """Yield what a bug or an attacker could store in place of an array."""
    yield "missing", {}
    if array.ndim:
        yield "longer", {name: np.concatenate([array, array])}
        yield "shorter", {name: array[:-1]}
    yield "another dimension", {name: array[None]}
    other = np.float64 if array.dtype == np.float32 else np.float32
    yield "another type", {name: array.astype(other)}
    values: list[Any] = {"i": [-1, np.iinfo(np.int32).max], "f": [np.nan, np.inf, -np.inf]}.get(array.dtype.kind, [])
    for value in values if array.size else []:
        changed = array.copy()
        changed.flat[array.size // 2] = value
        yield f"contains {value}", {name: changed}
    if name == "offsets" and array.dtype.kind == "i":
        yield "descending", {name: np.ascontiguousarray(array[::-1])}


NO_RANGE = {
    *("steps", "edges_E", "rows_IJ", "rows_UJ", "item_features", "user_features", "seed"),
    *("fingerprints", "bins", "item_events", "switch_at"),
}
"""Arrays of which all numbers are valid: features may be missing, and counters and hashes have no range."""


@pytest.mark.parametrize("key", some_models(model_keys()))
def test_malformed_arrays_with_valid_hashes_are_named(key: str, tmp_path: Path) -> None:
    folder = save(key, tmp_path / "model")
    arrays = load_arrays(folder / "arrays.safetensors")
    queries = Queries.anonymous(Events.of([[0, 3, 5], []]))
    for name, array in arrays.items():
        for what, changed in malformed(name, array):
            others = {other: one for other, one in arrays.items() if other != name}
            if array.size == 0 and what in ("longer", "shorter"):
                continue
            replace_arrays(folder, "arrays.safetensors", {**others, **changed})
            is_valid = name.rpartition(".")[2] in NO_RANGE and what.startswith(("contains", "longer", "shorter"))
            if is_valid:
                continue
            with pytest.raises(ValueError, match=r"arrays\.safetensors: ") as error:
                bundle.load(folder).model.score(queries)
            if what not in ("longer", "shorter"):  # an array of another length is as wrong as those aligned with it
                assert name in str(error.value), what


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("offsets", lambda array: array[::-1]),
        ("offsets", lambda array: array[:-1]),
        ("items", lambda array: array + 30),
        ("items", lambda array: array - 1),
        ("actions", lambda array: array + 9),
        ("times", lambda array: array[:-1]),
    ],
)
def test_malformed_histories_with_valid_hashes_are_named(
    name: str, change: Callable[[NDArray[Any]], NDArray[Any]], tmp_path: Path
) -> None:
    folder = save("popular", tmp_path / "model")
    arrays = load_arrays(folder / bundle.HISTORIES)
    replace_arrays(folder, bundle.HISTORIES, {**arrays, name: change(arrays[name]).astype(arrays[name].dtype)})
    trained = bundle.load(folder)
    with pytest.raises(ValueError, match=rf"histories\.safetensors: malformed: .*{name}"):
        trained.load_log()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": {}}, "malformed"),
        ({"schema": {"n_users": 40, "n_items": 31, "actions": ["interaction"], "target": None}}, r"items\.parquet"),
        ({"schema": {"n_users": 41, "n_items": 30, "actions": ["interaction"], "target": None}}, r"users\.parquet"),
        ({"schema": {"n_users": "x", "n_items": 30, "actions": 5, "target": None}}, "malformed"),
        ({"model": None}, "'model' is missing"),
        ({"sha256": {}}, r"no hash of arrays\.safetensors"),
        ({"config": []}, "'config' is missing"),
    ],
)
def test_malformed_metadata_with_valid_checksums_is_named(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = save("popular", tmp_path / "model")
    metadata = json.loads((folder / "bundle.json").read_text())
    del metadata["checksum"]
    write_checked_json(folder / "bundle.json", metadata | changes)
    with pytest.raises(ValueError, match=message):
        bundle.load(folder)
