"""From what a source gives to a dataset: checked, coded, sorted, filtered, counted; in memory or in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.config import suggest
from segue.core.types import Dataset, Events, Vocab
from segue.data.filters import Filters, apply, repeats_and_identical
from segue.data.id_encoding import encode, sort_log
from segue.data.raw_log import GIVEN, TIME_KNOWN, Log, Raw, Say, silent
from segue.data.side_tables import Attachment, attach
from segue.data.validate import checked
from segue.data.writer import DatasetWriter, attached_digests, content_hash

__all__ = ["build"]


def build(
    raw: Raw,
    name: str,
    *,
    target: str | None = None,
    filters: Filters | None = None,
    more: Mapping[str, Attachment] | None = None,
    out: Path | None = None,
    header: Mapping[str, Any] | None = None,
    say: Say = silent,
) -> Dataset:
    """The dataset made of ``raw``: written to the folder ``out`` and opened from there, or in memory without.

    Args:
        more: tables of items and users that are laid beside what ``raw`` knows of them.

    Raises:
        ValueError: something in the data, the target or the filters is wrong; nothing is written then.
    """
    filters = filters or Filters()
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        say(text)

    more = more or {}
    raw = attach(raw, more)
    for text in raw.notes:
        note(text)
    for text in raw.warnings:
        say(f"warning: {text}")
    log = arrange(raw, note)
    if target is not None and target not in log.kinds:
        raise ValueError(f"target: no action {target!r} in {raw.place.name}{suggest(target, log.kinds)}")
    log, removed = apply(log, filters)
    for which, number in removed.items():
        note(f"filters.{which}: {number} events removed")
    items = features(raw.items, log.item_ids, "items", note)
    users = features(raw.users, log.user_ids, "users", note)
    counts = tally(log, note)
    if raw.items is not None:
        counts |= {"items_listed": raw.items["id"].n_unique()}
    lengths = np.bincount(log.users, minlength=len(log.user_ids))
    about = {
        "source": name,
        **(header or {}),
        "warnings": list(raw.warnings),
        "notes": notes,
        "filters": {"settings": filters.model_dump(mode="json"), "removed": removed},
        **({"attached": {noun: attachment.facts for noun, attachment in more.items()}} if more else {}),
    }
    if out is None:
        return _in_memory(log, name, target, lengths, items, users, about | {"counts": counts})
    with DatasetWriter(
        out,
        name,
        times=log.times is not None,
        values=log.values is not None,
        actions=log.kinds,
        target=target,
    ) as writer:
        writer.append(lengths, log.items, log.times, log.values, log.actions)
        writer.finish(items, users, header={**about, "counts": counts}, given=log.given, time_known=log.time_known)
    from segue.data.folder import open_dataset

    return open_dataset(out)


def arrange(raw: Raw, say: Say) -> Log:
    """Checked events as codes, sorted by user, then time, then row of the file."""
    events = checked(raw, say)
    user_ids, users = encode(events["user"])
    item_ids, items = encode(events["item"])
    columns: dict[str, NDArray[Any]] = {}
    if "time" in events:
        columns["times"] = events["time"].to_numpy()
    if "value" in events:
        columns["values"] = events["value"].to_numpy()
    kinds: tuple[str, ...] = ("interaction",)
    if "action" in events:
        kind_ids, actions = encode(events["action"])
        if len(kind_ids) > 256:
            raise ValueError(f"{raw.names['action']}: {len(kind_ids)} kinds of action, expected at most 256")
        kinds, columns["actions"] = tuple(kind_ids), actions.astype(np.uint8)
    if TIME_KNOWN in events:
        columns[TIME_KNOWN] = events[TIME_KNOWN].to_numpy()
    given = {name: events[name].to_numpy() for name in events.columns if name.startswith(GIVEN)}
    del events
    order = sort_log(users, columns.get("times"))
    if order is not None:
        users, items = users[order], items[order]
        columns = {name: column[order] for name, column in columns.items()}
        given = {name: column[order] for name, column in given.items()}
    if "times" in columns and columns["times"].dtype.kind == "f":
        say(f"{raw.names['time']}: times have fractions of seconds; events are ordered by them and keep whole seconds")
        columns["times"] = np.floor(columns["times"]).astype(np.int64)
    given = {name.removeprefix(GIVEN): column for name, column in given.items()}
    return Log(user_ids, item_ids, users, items, kinds=kinds, given=given, **columns)


def features(known: pl.DataFrame | None, ids: pl.Series, noun: str, say: Say) -> pl.DataFrame:
    """What is known of ``ids``, one row for each in their order; who is not known has empty cells."""
    frame = pl.DataFrame({"id": ids})
    if known is None:
        return frame
    unique = known.unique("id", keep="first", maintain_order=True)
    if len(unique) < len(known):
        say(f"{noun}: {len(known) - len(unique)} of {len(known)} descriptions repeat an id; the first is kept")
    if idle := len(unique.join(frame, on="id", how="anti")):
        say(f"{noun}: {idle} of {len(unique)} that are listed have no events and are left out")
    if bare := len(frame.join(unique, on="id", how="anti")):
        say(f"{noun}: {bare} of {len(frame)} have events but no description")
    return frame.join(unique, on="id", how="left", maintain_order="left")


def tally(log: Log, say: Say) -> dict[str, Any]:
    """What the header says of the events, and the decisions about repeats and single events."""
    again, same = repeats_and_identical(log)
    single = int((np.bincount(log.users) == 1).sum())
    if same:
        say(f"{same} of {len(log)} events are identical to another one; kept (filters.duplicates changes that)")
    if again > same:
        say(f"{again} of {len(log)} events meet an item the user had met before; kept (filters.duplicates)")
    if single:
        say(f"{single} of {len(log.user_ids)} users have one event; kept, no question can be asked about them")
    counts: dict[str, Any] = {"repeats": again, "identical": same, "users_with_one_event": single}
    if log.times is not None:
        ends = (int(log.times.min()), int(log.times.max()))
        counts |= {name: _moment(end) for name, end in zip(("first_time", "last_time"), ends, strict=True)}
    if log.time_known is not None:
        counts["times_known"] = int(log.time_known.sum())
        say(f"{len(log) - counts['times_known']} of {len(log)} times only keep the order; as inputs they are unknown")
    if log.actions is not None:
        found = np.bincount(log.actions, minlength=len(log.kinds))
        counts["actions"] = {kind: int(n) for kind, n in zip(log.kinds, found, strict=True)}
    return counts


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _in_memory(
    log: Log,
    name: str,
    target: str | None,
    lengths: NDArray[np.int64],
    items: pl.DataFrame,
    users: pl.DataFrame,
    header: Mapping[str, Any],
) -> Dataset:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    context = {} if log.time_known is None else {TIME_KNOWN: log.time_known}
    actions = None if len(log.kinds) == 1 else log.actions
    histories = Events(offsets, log.items, actions, log.values, log.times, context)
    arrays = {"offsets": histories.offsets, **histories.columns()}
    digests = {column: sha256(np.ascontiguousarray(array).data).hexdigest() for column, array in arrays.items()}
    digests |= attached_digests(header)
    sizes = {"users": len(users), "items": len(items), "interactions": len(log)}
    return Dataset(
        name=name,
        users=Vocab(users["id"]),
        items=Vocab(items["id"]),
        histories=histories,
        actions=log.kinds,
        target=None if target is None else log.kinds.index(target),
        item_features=items.lazy(),
        user_features=users.lazy(),
        header={
            **header,
            "counts": sizes | header["counts"],
            "hash": content_hash(digests, log.kinds, target, users["id"], items["id"]),
        },
    )
