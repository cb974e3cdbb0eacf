"""What streaming models remember of users, brought up to date by what happened since, event by event.

A memory follows from the user's events in their order alone: who computes it, and how often, makes no difference, so
several processes may do so at once, and the store keeps the one that went furthest.

Shapes: N users.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segue.core.state import State
from segue.core.types import Codes, Events, Mask, Queries
from segue.serving.artifacts.artifact import Publication
from segue.serving.stores.store import Kept, Memory, StoreError
from segue.serving.stores.timeout import Reads
from segue.serving.users.query_builder import coded, stacked, together

__all__ = ["Followed", "States"]

logger = logging.getLogger("segue.serving")

PAGE = 10_000
"""Events that are read from the store at once."""


@dataclass(frozen=True, eq=False)
class Followed:
    """Users whose state is wanted."""

    users: Sequence[str]
    codes: Codes
    """``(N,)`` in training."""
    known: Mask
    """``(N,)`` whether they were there, and are not forgotten."""
    kept: Sequence[Kept]
    """What the store has of them."""


class States:
    """Reads, brings on and keeps states."""

    def __init__(self, kept: Reads) -> None:
        self._store = kept

    def of(self, publication: Publication, wanted: Followed) -> State:
        """``(N,)`` the states after all that is known of these users.

        A user whose state is kept costs one step for each event since; another his whole history, once.

        Raises:
            StoreError: the store cannot be read; that a state cannot be kept is no error.
        """
        model = publication.streaming
        memories = self._store.memories(wanted.users, publication.version)
        states = [None if memory is None else _state(memory) for memory in memories]
        places = [0 if memory is None else memory.last for memory in memories]
        moved: set[int] = set()
        if fresh := [row for row, state in enumerate(states) if state is None]:
            begun = [self._whole(publication, wanted, row) for row in fresh]
            rows = np.array(fresh, np.int64)
            history = stacked([events for events, _ in begun], publication.columns)
            found = model.state(Queries(history, wanted.codes[rows], wanted.known[rows]))
            for index, (row, (_, place)) in enumerate(zip(fresh, begun, strict=True)):
                states[row], places[row] = found.take(np.array([index])), place
            moved.update(fresh)
        if late := [row for row, place in enumerate(places) if place < wanted.kept[row].last]:
            news = [self._since(publication, wanted.users[row], places[row]) for row in late]
            events = stacked([events for events, _ in news], publication.columns)
            further = model.step(State.joined([_there(states[row]) for row in late]), events)
            for index, (row, (_, place)) in enumerate(zip(late, news, strict=True)):
                states[row], places[row] = further.take(np.array([index])), place
            moved.update(late)
        brought_on = {
            wanted.users[row]: Memory(publication.version, places[row], _there(states[row]).to_bytes())
            for row in sorted(moved)
            # what came meanwhile may have come after he was forgotten, and the state be of before
            if places[row] <= max(wanted.kept[row].last, publication.place)
        }
        try:
            if brought_on:
                self._store.remember(brought_on)
        except StoreError as error:
            logger.warning("states are not kept: %s", error)
        return State.joined([_there(state) for state in states])

    def _whole(self, publication: Publication, wanted: Followed, row: int) -> tuple[Events, int]:
        """All that is known of a user, and the place of the newest."""
        if not wanted.known[row] or publication.histories is None:
            return self._since(publication, wanted.users[row], 0)
        later, place = self._since(publication, wanted.users[row], publication.place)
        code = int(wanted.codes[row])
        return together([publication.histories.block(code, code + 1), later], publication.columns), place

    def _since(self, publication: Publication, user: str, place: int) -> tuple[Events, int]:
        parts = [coded(publication, [])[0]]
        while True:
            page, last = self._store.since(user, place, PAGE)
            if page:
                parts.append(coded(publication, page)[0])
                place = last
            if len(page) < PAGE:
                return together(parts, publication.columns), place


def _state(memory: Memory) -> State | None:
    """The state, or none where what is kept cannot be read: it is then made anew."""
    try:
        return State.from_bytes(memory.data)
    except ValueError:
        return None


def _there(state: State | None) -> State:
    assert state is not None
    return state
