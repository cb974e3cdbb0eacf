"""Writing so that nothing is ever half-written: beside the target first, then one rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["load_arrays", "read_json", "save_arrays", "settle", "sha256", "write_folder", "write_json", "write_text"]


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace ``path`` by ``text`` in one step; ``mode`` says who may read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)  # a temporary file is its owner's alone
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as readable JSON in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON in ``path``; a missing or broken file is a ``ValueError`` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None


@contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """A fresh folder to fill, put in the place of ``path`` when all went well and removed when not.

    Where ``path`` is replaced, a kill at the wrong moment leaves it aside; :func:`settle` puts it back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    settle(path)
    fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        fresh.chmod(0o755)
        yield fresh
        if path.exists():
            shutil.rmtree(_aside(path), ignore_errors=True)
            path.rename(_aside(path))
        try:
            fresh.rename(path)
        except BaseException:
            settle(path)
            raise
        shutil.rmtree(_aside(path), ignore_errors=True)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def settle(path: Path) -> None:
    """Put back the folder ``path`` if its writer was killed between setting it aside and putting the new one there."""
    if _aside(path).exists() and not path.exists():
        _aside(path).rename(path)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as safetensors in one step."""
    from safetensors.numpy import save_file

    fresh = path.with_name(f".{path.name}.new")
    try:
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, fresh)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Named arrays from a safetensors file; a missing or broken file is a ``ValueError`` that names it."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from None
