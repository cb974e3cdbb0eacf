"""What a network reads: sequences padded on the right, and the positions that have a target.

Shapes: B sequences, L longest of them, M positions with a target (M <= B * L), T events, W windows.

Sequences are padded on the right: under a causal encoder nothing before a position can see what comes after it, so
the padding needs no mask and is never read; an encoder that reads both ways masks what is beyond ``lengths_B``. The
filler is the start token. See ``docs/decisions``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segue.core.seen_items import Seen
from segue.core.types import Events, Queries

__all__ = [
    "COLUMNS",
    "UNCOUNTED",
    "SequenceBatch",
    "Sequences",
    "Windows",
    "by_length",
    "gather",
    "query_batches",
    "times_at",
    "training_batches",
    "windows",
]

COLUMNS = ("values", "actions", "times", "asked", "places")
"""What can be read beside the items: three columns of events, the time at which the next item is asked for, and the
place of an event within its session, as far as it was counted before."""

UNCOUNTED = -2
"""A place that was not counted yet; one that was, and is not known, is -1."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Histories as an encoder reads them."""

    items_BL: Tensor
    """int64 item codes; ``n_items`` is the start of a history, and the filler after its end; ``n_items + 1`` stands for
    an item that is hidden."""
    lengths_B: Tensor
    """int64 positions in use, at least 1."""
    users_B: Tensor
    """int64 user codes; -1 where the user is not known."""
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """Of ``COLUMNS`` those asked for, ``(B, L)``, aligned with ``items_BL``: float32 values, float64 times, int64
    actions and places. A time or value that is not known is NaN, an action that is not known is -1."""
    profile_BJ: Tensor | None = field(default=None, kw_only=True)
    """float32 ``(B, J)`` features of who asks, coded as the model does, NaN where not told; ``None``: those that the
    model has of its users."""

    def to(self, device: str) -> Self:
        """The same on ``device``."""
        if device == "cpu":
            return self
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor | Seen)}
        return replace(self, **moved, columns={name: column.to(device) for name, column in self.columns.items()})


@dataclass(frozen=True, eq=False)
class SequenceBatch(Sequences):
    """Histories and, for every position that counts, the item to be found there."""

    positions_M: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """int64 flat positions ``b * L + l`` that have a target, rising."""
    targets_M: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """int64 the item there: the one that follows, or the one that is hidden."""
    seen: Seen | None = field(default=None, kw_only=True)
    """Which items the user had before each target, where the loss is to leave them out."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Some stretches ``start:stop`` of the flat events of ``histories``, each within one row."""

    histories: Events
    rows: NDArray[np.int64]
    """``(W,)`` row of ``histories``."""
    start: NDArray[np.int64]
    """``(W,)``"""
    stop: NDArray[np.int64]
    """``(W,)`` greater than ``start``."""
    n_items: int
    columns: tuple[str, ...] = ()
    """Columns to read beside the items."""

    @property
    def at_start(self) -> NDArray[np.bool_]:
        """``(W,)`` whether the window begins with the first event of its row."""
        first: NDArray[np.bool_] = self.start == self.histories.offsets[self.rows]
        return first


Objective = Callable[[Windows, np.random.Generator], SequenceBatch]
"""What is to be found in some windows: next items, hidden items, ..."""


