"""Recommend from the state of a streaming model, one event at a time.

The interface uses ids instead of codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from segue.core.bundle import TrainedModel
from segue.core.config import suggest
from segue.core.messages import arg
from segue.core.model import Streaming
from segue.core.recommend import recommend_from_state
from segue.core.state import State
from segue.core.types import Codes, Events, Queries
from segue.experiment.inference.frames import id_texts, positive_integer
from segue.experiment.inference.queries import encode_items, list_ids, validate_profile
from segue.experiment.inference.recommend import to_frame

__all__ = ["StreamingSession"]


class StreamingSession:
    """States of users, updated by one event at a time.

    The cost of an update does not grow with the history. A state is a value: keep it, store ``state.to_bytes()``, and
    continue later with ``State.from_bytes``.

    Raises:
        ValueError: the model has no state.
    """

    def __init__(self, trained: TrainedModel) -> None:
        if not isinstance(trained.model, Streaming):
            raise ValueError(
                f"stream: '{trained.key}' has no state and reads whole histories; use gru4rec, lstm or xlstm"
            )
        self.trained = trained
        self.model = trained.model

    def state(
        self,
        history: Sequence[Any] = (),
        *,
        user: Any = None,
        values: Sequence[float] | None = None,
        actions: Sequence[str] | None = None,
        times: Sequence[int] | None = None,
        user_features: Mapping[str, Any] | None = None,
    ) -> State:
        """Compute the state after a history of item ids, oldest first, which may be empty.

        Args:
            user: a user id; it need not have been in training.
            values: one per event, where the model reads them; likewise ``actions`` by name and ``times`` in seconds.
            user_features: features of the user, where the model reads them; they stay with the state.

        Raises:
            ValueError: an unknown item or action, or another number of values, actions or times than of items.
        """
        events = self._events(history, values, actions, times)
        profile = None if user_features is None else validate_profile(self.trained, user_features)
        if user is None:
            return self.model.state(Queries.anonymous(events, profile))
        codes, known = self.trained.users.encode(id_texts(user, "user"))
        return self.model.state(Queries(events, codes, known, profile=profile))

    def step(
        self,
        state: State,
        item: Any,
        *,
        value: float | None = None,
        action: str | None = None,
        time: int | None = None,
    ) -> State:
        """Compute the state after one more event.

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
        seen: Sequence[Any] = (),
        time: int | None = None,
        allow: Sequence[Any] | None = None,
    ) -> pl.DataFrame:
        """Recommend ``k`` items from a state.

        The table is that of :func:`segue.recommend`.

        Args:
            seen: ids that are not to be recommended again. A state does not contain them; the caller stores them.
            time: time of the query in seconds, for models that read it.
            allow: ids of the only items that may be recommended; ``None``: all.

        Raises:
            ValueError: a state of another model, or of several histories.
        """
        k = positive_integer(k, "k")
        if len(state) != 1:
            raise ValueError(f"recommend: a state of {len(state)} histories, expected 1; take one of them")
        mask = None
        if allow is not None:
            mask = np.zeros(self.model.schema.n_items, np.bool_)
            mask[self._codes(allow)] = True
        times = None if time is None else np.array([time], np.int64)
        history = Events.of([self._codes(seen).tolist()])
        found = recommend_from_state(self.model, state, k, seen=history, times=times, allowed=mask)
        return to_frame(self.trained, found, pl.Series("query", [0]), None)

    def _codes(self, items: Sequence[Any]) -> Codes:
        codes, unknown = encode_items(self.trained, items)
        if unknown:
            raise ValueError(f"{arg('item')}: not in the catalog: {list_ids(unknown)}; leave it out")
        found: Codes = codes
        return found

    def _events(
        self,
        items: Sequence[Any],
        values: Sequence[float] | None,
        actions: Sequence[str] | None,
        times: Sequence[int] | None,
    ) -> Events:
        codes = self._codes(items)
        known = self.model.schema.actions
        if unknown := [action for action in actions or () if action not in known]:
            raise ValueError(f"{arg('action')}: unknown '{unknown[0]}'{suggest(unknown[0], known)}")
        action_codes = None if actions is None else np.array([known.index(action) for action in actions], np.uint8)
        return Events(
            np.array([0, len(codes)]),
            codes,
            action_codes,
            None if values is None else np.asarray(values, np.float32),
            None if times is None else np.asarray(times, np.int64),
        )
