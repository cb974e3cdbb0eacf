"""Malformed artifacts with valid hashes: they are rejected with a ``ValueError``, or the model is unchanged."""

from __future__ import annotations

import copy
import json
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from segue.core import bundle
from segue.core.events import Events
from segue.core.files import load_arrays, save_arrays, sha256, write_checked_json
from segue.core.types import Dataset, Queries
from segue.serving import schemas
from segue.serving.artifacts.artifact import MANIFEST, ModelArtifact, build_artifact, load_artifact
from segue.serving.artifacts.manifest import BUNDLE_ARRAYS
from segue.serving.model_registry import LoadedModel
from segue.testing import dataset
from segue.testing.training import train_small

VALUES: list[Any] = [None, True, -1, 10**13, 1.5, "", "x", "../x", "\x00", [], [None], {}, {"a": [1]}]
N_ITEMS = 24


def _log() -> Dataset:
    rng = np.random.default_rng(3)
    rows = Events.of([rng.permutation(N_ITEMS)[:n] for n in rng.integers(2, 9, 20)])
    times = 1_600_000_000 + np.arange(rows.size) * 40_000
    values = rng.integers(1, 6, rows.size).astype(np.float32)
    return dataset(Events(rows.offsets, rows.items, np.zeros(rows.size, np.uint8), values, times), N_ITEMS)


DATA = _log()
QUERIES = Queries.of_users(np.arange(DATA.n_users, dtype=np.int32), DATA.histories)


@pytest.fixture(scope="module", params=["item_knn", "sasrec"])
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "model"
    trained = bundle.create(request.param, train_small(request.param, DATA), DATA, {"user_features": ["age"]})
    build_artifact(
        "model", trained, DATA.histories, folder, engine="native", n_golden=8, metadata={"metrics": {"a": 1}}
    )
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


def update_hashes(folder: Path) -> None:
    """Make all hashes valid again after files have changed."""
    for listing, root in (("bundle/bundle.json", folder / "bundle"), (MANIFEST, folder)):
        metadata = json.loads((folder / listing).read_text())
        metadata.pop("checksum", None)
        if isinstance(metadata.get("sha256"), dict):
            metadata["sha256"] = {name: sha256(root / name) for name in metadata["sha256"] if (root / name).is_file()}
            if root == folder and BUNDLE_ARRAYS in metadata["sha256"]:
                metadata["version"] = metadata["sha256"][BUNDLE_ARRAYS][:12]
        write_checked_json(folder / listing, metadata)


def load_model(folder: Path) -> ModelArtifact:
    """Load an artifact as a service does."""
    artifact = load_artifact(folder, threads=1)
    LoadedModel.from_artifact(artifact, schemas.Rules())
    return artifact


def check(folder: Path, expected: np.ndarray[Any, Any], what: str) -> bool:
    """Load an artifact, which must be rejected or unchanged; return whether it was rejected."""
    try:
        artifact = load_model(folder)
    except ValueError:
        return True
    except BaseException as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    np.testing.assert_allclose(artifact.engine.model.score(QUERIES), expected, 1e-3, 1e-3, err_msg=what)
    return False


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in JSON, of long lists only the first and the last."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths_of(value[key], (*path, key))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1} if value else ()):
            yield from paths_of(value[index], (*path, index))


