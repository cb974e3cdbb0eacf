"""Load a dataset by name, address or table.

It is prepared once, then opened in milliseconds.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl

import polars as pl
from platformdirs import user_cache_path

from segue.core.config import suggest
from segue.core.memory_check import check_not_forked
from segue.core.registry import keys, load_module
from segue.core.types import Dataset
from segue.data import archives, event_files
from segue.data.build import build
from segue.data.dataframes import (
    ColumnNames,
    is_table,
    normalize_columns,
    read_table,
    resolve_columns,
    to_raw_log,
)
from segue.data.delimited import check_separator
from segue.data.download import download
from segue.data.examples.database import is_database, is_query, read_database
from segue.data.filters import Filters
from segue.data.folder import is_dataset, open_dataset
from segue.data.knowledge.read_triples import read_triples
from segue.data.raw_log import Log, RawLog, RawTriples, no_log
from segue.data.side_tables import SideTable, read_side_tables
from segue.data.writer import FORMAT
from segue.version import __version__

__all__ = ["data_home", "list_sources", "load"]

PACKAGE = "segue.data.sources"
PLUGINS = "segue.sources"
"""Entry-point group for sources from other packages: the key, and a module like those in ``data/sources/``."""


def data_home() -> Path:
    """Return the folder of prepared data and downloads.

    It is ``SEGUE_HOME/data``, or else ``data`` in the platform's cache folder.
    """
    home = os.environ.get("SEGUE_HOME")
    return Path(home).expanduser() / "data" if home else user_cache_path("segue") / "data"


def list_sources() -> list[tuple[str, str, bool]]:
    """List the named sources.

    Each has its key, a line of description, and whether it is available without a download.
    """
    sources = []
    for name in keys(PACKAGE, PLUGINS):
        key = name.replace("_", "-")
        source = load_module(PACKAGE, name, "source", PLUGINS)
        try:
            needed = [(source, key), *_used_sources(source)] if hasattr(source, "ARCHIVE") else []
            is_local = all(_local_archive(one, name) is not None for one, name in needed)
        except ValueError:  # a broken archive is not available; ``load`` reports the error
            is_local = False
        sources.append((key, source.ABOUT, is_local))
    return sources


@dataclass(frozen=True)
class _Request:
    """How to prepare a source."""

    columns: dict[str, str]
    separator: str | None
    target: str | None
    filters: Filters
    side_tables: Mapping[str, SideTable]
    triples: RawTriples | None
    out: Path | None
    log: Log

    @property
    def is_plain(self) -> bool:
        """Whether the source is used unchanged."""
        return (
            not self.columns
            and self.separator is None
            and self.target is None
            and self.filters == Filters()
            and not self.side_tables
            and self.triples is None
        )

    @property
    def cache_key(self) -> dict[str, Any]:
        """What the prepared data depends on, besides the source."""
        key: dict[str, Any] = {
            "columns": dict(self.columns),
            "target": self.target,
            "filters": self.filters.model_dump(mode="json"),
        }
        if self.separator is not None:
            key["separator"] = self.separator
        if self.side_tables:
            key["side_tables"] = {noun: table.digest for noun, table in self.side_tables.items()}
        if self.triples is not None:
            key["triples"] = self.triples.digest
        return key

    def build(self, raw: RawLog, name: str, out: Path | None, header: Mapping[str, Any] | None = None) -> Dataset:
        """Build the dataset of ``raw`` in ``out``.

        Triples that are given replace those of the source.
        """
        if self.triples is not None:
            raw = replace(raw, triples=self.triples)
        return build(
            raw,
            name,
            target=self.target,
            filters=self.filters,
            side_tables=self.side_tables,
            out=out,
            header=header,
            log=self.log,
        )


def load(
    source: Any,
    *,
    columns: ColumnNames | None = None,
    separator: str | None = None,
    target: str | None = None,
    filters: Filters | None = None,
    items: Any = None,
    users: Any = None,
    triples: Any = None,
    query: str | None = None,
    out: Path | str | None = None,
    log: Log | None = None,
) -> Dataset:
    """Load the dataset of ``source``, preparing it first if necessary.

    Args:
        source: a key (``ml-100k``, ``amazon-beauty?variant=bert4rec``, ``simulated?users=1000&seed=1``); a file, a
            folder or a pattern of files (``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``, ``.arrow``), also as
            ``log.csv?separator=;``; a prepared folder; the address of a database (``sqlite:///FILE``,
            ``postgresql://...``); or an in-memory table.
        columns: column names of the source by internal name (``user``, ``item``, ``time``, ``value``, ``action``) or
            default name (``user_id``, ..., ``rating``). ``None`` ignores a column. In a delimited file without a
            header, columns are numbered from 1.
        separator: what separates the columns of delimited text, such as ``;`` or ``tab``; by default it is detected.
        target: the action that is predicted; other actions are input only.
        filters: which events to remove.
        items: item features: a file or an in-memory table with ids in ``id`` or ``item_id``; or a query of the database
            of the log, such as ``SELECT ...``.
        users: user features, likewise, with ids in ``id`` or ``user_id``.
        triples: facts about items: a file or an in-memory table with ``head``, ``relation`` and ``tail``. A head that
            is the id of an item, and ``item:ID`` as head or tail, is this item; everything else is another entity.
        query: SQL query whose result is the log; required with a database, and for nothing else.
        out: folder to prepare the data in instead of the cache. Without it, in-memory tables are built in memory.
        log: receives decisions, counts and warnings of the preparation.

    Raises:
        ValueError: the source is unknown, or its content is invalid.
        DownloadError: a required download failed.
    """
    check_not_forked("load data")
    if isinstance(source, str) and not source:
        raise ValueError("data: got an empty text, expected a name, a path or a table")
    database = source if isinstance(source, str) and is_database(source) else None
    if query is not None and database is None:
        raise ValueError(f"query: got {query[:60]!r}, but the data is not the address of a database")
    request = _Request(
        normalize_columns(columns),
        None if separator is None else check_separator(separator),
        target,
        filters or Filters(),
        _read_features(database, items, users, normalize_columns(columns)),
        None if triples is None else read_triples(triples),
        None if out is None else Path(out).expanduser(),
        log or no_log,
    )
    if separator is not None and not isinstance(source, str | os.PathLike):
        raise ValueError(f"separator: got {separator!r}, but the data is not a file of delimited text")
    if is_table(source):
        return request.build(read_table(source, request.columns), "table", request.out)
    if not isinstance(source, str | os.PathLike):
        hint = "; polars.DataFrame makes a table of dicts, lists and arrays" if hasattr(source, "__len__") else ""
        expected = "a name, a path or a table (pandas, Polars, pyarrow, DuckDB)"
        raise ValueError(f"data: got {type(source).__name__}, expected {expected}{hint}")
    if database is not None:
        return _load_query(database, query, request)
    address = os.fspath(source)
    key, _, settings = address.partition("?")
    if isinstance(source, str) and key.replace("-", "_") in keys(PACKAGE, PLUGINS):
        return _load_source(key, settings, request)
    if is_dataset(Path(address).expanduser()):
        if not request.is_plain or request.out is not None:
            raise ValueError(
                f"{address}: is already prepared; columns, separator, target, filters, items, users, triples and out "
                "apply to its source"
            )
        return _open(Path(address).expanduser(), request.log)
    return _load_files(address, request)


def _load_files(address: str, request: _Request) -> Dataset:
    """Load a file, a folder or a pattern of files."""
    location, separator = event_files.split_address(address)
    if separator is not None:
        if request.separator is not None:
            raise ValueError(f"{address}: separator is given twice, in the address and as {request.separator!r}")
        request = replace(request, separator=check_separator(separator))
    if not event_files.is_file_address(location):
        known = [name.replace("_", "-") for name in keys(PACKAGE, PLUGINS)]
        hint = suggest(address.partition("?")[0], known)
        raise ValueError(f"data: unknown source '{address}'{hint}; no such file or folder either")
    paths = event_files.find_files(location)
    files = [[str(path.resolve()), *_identity(path)] for path in paths]
    name = paths[0].stem if len(paths) == 1 else paths[0].parent.name
    folder = request.out or _cache_path(name, {"address": address, "files": files, **request.cache_key})
    if request.out is None and is_dataset(folder):
        return _open(folder, request.log)
    raw = event_files.read_files(paths, request.columns, request.separator)
    raw = replace(raw, notes=(*event_files.describe_unread(location), *raw.notes))
    return request.build(raw, name, folder, {"source": address})


def _read_features(database: str | None, items: Any, users: Any, columns: Mapping[str, str]) -> dict[str, SideTable]:
    """Read the tables of features, which may be queries of the database of the log.

    Raises:
        ValueError: a table cannot be read, a query fails, or the log is not in a database.
    """
    sources = {"items": items, "users": users}
    queries = [noun for noun, source in sources.items() if is_query(source)]
    for noun in queries:
        if database is None:
            got = f"got the query {sources[noun][:60]!r}"
            raise ValueError(f"{noun}: {got}, but the data is not the address of a database")
        sources[noun] = _without_decimals(read_database(database, sources[noun]).frame)
    found = read_side_tables(sources["items"], sources["users"], columns)
    return {noun: replace(one, name=f"the query of {noun}") if noun in queries else one for noun, one in found.items()}


def _load_query(address: str, query: str | None, request: _Request) -> Dataset:
    """Load the result of a query; the same result is prepared once.

    The address is not stored, as it may have a password.
    """
    if request.separator is not None:
        raise ValueError(f"separator: got {request.separator!r}, but the data is not a file of delimited text")
    if query is None:
        raise ValueError(
            "query: got none for the database, expected SQL whose result has user_id and item_id; on the command line, "
            "prepare the log first: segue data prepare ADDRESS --query 'SELECT ...' --out FOLDER"
        )
    table = read_database(address, query)
    frame, notes = _without_decimals(table.frame), list[str]()
    names = resolve_columns(request.columns, frame.columns, table.name, notes.append)
    buffer = io.BytesIO()
    frame.rechunk().write_ipc(buffer, compression="uncompressed")
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    folder = request.out or _cache_path("database", {"query": query, "rows": digest, **request.cache_key})
    if request.out is None and is_dataset(folder):
        return _open(folder, request.log)
    return request.build(to_raw_log(frame, names, table.location, notes), "database", folder, {"source": table.name})


def _without_decimals(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(
        pl.col(name).cast(pl.Float64) for name, kind in frame.schema.items() if kind == pl.Decimal
    )


def _load_source(key: str, query: str, request: _Request) -> Dataset:
    """Load a source by its key."""
    if request.columns or request.separator is not None:
        raise ValueError(f"{key}: its columns are fixed; columns and separator apply to files and tables")
    source = load_module(PACKAGE, key.replace("-", "_"), "source", PLUGINS)
    settings = _parse_query(key, query)
    address = f"{key}?{query}" if query else key
    if not hasattr(source, "ARCHIVE"):
        return _generate_source(source, key, address, settings, request)
    _validate_settings(key, settings, getattr(source, "SETTINGS", {}))
    archive, *others = [_open_archive(*one, request.log) for one in [(source, key), *_used_sources(source)]]
    cache_key = {"address": address, "archive": archive.fingerprint, **request.cache_key}
    if others:
        cache_key["used_archives"] = [other.fingerprint for other in others]
    folder = request.out or _cache_path(key, cache_key)
    if request.out is None and is_dataset(folder):
        return _open(folder, request.log)
    raw: RawLog = source.read(archive, settings, *others)
    header: dict[str, Any] = {"source": address, "archive": _describe_archive(archive)}
    if others:
        header["used_archives"] = [_describe_archive(other) for other in others]
    return request.build(raw, key, folder, header)


def _used_sources(source: ModuleType) -> list[tuple[ModuleType, str]]:
    """Return the other sources whose archives a source reads, too, with their keys."""
    names: tuple[str, ...] = getattr(source, "USES", ())
    return [(load_module(PACKAGE, name.replace("-", "_"), "source", PLUGINS), name) for name in names]


def _open_archive(source: ModuleType, key: str, log: Log) -> archives.Archive:
    """Open the archive of a source, downloading it if necessary."""
    archive = _local_archive(source, key)
    return archive or archives.Archive(download(source.ARCHIVE, key, data_home() / "downloads", log))


def _describe_archive(archive: archives.Archive) -> dict[str, str]:
    return {"name": archive.path.name, "fingerprint": archive.fingerprint}


def _generate_source(
    source: ModuleType, key: str, address: str, settings: Mapping[str, str], request: _Request
) -> Dataset:
    """Load a source that generates its data.

    Filters and side tables are applied afterwards.
    """
    plain = {"address": address, "columns": {}, "target": None, "filters": Filters().model_dump(mode="json")}
    generated = request.out if request.is_plain and request.out is not None else _cache_path(key, plain)
    if generated == request.out or not is_dataset(generated):
        source.write(settings, generated, request.log)
    dataset = _open(generated, request.log)
    if request.is_plain:
        return dataset
    folder = request.out or _cache_path(key, {"address": address, **request.cache_key})
    if request.out is None and is_dataset(folder):
        return _open(folder, request.log)
    return request.build(event_files.read_prepared(dataset), key, folder, {"source": address})


def _parse_query(key: str, query: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise ValueError(f"data: got '{key}?{query}', expected {key}?name=value&name=value") from None


def _validate_settings(key: str, settings: Mapping[str, str], known: Mapping[str, tuple[str, ...]]) -> None:
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"{key}?{name}: unknown setting{suggest(name, known) if known else '; it has none'}")
        if value not in known[name]:
            raise ValueError(f"{key}?{name}={value}: unknown value{suggest(value, known[name])}")


def _local_archive(source: ModuleType, key: str) -> archives.Archive | None:
    found = archives.find_archive(source.ARCHIVE.members, key)
    downloaded = data_home() / "downloads" / f"{key}.zip"
    return found if found is not None else archives.Archive(downloaded) if downloaded.exists() else None


def _identity(path: Path) -> tuple[int, ...]:
    """Return numbers that change whenever the file is written or replaced.

    The time of the last status change tells apart files of equal size and modification time.
    """
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _cache_path(name: str, cache_key: Mapping[str, Any]) -> Path:
    text = json.dumps({"format": FORMAT, "segue": __version__, **cache_key}, sort_keys=True)
    label = re.sub(r"[^\w.-]+", "-", name).strip("-") or "data"
    return data_home() / f"{label}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _open(folder: Path, log: Log) -> Dataset:
    """Open a prepared dataset; its warnings are logged again."""
    dataset = open_dataset(folder)
    for text in dataset.header["warnings"]:
        log(f"warning: {text}")
    return dataset
