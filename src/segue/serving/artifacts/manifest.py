"""The manifest of a model artifact: its metadata and the SHA-256 of every file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, MaxLen
from pydantic import StringConstraints

from segue.core.config import Settings, parse
from segue.core.files import check_file_names, check_regular_file, find_damage, is_inside, read_checked_json, sha256
from segue.serving.engines.input_columns import InputColumn

__all__ = [
    "ANN_INDEX",
    "BUNDLE_ARRAYS",
    "FORMAT",
    "GOLDEN_QUERIES",
    "MANIFEST",
    "ONNX_MODEL",
    "POPULARITY",
    "Manifest",
    "file_sizes",
    "hash_files",
    "verify_artifact",
]

FORMAT = 3
"""Version of the layout. In format 2, the manifest has no checksum."""

MANIFEST = "artifact.json"

BUNDLE_ARRAYS = "bundle/arrays.safetensors"
GOLDEN_QUERIES = "golden_queries.json"
ONNX_MODEL = "engine/model.onnx"
ANN_INDEX = "engine/items.usearch"
POPULARITY = "popularity.npy"

MAX_MANIFEST_BYTES = 4_000_000
"""Maximum size of the manifest. A service reads the manifests of all available models to list them."""

REQUIRED_FILES = ("bundle/bundle.json", BUNDLE_ARRAYS, "bundle/items.parquet", "bundle/users.parquet", GOLDEN_QUERIES,
                  POPULARITY, "neighbors/codes.npy", "neighbors/similarity.npy", "neighbors/lengths.npy")  # fmt: skip
"""Files that every artifact has."""

Label = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,256}$")]
"""Text of one line."""


class Manifest(Settings):
    """Contents of ``artifact.json``."""

    format: int = FORMAT
    name: Label
    key: Label
    version: Label
    engine: Literal["native", "onnx"]
    engine_note: Annotated[str, MaxLen(10_000)]
    """Why no other engine was chosen."""
    last_sequence: Annotated[int, Ge(0)]
    input_columns: tuple[InputColumn, ...]
    uses_query_time: bool
    metadata: dict[str, Any]
    sha256: dict[str, str]
    """SHA-256 by file name, with ``/`` between folders; every file but the manifest."""

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a folder.

        Raises:
            ValueError: the manifest is missing, too large or broken, has another format, or is a link that leaves the
                folder.
        """
        path = folder / MANIFEST
        if path.is_symlink() and not is_inside(folder, path):
            raise ValueError(f"{path}: a symbolic link that leaves the folder")
        manifest = read_checked_json(path, is_required=False, max_bytes=MAX_MANIFEST_BYTES)
        if type(manifest.get("format")) is not int:
            raise ValueError(f"{folder / MANIFEST}: not the manifest of a model artifact")
        if manifest["format"] not in (2, FORMAT):
            raise ValueError(
                f"{folder}: artifact format {manifest['format']}, expected {FORMAT}; export the model again"
            )
        if manifest["format"] > 2:
            manifest = read_checked_json(path, max_bytes=MAX_MANIFEST_BYTES)
        found = parse(cls, manifest, str(path))
        check_file_names(found.sha256, f"{path}: sha256")
        if not _is_plain_json(found.metadata):
            raise ValueError(f"{path}: metadata: a number is not finite, or a text is not Unicode")
        return found


def hash_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file except the manifest, by file name."""
    return {name: sha256(folder / name) for name in _list_files(folder)}


def verify_artifact(folder: Path) -> list[str]:
    """Return one line per missing, modified, unlisted or special file.

    Raises:
        ValueError: see :meth:`Manifest.read`.
    """
    expected = Manifest.read(folder).sha256
    errors = [f"{folder / name}: not in {MANIFEST}" for name in REQUIRED_FILES if name not in expected]
    errors += [f"{folder / name}: not in {MANIFEST}" for name in _list_files(folder) if name not in expected]
    return errors or find_damage(folder, expected)


def file_sizes(folder: Path, names: Mapping[str, object]) -> int:
    """Return the total size in bytes of the listed files of a folder.

    Raises:
        ValueError: a file is missing, is not a regular file, or is a link that leaves the folder.
    """
    for name in names:
        if not is_inside(folder, folder / name):
            raise ValueError(f"{folder / name}: a symbolic link that leaves the folder")
    return sum(check_regular_file(folder / name) for name in names)


def _list_files(folder: Path) -> list[str]:
    """Return the names of all files in a folder, including special files and links."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(name for path in paths if (name := path.relative_to(folder).as_posix()) != MANIFEST)


def _is_plain_json(value: Any) -> bool:
    """Return whether a value can be written as JSON; Python reads more than that."""
    if isinstance(value, Mapping):
        return all(_is_plain_json(key) and _is_plain_json(one) for key, one in value.items())
    if isinstance(value, list):
        return all(map(_is_plain_json, value))
    if isinstance(value, str):
        return not any("\ud800" <= char <= "\udfff" for char in value)
    return not isinstance(value, float) or math.isfinite(value)
