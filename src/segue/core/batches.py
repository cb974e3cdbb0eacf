"""Build batches of right-padded sequences for networks.

A batch also lists the positions that have a target.

Shapes: B sequences, L length of the longest, M positions with a target (M <= B * L), T events, W windows.

Sequences are padded on the right with the start token. A causal encoder never attends to later positions, so the
padding needs no mask; a bidirectional encoder masks positions beyond ``lengths_B``. See ``docs/decisions``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segue.core.events import CONTEXT
from segue.core.seen_items import SeenItems
from segue.core.types import Events, Queries

__all__ = [
    "COLUMNS",
    "POSITION_UNSET",
    "QUERY",
    "SequenceBatch",
    "Sequences",
    "Windows",
    "collect_seen_items",
    "gather_columns",
    "known_times",
    "length_bucketed_batches",
    "query_batches",
    "query_columns",
    "training_batches",
    "unknown_as_nan",
    "window_bounds",
]

COLUMNS = ("values", "actions", "times", "query_times", "session_positions")
"""Columns that a model may read in addition to items: three event columns, the query time of the next item, and the
position of an event within its session. A model may also read the context columns of events, ``context:NAME``, and the
context of the query of the next item, ``query_context:NAME``."""

QUERY = "query_"
"""Prefix of the names of the columns that describe the query of the next item."""

POSITION_UNSET = -2
"""Session position that has not been computed yet; a computed position that is unknown is -1."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Histories as input of an encoder."""

    items_BL: Tensor
    """int64 item codes; ``n_items`` is the start token and the padding, ``n_items + 1`` the mask token."""
    lengths_B: Tensor
    """int64 sequence lengths without padding, at least 1."""
    users_B: Tensor
    """int64 user codes; -1 for unknown users."""
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """Requested ``COLUMNS``, ``(B, L)``, aligned with ``items_BL``: float32 values and context, float64 times, int64
    actions and session positions. Unknown times, values and context are NaN, unknown actions are -1."""
    profile_BJ: Tensor | None = field(default=None, kw_only=True)
    """float32 ``(B, J)`` encoded user features sent with the queries, NaN where missing; ``None``: the model uses the
    stored features of its users."""

    def to(self, device: str) -> Self:
        """Return a copy on ``device``."""
        if device == "cpu":
            return self
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor | SeenItems)}
        return replace(self, **moved, columns={name: column.to(device) for name, column in self.columns.items()})


@dataclass(frozen=True, eq=False)
class SequenceBatch(Sequences):
    """Histories with the target item of every position that has one."""

    positions_M: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """int64 flat positions ``b * L + l`` that have a target, ascending."""
    targets_M: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """int64 target items: the item that follows, or the item that is masked."""
    seen: SeenItems | None = field(default=None, kw_only=True)
    """Items seen before each target, where the loss excludes them."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Ranges ``start:stop`` of the flat events of ``histories``, each within one row."""

    histories: Events
    rows: NDArray[np.int64]
    """``(W,)`` row of ``histories``."""
    start: NDArray[np.int64]
    """``(W,)``"""
    stop: NDArray[np.int64]
    """``(W,)`` greater than ``start``."""
    n_items: int
    columns: tuple[str, ...] = ()
    """Columns to read in addition to the items; of ``COLUMNS``."""

    @property
    def is_history_start(self) -> NDArray[np.bool_]:
        """``(W,)`` whether the window starts with the first event of its row."""
        first: NDArray[np.bool_] = self.start == self.histories.offsets[self.rows]
        return first


Objective = Callable[[Windows, np.random.Generator], SequenceBatch]
"""Turns windows into a batch with targets: next items, masked items, ..."""


