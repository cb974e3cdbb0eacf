"""Write a prepared dataset: users in chunks, in constant memory, atomically.

The folder contains ``header.json``, the tables ``users.parquet``, ``items.parquet`` and ``interactions.parquet``, and
the arrays ``offsets``, ``items``, ``times``, ``values`` and ``actions`` for models (``.npy``, memory-mapped).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from segue.core.files import atomic_folder, sha256, write_checked_json
from segue.core.knowledge.knowledge import Knowledge
from segue.data.knowledge.storage import write_knowledge
from segue.version import __version__

__all__ = ["ARRAYS", "FORMAT", "DatasetWriter", "content_hash", "context_digests", "side_table_digests"]

FORMAT = 2
ARRAYS: dict[str, Any] = {
    "offsets": np.int64,
    "items": np.int32,
    "times": np.int64,
    "values": np.float32,
    "actions": np.uint8,
}
BLOCK = 2_000_000
"""Events per block of the interactions table."""


class AppendableArray:
    """An ``.npy`` file that values are appended to.

    Its header has space for any length.
    """

    def __init__(self, path: Path, dtype: Any) -> None:
        self.dtype, self.size, self.hash = np.dtype(dtype), 0, hashlib.sha256()
        self.file: BinaryIO = path.open("wb")
        self._header()

    def _header(self) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.size,)}
        np.lib.format.write_array_header_1_0(self.file, header)

    def add(self, values: ArrayLike) -> None:
        """Append ``values (n,)``."""
        part = np.ascontiguousarray(values, dtype=self.dtype)
        self.hash.update(part.data)
        self.file.write(part.data)
        self.size += len(part)

    def close(self) -> None:
        """Write the final length."""
        self.file.seek(0)
        self._header()
        self.file.close()


def _is_replaceable(folder: Path) -> bool:
    """Check whether ``folder`` is a prepared dataset or empty."""
    return (folder / "offsets.npy").is_file() or not any(folder.iterdir())


class DatasetWriter:
    """Context manager that writes a dataset to ``folder``.

    Call :meth:`append` for each chunk, then :meth:`finish` once.

    Args:
        folder: created atomically at the end of the context, and not at all after an error.
        name: name of the dataset.
        times: whether events have times.
        values: whether events have values.
        actions: action names; the index is the code. With one action no codes are stored.
        target: the action that is predicted; ``None``: all.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        times: bool = True,
        values: bool = True,
        actions: Sequence[str] = ("interaction",),
        target: str | None = None,
    ) -> None:
        if target is not None and target not in actions:
            raise ValueError(f"target: unknown action {target!r}, expected one of {', '.join(actions)}")
        self.folder, self.name, self.actions, self.target = Path(folder), name, tuple(actions), target
        present = {"offsets": True, "items": True, "times": times, "values": values, "actions": len(actions) > 1}
        self._names = [column for column, is_present in present.items() if is_present]
        self._open: AbstractContextManager[Path] | None = None
        self._arrays: dict[str, AppendableArray] = {}
        self._done = False

    def __enter__(self) -> Self:
        if self.folder.exists() and not (self.folder.is_dir() and _is_replaceable(self.folder)):
            raise ValueError(f"{self.folder}: exists and is no prepared dataset; expected a new or empty folder")
        self._open = atomic_folder(self.folder)
        self._fresh = self._open.__enter__()
        self._arrays = {
            column: AppendableArray(self._fresh / f"{column}.npy", ARRAYS[column]) for column in self._names
        }
        self._arrays["offsets"].add([0])
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._open is not None
        for array in self._arrays.values():
            if not array.file.closed:
                array.file.close()
        if error_type is None and not self._done:
            error = ValueError(f"{self.folder}: the dataset was not finished")
            self._open.__exit__(type(error), error, None)
            raise error
        self._open.__exit__(error_type, error, trace)

    def append(
        self,
        lengths: NDArray[Any],
        items: NDArray[Any],
        times: NDArray[Any] | None = None,
        values: NDArray[Any] | None = None,
        actions: NDArray[Any] | None = None,
    ) -> None:
        """Append ``len(lengths)`` users with ``lengths (U,)`` events each.

        All columns have length ``lengths.sum()``. The events of a user are ordered oldest first; ``times`` are
        integers.
        """
        total = self._arrays["items"].size
        columns = {"items": items, "times": times, "values": values, "actions": actions}
        for column, part in columns.items():
            if column not in self._arrays:
                continue
            if part is None or len(part) != lengths.sum():
                got = "nothing" if part is None else f"{len(part)} values"
                raise ValueError(f"{column}: got {got} for {int(lengths.sum())} events")
            self._arrays[column].add(part)
        self._arrays["offsets"].add(total + np.cumsum(lengths, dtype=np.int64))

    def finish(
        self,
        items: pl.DataFrame,
        users: pl.DataFrame | None = None,
        *,
        header: Mapping[str, Any] | None = None,
        predefined_splits: Mapping[str, NDArray[np.uint8]] | None = None,
        time_known: NDArray[np.bool_] | None = None,
        context: Mapping[str, NDArray[Any]] | None = None,
        knowledge: Knowledge | None = None,
    ) -> None:
        """Write tables and header.

        Args:
            items: one row per item code, with ids in the text column ``id``.
            users: one row per user code, likewise; ``None``: ids are numbers from 1.
            header: ``source``, ``warnings``, ``filters``, further ``counts``, ...
            predefined_splits: splits that come with the data, ``(T,)`` by name: 1 train, 2 test, 3 validation, 0
                neither.
            time_known: ``(T,)`` false where a time only preserves the order of events. Not part of the content hash.
            context: ``(T,)`` context columns by name; the entry ``context`` of ``header`` has their categories.
            knowledge: triples about the items; the entry ``knowledge`` of ``header`` describes them.
        """
        n_users, n_events = self._arrays["offsets"].size - 1, self._arrays["items"].size
        for array in self._arrays.values():
            array.close()
        if users is None:
            users = pl.DataFrame({"id": pl.int_range(1, n_users + 1, eager=True).cast(pl.String)})
        if len(users) != n_users:
            raise ValueError(f"users: got {len(users)} rows for {n_users} users")
        arrays = {column: np.load(self._fresh / f"{column}.npy", mmap_mode="r") for column in self._names}
        if n_events and int(arrays["items"].max()) >= len(items):
            raise ValueError(f"items: got {len(items)} rows, but code {int(arrays['items'].max())} occurs")
        users.write_parquet(self._fresh / "users.parquet")
        items.write_parquet(self._fresh / "items.parquet")
        for split, roles in (predefined_splits or {}).items():
            np.save(self._fresh / f"split-{split}.npy", roles)
        if time_known is not None:
            np.save(self._fresh / "time_known.npy", time_known)
        for name, column in (context or {}).items():
            if len(column) != n_events:
                raise ValueError(f"context.{name}: got {len(column)} values for {n_events} events")
            np.save(self._fresh / f"context-{name}.npy", column)
        if knowledge is not None:
            write_knowledge(self._fresh, knowledge)
        _write_interactions(self._fresh / "interactions.parquet", arrays, users["id"], items["id"], self.actions)
        entries = dict(header or {})
        digests = {column: array.hash.hexdigest() for column, array in self._arrays.items()} | side_table_digests(
            entries
        )
        of_context = {
            name: hashlib.sha256(np.ascontiguousarray(column).data).hexdigest()
            for name, column in (context or {}).items()
        }
        digests |= of_context | context_digests(entries, of_context)
        counts = {"users": n_users, "items": len(items), "interactions": n_events, **entries.pop("counts", {})}
        hashes = {path.name: sha256(path) for path in sorted(self._fresh.iterdir())}
        write_checked_json(
            self._fresh / "header.json",
            {
                "format": FORMAT,
                "segue": __version__,
                "name": self.name,
                "source": self.name,
                "warnings": [],
                "filters": {},
                **entries,
                "schema": {column: np.dtype(ARRAYS[column]).name for column in self._names},
                "actions": list(self.actions),
                "target": self.target,
                "predefined_splits": sorted(predefined_splits or {}),
                "counts": counts,
                "hash": content_hash(digests, self.actions, self.target, users["id"], items["id"]),
                "sha256": hashes,
            },
        )
        self._done = True


