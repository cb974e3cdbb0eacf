"""What a next-item model may read of events beside the items.

Each input gives a number at every position, which is put into a bin; each bin has a learned vector, and so has "not
known". These vectors are added to that of the item, so that any encoder reads them. At a position stands what is known
when the next item is asked for: its own event, those before it, and with ``query_time`` the moment of asking.

Shapes: B sequences, L positions, D width, E edges between bins, T events.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from segue.core.batches import UNCOUNTED, Sequences
from segue.core.types import Dataset

__all__ = ["READS", "EventInputs", "edges_of", "gaps", "log_bins", "places", "untimed"]

READS: dict[str, tuple[str, ...]] = {
    "value": ("values",),
    "action": ("actions",),
    "gap": ("times",),
    "query_time": ("times", "asked"),
    "session_position": ("times", "places"),
}
"""The columns that each input of events is made of."""

VALUE_BINS = 32
"""Bins of values at most."""

TIME_BINS = 33
"""Bins of seconds: 0, 1, 2 to 3, 4 to 7, ... and the last from 2^32 on."""

PLACE_BINS = 32
"""Places in a session that are told apart; the last stands for all further ones."""


class EventInputs(nn.Module):
    """The sum of the vectors of some inputs.

    Args:
        names: of :data:`READS`.
        actions: kinds of action.
        session_gap: seconds without an event after which a new session begins.
        std: standard deviation of the numbers it begins with.
    """

    def __init__(self, names: Iterable[str], width: int, actions: int, session_gap: float, std: float) -> None:
        super().__init__()
        self.session_gap = session_gap
        bins = {
            "value": VALUE_BINS,
            "action": actions,
            "gap": TIME_BINS,
            "query_time": TIME_BINS,
            "session_position": PLACE_BINS,
        }
        # the last row of each table stands for what is not known
        self.tables = nn.ParameterDict({name: std * torch.randn(bins[name] + 1, width) for name in names})
        self.edges_E: Tensor
        if "value" in self.tables:
            self.register_buffer("edges_E", torch.full((VALUE_BINS - 1,), torch.inf))

    def prepare(self, train: Dataset) -> None:
        """Take the edges of the values.

        Raises:
            ValueError: the data has nothing to make one of the inputs of.
        """
        events = train.histories
        for name in self.tables:
            if lacking := _lacking(name, train):
                raise ValueError(f"model.inputs: '{name}' is asked for, but {train.name} has {lacking}")
        if "value" in self.tables:
            assert events.values is not None
            self.edges_E.copy_(torch.from_numpy(edges_of(events.values)))

    def forward(self, read: Sequences, n_items: int, hidden: float = 0.0) -> Tensor:
        """``(B, L, D)``

        Args:
            hidden: share of the sequences in which an input is not known, of each input by itself.
        """
        found = []
        for name, table_WD in self.tables.items():
            bins_BL = self._bins(name, read, n_items)
            if hidden:
                away_B = torch.rand(len(bins_BL), device=bins_BL.device) < hidden
                bins_BL = bins_BL.masked_fill(away_B[:, None], -1)
            found.append(F.embedding(torch.where(bins_BL < 0, len(table_WD) - 1, bins_BL), table_WD))
        return sum(found[1:], found[0])

    def counted(self, read: Sequences, n_items: int) -> Sequences:
        """``read`` with its column ``places`` counted, for a reader that goes on from there later."""
        if "session_position" not in self.tables:
            return read
        return replace(read, columns={**read.columns, "places": self._places(read, n_items)})

    def _bins(self, name: str, read: Sequences, n_items: int) -> Tensor:
        """``(B, L)`` int64, -1 where it is not known."""
        columns = read.columns
        if name == "value":
            bins_BL = torch.bucketize(columns["values"], self.edges_E, right=True)
            return torch.where(columns["values"].isnan(), -1, bins_BL)
        if name == "action":
            return columns["actions"]
        if name == "gap":
            return log_bins(gaps(columns["times"]))
        if name == "query_time":
            # a hidden item is asked for where it stands: the newest event is the one before
            times_BL = columns["times"]
            newest_BL = torch.where(read.items_BL > n_items, times_BL.roll(1, 1), times_BL)
            newest_BL[:, 0] = times_BL[:, 0]
            return log_bins(columns["asked"] - newest_BL)
        return self._places(read, n_items).clamp_max(PLACE_BINS - 1)

    def _places(self, read: Sequences, n_items: int) -> Tensor:
        columns = read.columns
        return places(columns["times"], read.items_BL != n_items, columns["places"], self.session_gap)


def edges_of(values_T: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(E,)`` edges between bins: halfway between distinct values where these are few, else quantiles.

    Edges that are not needed are infinite.
    """
    known = values_T[~np.isnan(values_T)]
    distinct = np.unique(known)
    if len(distinct) <= VALUE_BINS:
        found = (distinct[1:] + distinct[:-1]) / 2
    else:
        found = np.unique(np.quantile(known, np.linspace(0, 1, VALUE_BINS + 1)[1:-1]))
    edges_E = np.full(VALUE_BINS - 1, np.inf, np.float32)
    edges_E[: len(found)] = found
    return edges_E


