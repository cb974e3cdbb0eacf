"""A trained model that goes on event by event, with ids instead of codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.core.bundle import Bundle
from segue.core.config import suggest
from segue.core.model import Streaming
from segue.core.state import State
from segue.core.state import recommend as recommend_from
from segue.core.types import Codes, Events, Queries
from segue.experiment import recommend

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Stream"]


class Stream:
    """What a model remembers of someone, taken on by one event at a time at a cost that never grows.

    A state is a value: keep it, store ``state.to_bytes()``, and go on later with ``State.from_bytes``.
    """

    def __init__(self, trained: Bundle) -> None:
        if not isinstance(trained.model, Streaming):
            raise ValueError(
                f"stream: '{trained.key}' has no state and reads the history for every answer; "
                "gru4rec, lstm and xlstm have one"
            )
        self.trained = trained
        self.model = trained.model

    def state(
        self,
        history: Sequence[str] = (),
        *,
        user: str | None = None,
        values: Sequence[float] | None = None,
        actions: Sequence[str] | None = None,
        times: Sequence[int] | None = None,
        profile: Mapping[str, Any] | None = None,
    ) -> State:
        """What the model remembers after a history of ids, oldest first, which may be empty.

        Args:
            profile: features of this person, where the model reads them; they stay with the state.
            user: an id; one that was not there in training is a normal question.
            values: one per event, where the model reads them; as are ``actions`` by name and ``times`` in seconds.

        Raises:
            ValueError: an unknown item or action, or another number of values, actions or times than of items.
        """
        events = self._events(history, values, actions, times)
        told = None if profile is None else recommend.profiled(self.trained, profile)
        if user is None:
            return self.model.state(Queries.anonymous(events, told))
        codes, known = self.trained.users.encode([user])
        return self.model.state(Queries(events, codes, known, profile=told))

    def step(
        self,
        state: State,
        item: str,
        *,
        value: float | None = None,
        action: str | None = None,
        time: int | None = None,
    ) -> State:
        """The state after one more event.

        Raises:
            ValueError: an unknown item or action, or a state of another model.
        """
        values = None if value is None else [value]
        actions = None if action is None else [action]
        return self.model.step(state, self._events([item], values, actions, None if time is None else [time]))

    def recommend(
        self,
        state: State,
        k: int = 10,
        *,
        seen: Sequence[str] = (),
        time: int | None = None,
        allowed: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """The best ``k`` items from a state: the table that ``segue.recommend`` gives.

        Args:
            seen: ids that are not to be recommended again. A state does not know them: whoever keeps it keeps them.
            time: when it is asked, in seconds, where the model is told.
            allowed: the only ids that may be recommended; ``None``: all.

        Raises:
            ValueError: a state of another model, or of several histories.
        """
        if len(state) != 1:
            raise ValueError(f"recommend: a state of {len(state)} histories, expected 1; take one of them")
        mask = None
        if allowed is not None:
            mask = np.zeros(self.model.domain.n_items, np.bool_)
            mask[self._codes(allowed)] = True
        asked = None if time is None else np.array([time], np.int64)
        had = Events.of([self._codes(seen).tolist()])
        return recommend.listed(self.trained, recommend_from(self.model, state, k, seen=had, times=asked, allowed=mask))

    def _codes(self, items: Sequence[str]) -> Codes:
        codes, unknown = recommend.coded(self.trained, items)
        if unknown:
            raise ValueError(f"item: not in the catalogue: {', '.join(repr(item) for item in unknown)}; leave it out")
        return codes

    def _events(
        self,
        items: Sequence[str],
        values: Sequence[float] | None,
        actions: Sequence[str] | None,
        times: Sequence[int] | None,
    ) -> Events:
        codes = self._codes(items)
        kinds = self.model.domain.actions
        if strange := [action for action in actions or () if action not in kinds]:
            raise ValueError(f"action: unknown '{strange[0]}'{suggest(strange[0], kinds)}")
        codes_of_actions = None if actions is None else np.array([kinds.index(action) for action in actions], np.uint8)
        return Events(
            np.array([0, len(codes)]),
            codes,
            codes_of_actions,
            None if values is None else np.asarray(values, np.float32),
            None if times is None else np.asarray(times, np.int64),
        )
