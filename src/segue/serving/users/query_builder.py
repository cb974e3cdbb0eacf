"""Who asks: histories from what is sent along, from training, and from the store, as queries of one model.

Shapes: N questions, T events.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Events, Queries
from segue.serving import schemas
from segue.serving.artifacts.artifact import Publication
from segue.serving.stores import store
from segue.serving.stores.timeout import Reads
from segue.serving.users.user_features import fitted, tabled

__all__ = ["Asked", "People", "coded", "later", "stacked", "together"]


@dataclass(frozen=True, eq=False)
class Asked:
    """Questions as one model takes them, row by row, and what it could not take."""

    queries: Queries
    unknown: tuple[schemas.Unknown, ...]
    """Items of the history, users and features of the profile; not yet those of rules."""
    kept: tuple[store.Kept | None, ...]
    """What the store has of who is answered by what is known of him; none where a history was sent along, or nobody
    was named."""


class People:
    """Looks up what is known of people.

    Args:
        kept: where their events are.
        recent: newest events of a user that are looked at.
    """

    def __init__(self, kept: Reads, recent: int) -> None:
        self._store, self._recent = kept, recent

    def ask(self, publication: Publication, questions: Sequence[schemas.Question], *, alone: bool = False) -> Asked:
        """The questions as queries of this publication.

        Args:
            alone: without the store: nothing is known of what came in since training, nor of who is forgotten, so
                that nobody's history of training is used.

        Raises:
            StoreError: the store cannot be read.
            ValueError: something of a profile cannot be what its feature holds.
        """
        own = [row for row, question in enumerate(questions) if question.history is None and question.user is not None]
        users = [str(questions[row].user) for row in own]
        found = [store.Kept(forgotten=True)] * len(own) if alone else []
        if own and not alone:
            found = later(self._store, publication, users, self._recent)
        kept = dict(zip(own, found, strict=True))
        codes_N, known_N = publication.bundle.users.encode([question.user or "" for question in questions])
        known_N = known_N & np.array([question.user is not None for question in questions], np.bool_)
        for row, one in kept.items():
            known_N[row] &= not one.forgotten
        # a history that is sent along stands for all that is known of him, who may be forgotten
        own_N = np.array([question.history is None for question in questions], np.bool_)
        parts = [
            self._events(publication, question, kept.get(row), int(codes_N[row]) if known_N[row] else None)
            for row, question in enumerate(questions)
        ]
        asked_N = self._times(publication, questions)
        features = publication.bundle.model.domain.user_features
        there = {*publication.user_features, *(feature.name for feature in features)}
        profile = tabled(features, [fitted(features, question.profile) for question in questions])
        history = stacked([events for events, _ in parts], publication.columns)
        queries = Queries(history, codes_N, known_N & own_N, asked_N, profile)
        unknown = tuple(
            schemas.Unknown(
                user=question.user is not None and not known,
                items=items,
                features=[name for name in question.profile or () if name not in there],
            )
            for question, (_, items), known in zip(questions, parts, known_N.tolist(), strict=True)
        )
        return Asked(queries, unknown, tuple(kept.get(row) for row in range(len(questions))))

    def _events(
        self, publication: Publication, question: schemas.Question, kept: store.Kept | None, code: int | None
    ) -> tuple[Events, list[str]]:
        """One history in codes, and the items that are not in the catalogue."""
        if question.history is not None:
            return coded(publication, question.history)
        events, unknown = coded(publication, [] if kept is None else kept.events)
        if code is None or publication.histories is None:
            return events, unknown
        before = publication.histories.block(code, code + 1).last(self._recent)
        if not events.size:
            return before, unknown
        return together([before, events], publication.columns).last(self._recent), unknown

    def _times(self, publication: Publication, questions: Sequence[schemas.Question]) -> NDArray[np.int64] | None:
        if not publication.tells_time:
            return None
        now = int(time.time())
        return np.array([now if question.time is None else question.time for question in questions], np.int64)


def later(kept: Reads, publication: Publication, users: Sequence[str], most: int) -> list[store.Kept]:
    """Of each user the newest ``most`` events that the histories of a publication do not hold, and what else is known;
    of who was not there in training, or is forgotten, they hold none.

    Raises:
        StoreError: the store cannot be read.
    """
    found = kept.kept(users, most, publication.place)
    if publication.place:
        _, known = publication.bundle.users.encode(list(users))
        rows = [
            row for row, one in enumerate(found) if one.forgotten or not known[row] or publication.histories is None
        ]
        for row, one in zip(rows, kept.kept([users[row] for row in rows], most) if rows else (), strict=True):
            found[row] = one
    return found


def coded(publication: Publication, told: Sequence[str | schemas.Given | store.Event]) -> tuple[Events, list[str]]:
    """One history, oldest first, in the codes and columns that the model reads; and items it does not have.

    A kind of action that the model does not know counts as its first; a time that is not told, as that of the event
    before.
    """
    ids = [one if isinstance(one, str) else one.item for one in told]
    codes, known = publication.bundle.items.encode(ids)
    unknown = [item for item, there in zip(ids, known.tolist(), strict=True) if not there]
    columns: dict[str, Any] = {}
    rest = [None if isinstance(one, str) else one for one in told] if publication.columns else []
    if "actions" in publication.columns:
        kinds = {action: code for code, action in enumerate(publication.bundle.model.domain.actions)}
        columns["actions"] = np.array([0 if e is None else kinds.get(e.action or "", 0) for e in rest], np.uint8)[known]
    if "values" in publication.columns:
        values = [np.nan if e is None or e.value is None else e.value for e in rest]
        columns["values"] = np.array(values, np.float32)[known]
    if "times" in publication.columns:
        latest, times = 0, []
        for e in rest:
            latest = latest if e is None or e.time is None else e.time
            times.append(latest)
        columns["times"] = np.array(times, np.int64)[known]
        told_N = np.array([e is not None and e.time is not None for e in rest], np.bool_)
        columns["context"] = {"time_known": told_N[known]}
    return Events(np.array([0, int(known.sum())]), codes[known], **columns), unknown


def together(parts: Sequence[Events], columns: Sequence[str]) -> Events:
    """One history of several, one after the other, each a single row."""
    return _joined(parts, columns, np.array([0, sum(part.size for part in parts)]))


def stacked(rows: Sequence[Events], columns: Sequence[str]) -> Events:
    """Single rows under each other."""
    return _joined(rows, columns, np.concatenate([[0], np.cumsum([row.size for row in rows])]))


def _joined(parts: Sequence[Events], columns: Sequence[str], offsets: NDArray[np.int64]) -> Events:
    """All events in one value; of times it is told which are real, where the model reads them."""
    own: dict[str, Any] = {name: np.concatenate([_column(part, name) for part in parts]) for name in columns}
    if "times" in columns:
        real = [part.context.get("time_known", np.ones(part.size, np.bool_)) for part in parts]
        own["context"] = {"time_known": np.concatenate(real)}
    return Events(offsets, np.concatenate([part.items for part in parts]), **own)


def _column(events: Events, name: str) -> NDArray[Any]:
    column: NDArray[Any] | None = getattr(events, name)
    if column is not None:
        return column
    kinds: dict[str, tuple[Any, Any]] = {
        "actions": (0, np.uint8),
        "values": (np.nan, np.float32),
        "times": (0, np.int64),
    }
    return np.full(events.size, *kinds[name])
