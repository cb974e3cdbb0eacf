"""Write files and folders atomically.

They are written to a temporary sibling first, which is then renamed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "atomic_file",
    "atomic_folder",
    "check_file_names",
    "check_json_line",
    "check_regular_file",
    "check_unique_keys",
    "find_damage",
    "is_inside",
    "load_arrays",
    "map_array",
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
MAX_LISTED_FILES = 10_000
"""Maximum number of files that a folder may list with their hashes."""
MAX_JSON_BYTES = 256_000_000
"""Maximum size of a JSON file."""
ESCAPED_ASCII = re.compile(rb"\\u00[2-7][0-9a-fA-F]")
"""Characters that JSON need not escape, so that a key has several spellings."""


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


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read JSON from ``path``.

    Args:
        max_bytes: maximum size of the file.

    Raises:
        ValueError: the file is missing, too large, nested too deeply, or not JSON.
    """
    return _parse_json(path, _read_bytes(path, max_bytes))


def _parse_json(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError:
        raise ValueError(f"{path}: not JSON: nested too deeply") from None
    except ValueError as error:  # also an integer of thousands of digits
        raise ValueError(f"{path}: not JSON: {error}") from None


def check_unique_keys(data: bytes, name: str, known: Mapping[str, int]) -> None:
    """Check that no object of JSON Lines has a key twice, of which parsers keep one.

    Only lines in which a name occurs twice are parsed. They are looked for only if a name does not occur once per known
    cell; the others are nulls, texts, keys of inner objects, or repeated keys.

    Args:
        name: name of the file, for messages.
        known: columns that are checked, with their number of cells that are not null.

    Raises:
        ValueError: an object has a key twice; the message names the line.
    """
    spellings = [{json.dumps(key).encode(), json.dumps(key, ensure_ascii=False).encode()} for key in known]
    cells = zip(spellings, known.values(), strict=True)
    doubtful = [texts for texts, count in cells if sum(map(data.count, texts)) != count]
    is_escaped = ESCAPED_ASCII.search(data) is not None
    if not doubtful and not is_escaped:
        return
    for number, line in enumerate(data.split(b"\n"), 1):
        is_doubtful = any(sum(map(line.count, texts)) > 1 for texts in doubtful)
        if is_doubtful or (is_escaped and ESCAPED_ASCII.search(line)):
            json.loads(line, object_pairs_hook=_Pairs).check(f"{name}, line {number}", line, known)


def check_json_line(line: bytes, where: str) -> None:
    """Check that a line is a JSON object without a repeated key.

    Raises:
        ValueError: it is not.
    """
    try:
        found = json.loads(line, object_pairs_hook=_Pairs, parse_constant=_reject_constant)
    except ValueError:
        found = None
    if not isinstance(found, _Pairs):
        raise ValueError(f"{where}: got {_shorten(line)}, expected one JSON object")
    found.check(where, line, [key for key, _ in found])


class _Pairs(list[tuple[str, Any]]):
    """The names and values of a JSON object."""

    def check(self, where: str, line: bytes, names: Iterable[str]) -> None:
        """Reject an object that has one of ``names`` twice."""
        keys = [key for key, _ in self]
        if twice := [key for key in names if keys.count(key) > 1]:
            raise ValueError(f"{where}: '{twice[0]}' occurs twice in {_shorten(line)}")


def _reject_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _shorten(line: bytes) -> str:
    return repr(line.decode()) if len(line) <= 60 else f"{line[:60].decode('utf-8', 'replace')!r}..."


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    if (size := check_regular_file(path)) > max_bytes:
        raise ValueError(f"{path}: {size} bytes, expected at most {max_bytes}")
    with path.open("rb") as file:
        return file.read(max_bytes + 1)


def check_regular_file(path: Path) -> int:
    """Check that ``path`` is a regular file, and return its size in bytes.

    It is not opened. Opening a FIFO would block, and opening a device may have effects.

    Raises:
        ValueError: there is no such file, it cannot be examined, or it is a folder, a FIFO or a device.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # such as a loop of symbolic links, or a name that the system does not allow
        raise ValueError(f"{path}: cannot be read: {error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: expected a regular file, got a {'folder' if path.is_dir() else 'special file'}")
    return status.st_size


def write_checked_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` as JSON with a checksum of the file's text, atomically.

    The checksum is the SHA-256 of the text in which 64 zeros stand for the checksum.
    """
    text = json.dumps({**value, CHECKSUM: NO_DIGEST}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    head, _, tail = text.rpartition(NO_DIGEST)
    write_text(path, f"{head}{hashlib.sha256(text.encode()).hexdigest()}{tail}")


def read_checked_json(path: Path, *, is_required: bool = True, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read what :func:`write_checked_json` wrote, without the checksum.

    Args:
        is_required: whether the file must have a checksum; files of earlier versions have none.
        max_bytes: maximum size of the file.

    Raises:
        ValueError: the file is missing, too large, not a JSON object, or modified.
    """
    content = _read_bytes(path, max_bytes)
    value = _parse_json(path, content)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}")
    if CHECKSUM not in value and not is_required:
        return value
    if CHECKSUM not in value:
        raise ValueError(f"{path}: modified or damaged: it has no checksum")
    digest = value.pop(CHECKSUM)
    if not isinstance(digest, str) or len(digest) != len(NO_DIGEST):
        raise ValueError(f"{path}: modified or damaged: the checksum is not a SHA-256")
    head, _, tail = content.rpartition(digest.encode("utf-8", "surrogatepass"))
    actual = hashlib.sha256(head + NO_DIGEST.encode() + tail).hexdigest()
    if digest != actual:
        raise ValueError(f"{path}: modified or damaged: checksum {actual}, expected {digest}")
    return value


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield the path of a new file that replaces ``path`` on success.

    On error it is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        Path(name).chmod(0o644)  # temporary files are private to their owner
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


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

    No file outside the folder is read: neither through its name nor through a symbolic link.

    Args:
        expected: maps file names to their SHA-256; see :func:`check_file_names`.
    """
    try:
        check_file_names(expected, str(folder))
    except ValueError as error:
        return [str(error)]
    errors = []
    for name, digest in expected.items():
        path = folder / name
        if not path.exists():
            errors.append(f"{path}: missing")
        elif not is_inside(folder, path):
            errors.append(f"{path}: a symbolic link that leaves the folder")
        else:
            try:
                check_regular_file(path)
                if (actual := sha256(path)) != digest:
                    errors.append(f"{path}: sha256 {actual}, expected {digest}")
            except ValueError as error:
                errors.append(str(error))
            except OSError as error:
                errors.append(f"{path}: cannot be read: {error.strerror or error}")
    return errors


def check_file_names(names: Mapping[str, object], where: str) -> None:
    """Check that all listed names are plain relative paths inside their folder.

    A name has ``/`` between folders and is normalized, so that no file has two names.

    Raises:
        ValueError: a name is empty, absolute or not normalized, or has ``..``, a backslash, a drive letter or a control
            character; or more than :data:`MAX_LISTED_FILES` are listed.
    """
    if len(names) > MAX_LISTED_FILES:
        raise ValueError(f"{where}: lists {len(names)} files, expected at most {MAX_LISTED_FILES}")
    for name in names:
        parts = PurePosixPath(name).parts if isinstance(name, str) else ()
        is_plain = bool(parts) and "/".join(parts) == name and not {".", "..", "/"} & {*parts}
        if not is_plain or "\\" in name or re.match(r"[A-Za-z]:", name) or not name.isprintable() or len(name) > 1_000:
            raise ValueError(f"{where}: lists {str(name)[:100]!r}, expected the relative path of a file in the folder")


def is_inside(folder: Path, path: Path) -> bool:
    """Return whether ``path`` is in ``folder`` after following all symbolic links."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of symbolic links
        return False


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
        ValueError: the file is missing or broken, or has a type of numbers that NumPy does not have.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    check_regular_file(path)
    try:
        return dict(load_file(path))
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError, MemoryError, OSError) as error:
        raise ValueError(f"{path}: not a safetensors file: {error or type(error).__name__}") from None


def map_array(path: Path, dtype: Any, ndim: int = 1) -> NDArray[Any]:
    """Open a ``.npy`` file as a read-only, memory-mapped array.

    Args:
        dtype: expected type.
        ndim: expected number of dimensions.

    Raises:
        ValueError: the file is missing or broken, has another type or number of dimensions, or is too short for the
            shape in its header.
    """
    size = check_regular_file(path)
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, actual = read_header(file)
            offset = file.tell()
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, OSError, TokenError) as error:
        reason = (str(error) or type(error).__name__)[:200]
        raise ValueError(f"{path}: malformed: not a .npy file: {reason}") from None
    if actual != dtype or len(shape) != ndim:
        raise ValueError(f"{path}: malformed: {actual} of shape {shape}, expected {np.dtype(dtype)}, {ndim} dimensions")
    if min(shape, default=1) < 0 or math.prod(shape) * actual.itemsize != size - offset:
        raise ValueError(f"{path}: malformed: {size - offset} bytes for {actual} of shape {shape}")
    array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    return array
