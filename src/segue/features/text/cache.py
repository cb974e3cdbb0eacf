"""Cache text vectors by content and encoder, so that no text is encoded twice.

There is one SQLite file per encoder, named by its digest, with one row per text, keyed by a hash of the text. Vectors
are stored after every batch of texts, in one transaction, so that an interrupted encoding continues where it stopped,
and several processes can share the cache. What encoders learn from the texts of a catalog is cached, too. Files can be
deleted at any time.

Shapes: N texts, M texts that are not cached, D numbers per vector.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from segue.core.events import Mask
from segue.core.files import load_arrays, save_arrays
from segue.core.messages import warn
from segue.core.run import Run
from segue.features.text.encoder import TextEncoder, Vectors

__all__ = ["cache_folder", "encode_cached", "fit_cached"]

BATCH_TEXTS = 256
"""Texts encoded between two writes to the cache."""

TIMEOUT_SECONDS = 60.0
"""How long to wait for another process that writes to the same file."""

CREATE = "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB, checksum INTEGER) WITHOUT ROWID"


def cache_folder() -> Path:
    """Return the folder of cached text vectors.

    It is ``SEGUE_HOME/text``, or else ``text`` in the platform's cache folder.
    """
    home = os.environ.get("SEGUE_HOME")
    return Path(home).expanduser() / "text" if home else user_cache_path("segue") / "text"


def fit_cached(encoder: TextEncoder, texts: Sequence[str], run: Run, folder: Path | None) -> None:
    """Fit ``encoder``, or restore what it learned from the same texts and seed.

    Args:
        folder: of the cache; ``None``: nothing is cached.
    """
    encoder.device = run.device
    path = None if folder is None else folder / f"{_fit_key(encoder, texts, run)}.safetensors"
    if path is not None and path.is_file():
        try:
            encoder.restore(load_arrays(path))
        except ValueError as error:
            warn(f"text cache: {error}; the text encoder is trained again")
        else:
            return
    encoder.fit(texts, run)
    if path is not None and type(encoder).fit is not TextEncoder.fit:  # also if it only checked something
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_arrays(path, encoder.arrays())
        except OSError as error:
            warn(f"text cache: {path}: cannot be written: {error.strerror or error}; continuing without the cache")


def encode_cached(encoder: TextEncoder, texts: Sequence[str], run: Run, folder: Path | None) -> Vectors:
    """Return the vectors of ``texts``, ``(N, D)``, with a cache.

    Vectors that are not in the cache are computed, with a progress bar, and added to the cache.

    Args:
        folder: of the cache; ``None``: nothing is cached.

    Raises:
        ValueError: the encoder returned something other than one vector per text.
    """
    texts_by_key = {_text_key(text): text for text in texts}
    rows = {key: row for row, key in enumerate(texts_by_key)}
    vectors = np.full((len(rows), encoder.size), np.nan, np.float32)
    with _open_cache(folder, encoder.digest) as cache:
        is_cached = np.zeros(len(rows), np.bool_) if cache is None else _read(cache, rows, vectors)
        # sorted by length, so that texts of similar length are encoded together
        keys_M = [key for key, row in rows.items() if not is_cached[row]]
        keys_M.sort(key=lambda key: len(texts_by_key[key]))
        with run.progress(len(keys_M), "encode text", "texts") as advance:
            for start in range(0, len(keys_M), BATCH_TEXTS):
                keys = keys_M[start : start + BATCH_TEXTS]
                found = _check_vectors(encoder, encoder.encode([texts_by_key[key] for key in keys]), len(keys))
                vectors[[rows[key] for key in keys]] = found
                if cache is not None:
                    cache = _write(cache, keys, found)
                advance(len(keys))
    return vectors[[rows[_text_key(text)] for text in texts]]


def _text_key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def _fit_key(encoder: TextEncoder, texts: Sequence[str], run: Run) -> str:
    """Hash everything that determines what an encoder learns."""
    settings = [type(encoder).__module__, encoder.config.model_dump(mode="json"), encoder.source_digest(), run.seed]
    found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for text in texts:
        found.update(_text_key(text))
    return found.hexdigest()


def _check_vectors(encoder: TextEncoder, vectors: Vectors, count: int) -> Vectors:
    """Check the shape of vectors, and that each is finite or NaN as a whole."""
    name = type(encoder).__name__
    if vectors.shape != (count, encoder.size):
        raise ValueError(f"{name}: got vectors of shape {vectors.shape}, expected {(count, encoder.size)}")
    is_missing = np.isnan(vectors).all(axis=1)
    if not np.isfinite(vectors[~is_missing]).all():
        raise ValueError(f"{name}: a vector has numbers that are not finite")
    return vectors.astype(np.float32, copy=False)


@contextmanager
def _open_cache(folder: Path | None, digest: str) -> Iterator[sqlite3.Connection | None]:
    """Open the file of an encoder.

    Gives ``None`` if nothing is cached, or the file cannot be used.
    """
    connection = None if folder is None else _connect(folder / f"{digest}.sqlite")
    try:
        yield connection
    finally:
        if connection is not None:
            connection.close()


def _connect(path: Path) -> sqlite3.Connection | None:
    """Open a file of the cache; a broken one is replaced."""
    for is_last in (False, True):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=TIMEOUT_SECONDS)
            connection.execute(CREATE)
            connection.execute("SELECT key, vector, checksum FROM vectors LIMIT 1").fetchall()
        except (sqlite3.OperationalError, OSError) as error:
            warn(f"text cache: {path}: {error}; continuing without the cache")
            return None
        except sqlite3.DatabaseError as error:
            connection.close()
            if is_last:
                warn(f"text cache: {path}: {error}; continuing without the cache")
                return None
            warn(f"text cache: {path}: {error}; the file is replaced, and its texts are encoded again")
            path.unlink()
        else:
            return connection
    return None


def _read(cache: sqlite3.Connection, rows: dict[bytes, int], vectors: Vectors) -> Mask:
    """Fill in the cached vectors, and return which they are.

    A damaged row is encoded again.
    """
    is_cached = np.zeros(len(rows), np.bool_)
    keys = list(rows)
    try:
        for start in range(0, len(keys), BATCH_TEXTS):
            part = keys[start : start + BATCH_TEXTS]
            marks = ", ".join("?" * len(part))
            for key, blob, checksum in cache.execute(f"SELECT * FROM vectors WHERE key IN ({marks})", part):
                if len(blob) == vectors[0].nbytes and zlib.crc32(blob) == checksum:
                    vectors[rows[key]] = np.frombuffer(blob, np.dtype("<f4"))
                    is_cached[rows[key]] = True
    except (sqlite3.DatabaseError, TypeError) as error:
        warn(f"text cache: {error}; its texts are encoded again")
    return is_cached


def _write(cache: sqlite3.Connection, keys: Sequence[bytes], vectors: Vectors) -> sqlite3.Connection | None:
    """Store a batch of vectors in one transaction.

    Returns ``None`` if the cache cannot be written.
    """
    blobs = [row.tobytes() for row in np.ascontiguousarray(vectors, np.dtype("<f4"))]
    lines = [(key, blob, zlib.crc32(blob)) for key, blob in zip(keys, blobs, strict=True)]
    try:
        with cache:
            cache.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", lines)
    except sqlite3.DatabaseError as error:
        warn(f"text cache: {error}; continuing without the cache")
        cache.close()
        return None
    return cache