def windows(histories: Events, length: int, first: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where training windows of at most ``length`` targets begin and end, as flat event positions ``(W,)``.

    Args:
        first: ``(N,)`` events in the newest window of each row; the older events are cut into full windows before it.
            ``min(length, row length)`` everywhere and rows no longer than ``length`` give one window per row.
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


def by_length(lengths: NDArray[np.int64], size: int, rng: np.random.Generator, pool: int) -> list[NDArray[np.int64]]:
    """Rows in random order cut into batches of ``size`` of nearly equal lengths, in random order.

    Rows are sorted by length within pools of ``pool`` batches, so that little padding is computed.
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
    cover: bool,
    pool: int,
    columns: tuple[str, ...] = (),
    seen: bool = False,
) -> tuple[int, Iterator[SequenceBatch]]:
    """One epoch, as its number of batches and the batches: every window once.

    Args:
        length: targets in a window at most.
        objective: what is to be found in the windows of a batch.
        cover: whether windows cover whole histories, cut at a random place in each epoch, or only their newest part.
        columns: of ``COLUMNS``, what is read beside the items; one that the log lacks is unknown everywhere.
        seen: whether to say of each target which items stand before it in the whole history, or, where it is an item
            that is hidden, anywhere before the end of the window.
    """
    lengths = histories.lengths
    if cover:
        newest = np.where(lengths > length, rng.integers(1, length + 1, len(lengths)), lengths)
        start, stop = windows(histories, length, newest)
    else:
        stop = histories.offsets[1:]
        start = np.maximum(histories.offsets[:-1], stop - length)
        start, stop = start[stop > start], stop[stop > start]
    rows = np.searchsorted(histories.offsets, start, side="right") - 1
    parts = by_length(stop - start, size, rng, pool)
    cuts = (Windows(histories, rows[part], start[part], stop[part], n_items, columns) for part in parts)
    made = ((cut, objective(cut, rng)) for cut in cuts)
    return len(parts), (replace(batch, seen=Seen.of(cut, batch)) if seen else batch for cut, batch in made)


def gather(
    histories: Events,
    at_BL: NDArray[np.int64],
    real_BL: NDArray[np.bool_],
    columns: Sequence[str],
    asked_BL: NDArray[np.float64] | None = None,
) -> dict[str, Tensor]:
    """The ``columns`` of the events ``at_BL``, unknown where not ``real_BL``; ``asked`` is what is given."""
    found: dict[str, Tensor] = {}
    index = at_BL[real_BL]
    for name in columns:
        if name == "asked":
            unknown = np.full(at_BL.shape, np.nan)
            found[name] = torch.from_numpy(unknown if asked_BL is None else asked_BL)
            continue
        if name == "places":
            found[name] = torch.full(at_BL.shape, UNCOUNTED)
            continue
        if name == "actions":
            grid: NDArray[np.generic] = np.full(at_BL.shape, -1, np.int64)
        else:
            grid = np.full(at_BL.shape, np.nan, np.float32 if name == "values" else np.float64)
        column = getattr(histories, name)
        if name == "times":
            grid[real_BL] = times_at(histories, index)
        elif column is not None:
            grid[real_BL] = column[index]
        found[name] = torch.from_numpy(grid)
    return found


def times_at(events: Events, index: NDArray[np.int64]) -> NDArray[np.float64]:
    """The times of the flat events ``index``; NaN where there is none, or one that only keeps the order.

    The latter is what the column ``time_known`` of the context says, where there is one.
    """
    if events.times is None:
        return np.full(len(index), np.nan)
    times = events.times[index].astype(np.float64)
    known = events.context.get("time_known")
    return times if known is None else np.where(known[index], times, np.nan)


def query_batches(
    queries: Queries,
    n_items: int,
    length: int | None,
    tokens: int,
    *,
    hidden: bool = False,
    columns: Sequence[str] = (),
) -> Iterator[tuple[NDArray[np.int64], Sequences]]:
    """Histories as the encoder reads them, and their rows, shortest first.

    A history that fits is preceded by the start token (so that an empty one can be answered); of a longer one the
    newest ``length`` events are read. ``length=None`` reads everything.

    Args:
        tokens: positions in a batch, padding included, at most (but always one row).
        hidden: instead of a start token before, a hidden item stands after the history: it is what is asked for.
        columns: see :func:`training_batches`.
    """
    history = queries.history
    start, stop = history.offsets[:-1], history.offsets[1:]
    if hidden:
        start = start if length is None else np.maximum(start, stop - (length - 1))
        before, after = np.zeros(len(history), np.int64), 1
    else:
        whole = np.ones(len(history), bool) if length is None else history.lengths < length
        start = start if length is None else np.maximum(start, stop - length)
        before, after = whole.astype(np.int64), 0
    read = stop - start + before + after
    order = np.argsort(read, kind="stable")
    first = 0
    while first < len(order):
        # rows are sorted, so the last row of a batch is its longest
        room = np.arange(1, len(order) - first + 1) * read[order[first:]] <= tokens
        rows = order[first : first + max(1, int(room.sum()))]
        at_BL = start[rows][:, None] - before[rows][:, None] + np.arange(read[rows[-1]])
        real_BL = (at_BL >= start[rows][:, None]) & (at_BL < stop[rows][:, None])
        items_BL = np.full(real_BL.shape, n_items, dtype=np.int64)
        items_BL[real_BL] = history.items[at_BL[real_BL]]
        last = np.arange(len(rows)), read[rows] - 1
        if hidden:
            items_BL[last] = n_items + 1
        asked_BL = _asked(queries, rows, at_BL, stop[rows], last, hidden) if "asked" in columns else None
        users = np.where(queries.known[rows], queries.users[rows], -1).astype(np.int64)
        yield (
            rows,
            Sequences(
                torch.from_numpy(items_BL),
                torch.from_numpy(read[rows]),
                torch.from_numpy(users),
                gather(history, at_BL, real_BL, columns, asked_BL),
            ),
        )
        first += len(rows)


def _asked(
    queries: Queries,
    rows: NDArray[np.int64],
    at_BL: NDArray[np.int64],
    stop: NDArray[np.int64],
    last: tuple[NDArray[np.int64], NDArray[np.int64]],
    hidden: bool,
) -> NDArray[np.float64]:
    """When what follows each position was asked for: at the time of the next event, the last at the query's time."""
    asked_BL = np.full(at_BL.shape, np.nan)
    if not hidden:
        inside = at_BL + 1 < stop[:, None]
        asked_BL[inside] = times_at(queries.history, (at_BL + 1)[inside])
    if queries.times is not None:
        asked_BL[last] = queries.times[rows]
    return asked_BL
