"""Outcomes of an experiment: one value per user.

They are computed from the exposures and events of a store. The first exposure of a user determines their variant and
the time from which their events count, whatever they are shown later. The unit of analysis is the user, who was
assigned at random, rather than the list or the event, because lists and events of one user are not independent.

Shapes: N exposed users, in the order of their first exposures.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.events import read_only
from segue.serving.stores.store import Store

__all__ = ["DEFAULT_ACTION", "Outcomes", "collect_outcomes"]

DEFAULT_ACTION = "interaction"
"""Action of an event without one, as in training."""


@dataclass(frozen=True, eq=False)
class Outcomes:
    """One outcome per user."""

    variants: tuple[str, ...]
    """The given variants, then others found in the exposures."""
    groups: NDArray[np.int64]
    """``(N,)`` indices into ``variants``."""
    starts: NDArray[np.int64]
    """``(N,)`` Unix time of the first exposure, in seconds."""
    values: NDArray[np.float64]
    """``(N,)`` 1 or 0 for whether there was an event, or the sum of values."""
    n_switched: int
    """Number of users who were later shown another variant."""
    action_counts: Mapping[str, int]
    """Events of these users within the time window, by action."""

    def __post_init__(self) -> None:
        for name in ("groups", "starts", "values"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    def __len__(self) -> int:
        """Return the number of users, N."""
        return len(self.groups)


def collect_outcomes(
    store: Store,
    experiment: str,
    variants: Sequence[str] = (),
    *,
    action: str = "purchase",
    value: bool = False,
    within: int | None = None,
    shown: bool = False,
) -> Outcomes:
    """Compute one outcome per exposed user.

    Reads all exposures, then all events, in memory proportional to the number of users.

    Args:
        variants: variants in the desired order, the control first.
        action: action that counts; :data:`DEFAULT_ACTION` selects events without one.
        value: whether to sum event values (a missing value adds 0) instead of testing for at least one event.
        within: seconds after the first exposure in which events count; ``None``: no limit.
        shown: whether to count only events with items the user had been shown before; needs memory for these too.

    Raises:
        StoreError: the store cannot be read.
    """
    codes = {name: code for code, name in enumerate(variants)}
    rows: dict[str, int] = {}
    groups, starts, switched = array("q"), array("q"), set[int]()
    items: dict[str, int] = {}
    shown_at: dict[tuple[int, int], int] = {}
    for exposure in store.exposures(experiment):
        row, code = rows.setdefault(exposure.user, len(rows)), codes.setdefault(exposure.variant, len(codes))
        if row == len(groups):
            groups.append(code)
            starts.append(exposure.time)
        elif groups[row] != code:
            switched.add(row)
        if shown:
            for item in exposure.items:
                shown_at.setdefault((row, items.setdefault(item, len(items))), exposure.time)
    values = np.zeros(len(rows))
    action_counts: Counter[str] = Counter()
    for _, event in store.events() if rows else ():
        row = rows.get(event.user, -1)
        if row < 0 or not starts[row] <= event.time < starts[row] + (math.inf if within is None else within):
            continue
        event_action = DEFAULT_ACTION if event.action is None else event.action
        action_counts[event_action] += 1
        if event_action != action or (shown and event.time < shown_at.get((row, items.get(event.item, -1)), math.inf)):
            continue
        if value:
            values[row] += event.value or 0.0
        else:
            values[row] = 1.0
    return Outcomes(tuple(codes), _to_array(groups), _to_array(starts), values, len(switched), dict(action_counts))


def _to_array(numbers: Any) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)