def window_bounds(
    histories: Events, length: int, first: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return starts and stops of training windows with at most ``length`` targets.

    Both are flat event positions ``(W,)``.

    Args:
        first: ``(N,)`` events in the newest window of each row; older events are cut into full windows before it. Rows
            no longer than ``length`` with ``first = row length`` give one window.
    """
    ends = histories.offsets[1:]
    older = np.maximum(histories.lengths - first, 0)
    counts = 1 + -(-older // length)
    rows = np.repeat(np.arange(len(histories)), counts)
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    stop = ends[rows] - np.where(nth == 0, 0, first[rows] + (nth - 1) * length)
    start = np.maximum(histories.offsets[rows], stop - np.where(nth == 0, first[rows], length))
    used = stop > start
    return start[used], stop[used]


def length_bucketed_batches(
    lengths: NDArray[np.int64], size: int, rng: np.random.Generator, pool: int
) -> list[NDArray[np.int64]]:
    """Group rows of similar lengths into batches of ``size``, in random order.

    Rows are sorted by length within random pools of ``pool`` batches, which reduces padding.
    """
    order = rng.permutation(len(lengths))
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), size * pool):
        part = order[start : start + size * pool]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[cut : cut + size] for cut in range(0, len(part), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def training_batches(
    histories: Events,
    n_items: int,
    length: int,
    size: int,
    rng: np.random.Generator,
    objective: Objective,
    *,
    all_windows: bool,
    pool: int,
    columns: tuple[str, ...] = (),
    seen: bool = False,
) -> tuple[int, Iterator[SequenceBatch]]:
    """Return the number of batches of one epoch and the batches.

    Every window occurs once.

    Args:
        length: maximum number of targets per window.
        size: number of windows per batch.
        objective: turns the windows of a batch into inputs and targets.
        all_windows: whether windows cover whole histories, with a random cut in each epoch, or only the newest part.
        pool: number of batches that are sorted by length together.
        columns: of ``COLUMNS``; a column that the log lacks is unknown everywhere.
        seen: whether to add the items seen before each target (for a masked target, before the end of its window).
    """
    lengths = histories.lengths
    if all_windows:
        newest = np.where(lengths > length, rng.integers(1, length + 1, len(lengths)), lengths)
        start, stop = window_bounds(histories, length, newest)
    else:
        stop = histories.offsets[1:]
        start = np.maximum(histories.offsets[:-1], stop - length)
        start, stop = start[stop > start], stop[stop > start]
    rows = np.searchsorted(histories.offsets, start, side="right") - 1
    index = length_bucketed_batches(stop - start, size, rng, pool)
    groups = (Windows(histories, rows[at], start[at], stop[at], n_items, columns) for at in index)
    batches = ((group, objective(group, rng)) for group in groups)
    if not seen:
        return len(index), (batch for _, batch in batches)
    return len(index), (replace(batch, seen=collect_seen_items(group, batch)) for group, batch in batches)


def collect_seen_items(windows: Windows, batch: SequenceBatch) -> SeenItems:
    """Collect the history before each target of ``batch``.

    For a masked target, the history extends to the end of its window.
    """
    positions_M = batch.positions_M.numpy()
    rows_M, offset_M = np.divmod(positions_M, batch.items_BL.shape[1])
    masked_M = batch.items_BL.flatten().numpy()[positions_M] > windows.n_items
    begin_B = windows.histories.offsets[windows.rows]
    n_before_M = np.where(masked_M, windows.stop[rows_M], windows.start[rows_M] + offset_M) - begin_B[rows_M]
    counts_B = windows.stop - begin_B
    rows_T = np.repeat(np.arange(len(begin_B)), counts_B)
    positions_T = np.arange(len(rows_T)) - np.repeat(np.cumsum(counts_B) - counts_B, counts_B)
    items_T = windows.histories.items[begin_B[rows_T] + positions_T].astype(np.int64)
    arrays = items_T, rows_T, positions_T.astype(np.int32), rows_M, n_before_M.astype(np.int32)
    return SeenItems(*(torch.from_numpy(array) for array in arrays))


def gather_columns(
    histories: Events,
    at_BL: NDArray[np.int64],
    valid_BL: NDArray[np.bool_],
    columns: Sequence[str],
    of_query: Mapping[str, NDArray[Any]] | None = None,
) -> dict[str, Tensor]:
    """Read ``columns`` of the events ``at_BL``; unknown where ``valid_BL`` is false.

    Args:
        of_query: columns of the queries of the next items, see :func:`query_columns`; ``None``: unknown.
    """
    result: dict[str, Tensor] = {}
    index = at_BL[valid_BL]
    for name in columns:
        if name.startswith(QUERY):
            unknown = np.full(at_BL.shape, np.nan, np.float64 if name == "query_times" else np.float32)
            result[name] = torch.from_numpy(unknown if of_query is None else of_query[name])
            continue
        if name == "session_positions":
            result[name] = torch.full(at_BL.shape, POSITION_UNSET)
            continue
        if name == "actions":
            grid: NDArray[np.generic] = np.full(at_BL.shape, -1, np.int64)
        else:
            grid = np.full(at_BL.shape, np.nan, np.float64 if name == "times" else np.float32)
        column = None if name.startswith(CONTEXT) else getattr(histories, name)
        if name == "actions" and (known := histories.context.get("action_known")) is not None and column is not None:
            grid[valid_BL] = np.where(known[index], column[index].astype(np.int64), -1)
        elif name == "times" or name.startswith(CONTEXT):
            grid[valid_BL] = _known_values(histories, name, index)
        elif column is not None:
            grid[valid_BL] = column[index]
        result[name] = torch.from_numpy(grid)
    return result


def known_times(events: Events, index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the times of the flat events ``index``; NaN where unknown.

    The time is also unknown where it only preserves the order of events: there the context column ``time_known``, if
    present, is false.
    """
    if events.times is None:
        return np.full(len(index), np.nan)
    times = events.times[index].astype(np.float64)
    known = events.context.get("time_known")  # not Events.time_known, which may create an array of all events
    return times if known is None else np.where(known[index], times, np.nan)


def query_columns(
    histories: Events, columns: Sequence[str], mask_BL: NDArray[np.bool_], index: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Return the columns that describe queries; unknown where ``mask_BL`` is false.

    Args:
        index: flat event that answers the query of each position where ``mask_BL`` is true: its time and context are
            those of the query.
    """
    result: dict[str, NDArray[Any]] = {}
    for name in columns:
        if name.startswith(QUERY):
            result[name] = np.full(mask_BL.shape, np.nan, np.float64 if name == "query_times" else np.float32)
            result[name][mask_BL] = _known_values(histories, name.removeprefix(QUERY), index)
    return result


def _known_values(events: Events, name: str, index: NDArray[np.int64]) -> NDArray[Any]:
    """Return times or a context column of the flat events ``index``, unknown as NaN."""
    if name == "times":
        return known_times(events, index)
    column = events.context.get(name.removeprefix(CONTEXT))
    return np.full(len(index), np.nan, np.float32) if column is None else unknown_as_nan(column[index])


def unknown_as_nan(column: NDArray[Any]) -> NDArray[Any]:
    """Return codes, numbers or times as floats, with NaN for the missing code -1."""
    if column.dtype.kind == "f":
        return column
    values: NDArray[Any] = column.astype(np.float32 if column.dtype == np.int32 else np.float64)  # exact for codes
    return np.where(values < 0, values.dtype.type(np.nan), values)


def query_batches(
    queries: Queries,
    n_items: int,
    length: int | None,
    max_tokens: int,
    *,
    append_mask: bool = False,
    columns: Sequence[str] = (),
) -> Iterator[tuple[NDArray[np.int64], Sequences]]:
    """Yield batches of query rows and their inputs, shortest histories first.

    A history shorter than ``length`` is preceded by the start token, so that empty histories have one position. Of a
    longer history, the newest ``length`` events are read. ``length=None`` reads everything.

    Args:
        max_tokens: maximum number of positions per batch, including padding (a batch has at least one row).
        append_mask: append a mask token, the prediction target, instead of prepending the start token.
        columns: see :func:`training_batches`.
    """
    history = queries.history
    start, stop = history.offsets[:-1], history.offsets[1:]
    if append_mask:
        start = start if length is None else np.maximum(start, stop - (length - 1))
        before, after = np.zeros(len(history), np.int64), 1
    else:
        is_whole = np.ones(len(history), bool) if length is None else history.lengths < length
        start = start if length is None else np.maximum(start, stop - length)
        before, after = is_whole.astype(np.int64), 0
    lengths = stop - start + before + after
    order = np.argsort(lengths, kind="stable")
    first = 0
    while first < len(order):
        # rows are sorted by length: the last row of a batch is the longest
        fits = np.arange(1, len(order) - first + 1) * lengths[order[first:]] <= max_tokens
        rows = order[first : first + max(1, int(fits.sum()))]
        at_BL = start[rows][:, None] - before[rows][:, None] + np.arange(lengths[rows[-1]])
        valid_BL = (at_BL >= start[rows][:, None]) & (at_BL < stop[rows][:, None])
        items_BL = np.full(valid_BL.shape, n_items, dtype=np.int64)
        items_BL[valid_BL] = history.items[at_BL[valid_BL]]
        last = np.arange(len(rows)), lengths[rows] - 1
        if append_mask:
            items_BL[last] = n_items + 1
        of_query = _columns_of_queries(queries, columns, rows, at_BL, stop[rows], last, append_mask)
        users = np.where(queries.known[rows], queries.users[rows], -1).astype(np.int64)
        yield (
            rows,
            Sequences(
                torch.from_numpy(items_BL),
                torch.from_numpy(lengths[rows]),
                torch.from_numpy(users),
                gather_columns(history, at_BL, valid_BL, columns, of_query),
            ),
        )
        first += len(rows)


def _columns_of_queries(
    queries: Queries,
    columns: Sequence[str],
    rows: NDArray[np.int64],
    at_BL: NDArray[np.int64],
    stop: NDArray[np.int64],
    last: tuple[NDArray[np.int64], NDArray[np.int64]],
    append_mask: bool,
) -> dict[str, NDArray[Any]]:
    """Return the columns of ``columns`` that describe the query of each position.

    They are those of the next event, and at the last position those of the query.
    """
    inside_BL = (at_BL + 1 < stop[:, None]) & (not append_mask)
    result = query_columns(queries.history, columns, inside_BL, (at_BL + 1)[inside_BL])
    for name, column_BL in result.items():
        if name == "query_times":
            if queries.times is not None:
                known = True if queries.time_known is None else queries.time_known[rows]
                column_BL[last] = np.where(known, queries.times[rows], np.nan)
        elif (column := queries.context.get(name.removeprefix(QUERY + CONTEXT))) is not None:
            column_BL[last] = unknown_as_nan(column[rows])
    return result
