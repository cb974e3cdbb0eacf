"""Recommend from the state of a streaming model, one event at a time.

The interface uses ids instead of codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.bundle import TrainedModel
from segue.core.config import suggest
from segue.core.events import MAX_SECONDS
from segue.core.messages import arg, warn
from segue.core.model import Streaming
from segue.core.recommend import recommend_from_state
from segue.core.state import State
from segue.core.types import Codes, Events, Queries
from segue.experiment.inference.argument_checks import PositiveInt, check_arguments
from segue.experiment.inference.code_mapping import list_ids
from segue.experiment.inference.frames import id_texts, positive_integer
from segue.experiment.inference.profiles import validate_profile
from segue.experiment.inference.queries import encode_items
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
        if columns := [one.name for one in self.model.schema.event_context]:
            warn(f"stream: '{trained.key}' also reads the context {', '.join(columns)}, which is unknown in a stream")

    @check_arguments()
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
        events = self._events("history", history, values, actions, times)
        profile = None
        if user_features is not None:
            profile, unused = validate_profile(self.trained, user_features)
            if unused:
                warn(f"{arg('user_features')}: {'; '.join(unused)}")
        if user is None:
            return self.model.state(Queries.anonymous(events, profile))
        ids = id_texts(user, "user")
        if len(ids) != 1:
            raise ValueError(f"{arg('user')}: got {len(ids)} users, expected one")
        codes, known = self.trained.users.encode(ids)
        if not known.all():
            warn(f"{arg('user')}: not in training: {list_ids(ids)}; the user counts as new")
        return self.model.state(Queries(events, codes, known, profile=profile))

    @check_arguments()
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
        return self.model.step(state, self._events("item", [item], values, actions, None if time is None else [time]))

    @check_arguments()
    def recommend(
        self,
        state: State,
        k: PositiveInt = 10,
        *,
        seen: Any = (),
        time: int | None = None,
        allow: Any = None,
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
            mask[self._codes(allow, "allow")] = True
        times = None if time is None else _seconds([time])
        history = Events.of([self._codes(seen, "seen").tolist()])
        found = recommend_from_state(self.model, state, k, seen=history, times=times, allowed=mask)
        return to_frame(self.trained, found, pl.Series("query", [0]), None)

    def _codes(self, items: Any, name: str) -> Codes:
        codes, unknown = encode_items(self.trained, items, name)
        if unknown:
            raise ValueError(f"{arg(name)}: not in the catalog: {list_ids(unknown)}; leave it out")
        found: Codes = codes
        return found

    def _events(
        self,
        name: str,
        items: Sequence[Any],
        values: Sequence[float] | None,
        actions: Sequence[str] | None,
        times: Sequence[int] | None,
    ) -> Events:
        codes = self._codes(items, name)
        known = self.model.schema.actions
        if unknown := [action for action in (() if actions is None else actions) if action not in known]:
            raise ValueError(f"{arg('action')}: unknown '{unknown[0]}'{suggest(unknown[0], known)}")
        action_codes = None if actions is None else np.array([known.index(action) for action in actions], np.uint8)
        return Events(
            np.array([0, len(codes)]),
            codes,
            action_codes,
            None if values is None else np.asarray(values, np.float32),
            None if times is None else _seconds(times),
        )


def _seconds(times: Sequence[Any]) -> NDArray[np.int64]:
    """Convert times in seconds to an array.

    Raises:
        ValueError: a time is not a number of seconds since 1970.
    """
    expected = "expected seconds since 1970, such as 1700000000"
    for value in times:
        is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not is_number or not np.isfinite(value) or value < 0:
            raise ValueError(f"{arg('time')}: got {value!r}, {expected}")
        if value >= MAX_SECONDS:
            raise ValueError(f"{arg('time')}: got {value!r}, {expected}; it appears to be in milliseconds or finer")
    return np.floor(np.asarray(times, np.float64)).astype(np.int64)