def replace_at(root: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return JSON with the value at ``path`` replaced; ``...`` removes it."""
    if not path:
        return value
    root = copy.deepcopy(root)
    parent = root
    for part in path[:-1]:
        parent = parent[part]
    if value is ...:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return root


N_JSON_MUTATIONS = 40
"""Mutations of one JSON file, chosen at random."""


@pytest.mark.parametrize("name", [MANIFEST, "bundle/bundle.json", "golden_queries.json"])
def test_malformed_json_is_rejected_or_changes_nothing(folder: Path, name: str) -> None:
    expected = load_model(folder).engine.model.score(QUERIES)
    content = json.loads((folder / name).read_text())
    content.pop("checksum", None)
    mutations = [(path, value) for path in paths_of(content) if path for value in (*VALUES, ...)]
    chosen = np.random.default_rng(0).permutation(len(mutations))[:N_JSON_MUTATIONS]
    n_rejected = 0
    for path, value in [((), []), ((), {}), *(mutations[n] for n in chosen)]:
        changed = replace_at(content, path, value)
        text = json.dumps(changed)
        (folder / name).write_text(text)
        with suppress(AttributeError, TypeError):  # the change may make updating the hashes impossible
            if name != "golden_queries.json" and path:
                write_checked_json(folder / name, {} | {key: changed[key] for key in changed})
            if name != MANIFEST:
                manifest = json.loads((folder / MANIFEST).read_text())
                manifest.pop("checksum")
                manifest["sha256"][name] = sha256(folder / name)
                write_checked_json(folder / MANIFEST, manifest)
        n_rejected += check(folder, expected, f"{name} {path}: {value!r}")
    assert n_rejected > N_JSON_MUTATIONS / 3


ARRAY_CHANGES: dict[str, Callable[[Any], Any]] = {
    "another float type": lambda array: array.astype(np.float64),
    "another integer type": lambda array: array.astype(np.int16),
    "another byte order": lambda array: array.astype(array.dtype.newbyteorder()),
    "text": lambda array: array.astype("U5"),
    "another dimension": lambda array: array[None],
    "shorter": lambda array: array[:-1],
    "longer": lambda array: np.concatenate([array, array[-1:]]),
    "empty": lambda array: array[:0],
    "scalar": lambda array: array.reshape(-1)[0],
    "negative": lambda array: -array - 1,
    "too large": lambda array: array.astype(np.int64) + 10**6,
    "reversed": lambda array: array[::-1],
}


@pytest.mark.parametrize("name", ["popularity", "neighbors/codes", "neighbors/similarity", "neighbors/lengths",
                                  "histories/offsets", "histories/items", "histories/actions", "histories/values",
                                  "histories/times"])  # fmt: skip
def test_malformed_arrays_are_rejected_or_change_nothing(folder: Path, name: str) -> None:
    before = load_model(folder)
    array = np.load(folder / f"{name}.npy")
    for what, change in ARRAY_CHANGES.items():
        with np.errstate(all="ignore"):
            changed = change(array)
        if what in ("negative", "too large"):
            changed = changed.astype(array.dtype)
        np.save(folder / f"{name}.npy", changed)
        update_hashes(folder)
        is_rejected = check(folder, before.engine.model.score(QUERIES), f"{name}: {what}")
        is_data = name in ("histories/values", "histories/times", "histories/actions")
        is_data |= what == "reversed" and name == "histories/items"
        assert is_rejected or is_data or np.array_equal(changed, array), f"{name}: {what}"
    for shape in ("(1000000000000,)", "(4294967296, 4294967296)", "(10**9,)", "(-1,)", "(" * 2_000):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(16)
        (folder / f"{name}.npy").write_bytes(content)
        update_hashes(folder)
        assert check(folder, np.zeros(0), f"{name}: {shape}")


def test_malformed_weights_are_rejected(folder: Path) -> None:
    arrays = load_arrays(folder / BUNDLE_ARRAYS)
    expected = load_model(folder).engine.model.score(QUERIES)
    rng = np.random.default_rng(0)

    def check_arrays(changed: dict[str, Any], what: str) -> bool:
        save_arrays(folder / BUNDLE_ARRAYS, changed)
        update_hashes(folder)
        return check(folder, expected, what)

    for name, array in list(arrays.items())[:6]:
        rest = {other: one for other, one in arrays.items() if other != name}
        assert check_arrays(rest, f"{name} is missing")
        for what, change in ARRAY_CHANGES.items():
            if what != "text" and array.size and array.ndim:
                with np.errstate(all="ignore"):
                    changed = np.ascontiguousarray(change(array)).astype(change(array).dtype.newbyteorder("="))
                check_arrays({**rest, name: changed}, f"{name}: {what}")
        if array.dtype.kind == "f" and array.size:
            for value in (np.nan, np.inf, -np.inf):
                changed = array.copy()
                changed.flat[0] = value
                assert check_arrays({**rest, name: changed}, f"{name}: {value}")
    noisy = {name: array + rng.normal(size=array.shape).astype(array.dtype) if array.dtype.kind == "f" else array
             for name, array in arrays.items()}  # fmt: skip
    assert check_arrays(noisy, "noise")
    check_arrays({**arrays, "more": np.zeros(3)}, "another array")


def headers(folder: Path) -> Iterator[bytes]:
    """Yield safetensors files with malformed headers."""
    content = (folder / BUNDLE_ARRAYS).read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    name = next(name for name in header if name != "__metadata__")
    for change in (
        {"shape": [10**15, 10**15]}, {"shape": [-1]}, {"shape": "x"}, {"dtype": "F8_E4M3"}, {"dtype": "BF16"},
        {"dtype": "X"}, {"data_offsets": [0, 10**18]}, {"data_offsets": [5, 0]}, {"data_offsets": []},
    ):  # fmt: skip
        text = json.dumps({**header, name: {**header[name], **change}}).encode()
        yield struct.pack("<Q", len(text)) + text + data
    yield struct.pack("<Q", 2**63) + content[8:]
    yield struct.pack("<Q", 50_000) + b"[" * 50_000
    yield b""


def test_malformed_headers_of_weights_are_rejected(folder: Path) -> None:
    for number, content in enumerate(list(headers(folder))):
        (folder / BUNDLE_ARRAYS).write_bytes(content)
        update_hashes(folder)
        assert check(folder, np.zeros(0), f"header {number}")


TABLE_CHANGES: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "duplicate ids": lambda table: table.with_columns(pl.lit("same").alias("id")),
    "one duplicate id": lambda table: pl.concat([table[:-1], table[:1]]),
    "missing ids": lambda table: table.with_columns(pl.lit(None, pl.String).alias("id")),
    "one missing id": lambda table: table.with_columns(pl.when(pl.int_range(pl.len()) > 0).then("id").alias("id")),
    "integers": lambda table: table.with_columns(pl.int_range(pl.len()).alias("id")),
    "lists": lambda table: table.with_columns(pl.concat_list("id").alias("id")),
    "no ids": lambda table: table.rename({"id": "ids"}),
    "no columns": lambda table: pl.DataFrame(),
    "one row less": lambda table: table[:-1],
    "one row more": lambda table: pl.concat([table, table[:1].with_columns(pl.lit("new").alias("id"))]),
    "no rows": lambda table: table[:0],
}


@pytest.mark.parametrize("name", ["items", "users"])
def test_malformed_tables_of_ids_are_rejected(folder: Path, name: str) -> None:
    path = folder / "bundle" / f"{name}.parquet"
    table = pl.read_parquet(path)
    for what, change in TABLE_CHANGES.items():
        change(table).write_parquet(path)
        update_hashes(folder)
        assert check(folder, np.zeros(0), f"{name}: {what}")


def test_columns_of_any_type_are_rejected_or_change_nothing(folder: Path) -> None:
    path = folder / "bundle" / "items.parquet"
    table = pl.read_parquet(path)
    expected = load_model(folder).engine.model.score(QUERIES)
    columns: list[Any] = [
        [None] * N_ITEMS, [{"a": 1}] * N_ITEMS, [[[1]]] * N_ITEMS, [b"\xff"] * N_ITEMS, [float("nan")] * N_ITEMS,
        [[None, "x"]] * N_ITEMS, pl.date_range(pl.date(2000, 1, 1), pl.date(2000, 1, N_ITEMS), eager=True),
        pl.Series([1] * N_ITEMS, dtype=pl.Decimal(20, 3)), pl.Series(["a"] * N_ITEMS, dtype=pl.Categorical),
        pl.Series([[1, 2]] * N_ITEMS, dtype=pl.Array(pl.Int8, 2)), [True] * N_ITEMS, [10**18] * N_ITEMS,
    ]  # fmt: skip
    for column in columns:
        for name in ("title", "genres", "x" * 1_000, "", "\x00"):
            table.with_columns(pl.Series(name, column)).write_parquet(path)
            update_hashes(folder)
            check(folder, expected, f"{name[:10]!r}: {column[:1]}")


def test_damaged_bytes_with_valid_hashes_are_rejected_or_change_nothing(folder: Path) -> None:
    rng = np.random.default_rng(0)
    expected = load_model(folder).engine.model.score(QUERIES)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json")
    for path in paths:
        whole = path.read_bytes()
        variants = [b"", whole[: len(whole) // 2], whole + b"\x00" * 100, paths[0].read_bytes()]
        for _ in range(3):
            position = int(rng.integers(min(len(whole), 300)))
            variants.append(
                whole[:position] + bytes([whole[position] ^ int(rng.integers(1, 256))]) + whole[position + 1 :]
            )
        for number, content in enumerate(variants):
            path.write_bytes(content)
            update_hashes(folder)
            check(folder, expected, f"{path.name} {number}")
        path.write_bytes(whole)
