"""Embeddings of event inputs other than the item: values, actions, and times.

Each input maps every position to a bin; each bin, and "unknown", has a learned vector. The vectors of calendar bins are
learned weights of their cyclic encoding. The vectors of all inputs are added to the item embedding, so any encoder can
use them. A position only sees what is known when the next item is predicted: its own event, earlier ones and, with
inputs such as ``query_time``, the time or context of the query.

Shapes: B sequences, L positions, D width, E edges between bins, T events.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.core.batches import POSITION_UNSET, QUERY, Sequences
from segue.core.events import CONTEXT
from segue.core.types import Dataset, Feature
from segue.nn.inputs.calendar_bins import CALENDAR_BINS, MIN_DATE, calendar_bins, cyclic_basis
from segue.nn.inputs.context_bins import VALUE_BINS, ContextBins, value_bin_edges

__all__ = [
    "INPUT_COLUMNS",
    "EventEmbeddings",
    "log_bins",
    "missing_times",
    "session_positions",
    "time_gaps",
]

INPUT_COLUMNS: dict[str, tuple[str, ...]] = {
    "value": ("values",),
    "action": ("actions",),
    "gap": ("times",),
    "query_time": ("times", "query_times"),
    "session_position": ("times", "session_positions"),
    **dict.fromkeys(CALENDAR_BINS, ("times",)),
    **{f"query_{name}": ("times", "query_times") for name in CALENDAR_BINS},
}
"""Columns that each event input reads."""

TIME_BINS = 33
"""Bins of seconds: 0, 1, 2 to 3, 4 to 7, ...; the last one starts at 2^32."""

SESSION_POSITION_BINS = 32
"""Bins of session positions; the last one holds all further positions."""


class EventEmbeddings(nn.Module):
    """Sum of the vectors of several event inputs.

    Args:
        names: keys of :data:`INPUT_COLUMNS`, and ``context:NAME`` and ``query_context:NAME`` of context columns.
        n_actions: number of action types.
        session_gap: seconds without an event after which a session ends.
        std: standard deviation of the initial vectors.
        context: the context columns.
    """

    def __init__(
        self,
        names: Iterable[str],
        width: int,
        n_actions: int,
        session_gap: float,
        std: float,
        context: Sequence[Feature] = (),
    ) -> None:
        super().__init__()
        names, self.session_gap = tuple(names), session_gap
        self.context_bins = nn.ModuleDict({f"{CONTEXT}{one.name}": ContextBins(one) for one in context})
        bins = {
            "value": VALUE_BINS,
            "action": n_actions,
            "gap": TIME_BINS,
            "query_time": TIME_BINS,
            "session_position": SESSION_POSITION_BINS,
        }
        # the last row of each table is the vector of unknown values; calendar bins have one row per number of their
        # cyclic encoding
        rows = {name: CALENDAR_BINS[calendar] - 1 for name in names if (calendar := _calendar(name))} | bins
        rows |= {name: self._context_bins(name).size for name in names if CONTEXT in name}
        self.tables = nn.ParameterDict({name: torch.randn(rows[name] + 1, width).mul_(std) for name in names})
        self.edges_E: Tensor
        if "value" in self.tables:
            self.register_buffer("edges_E", torch.full((VALUE_BINS - 1,), torch.inf))

    def prepare(self, train: Dataset) -> None:
        """Compute the bin edges of the values.

        Raises:
            ValueError: the data lacks what an input needs.
        """
        events = train.histories
        for name in self.tables:
            if reason := _missing_data(name, train):
                raise ValueError(f"model.inputs: '{name}' is not available: {train.name} has {reason}")
        if "value" in self.tables:
            assert events.values is not None
            self.edges_E.copy_(torch.from_numpy(value_bin_edges(events.values)))
        for name, part in self.context_bins.items():
            assert isinstance(part, ContextBins)
            part.prepare(events.context[name.removeprefix(CONTEXT)])

    def forward(self, batch: Sequences, n_items: int, drop_prob: float = 0.0) -> Tensor:
        """Return the summed vectors, ``(B, L, D)``.

        Args:
            drop_prob: probability that an input of a sequence is replaced by unknown, independently for each input.
        """
        vectors = []
        for name in self.tables:
            table_WD, bins_BL = self._table(name), self._bins(name, batch, n_items)
            if drop_prob:
                dropped_B = torch.rand(len(bins_BL), device=bins_BL.device) < drop_prob
                bins_BL = bins_BL.masked_fill(dropped_B[:, None], -1)
            vectors.append(F.embedding(torch.where(bins_BL < 0, len(table_WD) - 1, bins_BL), table_WD))
        return sum(vectors[1:], vectors[0])

    def with_session_positions(self, batch: Sequences, n_items: int) -> Sequences:
        """Return ``batch`` with its column ``session_positions`` computed.

        A stream can continue from these positions.
        """
        if "session_position" not in self.tables:
            return batch
        return replace(batch, columns={**batch.columns, "session_positions": self._session_positions(batch, n_items)})

    def _table(self, name: str) -> Tensor:
        """Return the vectors of all bins, followed by that of unknown values."""
        table_WD: Tensor = self.tables[name]
        if not (calendar := _calendar(name)):
            return table_WD
        basis_WF = torch.from_numpy(cyclic_basis(CALENDAR_BINS[calendar])).to(table_WD)
        return torch.cat([basis_WF @ table_WD[:-1], table_WD[-1:]])

    def _bins(self, name: str, batch: Sequences, n_items: int) -> Tensor:
        """Return the bin of every position, int64 ``(B, L)``; -1 where unknown."""
        columns = batch.columns
        if name == "value":
            bins_BL = torch.bucketize(columns["values"], self.edges_E, right=True)
            return torch.where(columns["values"].isnan(), -1, bins_BL)
        if name == "action":
            return columns["actions"]
        if CONTEXT in name:
            return self._context_bins(name)(columns[name])  # type: ignore[no-any-return]
        if name == "gap":
            return log_bins(time_gaps(columns["times"]))
        if calendar := _calendar(name):
            return calendar_bins(calendar, columns["query_times" if name.startswith("query_") else "times"])
        if name == "query_time":
            # a masked item is predicted at its own position, so its newest event is the previous one
            times_BL = columns["times"]
            newest_BL = torch.where(batch.items_BL > n_items, times_BL.roll(1, 1), times_BL)
            newest_BL[:, 0] = times_BL[:, 0]
            return log_bins(columns["query_times"] - newest_BL)
        return self._session_positions(batch, n_items).clamp_max(SESSION_POSITION_BINS - 1)

    def _context_bins(self, name: str) -> ContextBins:
        """Return the bins of the context column that an input reads."""
        part = self.context_bins[name.removeprefix(QUERY)]
        assert isinstance(part, ContextBins)
        return part

    def _session_positions(self, batch: Sequences, n_items: int) -> Tensor:
        columns = batch.columns
        return session_positions(
            columns["times"], batch.items_BL != n_items, columns["session_positions"], self.session_gap
        )


def log_bins(seconds: Tensor) -> Tensor:
    """Return ``floor(log2(1 + seconds))`` as int64.

    Negative times count as 0, unknown ones are -1.
    """
    power = torch.frexp(1.0 + seconds.nan_to_num(0.0).clamp_min(0.0)).exponent.long() - 1
    return torch.where(seconds.isnan(), -1, power.clamp_max(TIME_BINS - 1))


def time_gaps(times_BL: Tensor) -> Tensor:
    """Return the seconds since the previous position.

    NaN at the first one and where one of the times is unknown.
    """
    gap_BL = torch.full_like(times_BL, torch.nan)
    gap_BL[:, 1:] = times_BL[:, 1:] - times_BL[:, :-1]
    return gap_BL


def session_positions(times_BL: Tensor, is_event_BL: Tensor, computed_BL: Tensor, session_gap: float) -> Tensor:
    """Return int64 positions of events within their session, from 0; -1 where unknown.

    A session starts with the first event read, and after more than ``session_gap`` seconds without an event. After an
    unknown gap, positions are unknown until the next session starts.

    Args:
        is_event_BL: where there is an event, not the start token.
        computed_BL: positions that are already known, or ``POSITION_UNSET``; counting continues from them.
    """
    gap_BL = time_gaps(times_BL)
    follows_event_BL = torch.zeros_like(is_event_BL)
    follows_event_BL[:, 1:] = is_event_BL[:, :-1]
    starts_BL = (is_event_BL & ~follows_event_BL & ~times_BL.isnan()) | (gap_BL > session_gap)
    unknown_BL = ~starts_BL & gap_BL.isnan()
    is_set_BL = computed_BL != POSITION_UNSET
    unknown_BL = torch.where(is_set_BL, computed_BL < 0, unknown_BL)
    starts_BL = torch.where(is_set_BL, computed_BL >= 0, starts_BL)
    index_L = torch.arange(times_BL.shape[1], device=times_BL.device)
    # the newest position up to each one at which counting starts or becomes unknown; the first position is one
    from_BL = torch.where(starts_BL | unknown_BL, index_L, 0).cummax(1).values
    position_BL = index_L - from_BL + computed_BL.clamp_min(0).gather(1, from_BL)
    return torch.where(unknown_BL.gather(1, from_BL), -1, position_BL)


def _calendar(name: str) -> str:
    """Return the calendar input that ``name`` reads; empty: none.

    It is computed from the time of an event or of the query.
    """
    calendar = name.removeprefix("query_")
    return calendar if calendar in CALENDAR_BINS else ""


def _missing_data(name: str, train: Dataset) -> str:
    """Return why the data does not support an input; an empty string if it does."""
    events = train.histories
    if name == "value":
        is_known = events.values is not None and not np.isnan(events.values).all()
        return "" if is_known else "no values"
    if name == "action":
        return "" if events.actions is not None and len(train.actions) > 1 else "only one type of action"
    if CONTEXT in name:
        column = events.context.get(name.removeprefix(QUERY).removeprefix(CONTEXT))
        is_empty = column is None or bool(((column < 0) if column.dtype.kind == "i" else np.isnan(column)).all())
        return "no known value of this context column" if is_empty else ""
    reason = missing_times(train)
    if not reason and _calendar(name):
        assert events.times is not None
        latest = int(events.times[events.time_known].max(initial=0))
        if latest < MIN_DATE:
            return f"no dates: its times are integers up to {latest}, not seconds since 1970"
    return reason


def missing_times(data: Dataset) -> str:
    """Return why ``data`` has no real times, or an empty string (decision 0027)."""
    events = data.histories
    if events.times is None:
        return "no times"
    is_real = events.context.get("time_known")
    return "" if is_real is None or is_real.any() else "no real times, only times that preserve the order"
