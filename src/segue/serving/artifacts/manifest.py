"""The manifest of a model artifact: its metadata and the SHA-256 of every file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from segue.core.config import Settings, parse
from segue.core.files import find_damage, read_checked_json, sha256
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

REQUIRED_FILES = ("bundle/bundle.json", BUNDLE_ARRAYS, "bundle/items.parquet", "bundle/users.parquet", GOLDEN_QUERIES,
                  POPULARITY, "neighbors/codes.npy", "neighbors/similarity.npy", "neighbors/lengths.npy")  # fmt: skip
"""Files that every artifact has."""


class Manifest(Settings):
    """Contents of ``artifact.json``."""

    format: int = FORMAT
    name: str
    key: str
    version: str
    engine: Literal["native", "onnx"]
    engine_note: str
    """Why no other engine was chosen."""
    last_sequence: int
    input_columns: tuple[InputColumn, ...]
    uses_query_time: bool
    metadata: dict[str, Any]
    sha256: dict[str, str]
    """SHA-256 by file name, with ``/`` between folders; every file but the manifest."""

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a folder.

        Raises:
            ValueError: the manifest is missing, broken, or has another format.
        """
        manifest = read_checked_json(folder / MANIFEST, is_required=False)
        if not isinstance(manifest.get("format"), int):
            raise ValueError(f"{folder / MANIFEST}: not the manifest of a model artifact")
        if manifest["format"] not in (2, FORMAT):
            raise ValueError(
                f"{folder}: artifact format {manifest['format']}, expected {FORMAT}; export the model again"
            )
        if manifest["format"] > 2:
            manifest = read_checked_json(folder / MANIFEST)
        return parse(cls, manifest, str(folder / MANIFEST))


def hash_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file except the manifest, by file name."""
    return {name: sha256(folder / name) for name in _list_files(folder)}


def verify_artifact(folder: Path) -> list[str]:
    """Return one line per missing, modified or unlisted file.

    Raises:
        ValueError: see :meth:`Manifest.read`.
    """
    expected = Manifest.read(folder).sha256
    errors = [f"{folder / name}: not in {MANIFEST}" for name in REQUIRED_FILES if name not in expected]
    errors += find_damage(folder, expected)
    return errors + [f"{folder / name}: not in {MANIFEST}" for name in _list_files(folder) if name not in expected]


def _list_files(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(name for path in paths if (name := path.relative_to(folder).as_posix()) != MANIFEST)
