"""``load``: from a name, an address or a table to a dataset, prepared once and opened in milliseconds after."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl

from platformdirs import user_cache_path

from segue import __version__
from segue.core.config import suggest
from segue.core.registry import keys, module
from segue.core.types import Dataset
from segue.data import archives, event_files
from segue.data.build import build
from segue.data.dataframes import is_table, read_table
from segue.data.download import download
from segue.data.filters import Filters
from segue.data.folder import is_dataset, open_dataset
from segue.data.raw_log import Raw, Say, silent
from segue.data.side_tables import Attachment, attachments
from segue.data.writer import FORMAT

__all__ = ["home", "load", "sources_listed"]

PACKAGE = "segue.data.sources"


def home() -> Path:
    """Where prepared data and downloads live: ``SEGUE_HOME/data``, else the platform's cache folder."""
    place = os.environ.get("SEGUE_HOME")
    return Path(place).expanduser() / "data" if place else user_cache_path("segue") / "data"


def sources_listed() -> list[tuple[str, str, bool]]:
    """Key, one line about it, and whether it is at hand without a download, of every source with a name."""
    listed = []
    for name in keys(PACKAGE):
        key = name.replace("_", "-")
        source = module(PACKAGE, name, "source")
        try:
            there = not hasattr(source, "ARCHIVE") or _at_hand(source, key) is not None
        except ValueError:  # a broken archive is not at hand; ``load`` says what is wrong with it
            there = False
        listed.append((key, source.ABOUT, there))
    return listed


def load(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    target: str | None = None,
    filters: Filters | None = None,
    items: Any = None,
    users: Any = None,
    out: Path | str | None = None,
    say: Say | None = None,
) -> Dataset:
    """The dataset of ``source``.

    Args:
        source: a key (``ml-100k``, ``amazon-beauty?variant=bert4rec``, ``simulated?users=1000&seed=1``), a file or a
            folder or pattern of files (``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``), a prepared folder, or an
            in-memory table.
        columns: our names (``user``, ``item``, ``time``, ``value``, ``action``) to those of the table.
        target: the kind of action that is predicted; the others stay input.
        filters: what to leave out.
        items: what more is known of items: a file or an in-memory table with their ids in ``id`` or ``item_id``.
        users: likewise of users, by ``id`` or ``user_id``.
        out: the folder to prepare into, instead of the cache. Tables in memory stay in memory without it.
        say: is told every decision, count and warning of the preparation.

    Raises:
        ValueError: nothing of that name, or something in it is not as expected.
        DownloadError: a download that is needed failed.
    """
    say, filters, out = say or silent, filters or Filters(), None if out is None else Path(out)
    more = attachments(items, users)
    if is_table(source):
        return build(read_table(source, columns), "table", target=target, filters=filters, more=more, out=out, say=say)
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f"data: got {type(source).__name__}, expected a name, a path or a table (__arrow_c_stream__)")
    address = os.fspath(source)
    asked = {"columns": dict(columns or {}), "target": target, "filters": filters.model_dump(mode="json")}
    if more:
        asked["attached"] = {noun: attachment.digest for noun, attachment in more.items()}
    key, _, query = address.partition("?")
    if isinstance(source, str) and key.replace("-", "_") in keys(PACKAGE):
        return _named(key, query, asked, target, filters, more, out, say)
    if is_dataset(Path(address)):
        if columns or target is not None or filters != Filters() or more or out is not None:
            raise ValueError(
                f"{address}: is prepared already; columns, target, filters, items, users and out apply to its source"
            )
        return _opened(Path(address), say)
    if not event_files.looks_like(address):
        known = [name.replace("_", "-") for name in keys(PACKAGE)]
        raise ValueError(f"data: unknown source '{address}'{suggest(key, known)}; no such file or folder either")
    paths = event_files.found(address)
    facts = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    name = paths[0].stem if len(paths) == 1 else paths[0].parent.name
    ready = out or _cached(name, {"address": address, "files": facts, **asked})
    if out is None and is_dataset(ready):
        return _opened(ready, say)
    raw = event_files.read_files(paths, columns)
    return build(raw, name, target=target, filters=filters, more=more, out=ready, header={"source": address}, say=say)