def log_bins(seconds: Tensor) -> Tensor:
    """int64 the power of two in ``1 + seconds``; below 0 as 0, -1 where not known."""
    power = torch.frexp(1.0 + seconds.nan_to_num(0.0).clamp_min(0.0)).exponent.long() - 1
    return torch.where(seconds.isnan(), -1, power.clamp_max(TIME_BINS - 1))


def gaps(times_BL: Tensor) -> Tensor:
    """Seconds since the position before; NaN where one of the two times is not known, and at the first position."""
    gap_BL = torch.full_like(times_BL, torch.nan)
    gap_BL[:, 1:] = times_BL[:, 1:] - times_BL[:, :-1]
    return gap_BL


def places(times_BL: Tensor, events_BL: Tensor, counted_BL: Tensor, session_gap: float) -> Tensor:
    """int64 places of events within their session, from 0; -1 where not known.

    A session begins with the first event that is read, and after more than ``session_gap`` seconds without one. After a
    gap that is not known nothing is known until the next session.

    Args:
        events_BL: where there is an event, and not the start of a history.
        counted_BL: places that are known from before, or ``UNCOUNTED``: counting goes on from there.
    """
    gap_BL = gaps(times_BL)
    after_BL = torch.zeros_like(events_BL)
    after_BL[:, 1:] = events_BL[:, :-1]
    begins_BL = (events_BL & ~after_BL & ~times_BL.isnan()) | (gap_BL > session_gap)
    lost_BL = ~begins_BL & gap_BL.isnan()
    given_BL = counted_BL != UNCOUNTED
    lost_BL = torch.where(given_BL, counted_BL < 0, lost_BL)
    begins_BL = torch.where(given_BL, counted_BL >= 0, begins_BL)
    at_L = torch.arange(times_BL.shape[1], device=times_BL.device)
    # the newest position up to each from which counting goes on, or at which it was lost; the first is one of them
    from_BL = torch.where(begins_BL | lost_BL, at_L, 0).cummax(1).values
    place_BL = at_L - from_BL + counted_BL.clamp_min(0).gather(1, from_BL)
    return torch.where(lost_BL.gather(1, from_BL), -1, place_BL)


def _lacking(name: str, train: Dataset) -> str:
    """What the data has instead of what the input needs; empty where it has what is needed."""
    events = train.histories
    if name == "value":
        known = events.values is not None and not np.isnan(events.values).all()
        return "" if known else "no values"
    if name == "action":
        return "" if events.actions is not None and len(train.actions) > 1 else "one kind of action"
    return untimed(train)


def untimed(data: Dataset) -> str:
    """What ``data`` has instead of real times (decision 0027); empty where some are real."""
    events = data.histories
    if events.times is None:
        return "no times"
    real = events.context.get("time_known")
    return "" if real is None or real.any() else "no real times, only such as keep the order"
