"""Build a dataset from a raw log, in memory or in a folder.

The steps are: validate, encode, sort, filter and count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.config import suggest
from segue.core.knowledge.knowledge import Knowledge
from segue.core.types import Codes, Dataset, Events, Vocab
from segue.core.vocab import id_type_of
from segue.data.filters import Filters, apply_filters, count_repeats
from segue.data.knowledge.read_triples import link_triples
from segue.data.knowledge.storage import describe_knowledge
from segue.data.raw_log import (
    CONTEXT_PREFIXES,
    MAX_CATEGORIES,
    PREDEFINED_SPLIT_PREFIX,
    TIME_KNOWN,
    EncodedLog,
    Log,
    RawLog,
    no_log,
)
from segue.data.side_tables import SideTable, join_side_tables
from segue.data.validate import validate_events
from segue.data.writer import DatasetWriter, content_hash, context_digests, side_table_digests

__all__ = ["build"]

MAX_ACTIONS = 256
MAX_SPARSITY = 8
"""Integer ids are encoded through a lookup table if their range is at most this many times their count."""


def build(
    raw: RawLog,
    name: str,
    *,
    target: str | None = None,
    filters: Filters | None = None,
    side_tables: Mapping[str, SideTable] | None = None,
    out: Path | None = None,
    header: Mapping[str, Any] | None = None,
    log: Log = no_log,
) -> Dataset:
    """Build a dataset from ``raw``.

    Args:
        name: name of the dataset.
        target: the action that is predicted; ``None``: all.
        filters: which events to remove.
        side_tables: tables of ``items`` and ``users`` that are joined to the metadata in ``raw``.
        out: folder to write to; the dataset is opened from there. ``None``: build in memory.
        header: further entries of the header.
        log: receives decisions, counts and warnings.

    Raises:
        ValueError: the data, the target or the filters are invalid; nothing is written.
    """
    filters = filters or Filters()
    notes: list[str] = []

    def note(text: str) -> None:
        text = re.sub(r"^(\d+): ", r"column \1: ", text)  # a file without header has numbers as names
        notes.append(text)
        log(text)

    side_tables = side_tables or {}
    raw = join_side_tables(raw, side_tables)
    for text in raw.notes:
        note(text)
    for text in raw.warnings:
        log(f"warning: {text}")
    events = encode_and_sort(raw, note, filters.incomplete)
    if target is not None and target not in events.action_names:
        raise ValueError(_describe_unknown_target(target, raw, events.action_names))
    listed = raw.listed_items
    added = None if listed is None else listed.filter(~listed.is_in(events.item_ids.implode()))
    events, removed = apply_filters(events, filters)
    n_without_events = 0 if added is None else len(added)
    if added is not None and n_without_events:
        events = replace(events, item_ids=pl.concat([events.item_ids, added.alias(events.item_ids.name)]))
        note(
            f"items: {n_without_events} listed items have no events, such as {added[0]!r}; they are in the catalog, "
            "and models that read no item features rank them last"
        )
    for text in (f"filters.{which}: {number} events removed" for which, number in removed.items()):
        note(text)
    items = align_features(raw.items, events.item_ids, "items", note)
    users = align_features(raw.users, events.user_ids, "users", note)
    counts = count_events(events, note) | ({"items_without_events": n_without_events} if n_without_events else {})
    if raw.items is not None:
        counts |= {"items_listed": raw.items["id"].n_unique()}
    lengths = np.bincount(events.users, minlength=len(events.user_ids))
    metadata = {
        "source": name,
        **(header or {}),
        "warnings": list(raw.warnings),
        "notes": notes,
        "filters": {"settings": filters.model_dump(mode="json"), "removed": removed},
        "id_types": {"users": _id_type(raw, "user", events.user_ids), "items": _id_type(raw, "item", events.item_ids)},
    }
    if events.categories:
        metadata["context"] = {name: names and list(names) for name, names in events.categories.items()}
    if side_tables:
        metadata["side_tables"] = {noun: table.metadata for noun, table in side_tables.items()}
    metadata["counts"] = counts
    knowledge = _link_triples(raw, events.item_ids, note)
    if knowledge is not None:
        metadata["knowledge"] = describe_knowledge(knowledge)
    if out is None:
        return _build_in_memory(events, name, target, lengths, items, users, metadata, knowledge)
    return _build_in_folder(events, name, target, lengths, items, users, metadata, knowledge, out)


def _link_triples(raw: RawLog, item_ids: pl.Series, note: Log) -> Knowledge | None:
    """Link the triples of a log, if there are any, to the items of the catalog."""
    if raw.triples is None:
        return None
    known = [raw.events["item"], *([] if raw.items is None else [raw.items["id"]])]
    return link_triples(raw.triples, item_ids, known, note)


def _describe_unknown_target(target: str, raw: RawLog, actions: Sequence[str]) -> str:
    if "action" not in raw.events.columns:
        return f"target: unknown action {target!r}: {raw.location.name} has no column of actions; name it: action=event"
    return f"target: unknown action {target!r} in {raw.location.name}{suggest(target, actions)}"


def encode_and_sort(raw: RawLog, log: Log, incomplete: str = "error") -> EncodedLog:
    """Validate and encode the events of ``raw``.

    Events without a user, item or time are an error, or removed if ``incomplete`` is ``drop``. The events are sorted by
    user, then time, then row of the source.
    """
    events = validate_events(raw, log, incomplete)
    user_ids, users = encode_ids(events["user"])
    item_ids, items = encode_ids(events["item"])
    for key, ids in (("user", user_ids), ("item", item_ids)):
        if events[key].dtype == pl.String:
            report_similar(ids, raw.names[key], log)
    columns: dict[str, NDArray[Any]] = {}
    if "time" in events:
        columns["times"] = events["time"].to_numpy()
    if "value" in events:
        columns["values"] = events["value"].to_numpy()
    action_names: tuple[str, ...] = ("interaction",)
    if "action" in events:
        action_ids, actions = encode_ids(events["action"])
        if len(action_ids) > MAX_ACTIONS:
            raise ValueError(
                f"{raw.names['action']}: got {len(action_ids)} distinct actions, expected at most {MAX_ACTIONS}"
            )
        report_similar(action_ids, raw.names["action"], log)
        action_names, columns["actions"] = tuple(action_ids), actions.astype(np.uint8)
    if TIME_KNOWN in events:
        columns[TIME_KNOWN] = events[TIME_KNOWN].to_numpy()
    context, categories = _encode_context(events, raw)
    prefix = PREDEFINED_SPLIT_PREFIX
    splits = {name: events[name].to_numpy() for name in events.columns if name.startswith(prefix)}
    del events
    order = sort_order(users, columns.get("times"))
    if order is not None:
        users, items = users[order], items[order]
        columns = {name: column[order] for name, column in columns.items()}
        splits = {name: column[order] for name, column in splits.items()}
        context = {name: column[order] for name, column in context.items()}
    if "times" in columns and columns["times"].dtype.kind == "f":
        log(f"{raw.names['time']}: times have fractions of seconds; used for the order, then rounded down")
        columns["times"] = np.floor(columns["times"]).astype(np.int64)
    splits = {name.removeprefix(prefix): column for name, column in splits.items()}
    return EncodedLog(
        user_ids,
        item_ids,
        users,
        items,
        action_names=action_names,
        predefined_splits=splits,
        context=context,
        categories=categories,
        **columns,
    )


def _encode_context(
    events: pl.DataFrame, raw: RawLog
) -> tuple[dict[str, NDArray[Any]], dict[str, tuple[str, ...] | None]]:
    """Return the columns for ``Events.context``, and the categories of each."""
    context: dict[str, NDArray[Any]] = {}
    categories: dict[str, tuple[str, ...] | None] = {}
    for key in (key for key in events.columns if key.startswith(CONTEXT_PREFIXES)):
        name = key.partition(":")[2]
        if not key.startswith(CONTEXT_PREFIXES[0]):
            context[name], categories[name] = events[key].to_numpy(), None
            continue
        distinct = events[key].drop_nulls().unique().sort()
        if len(distinct) > MAX_CATEGORIES:
            raise ValueError(
                f"{raw.names.get(key, name)}: got {len(distinct):,} distinct values, such as {distinct[0]!r}, expected "
                f"at most {MAX_CATEGORIES:,} categories; numbers are read with context_number"
            )
        codes = events[key].cast(pl.Enum(distinct)).to_physical().cast(pl.Int32).fill_null(-1)
        context[name], categories[name] = codes.to_numpy(), tuple(distinct)
    return context, categories


def encode_ids(ids: pl.Series) -> tuple[pl.Series, Codes]:
    """Return the distinct ids as text, row = code, and the code of each of ``ids``.

    Integers are ordered by value, all other ids by text.
    """
    if not ids.dtype.is_integer():
        distinct = ids.unique().sort()
        return distinct.alias("id"), ids.cast(pl.Enum(distinct)).to_physical().to_numpy().astype(np.int32)
    numbers = ids.to_numpy()
    low, high = int(numbers.min()), int(numbers.max())
    if high - low < MAX_SPARSITY * len(numbers) + 1000 and high < 2**63:
        positions = numbers.astype(np.int64) - low  # differences overflow in narrow types
        occurs = np.zeros(high - low + 1, np.bool_)
        occurs[positions] = True
        codes = (np.cumsum(occurs, dtype=np.int32) - 1)[positions]
        return pl.Series("id", np.flatnonzero(occurs) + low).cast(pl.String), codes
    distinct = ids.unique().sort()
    codes = np.searchsorted(distinct.to_numpy(), numbers).astype(np.int32)
    return distinct.cast(pl.String).alias("id"), codes


def report_similar(ids: pl.Series, name: str, log: Log) -> None:
    """Log how many of the distinct ``ids`` look like another one."""
    simple = ids.str.normalize("NFKC").str.strip_chars().str.to_lowercase()
    is_similar = simple.is_duplicated()
    if is_similar.any():
        first, second = ids.filter(simple == simple[is_similar.arg_max() or 0]).head(2)
        log(
            f"{name}: {int(is_similar.sum())} of {len(ids)} differ from another one only in case, white space or "
            f"Unicode form, such as {first!r} and {second!r}; they stay apart"
        )


def _id_type(raw: RawLog, key: str, ids: pl.Series) -> str:
    """Return the type in which results carry the distinct ``ids`` of a column."""
    if key in raw.id_types:
        return raw.id_types[key]
    dtype = raw.events[key].dtype
    if dtype.is_float() or dtype.is_decimal():
        return "string" if ids.cast(pl.Int64, strict=False).null_count() else "int64"
    return id_type_of(dtype)


def sort_order(users: Codes, times: NDArray[Any] | None) -> NDArray[np.int64] | None:
    """Return the order by user, then time, then row.

    ``None`` if the rows are already sorted.
    """
    if times is None:
        key = users
    elif times.dtype.kind == "f":
        return np.lexsort((times, users))
    else:
        low, span = int(times.min()), int(times.max()) - int(times.min()) + 1
        if span * (int(users.max()) + 1) >= 2**63:
            return np.lexsort((times, users))
        key = users * np.int64(span) + (times - low)
    if (key[1:] >= key[:-1]).all():
        return None
    return np.argsort(key, kind="stable")


def align_features(table: pl.DataFrame | None, ids: pl.Series, noun: str, log: Log) -> pl.DataFrame:
    """Return the rows of ``table`` for ``ids``, in their order.

    Ids without a row have empty cells.
    """
    frame = pl.DataFrame({"id": ids})
    if table is None:
        return frame
    unique = table.unique("id", keep="first", maintain_order=True)
    if len(unique) < len(table):
        log(f"{noun}: {len(table) - len(unique)} of {len(table)} rows repeat an id; the first row is used")
    if without_events := len(unique.join(frame, on="id", how="anti")):
        log(f"{noun}: {without_events} of {len(unique)} listed ids have no events and are left out")
    if without_features := len(frame.join(unique, on="id", how="anti")):
        log(f"{noun}: {without_features} of {len(frame)} ids with events have no features")
    return frame.join(unique, on="id", how="left", maintain_order="left")


def count_events(events: EncodedLog, log: Log) -> dict[str, Any]:
    """Count events for the header, and log how repeated and single events are treated."""
    repeated, identical = count_repeats(events)
    single = int((np.bincount(events.users) == 1).sum())
    if identical:
        log(f"{identical} of {len(events)} events are identical to another one; kept (see filters.duplicates)")
    if repeated > identical:
        log(f"{repeated} of {len(events)} events are repeated user-item events; kept (see filters.duplicates)")
    if single:
        log(f"{single} of {len(events.user_ids)} users have one event; kept, they cannot be evaluated")
    counts: dict[str, Any] = {"repeats": repeated, "identical": identical, "users_with_one_event": single}
    if events.times is not None:
        ends = (int(events.times.min()), int(events.times.max()))
        counts |= {name: _iso_time(end) for name, end in zip(("first_time", "last_time"), ends, strict=True)}
    if events.time_known is not None:
        counts["times_known"] = int(events.time_known.sum())
        log(
            f"{len(events) - counts['times_known']} of {len(events)} times only preserve the order of events; "
            "model inputs treat them as unknown"
        )
    if events.actions is not None:
        per_action = np.bincount(events.actions, minlength=len(events.action_names))
        counts["actions"] = {name: int(n) for name, n in zip(events.action_names, per_action, strict=True)}
    return counts


def _iso_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _build_in_memory(
    events: EncodedLog,
    name: str,
    target: str | None,
    lengths: NDArray[np.int64],
    items: pl.DataFrame,
    users: pl.DataFrame,
    header: Mapping[str, Any],
    knowledge: Knowledge | None,
) -> Dataset:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    context = dict(events.context) if events.time_known is None else {TIME_KNOWN: events.time_known, **events.context}
    actions = None if len(events.action_names) == 1 else events.actions
    histories = Events(offsets, events.items, actions, events.values, events.times, context)
    arrays = {"offsets": histories.offsets, **histories.columns()}
    digests = {column: sha256(np.ascontiguousarray(array).data).hexdigest() for column, array in arrays.items()}
    digests |= side_table_digests(header) | context_digests(header, digests)
    sizes = {"users": len(users), "items": len(items), "interactions": len(events)}
    return Dataset(
        name=name,
        users=Vocab(users["id"], id_type=header["id_types"]["users"]),
        items=Vocab(items["id"], id_type=header["id_types"]["items"]),
        histories=histories,
        actions=events.action_names,
        target=None if target is None else events.action_names.index(target),
        item_features=items.lazy(),
        user_features=users.lazy(),
        header={
            **header,
            "counts": sizes | header["counts"],
            "hash": content_hash(digests, events.action_names, target, users["id"], items["id"]),
        },
        knowledge=knowledge,
    )


def _build_in_folder(
    events: EncodedLog,
    name: str,
    target: str | None,
    lengths: NDArray[np.int64],
    items: pl.DataFrame,
    users: pl.DataFrame,
    header: Mapping[str, Any],
    knowledge: Knowledge | None,
    out: Path,
) -> Dataset:
    with DatasetWriter(
        out,
        name,
        times=events.times is not None,
        values=events.values is not None,
        actions=events.action_names,
        target=target,
    ) as writer:
        writer.append(lengths, events.items, events.times, events.values, events.actions)
        writer.finish(
            items,
            users,
            header=header,
            predefined_splits=events.predefined_splits,
            time_known=events.time_known,
            context=events.context,
            knowledge=knowledge,
        )
    from segue.data.folder import open_dataset

    return open_dataset(out)
