"""Write files and folders atomically.

They are written to a temporary sibling first, which is then renamed.
"""

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

__all__ = [
    "atomic_folder",
    "find_damage",
    "load_arrays",
    "read_checked_json",
    "read_json",
    "recover_interrupted_write",
    "save_arrays",
    "sha256",
    "write_checked_json",
    "write_json",
    "write_text",
]

CHECKSUM = "checksum"
NO_DIGEST = "0" * 64


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Write ``text`` to ``path`` atomically, with permissions ``mode``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)  # temporary files are private to their owner
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON from ``path``.

    Raises:
        ValueError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None


def write_checked_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` as JSON with a checksum of the file's text, atomically.

    The checksum is the SHA-256 of the text in which 64 zeros stand for the checksum.
    """
    text = json.dumps({**value, CHECKSUM: NO_DIGEST}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    head, _, tail = text.rpartition(NO_DIGEST)
    write_text(path, f"{head}{hashlib.sha256(text.encode()).hexdigest()}{tail}")


def read_checked_json(path: Path, *, is_required: bool = True) -> dict[str, Any]:
    """Read what :func:`write_checked_json` wrote, without the checksum.

    Args:
        is_required: whether the file must have a checksum; files of earlier versions have none.

    Raises:
        ValueError: the file is missing, not a JSON object, or modified.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}")
    if CHECKSUM not in value and not is_required:
        return value
    if CHECKSUM not in value:
        raise ValueError(f"{path}: modified or damaged: it has no checksum")
    digest = value.pop(CHECKSUM)
    head, _, tail = path.read_bytes().rpartition(str(digest).encode())
    actual = hashlib.sha256(head + NO_DIGEST.encode() + tail).hexdigest()
    if digest != actual:
        raise ValueError(f"{path}: modified or damaged: checksum {actual}, expected {digest}")
    return value


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder that replaces ``path`` on success and is removed on error.

    If the process is killed while ``path`` is replaced, the old folder remains as a backup;
    :func:`recover_interrupted_write` restores it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_interrupted_write(path)
    fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        fresh.chmod(0o755)
        yield fresh
        if path.exists():
            shutil.rmtree(_backup_path(path), ignore_errors=True)
            path.rename(_backup_path(path))
        try:
            fresh.rename(path)
        except BaseException:
            recover_interrupted_write(path)
            raise
        shutil.rmtree(_backup_path(path), ignore_errors=True)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def recover_interrupted_write(path: Path) -> None:
    """Restore ``path`` from its backup if the process replacing it was killed."""
    if _backup_path(path).exists() and not path.exists():
        _backup_path(path).rename(path)


def _backup_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_damage(folder: Path, expected: Mapping[str, str]) -> list[str]:
    """List the missing and modified files of ``folder``, one line each.

    ``expected`` maps file names to their SHA-256.
    """
    errors = []
    for name, digest in expected.items():
        if not (folder / name).is_file():
            errors.append(f"{folder / name}: missing")
        elif (actual := sha256(folder / name)) != digest:
            errors.append(f"{folder / name}: sha256 {actual}, expected {digest}")
    return errors


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays to a safetensors file, atomically."""
    from safetensors.numpy import save_file

    fresh = path.with_name(f".{path.name}.new")
    try:
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, fresh)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read named arrays from a safetensors file.

    Raises:
        ValueError: the file is missing or broken.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from None
