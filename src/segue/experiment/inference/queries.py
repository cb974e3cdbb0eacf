"""Build queries from the arguments of the caller.

Arguments are users of the log, histories of item ids, or titles.

Shapes: N queries, T events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import polars as pl

from segue.core.bundle import TrainedModel
from segue.core.config import suggest
from segue.core.messages import arg, name_arguments
from segue.core.types import Dataset, Events, HeldOut, Queries, Split
from segue.data import load
from segue.experiment.inference.argument_checks import describe_value, is_sequence
from segue.experiment.inference.code_mapping import map_events, map_held_out
from segue.experiment.inference.frames import as_frame, check_text, id_texts, is_frame, typed_ids
from segue.experiment.inference.profiles import add_features, add_features_of_users, check_features
from segue.experiment.inference.query_batch import QueryBatch
from segue.experiment.inference.query_context import column_names, context_rows, with_query_context
from segue.experiment.inference.query_inputs import describe_missing_inputs, parse_time
from segue.experiment.inference.user_tables import UserColumns, read_user_columns
from segue.serving.users.model_inputs import (
    describe_ungiven,
    describe_unread_columns,
    names_column,
    query_context_columns,
)

__all__ = ["build_queries", "build_query", "encode_items", "resolve_titles"]


def build_queries(
    trained: TrainedModel,
    users: Any = None,
    *,
    histories: Any = None,
    titles: Sequence[str] | None = None,
    data: Any = None,
    user_features: Any = None,
    context: Any = None,
    time: Any = None,
) -> QueryBatch:
    """Build queries for users of a log, or for histories.

    Without either, build queries for every user of the log; with ``user_features`` alone, for new users without a
    history.

    Args:
        users: an id, several ids, a frame with ``user_id``, or an interaction frame with ``user_id`` and ``item_id``,
            which is then used as the log; or held-out queries such as ``split.test``, with their own histories.
        histories: lists of item ids, oldest first; or a mapping from user id to such a list.
        titles: one history by titles.
        data: the log that contains the users' histories: a dataset or what :func:`segue.load` reads; ``None``: the log
            that the model was trained on.
        user_features: features of users who were not in training, by name: a mapping, or one row per query.
        context: context of the queries by column, likewise. A frame of users without ``item_id`` may have columns with
            the context, and with the features of new users.
        time: time of the queries: Unix seconds, a datetime or text in ISO 8601, in UTC where it has no time zone.

    Raises:
        ValueError: more than one of ``users``, ``histories`` and ``titles``; a missing log; an ambiguous title; or
            unknown features.
    """
    given = [
        name for name, value in (("users", users), ("histories", histories), ("titles", titles)) if value is not None
    ]
    if len(given) > 1:
        raise ValueError(f"got {' and '.join(map(arg, given))}, expected one of them")
    check_features(user_features)
    if not given and user_features is not None:  # new users without a history
        if is_frame(user_features):
            user_features = as_frame(user_features, "user_features")
        histories = [[]] * (1 if isinstance(user_features, Mapping) else len(user_features))
    if isinstance(users, HeldOut | Queries):
        if any(value is not None for value in (data, user_features, context, time)):
            raise ValueError(
                f"{arg('users')}: got queries, which have their histories; leave out data, features, context and time"
            )
        return _given_queries(trained, users)
    if titles is not None:
        histories = [resolve_titles(trained, [titles] if isinstance(titles, str) else list(titles))]
    if histories is not None:
        if data is not None:
            raise ValueError(f"{arg('data')}: got a log together with histories; it holds the histories of users")
        batch = _history_queries(trained, histories)
    else:
        batch = _user_queries(trained, users, data)
    batch = batch if user_features is None else add_features(trained, batch, user_features)
    of_users = read_user_columns(trained, as_frame(users, "users")) if is_frame(users) else UserColumns()
    batch.warnings.extend(of_users.messages)
    if of_users.features is not None:
        if user_features is not None:
            raise ValueError(f"{arg('user_features')}: the table of users has columns of user features, too; give one")
        batch = add_features_of_users(trained, batch, of_users.features)
    rows: Sequence[Mapping[str, Any]] | None = None if context is None else context_rows(context, len(batch))
    if of_users.context is not None:
        if rows is not None:
            raise ValueError(f"{arg('context')}: the table of users has the columns of the context, too; give one")
        rows = of_users.context
    batch = batch if rows is None else _with_context(trained, batch, rows)
    batch = batch if time is None else _with_time(trained, batch, parse_time(time))
    _note_ungiven(trained, batch, rows, has_time=time is not None)
    return batch


def build_query(
    trained: TrainedModel,
    user: Any,
    history: Sequence[Any] | None,
    titles: str | Sequence[str] | None,
    **described: Any,
) -> QueryBatch:
    """Build the query of one user, or of one history.

    Args:
        described: ``data``, ``user_features``, ``context`` and ``time``, see :func:`build_queries`.

    Raises:
        ValueError: several of ``user``, ``history`` and ``titles``, or none and no ``user_features``; or an argument is
            malformed.
    """
    given = [name for name, value in (("user", user), ("history=", history), ("titles=", titles)) if value is not None]
    if len(given) > 1 or not (given or described.get("user_features") is not None):
        got = " and ".join(given) or "none"
        raise ValueError(f"got {got}, expected one of user, history= and titles=, or user_features= of a new user")
    histories = None if history is None else [history]
    names = {"histories": "history", "users": "user"}
    with name_arguments(lambda name: f"{names.get(name, name)}="):
        return build_queries(trained, user, histories=histories, titles=titles, **described)


def _note_ungiven(
    trained: TrainedModel, batch: QueryBatch, rows: Sequence[Mapping[str, Any]] | None, *, has_time: bool
) -> None:
    """Note what the model reads of a query, and which queries lack it.

    Args:
        rows: context of the queries; ``None``: none has one.
    """
    columns = query_context_columns(trained.model)
    without = [row for row in range(len(batch)) if rows is None or not names_column(columns, rows[row])]
    others = sorted(set(range(len(batch))).difference(without))
    for queries, has_context in ((without, False), (others, True)):
        for text in describe_ungiven(trained.model, trained.key, has_context=has_context, has_time=has_time):
            batch.note_rows(queries, text)


def _with_time(trained: TrainedModel, batch: QueryBatch, seconds: int) -> QueryBatch:
    """Set the time of queries and note if the model does not read it."""
    queries = replace(batch.queries, times=np.full(len(batch), seconds, np.int64))
    found = replace(batch, queries=queries)
    first = queries.rows_between(0, 1)
    if len(first) and np.array_equal(trained.model.score(first), trained.model.score(replace(first, times=None))):
        found.note_all(f"'{trained.key}' makes no use of this time")
    return found


def _with_context(trained: TrainedModel, batch: QueryBatch, rows: Sequence[Mapping[str, Any]]) -> QueryBatch:
    """Attach the context of queries and note unknown categories."""
    queries, notes = with_query_context(trained, batch.queries, rows)
    found = replace(batch, queries=queries)
    for row, texts in enumerate(notes):
        for text in texts:
            found.note_rows([row], text)
    return found


def _user_queries(trained: TrainedModel, users: Any, data: Any) -> QueryBatch:
    ids: list[str] | None = None
    if isinstance(users, Dataset | Split):
        raise ValueError(
            f"{arg('users')}: got a {type(users).__name__}, expected user ids, a table, or queries such as split.test"
        )
    if is_frame(users):
        table = as_frame(users, "users")
        if "user_id" not in table.columns:
            raise ValueError(
                f"{arg('users')}: got a table without a column 'user_id'; its columns are "
                f"{', '.join(table.columns) or '(none)'}"
            )
        ids = list(dict.fromkeys(id_texts(table["user_id"], "users")))
        if "item_id" in table.columns:
            if data is not None:
                raise ValueError(f"{arg('data')}: got a log, but {arg('users')} is a table with histories (item_id)")
            data = table
    elif users is not None:
        ids = list(dict.fromkeys(id_texts(users, "users")))
    if data is not None and is_frame(data):
        columns = column_names(trained.model.schema.event_context, as_frame(data, "data"))
        data = load(data, columns=columns)
    log = trained.log if data is None else data if isinstance(data, Dataset) else load(data)
    if ids is None:
        ids = log.users.ids.to_list()
        rows, in_log = np.arange(len(ids), dtype=np.int32), np.ones(len(ids), np.bool_)
        history = log.histories
    else:
        rows, in_log = log.users.encode(ids)
        history = log.histories.take(rows)
        if not in_log.all():
            history = history.where(np.repeat(in_log, history.lengths))
    if data is None and log.users is trained.users:
        codes, known = rows, in_log
    else:
        codes, known = trained.users.encode(ids)
    is_table = is_frame(users) and data is not None
    mapped = map_events(
        trained, history, log.items, log.actions, log.name, require_overlap=not is_table, context=log.event_context
    )
    batch = QueryBatch(Queries(mapped.events, codes, known), typed_ids(ids, log.users, "user_id"))
    batch.note_items(mapped.item_rows, mapped.unknown_items, "items")
    if mapped.unknown_actions:
        batch.unknown["actions not in training, whose events are left out"] = mapped.unknown_actions
    if not in_log.all():
        missing = np.flatnonzero(~in_log).tolist()
        for row in missing:
            batch.note(row, "unknown user: not in the log, recommended for as a new user without a history")
        batch.unknown[f"users not in the log of {log.name}"] = [ids[row] for row in missing]
    return batch


def _given_queries(trained: TrainedModel, given: HeldOut | Queries) -> QueryBatch:
    """Use held-out queries, or queries in the codes of the model.

    Their keys are user ids if each query has a different user.
    """
    if isinstance(given, Queries):
        _check_codes(trained, given)
        is_by_user = bool(given.known.all()) and len(np.unique(given.users)) == len(given)
        users = trained.users.decode_typed(given.users).alias("user_id") if is_by_user else None
        return _note_missing(trained, QueryBatch(given, _numbers(given) if users is None else users))
    vocab = given.users or trained.users
    every = replace(given, targets=Events.of([[]] * len(given)))
    if given.users is None:
        _check_codes(trained, given.queries)
    has_users = len(np.unique(given.queries.users)) == len(given)
    keys = vocab.decode_typed(given.queries.users).alias("user_id") if has_users else None
    mapped, _, messages = map_held_out(trained, every)
    batch = QueryBatch(mapped.queries, _numbers(given) if keys is None else keys, warnings=messages)
    return _note_missing(trained, batch)


def _numbers(queries: HeldOut | Queries) -> pl.Series:
    return pl.Series("query", np.arange(len(queries)))


def _note_missing(trained: TrainedModel, batch: QueryBatch) -> QueryBatch:
    """Note the inputs of the model that the queries lack."""
    for text in describe_missing_inputs(trained.model, trained.key, batch.queries):
        batch.note_all(text)
    return batch


def _check_codes(trained: TrainedModel, queries: Queries) -> None:
    n_users, n_items = len(trained.users), len(trained.items)
    if queries.users.max(initial=-1) >= n_users or queries.history.items.max(initial=-1) >= n_items:
        raise ValueError(f"{arg('users')}: got queries of other data, expected the split that the model was trained on")


def _history_queries(trained: TrainedModel, histories: Any) -> QueryBatch:
    keys = pl.Series("query", [], dtype=pl.Int64)
    if isinstance(histories, Mapping):
        keys = typed_ids(id_texts(list(histories), "histories"), trained.users, "user_id")
        histories = list(histories.values())
    if not is_sequence(histories):
        raise ValueError(
            f"{arg('histories')}: got {describe_value(histories)}, expected a list of lists of item ids, or a mapping "
            "from user id to such a list"
        )
    rows = [row.tolist() if hasattr(row, "tolist") else row for row in histories]
    if wrong := [row for row in rows if not is_sequence(row)]:
        raise ValueError(
            f"{arg('histories')}: got {describe_value(wrong[0])}, expected a list of lists of item ids; one history "
            "is [[id, id]]"
        )
    if keys.name == "query":
        keys = pl.Series("query", np.arange(len(rows)))
    flat = id_texts(chain.from_iterable(rows), "histories")
    codes, known = trained.items.encode(flat)
    row_T = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row_T[known], minlength=len(rows)))])
    batch = QueryBatch(Queries.anonymous(Events(offsets, codes[known])), keys)
    unknown = np.flatnonzero(~known).tolist()
    batch.note_items(row_T[unknown], [flat[place] for place in unknown], "items")
    for text in describe_unread_columns(trained.model, trained.key) if flat else ():
        batch.note_rows([row for row, history in enumerate(rows) if len(history)], text)
    return batch


def encode_items(trained: TrainedModel, items: Any, name: str = "items") -> tuple[Any, list[str]]:
    """Look up the codes of the known ids in ``items``, in order.

    Also list the ids that are not in the catalog.

    Args:
        name: argument that error messages name.
    """
    texts = id_texts(items, name)
    codes, known = trained.items.encode(texts)
    return codes[known], [item for item, is_known in zip(texts, known.tolist(), strict=True) if not is_known]


def resolve_titles(trained: TrainedModel, titles: Sequence[str]) -> list[str]:
    """Find the ids of items by title.

    A title matches as a whole, ignoring case, or else as part of the only title that contains it.

    Raises:
        ValueError: lists every title that matches no item or several.
    """
    if not titles:
        return []
    if "title" not in trained.catalog.collect_schema().names():
        raise ValueError("title: the catalog of this model has no titles; name items by their ids")
    catalog = trained.catalog.select("id", "title").filter(pl.col("title").is_not_null()).collect()
    lower = pl.col("title").str.to_lowercase()
    found, errors = [], []
    for title in titles:
        check_text(title, "titles")
        matches = catalog.filter(lower == title.lower())
        if matches.is_empty():
            matches = catalog.filter(lower.str.contains(title.lower(), literal=True))
        if len(matches) == 1:
            found.append(str(matches["id"][0]))
        elif matches.is_empty():
            near = suggest(title, catalog["title"]).partition("; known")[0]
            errors.append(f"title: no item is called '{title}'{near}")
        else:
            listed = "\n".join(f"  {row['id']}  {row['title']}" for row in matches.head(20).to_dicts())
            errors.append(f"title: '{title}' matches {len(matches)} items; name one by its id:\n{listed}")
    if errors:
        raise ValueError("\n".join(errors))
    return found