def side_table_digests(header: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of side tables and triples, each by a distinct name."""
    digests = {f"attached {noun}": str(table["sha256"]) for noun, table in header.get("side_tables", {}).items()}
    return digests | ({"knowledge": str(header["knowledge"]["sha256"])} if "knowledge" in header else {})


def context_digests(header: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, str]:
    """Return the digests of context columns, which include their categories.

    Args:
        digests: digests of the columns by name.
    """
    return {
        f"context {name}": hashlib.sha256(f"{digests[name]} {names}".encode()).hexdigest()
        for name, names in header.get("context", {}).items()
    }


def content_hash(
    digests: Mapping[str, str], actions: Sequence[str], target: str | None, users: pl.Series, items: pl.Series
) -> str:
    """Return a SHA-256 of what models read.

    It covers the digests of the arrays and side tables, actions, target and all ids. Item and user features that come
    with a source are not included.
    """
    whole = hashlib.sha256(f"{list(actions)} {target}".encode())
    for column in sorted(digests):
        whole.update(f" {column} {digests[column]}".encode())
    for ids in (users, items):
        whole.update("\n".join(ids.to_list()).encode() + b"\n\n")
    return whole.hexdigest()


def _write_interactions(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    users: pl.Series,
    items: pl.Series,
    actions: tuple[str, ...],
) -> None:
    """Write the events as a table with external ids, block by block."""
    from polars.io.plugins import register_io_source

    names_by_code = pl.Series("action", actions, dtype=pl.String)
    names = {"times": ("timestamp", pl.Int64), "values": ("rating", pl.Float32), "actions": ("action", pl.String)}
    schema: dict[str, Any] = {"user_id": pl.String, "item_id": pl.String}
    schema |= dict(names[column] for column in names if column in arrays)
    offsets = arrays["offsets"]

    def block(start: int, stop: int) -> pl.DataFrame:
        rows = np.searchsorted(offsets, np.arange(start, stop), side="right") - 1
        columns = {
            "user_id": users.gather(rows),
            "item_id": items.gather(arrays["items"][start:stop]),
        }
        for column, (name, _) in names.items():
            if column in arrays:
                part = arrays[column][start:stop]
                columns[name] = (
                    names_by_code.gather(part) if column == "actions" else pl.Series(name, part, nan_to_null=True)
                )
        return pl.DataFrame(columns)

    def blocks(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        for start in range(0, len(arrays["items"]), BLOCK):
            yield block(start, min(start + BLOCK, len(arrays["items"])))

    if len(arrays["items"]) <= BLOCK:
        block(0, len(arrays["items"])).write_parquet(path)
    else:
        register_io_source(blocks, schema=schema).sink_parquet(path)
