"""What came of an experiment: one outcome per user, from the exposures and events of a store.

A user's first exposure decides his variant and the moment from which events count for him, whatever he is shown later.
So the unit is the user, who was assigned by chance, and not the list or the event: those of one user are not
independent of each other.

Shapes: N users who were exposed, in the order of their first exposures.
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

from segue.core.events import frozen
from segue.serving.stores.store import Store

__all__ = ["UNNAMED", "Outcomes", "outcomes"]

UNNAMED = "interaction"
"""What an event without a kind of action is called, as in training."""


@dataclass(frozen=True, eq=False)
class Outcomes:
    """One outcome per user."""

    variants: tuple[str, ...]
    """Those that were named, then others that were met."""
    groups: NDArray[np.int64]
    """``(N,)`` places in ``variants``."""
    starts: NDArray[np.int64]
    """``(N,)`` moment of the first exposure, in seconds since 1970."""
    values: NDArray[np.float64]
    """``(N,)`` 1 or 0: whether there was an event; or the sum of values."""
    moved: int
    """Users who were shown another variant later."""
    actions: Mapping[str, int]
    """Events in time, of these users, by kind of action."""

    def __post_init__(self) -> None:
        for name in ("groups", "starts", "values"):
            object.__setattr__(self, name, frozen(getattr(self, name)))

    def __len__(self) -> int:
        """The number of users, N."""
        return len(self.groups)


def outcomes(
    kept: Store,
    experiment: str,
    variants: Sequence[str] = (),
    *,
    action: str = "purchase",
    value: bool = False,
    within: int | None = None,
    shown: bool = False,
) -> Outcomes:
    """Read exposures, then events, each once; what is held in memory grows with users alone.

    Args:
        variants: names in the order wanted, the control first.
        action: the kind of event that counts; :data:`UNNAMED` are those without one.
        value: sum up the values of events, an event without one adding nothing; else whether there was any event.
        within: seconds after the first exposure in which events count; ``None``: for ever.
        shown: count only events with items that the user had been shown by then; holds those in memory too.

    Raises:
        StoreError: the store cannot be read.
    """
    codes = {name: code for code, name in enumerate(variants)}
    rows: dict[str, int] = {}
    groups, starts, moved = array("q"), array("q"), set[int]()
    items: dict[str, int] = {}
    when: dict[tuple[int, int], int] = {}
    for exposure in kept.exposures(experiment):
        row, code = rows.setdefault(exposure.user, len(rows)), codes.setdefault(exposure.variant, len(codes))
        if row == len(groups):
            groups.append(code)
            starts.append(exposure.time)
        elif groups[row] != code:
            moved.add(row)
        if shown:
            for item in exposure.items:
                when.setdefault((row, items.setdefault(item, len(items))), exposure.time)
    values = np.zeros(len(rows))
    seen: Counter[str] = Counter()
    for _, event in kept.events() if rows else ():
        row = rows.get(event.user, -1)
        if row < 0 or not starts[row] <= event.time < starts[row] + (math.inf if within is None else within):
            continue
        kind = UNNAMED if event.action is None else event.action
        seen[kind] += 1
        if kind != action or (shown and event.time < when.get((row, items.get(event.item, -1)), math.inf)):
            continue
        if value:
            values[row] += event.value or 0.0
        else:
            values[row] = 1.0
    return Outcomes(tuple(codes), _whole(groups), _whole(starts), values, len(moved), dict(seen))


def _whole(numbers: Any) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)