def _named(
    key: str,
    query: str,
    asked: Mapping[str, Any],
    target: str | None,
    filters: Filters,
    more: Mapping[str, Attachment],
    out: Path | None,
    say: Say,
) -> Dataset:
    if asked["columns"]:
        raise ValueError(f"{key}: its columns are known; columns apply to files and tables")
    source = module(PACKAGE, key.replace("-", "_"), "source")
    settings = _settings(key, query)
    address = f"{key}?{query}" if query else key
    if not hasattr(source, "ARCHIVE"):
        return _made(source, key, address, settings, asked, target, filters, more, out, say)
    _understood(key, settings, getattr(source, "SETTINGS", {}))
    archive = _at_hand(source, key)
    if archive is None:
        archive = archives.Archive(download(source.ARCHIVE, key, home() / "downloads", say))
    facts = {"address": address, "archive": archive.fingerprint, **asked}
    if archive.warnings:  # what was prepared before times were marked as real or not is not taken for this
        facts["marked"] = True
    ready = out or _cached(key, facts)
    if out is None and is_dataset(ready):
        return _opened(ready, say)
    raw: Raw = source.read(archive, settings)
    header = {"source": address, "archive": {"name": archive.path.name, "fingerprint": archive.fingerprint}}
    return build(raw, key, target=target, filters=filters, more=more, out=ready, header=header, say=say)


def _settings(key: str, query: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise ValueError(f"data: got '{key}?{query}', expected {key}?name=value&name=value") from None


def _understood(key: str, settings: Mapping[str, str], known: Mapping[str, tuple[str, ...]]) -> None:
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"{key}?{name}: unknown setting{suggest(name, known) if known else '; it has none'}")
        if value not in known[name]:
            raise ValueError(f"{key}?{name}={value}: unknown value{suggest(value, known[name])}")


def _made(
    source: ModuleType,
    key: str,
    address: str,
    settings: Mapping[str, str],
    asked: Mapping[str, Any],
    target: str | None,
    filters: Filters,
    more: Mapping[str, Attachment],
    out: Path | None,
    say: Say,
) -> Dataset:
    """The dataset of a source that makes its own data, filtered afterwards where that is asked."""
    plain = {"address": address, "columns": {}, "target": None, "filters": Filters().model_dump(mode="json")}
    whole = target is None and filters == Filters() and not more
    made = out if whole and out is not None else _cached(key, plain)
    if made == out or not is_dataset(made):
        source.write(settings, made, say)
    dataset = _opened(made, say)
    if whole:
        return dataset
    ready = out or _cached(key, {"address": address, **asked})
    if out is None and is_dataset(ready):
        return _opened(ready, say)
    raw = event_files.read_prepared(dataset)
    return build(raw, key, target=target, filters=filters, more=more, out=ready, header={"source": address}, say=say)


def _at_hand(source: ModuleType, key: str) -> archives.Archive | None:
    found = archives.find(source.ARCHIVE.members, key)
    fetched = home() / "downloads" / f"{key}.zip"
    return found if found is not None else archives.Archive(fetched) if fetched.exists() else None


def _cached(name: str, facts: Mapping[str, Any]) -> Path:
    text = json.dumps({"format": FORMAT, "segue": __version__, **facts}, sort_keys=True)
    label = re.sub(r"[^\w.-]+", "-", name).strip("-") or "data"
    return home() / f"{label}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _opened(folder: Path, say: Say) -> Dataset:
    """A dataset that was prepared before; its warnings are told again."""
    dataset = open_dataset(folder)
    for text in dataset.header["warnings"]:
        say(f"warning: {text}")
    return dataset
