"""Translate data from its own codes to the codes of a model, by id.

A model and a dataset number their users, items and actions independently. Data that is not the data of training must be
translated before the model reads it.

Shapes: N queries, T events, U users, I items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.bundle import TrainedModel
from segue.core.messages import arg
from segue.core.types import Codes, Dataset, Events, Feature, HeldOut, Mask, Vocab

__all__ = ["MappedEvents", "list_ids", "map_context", "map_events", "map_held_out", "map_log", "user_codes"]

LISTED = 5
"""Unknown ids that a message lists."""


@dataclass(frozen=True, eq=False)
class MappedEvents:
    """Events in the codes of a model, and the events that it cannot read."""

    events: Events
    item_rows: NDArray[np.int64]
    """Row of each dropped event of an item outside the catalog."""
    unknown_items: list[str]
    """Id of the item of each such event."""
    unknown_actions: list[str]
    """Action of each dropped event whose action the model does not know."""

    @property
    def messages(self) -> list[str]:
        """What was dropped, for a warning."""
        found = []
        for what, ids in (
            ("items not in the catalog", self.unknown_items),
            ("actions not in training", self.unknown_actions),
        ):
            if ids:
                found.append(f"{what}: {list_ids(list(dict.fromkeys(ids)))} ({len(ids):,} events left out)")
        return found


def list_ids(ids: Sequence[str]) -> str:
    """List ids, abbreviated after the first few."""
    more = f" and {len(ids) - LISTED:,} more" if len(ids) > LISTED else ""
    return ", ".join(f"'{one}'" for one in ids[:LISTED]) + more


def map_events(
    trained: TrainedModel,
    events: Events,
    items: Vocab,
    actions: Sequence[str],
    data: str = "the data",
    require_overlap: bool = True,
    context: Sequence[Feature] = (),
) -> MappedEvents:
    """Translate the items, actions and context of events to the model's codes.

    Events of items or actions that the model does not know are left out; unknown categories of the context are missing.

    Args:
        items: what the item codes of ``events`` mean; likewise ``actions``.
        data: name of the data, for the error message.
        require_overlap: whether data without any item of the catalog is an error.
        context: what the columns of the context mean.

    Raises:
        ValueError: no item of the data is in the catalog of the model.
    """
    events = replace(events, context=map_context(trained, events.context, context))
    known_T: Mask = np.ones(events.size, np.bool_)
    unknown_actions: list[str] = []
    own = trained.model.schema.actions
    codes_T = events.actions
    if codes_T is not None and tuple(actions) != own:
        if len(own) == 1:  # the model does not distinguish actions
            codes_T = np.zeros(events.size, np.uint8)
        else:
            code_of = np.array([own.index(name) if name in own else 0 for name in actions], np.uint8)
            known_T = np.array([name in own for name in actions], np.bool_)[codes_T]
            unknown_actions = [actions[code] for code in codes_T[~known_T].tolist()]
            codes_T = code_of[codes_T]
        events = replace(events, actions=codes_T)
    rows: NDArray[np.int64] = np.zeros(0, np.int64)
    unknown_items: list[str] = []
    if not _is_same(items, trained.items):
        item_codes, item_known = trained.items.encode(items.ids)
        if require_overlap and len(items) and not item_known.any():
            theirs, own_items = (list_ids(ids.ids.head(2).to_list()) for ids in (items, trained.items))
            raise ValueError(
                f"{arg('data')}: none of the {len(items):,} items of {data}, such as {theirs}, is in the catalog of "
                f"'{trained.key}', such as {own_items}; expected data with the item ids of training"
            )
        missing_T = ~item_known[events.items]
        rows, unknown_items = events.rows[missing_T], items.decode(events.items[missing_T])
        known_T = known_T & ~missing_T
        events = replace(events, items=item_codes[events.items])
    if not known_T.all():
        events = events.where(known_T)
    return MappedEvents(events, rows, unknown_items, unknown_actions)


def map_context(
    trained: TrainedModel, columns: Mapping[str, NDArray[Any]], features: Sequence[Feature]
) -> Mapping[str, NDArray[Any]]:
    """Translate the codes of context columns to those of the model.

    Columns that the model does not read stay as they are.

    Args:
        columns: context columns by name, of events or queries.
        features: what the codes mean.

    Raises:
        ValueError: a column has categories in the data and numbers in the model, or the other way round.
    """
    found, own = dict(columns), {one.name: one for one in trained.model.schema.event_context}
    for feature in features:
        target = own.get(feature.name)
        if target is None or feature.name not in found or feature == target:
            continue
        if feature.kind != target.kind:
            option = {"category": "context", "number": "context_number"}[target.kind]
            raise ValueError(
                f"{arg('data')}: the context column '{feature.name}' has the kind '{feature.kind}', but "
                f"'{trained.key}' was trained with the kind '{target.kind}'; load the data with "
                f'columns={{"{option}": ["{feature.name}"]}}'
            )
        if feature.kind == "number":
            continue  # the model scales numbers itself
        position = {name: code for code, name in enumerate(target.categories)}
        codes = np.array([*(position.get(name, -1) for name in feature.categories), -1], np.int32)
        found[feature.name] = codes[found[feature.name]]  # the missing code -1 reads the last entry
    return found


def user_codes(trained: TrainedModel, users: Vocab, codes_N: Codes) -> tuple[Codes, Mask]:
    """Translate user codes to those of the model, and tell which users it knows."""
    if _is_same(users, trained.users):
        return codes_N, np.ones(len(codes_N), np.bool_)
    codes_U, known_U = trained.users.encode(users.ids)
    return codes_U[codes_N], known_U[codes_N]


def map_log(trained: TrainedModel, log: Dataset) -> tuple[Dataset, list[str]]:
    """Return a log with the item and action codes of the model.

    Messages about events that were left out are returned as well. Users keep the codes of ``log``.
    """
    own_context = _has_own_context(trained, log.event_context)
    if _is_same(log.items, trained.items) and log.actions == trained.model.schema.actions and own_context:
        return log, []
    mapped = map_events(trained, log.histories, log.items, log.actions, log.name, context=log.event_context)
    features = log.item_features if _is_same(log.items, trained.items) else trained.catalog
    header = dict(log.header)
    if own := {one.name: one for one in trained.model.schema.event_context}:
        header["context"] = {
            name: [*own[name].categories] if name in own and own[name].kind == "category" else names
            for name, names in log.header.get("context", {}).items()
            if name in mapped.events.context
        }
    found = replace(
        log,
        header=header,
        items=trained.items,
        histories=mapped.events,
        actions=trained.model.schema.actions,
        target=trained.model.schema.target,
        item_features=features,
    )
    return found, mapped.messages


def map_held_out(trained: TrainedModel, held_out: HeldOut) -> tuple[HeldOut, NDArray[np.int64], list[str]]:
    """Return held-out queries in the codes of the model.

    Targets that the model does not know are left out, and so are queries without any other target. Users that it does
    not know become new users.

    Returns:
        The queries and targets, the row in ``held_out`` of each query, and messages about what was left out.
    """
    queries, all_rows = held_out.queries, np.arange(len(held_out))
    users, items, actions = held_out.users, held_out.items, held_out.actions
    if users is None or items is None or actions is None:
        return held_out, all_rows, []
    own_actions = trained.model.schema.actions
    is_same = _is_same(users, trained.users) and _is_same(items, trained.items) and actions == own_actions
    features = held_out.event_context or ()
    if is_same and _has_own_context(trained, features):
        return held_out, all_rows, []
    history = map_events(trained, queries.history, items, actions, "the queries", context=features)
    targets = map_events(trained, held_out.targets, items, actions, "the queries", context=features)
    context = map_context(trained, queries.context, features)
    codes, known = user_codes(trained, users, queries.users)
    if _is_same(users, trained.users):
        known = queries.known
    rows = np.flatnonzero((targets.events.lengths > 0) | (held_out.targets.lengths == 0))
    mapped = replace(queries, history=history.events, users=codes, known=known, context=context).take(rows)
    messages = [f"histories: {text}" for text in history.messages] + [f"targets: {text}" for text in targets.messages]
    if len(rows) < len(held_out):
        messages.append(f"{len(held_out) - len(rows):,} of {len(held_out):,} queries have no target left")
    if new := int((queries.known & ~known).sum()):
        messages.append(
            f"{new:,} of {len(held_out):,} queries are of users other than those that the model was trained on; they "
            "count as new users"
        )
    found = HeldOut(
        mapped, targets.events.take(rows), trained.users, trained.items, own_actions, trained.model.schema.event_context
    )
    return found, rows, messages


def _has_own_context(trained: TrainedModel, features: Sequence[Feature]) -> bool:
    """Check whether the context columns that the model reads have its codes."""
    given = {one.name: one for one in features}
    return all(given.get(one.name, one) == one for one in trained.model.schema.event_context)


def _is_same(one: Vocab, other: Vocab) -> bool:
    return one is other or (len(one) == len(other) and one.ids.equals(other.ids))
