"""Writing a prepared dataset: events user by user in chunks, in constant memory, and nothing half-written left behind.

The folder: ``header.json``, ``users.parquet``, ``items.parquet``, ``interactions.parquet`` for people and engines, and
for models the arrays ``offsets``, ``items``, ``times``, ``values``, ``actions`` (``.npy``, memory-mapped).
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

from segue import __version__
from segue.core.files import write_folder, write_json

__all__ = ["ARRAYS", "FORMAT", "DatasetWriter", "attached_digests", "content_hash"]

FORMAT = 1
ARRAYS: dict[str, Any] = {
    "offsets": np.int64,
    "items": np.int32,
    "times": np.int64,
    "values": np.float32,
    "actions": np.uint8,
}
BLOCK = 2_000_000
"""Events turned into a table at a time."""


class Growing:
    """An ``.npy`` file that grows: its header, written for length 0, has room for any length."""

    def __init__(self, path: Path, dtype: Any) -> None:
        self.dtype, self.size, self.hash = np.dtype(dtype), 0, hashlib.sha256()
        self.file: BinaryIO = path.open("wb")
        self._header()

    def _header(self) -> None:
        about = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.size,)}
        np.lib.format.write_array_header_1_0(self.file, about)

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


def _replaceable(folder: Path) -> bool:
    return (folder / "offsets.npy").is_file() or not any(folder.iterdir())


class DatasetWriter:
    """A dataset on its way to ``folder``; use it as ``with``, ``append`` chunks and ``finish`` once.

    Args:
        folder: is put in place in one step at the end of the ``with``, and not at all after an error.
        name: what the dataset is called.
        times, values: whether events have them.
        actions: the kinds of action, row = code; with one kind no codes are needed.
        target: the kind that is predicted, or ``None`` for every kind.
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
            raise ValueError(f"target: unknown action {target!r}, known: {', '.join(actions)}")
        self.folder, self.name, self.actions, self.target = Path(folder), name, tuple(actions), target
        present = {"offsets": True, "items": True, "times": times, "values": values, "actions": len(actions) > 1}
        self._names = [column for column, there in present.items() if there]
        self._open: AbstractContextManager[Path] | None = None
        self._arrays: dict[str, Growing] = {}
        self._done = False

    def __enter__(self) -> Self:
        if self.folder.exists() and not (self.folder.is_dir() and _replaceable(self.folder)):
            raise ValueError(f"{self.folder}: is there and no prepared dataset; expected a new or empty folder")
        self._open = write_folder(self.folder)
        self._fresh = self._open.__enter__()
        self._arrays = {column: Growing(self._fresh / f"{column}.npy", ARRAYS[column]) for column in self._names}
        self._arrays["offsets"].add([0])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._open is not None
        for array in self._arrays.values():
            if not array.file.closed:
                array.file.close()
        if kind is None and not self._done:
            error = ValueError(f"{self.folder}: the dataset was not finished")
            self._open.__exit__(type(error), error, None)
            raise error
        self._open.__exit__(kind, error, trace)

    def append(
        self,
        lengths: NDArray[Any],
        items: NDArray[Any],
        times: NDArray[Any] | None = None,
        values: NDArray[Any] | None = None,
        actions: NDArray[Any] | None = None,
    ) -> None:
        """Add the next ``len(lengths)`` users: ``lengths (U,)`` events each, all columns ``(lengths.sum(),)``.

        Each user's events are oldest first; ``times`` whole seconds.
        """
        total = self._arrays["items"].size
        given = {"items": items, "times": times, "values": values, "actions": actions}
        for column, part in given.items():
            if column not in self._arrays:
                continue
            if part is None or len(part) != lengths.sum():
                came = "nothing" if part is None else f"{len(part)} values"
                raise ValueError(f"{column}: {came} for {int(lengths.sum())} events")
            self._arrays[column].add(part)
        self._arrays["offsets"].add(total + np.cumsum(lengths, dtype=np.int64))

    def finish(
        self,
        items: pl.DataFrame,
        users: pl.DataFrame | None = None,
        *,
        header: Mapping[str, Any] | None = None,
        given: Mapping[str, NDArray[np.uint8]] | None = None,
        time_known: NDArray[np.bool_] | None = None,
    ) -> None:
        """Write tables and header; ``items`` and ``users`` have one row per code with the text column ``id``.

        Args:
            items: and ``users``: by default ids are the codes counted from 1.
            header: ``source``, ``warnings``, ``filters``, more ``counts``, ...
            given: splits made by others, ``(T,)`` by name: 1 train, 2 test, 0 neither.
            time_known: ``(T,)`` false where a time only keeps the order. The hash does not depend on it: events and
                their order are the same.
        """
        n_users, n_events = self._arrays["offsets"].size - 1, self._arrays["items"].size
        for array in self._arrays.values():
            array.close()
        if users is None:
            users = pl.DataFrame({"id": pl.int_range(1, n_users + 1, eager=True).cast(pl.String)})
        if len(users) != n_users:
            raise ValueError(f"users: {len(users)} rows for {n_users} users")
        arrays = {column: np.load(self._fresh / f"{column}.npy", mmap_mode="r") for column in self._names}
        if n_events and int(arrays["items"].max()) >= len(items):
            raise ValueError(f"items: {len(items)} rows, but code {int(arrays['items'].max())} occurs")
        users.write_parquet(self._fresh / "users.parquet")
        items.write_parquet(self._fresh / "items.parquet")
        for split, parts in (given or {}).items():
            np.save(self._fresh / f"given-{split}.npy", parts)
        if time_known is not None:
            np.save(self._fresh / "time_known.npy", time_known)
        _interactions(self._fresh / "interactions.parquet", arrays, users["id"], items["id"], self.actions)
        about = dict(header or {})
        digests = {column: array.hash.hexdigest() for column, array in self._arrays.items()} | attached_digests(about)
        counts = {"users": n_users, "items": len(items), "interactions": n_events, **about.pop("counts", {})}
        write_json(
            self._fresh / "header.json",
            {
                "format": FORMAT,
                "segue": __version__,
                "name": self.name,
                "source": self.name,
                "warnings": [],
                "filters": {},
                **about,
                "schema": {column: np.dtype(ARRAYS[column]).name for column in self._names},
                "actions": list(self.actions),
                "target": self.target,
                "given": sorted(given or {}),
                "counts": counts,
                "hash": content_hash(digests, self.actions, self.target, users["id"], items["id"]),
            },
        )
        self._done = True


def attached_digests(header: Mapping[str, Any]) -> dict[str, str]:
    """The digests of the tables that were laid beside the log, by a name of their own."""
    return {f"attached {noun}": str(facts["sha256"]) for noun, facts in header.get("attached", {}).items()}


def content_hash(
    digests: Mapping[str, str], actions: Sequence[str], target: str | None, users: pl.Series, items: pl.Series
) -> str:
    """SHA-256 over what models see: the digests of the arrays' bytes, the kinds of action, the target and all ids.

    What a source itself tells of items and users is not in it, what was laid beside the log is.
    """
    whole = hashlib.sha256(f"{list(actions)} {target}".encode())
    for column in sorted(digests):
        whole.update(f" {column} {digests[column]}".encode())
    for ids in (users, items):
        whole.update("\n".join(ids.to_list()).encode() + b"\n\n")
    return whole.hexdigest()


def _interactions(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    users: pl.Series,
    items: pl.Series,
    actions: tuple[str, ...],
) -> None:
    """The events as a table of outside ids, written block by block."""
    from polars.io.plugins import register_io_source

    kinds = pl.Series("action", actions, dtype=pl.String)
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
                columns[name] = kinds.gather(part) if column == "actions" else pl.Series(name, part, nan_to_null=True)
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
