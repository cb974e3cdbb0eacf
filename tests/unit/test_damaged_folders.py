"""Damaged datasets, checkpoints and artifacts are rejected with the name of the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.core import bundle
from segue.core.files import load_arrays, save_arrays, sha256, write_checked_json
from segue.core.model_arrays import load_csr
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events
from segue.data.folder import open_dataset
from segue.data.load import load
from segue.serving.artifacts.artifact import build_artifact, load_artifact
from segue.testing import dataset, small, train_small
from segue.training.train import Training, train

LINES = [
    "user_id,item_id,rating,timestamp",
    *(f"u{n % 7},i{n % 11},{1 + n % 5},{1_600_000_000 + n}" for n in range(60)),
]


def make_log() -> Dataset:
    rng = np.random.default_rng(5)
    return dataset(Events.of([rng.integers(12, size=8) for _ in range(20)]), 12)


def prepare(folder: Path) -> Path:
    table = folder.with_suffix(".csv")
    table.write_text("\n".join(LINES) + "\n")
    load(str(table), out=folder)
    return folder


def train_with_checkpoint(folder: Path) -> None:
    config = small(model_class("sasrec").Config, {"embedding_dim": 8})
    train("sasrec", config, small(Training, {"epochs": 2, "weight_ema": 0.9}), make_log(), Run(0, folder), None)


def export(folder: Path) -> Path:
    log = make_log()
    build_artifact("knn", bundle.create("item_knn", train_small("item_knn", log), log), log.histories, folder)
    return folder


def check_all_files(folder: Path, read: Callable[[], Any], ignored: frozenset[str] = frozenset()) -> None:
    """Flip, truncate, swap and remove every file below a folder, and expect its name in the error."""
    read()
    rng = np.random.default_rng(0)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in ignored)
    assert len(paths) > 1
    for path, other in zip(paths, [*paths[1:], paths[0]], strict=True):
        whole = path.read_bytes()
        for _ in range(10):
            position = int(rng.integers(len(whole)))
            flipped = bytes([whole[position] ^ int(rng.integers(1, 256))])
            path.write_bytes(whole[:position] + flipped + whole[position + 1 :])
            with pytest.raises(ValueError, match=path.name):
                read()
        for damaged in (whole[: int(rng.integers(len(whole)))], other.read_bytes(), None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            with pytest.raises(ValueError, match=path.name):
                read()
        path.write_bytes(whole)
    read()


def test_damaged_datasets_are_rejected(tmp_path: Path) -> None:
    folder = prepare(tmp_path / "data")
    check_all_files(folder, lambda: open_dataset(folder), frozenset({"interactions.parquet"}))  # which nothing reads


def test_damaged_checkpoints_are_rejected(tmp_path: Path) -> None:
    train_with_checkpoint(tmp_path)
    check_all_files(tmp_path / "checkpoint", lambda: Run(0, tmp_path).resume())


def test_damaged_artifacts_are_rejected(tmp_path: Path) -> None:
    folder = export(tmp_path / "artifact")
    check_all_files(folder, lambda: load_artifact(folder))


def update_hashes(folder: Path, listing: str) -> None:
    """Make the hashes of changed files valid again."""
    metadata = json.loads((folder / listing).read_text())
    del metadata["checksum"]
    metadata["sha256"] = {name: sha256(folder / name) for name in metadata["sha256"]}
    write_checked_json(folder / listing, metadata)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("items", lambda array: array + 11),
        ("items", lambda array: array - 1),
        ("items", lambda array: array.astype(np.int64)),
        ("items", lambda array: array[:, None]),
        ("offsets", lambda array: array[::-1]),
        ("offsets", lambda array: array + 1),
        ("times", lambda array: array[:-1]),
    ],
)
def test_malformed_datasets_with_valid_hashes_are_rejected(
    name: str, change: Callable[[Any], Any], tmp_path: Path
) -> None:
    folder = prepare(tmp_path / "data")
    np.save(folder / f"{name}.npy", change(np.load(folder / f"{name}.npy")))
    update_hashes(folder, "header.json")
    with pytest.raises(ValueError, match=name):
        open_dataset(folder)


def test_malformed_checkpoints_with_valid_hashes_are_rejected(tmp_path: Path) -> None:
    train_with_checkpoint(tmp_path)
    folder = tmp_path / "checkpoint"
    arrays = load_arrays(folder / "arrays.safetensors")
    for name in arrays:
        save_arrays(folder / "arrays.safetensors", {**arrays, name: np.zeros((3, 5, 7), np.float32)})
        update_hashes(folder, "metadata.json")
        with pytest.raises(ValueError, match="checkpoint: does not fit this training"):
            train_with_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("neighbors/codes", lambda array: array + 12),
        ("neighbors/codes", lambda array: array - 1),
        ("neighbors/similarity", lambda array: array * np.nan),
        ("neighbors/lengths", lambda array: array + 99),
        ("neighbors/lengths", lambda array: array[:-1]),
        ("popularity", lambda array: array[:-1]),
        ("popularity", lambda array: array * np.inf),
        ("histories/items", lambda array: array + 12),
        ("histories/items", lambda array: array[:-1]),
        ("histories/offsets", lambda array: array[::-1]),
    ],
)
def test_malformed_artifacts_with_valid_hashes_are_rejected(
    name: str, change: Callable[[Any], Any], tmp_path: Path
) -> None:
    folder = export(tmp_path / "artifact")
    array = np.load(folder / f"{name}.npy")
    with np.errstate(invalid="ignore"):
        np.save(folder / f"{name}.npy", change(array).astype(array.dtype))
    update_hashes(folder, "artifact.json")
    with pytest.raises(ValueError, match=name.partition("/")[0]):
        load_artifact(folder)


@pytest.mark.parametrize(
    ("columns", "offsets", "message"),
    [
        ([0, 1, 3], [0, 2, 3], "codes from 0 to 3, expected 0 to 2"),
        ([0, -1, 1], [0, 2, 3], "codes from -1 to 1"),
        ([1, 0, 1], [0, 2, 3], "must ascend"),
        ([1, 1, 2], [0, 2, 3], "must ascend"),
        ([0, 1, 2], [0, 2, 4], "must increase from 0 to 3"),
        ([0, 1, 2], [1, 2, 3], "must increase from 0 to 3"),
        ([0, 1, 2], [0, 4, 3], "must increase from 0 to 3"),
    ],
)
def test_malformed_sparse_matrices_are_rejected(columns: list[int], offsets: list[int], message: str) -> None:
    arrays = {"v": np.ones(3, np.float32), "c": np.array(columns, np.int32), "o": np.array(offsets, np.int64)}
    with pytest.raises(ValueError, match=message):
        load_csr(arrays, "v", "c", "o", (2, 3))
    valid = {**arrays, "c": np.array([1, 2, 0], np.int32), "o": np.array([0, 2, 3])}
    assert load_csr(valid, "v", "c", "o", (2, 3)).toarray().tolist() == [[0, 1, 1], [1, 0, 0]]
