"""Recurrent states of users for streaming models, updated event by event.

A state is a pure function of the user's events in order. It does not matter who computes it or how often: several
processes may do so concurrently, and the store keeps the one with the most events.

Shapes: N users.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from segue.core.state import State
from segue.core.types import Codes, Events, Mask, Queries
from segue.serving.artifacts.artifact import ModelArtifact
from segue.serving.stores.store import StoreError, UserEvents, UserState
from segue.serving.stores.timeout import ReadStore
from segue.serving.users.query_builder import concat_histories, encode_history, stack_histories

__all__ = ["StateRequest", "UserStates"]

PAGE_SIZE = 10_000
"""Events read from the store at once."""


@dataclass(frozen=True, eq=False)
class StateRequest:
    """Users whose states are requested."""

    users: Sequence[str]
    codes: Codes
    """``(N,)`` user codes of the training data."""
    known: Mask
    """``(N,)`` whether they were in the training data and have not been deleted."""
    user_events: Sequence[UserEvents]
    """Their stored events."""


class UserStates:
    """Reads, updates and stores the states of users.

    Args:
        store: the event store.
        on_failure: called with the operation and the error if states cannot be stored.
    """

    def __init__(self, store: ReadStore, on_failure: Callable[[str, StoreError], None]) -> None:
        self._store, self._on_failure = store, on_failure

    def update(self, artifact: ModelArtifact, request: StateRequest) -> State:
        """Return the states ``(N,)`` after all known events of these users.

        A user with a stored state costs one step per new event. For any other user, the whole history is processed
        once. Only states of users with events are stored, so that requests with unknown ids do not fill the store.

        Raises:
            StoreError: the store cannot be read; a failure to write is only reported to ``on_failure``.
        """
        model = artifact.streaming_model
        stored = self._store.get_states(request.users, artifact.version)
        # a state of the same version before items were added or replaced is computed again
        states = [None if one is None else _decode_state(one, artifact.state_hash) for one in stored]
        sequence_numbers = [0 if one is None else one.last_sequence for one in stored]
        updated: set[int] = set()
        if missing := [row for row, state in enumerate(states) if state is None]:
            full_histories = [self._full_history(artifact, request, row) for row in missing]
            rows = np.array(missing, np.int64)
            history = stack_histories([events for events, _ in full_histories], artifact.input_columns)
            computed = model.state(Queries(history, request.codes[rows], request.known[rows]))
            for index, (row, (_, sequence_number)) in enumerate(zip(missing, full_histories, strict=True)):
                states[row], sequence_numbers[row] = computed.take(np.array([index])), sequence_number
            updated.update(missing)
        if stale := [
            row
            for row, sequence_number in enumerate(sequence_numbers)
            if sequence_number < request.user_events[row].last_sequence
        ]:
            new_events = [self._new_events(artifact, request.users[row], sequence_numbers[row]) for row in stale]
            events = stack_histories([events for events, _ in new_events], artifact.input_columns)
            stepped = model.step(State.concat([_require_state(states[row]) for row in stale]), events)
            for index, (row, (_, sequence_number)) in enumerate(zip(stale, new_events, strict=True)):
                states[row], sequence_numbers[row] = stepped.take(np.array([index])), sequence_number
            updated.update(stale)
        to_store = {
            request.users[row]: UserState(
                artifact.version, sequence_numbers[row], _require_state(states[row]).to_bytes()
            )
            for row in sorted(updated)
            if (request.known[row] or request.user_events[row].total)
            # the user may have been deleted meanwhile: newer events may follow the deletion while the state precedes it
            and sequence_numbers[row] <= max(request.user_events[row].last_sequence, artifact.last_sequence)
        }
        try:
            if to_store:
                self._store.put_states(to_store)
        except StoreError as error:
            self._on_failure("put_states", error)
        return State.concat([_require_state(state) for state in states])

    def _full_history(self, artifact: ModelArtifact, request: StateRequest, row: int) -> tuple[Events, int]:
        """Return all known events of a user and the sequence number of the newest."""
        if not request.known[row] or artifact.histories is None:
            return self._new_events(artifact, request.users[row], 0)
        new_events, sequence_number = self._new_events(artifact, request.users[row], artifact.last_sequence)
        code = int(request.codes[row])
        return concat_histories(
            [artifact.histories.rows_between(code, code + 1), new_events], artifact.input_columns
        ), sequence_number

    def _new_events(self, artifact: ModelArtifact, user: str, sequence_number: int) -> tuple[Events, int]:
        parts = [encode_history(artifact, [])[0]]
        while True:
            page, last = self._store.events_after(user, sequence_number, PAGE_SIZE)
            if page:
                parts.append(encode_history(artifact, page)[0])
                sequence_number = last
            if len(page) < PAGE_SIZE:
                return concat_histories(parts, artifact.input_columns), sequence_number


def _decode_state(stored: UserState, expected_hash: str) -> State | None:
    """Return the state, or ``None`` if it must be recomputed.

    It must be if it cannot be read or belongs to other arrays.
    """
    try:
        state = State.from_bytes(stored.data)
    except ValueError:
        return None
    return state if state.model == expected_hash else None


def _require_state(state: State | None) -> State:
    assert state is not None
    return state
