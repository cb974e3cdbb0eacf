"""Splits: what trains, what is asked, and what is known when it is asked; disjoint, without leaks, deterministic."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Lt
from pydantic import model_validator

from segue.core.config import Settings
from segue.core.types import Dataset, Events, HeldOut, Mask, Queries, Split
from segue.data import split_strategies

__all__ = ["SplitSettings", "split"]

Share = Annotated[float, Ge(0.0), Lt(1.0)]


class SplitSettings(Settings):
    """How the log is split."""

    kind: Literal[
        "leave_one_out", "random", "given", "temporal", "ratio", "random_ratio", "k_fold", "held_out_users"
    ] = "leave_one_out"
    """The protocol."""
    test: Share = 0.2
    """Share of the events (``held_out_users``: of the users) that is the test; not for leave-one-out and k-fold."""
    valid: Share = 0.1
    """Share of all events (``held_out_users``: of the users) that is validation; of leave-one-out it is one event per
    user, whatever the share. 0: no validation."""
    seed: Annotated[int, Ge(0)] = 0
    """Of what is drawn."""
    name: str | None = None
    """Which given split: ``u1``, ``ua``, ``kgat``, ..."""
    folds: Annotated[int, Ge(2)] = 5
    """Number of parts of ``k_fold``."""
    fold: Annotated[int, Ge(0)] = 0
    """Which part is the test, from 0."""
    history: Annotated[float, Gt(0.0), Lt(1.0)] = 0.8
    """Share of a held-out user's events that is given."""
    tell_time: bool = False
    """Whether queries carry the time of their first target."""

    @model_validator(mode="after")
    def _fits(self) -> SplitSettings:
        if self.test + self.valid >= 1.0:
            raise ValueError(f"test + valid = {self.test + self.valid:g} leaves nothing to train; expected less than 1")
        if self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} of {self.folds} folds; expected 0 to {self.folds - 1}")
        return self


def split(dataset: Dataset, settings: SplitSettings | None = None) -> Split:
    """What trains and what is held out.

    Queries of validation hold the training history of their user, those of the test also what was held out for
    validation. Targets are distinct items within a query. ``facts`` counts users and items of the test that are not in
    training, and the share of targets that the history holds already.

    Raises:
        ValueError: the protocol needs something the data has not, or leaves nothing to train.
    """
    settings = settings or SplitSettings()
    parts = getattr(split_strategies, settings.kind)(dataset, settings)
    events = dataset.histories
    if not parts.train.any():
        raise ValueError(f"split.kind={settings.kind}: no event of {dataset.name} is left to train")
    train = events.where(parts.train)
    known = train.lengths > 0
    item_known = np.zeros(dataset.n_items, np.bool_)
    item_known[train.items] = True
    facts: dict[str, Any] = {
        "kind": settings.kind,
        "settings": settings.model_dump(mode="json"),
        "told_time": settings.tell_time,
        "train_users": int(known.sum()),
        "train_events": train.size,
        "unused_events": int((~(parts.train | parts.valid | parts.test)).sum()),
        **parts.facts,
        "warnings": list(dataset.header.get("warnings", [])),
    }
    held: dict[str, HeldOut] = {}
    for part, target, before in (
        ("valid", parts.valid, parts.before_valid),
        ("test", parts.test, parts.before_test),
    ):
        held[part], facts[part] = _held_out(dataset, target, before, known, item_known, settings.tell_time)
    return Split(dataset.having(train), held["valid"], held["test"], facts)


def _held_out(
    data: Dataset, target: Mask, before: Mask, known: Mask, item_known: Mask, tell_time: bool
) -> tuple[HeldOut, dict[str, Any]]:
    """Queries and targets of the users that have any, and what is to be said of them."""
    events = data.histories
    first = _first_of_pair(events, target, data.n_items)
    answers = events.where(first)
    users = np.flatnonzero(answers.lengths).astype(np.int32)
    targets, history = answers.take(users), events.where(before).take(users)
    times = targets.times[targets.offsets[:-1]] if tell_time and targets.times is not None else None
    in_history = _contains(history, targets, data.n_items)
    facts = {
        "queries": len(users),
        "targets": targets.size,
        "targets_repeated": int(target.sum() - targets.size),
        "cold_users": int((~known[users]).sum()),
        "cold_items": int((~item_known[np.unique(targets.items)]).sum()),
        "cold_item_targets": int((~item_known[targets.items]).sum()),
        "targets_in_history": float(in_history.mean()) if targets.size else 0.0,
        "empty_histories": int((history.lengths == 0).sum()),
    }
    return HeldOut(Queries(history, users, known[users], times), targets), facts


def _first_of_pair(events: Events, mask: Mask, n_items: int) -> Mask:
    """``mask`` with only the first event of each user and item."""
    place = np.flatnonzero(mask)
    keys = events.rows[place] * n_items + events.items[place]
    _, first = np.unique(keys, return_index=True)
    kept = np.zeros(events.size, np.bool_)
    kept[place[first]] = True
    return kept


def _contains(history: Events, targets: Events, n_items: int) -> Mask:
    """``(targets,)`` whether the history of its query holds the item."""
    wanted, place = np.unique(targets.rows * n_items + targets.items, return_inverse=True)
    if not len(wanted):
        return np.zeros(0, np.bool_)
    keys = history.rows * n_items + history.items
    near = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    found = np.zeros(len(wanted), np.bool_)
    found[near[wanted[near] == keys]] = True
    return np.asarray(found[place])
