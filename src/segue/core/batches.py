"""What a network trains on: sequences padded on the right, and the positions that count.

Shapes: B sequences, L longest of them, M positions with a target (M <= B * L), T events.

Sequences are padded on the right: under a causal encoder nothing before a position can see what comes after it, so
the padding needs no mask and is never read; the filler is the start token. See ``docs/decisions``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segue.core.types import Events

__all__ = ["SequenceBatch", "by_length", "query_batches", "training_batches", "windows"]


@dataclass(frozen=True, eq=False)
class SequenceBatch:
    """Histories and, for every position that counts, the item that came next."""

    items_BL: Tensor
    """int64 item codes; ``n_items`` is the start of a history, and the filler after its end."""
    lengths_B: Tensor
    """int64 positions in use, at least 1."""
    positions_M: Tensor
    """int64 flat positions ``b * L + l`` that have a target."""
    targets_M: Tensor
    """int64 the item that follows."""

    def to(self, device: str) -> SequenceBatch:
        """The same batch on ``device``."""
        if device == "cpu":
            return self
        return SequenceBatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


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
    histories: Events, n_items: int, length: int, size: int, rng: np.random.Generator, cover: bool, pool: int
) -> tuple[int, Iterator[SequenceBatch]]:
    """One epoch, as its number of batches and the batches: every window once, each position predicting the next item.

    A window that begins at the first event of a history is preceded by the start token, which predicts that event;
    any other window begins with the event before its first target.

    Args:
        cover: whether windows cover whole histories, cut at a random place in each epoch, or only their newest part.
    """
    lengths = histories.lengths
    if cover:
        newest = np.where(lengths > length, rng.integers(1, length + 1, len(lengths)), lengths)
        start, stop = windows(histories, length, newest)
    else:
        stop = histories.offsets[1:]
        start = np.maximum(histories.offsets[:-1], stop - length)
        start, stop = start[stop > start], stop[stop > start]
    at_start = np.isin(start, histories.offsets[:-1])
    parts = by_length(stop - start, size, rng, pool)
    made = (_batch(histories.items, start[rows], stop[rows], at_start[rows], n_items) for rows in parts)
    return len(parts), made


def _batch(
    items: NDArray[np.int32], start: NDArray[np.int64], stop: NDArray[np.int64], at_start: NDArray[np.bool_], fill: int
) -> SequenceBatch:
    lengths = stop - start
    grid_L = np.arange(lengths.max())
    inside_BL = grid_L < lengths[:, None]
    target_M = (start[:, None] + grid_L)[inside_BL]
    items_BL = np.full(inside_BL.shape, fill, dtype=np.int64)
    items_BL[inside_BL] = items[np.maximum(target_M - 1, 0)]
    items_BL[at_start, 0] = fill
    return SequenceBatch(
        torch.from_numpy(items_BL),
        torch.from_numpy(lengths),
        torch.from_numpy(np.flatnonzero(inside_BL)),
        torch.from_numpy(items[target_M].astype(np.int64)),
    )


def query_batches(
    history: Events, n_items: int, length: int | None, tokens: int
) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
    """Histories as the encoder reads them: rows, ``items_BL`` and ``lengths_B``, shortest first.

    A history that fits is preceded by the start token (so that an empty one can be answered); of a longer one the
    newest ``length`` events are read. ``length=None`` reads everything.

    Args:
        tokens: positions in a batch, padding included, at most (but always one row).
    """
    start, stop = history.offsets[:-1], history.offsets[1:]
    whole = np.ones(len(history), bool) if length is None else history.lengths < length
    if length is not None:
        start = np.maximum(start, stop - length)
    read = stop - start + whole
    order = np.argsort(read, kind="stable")
    first = 0
    while first < len(order):
        # rows are sorted, so the last row of a batch is its longest
        room = np.arange(1, len(order) - first + 1) * read[order[first:]] <= tokens
        rows = order[first : first + max(1, int(room.sum()))]
        grid_L = np.arange(read[rows[-1]])
        inside_BL = grid_L < read[rows][:, None]
        items_BL = np.full(inside_BL.shape, n_items, dtype=np.int64)
        at_BL = start[rows][:, None] - whole[rows][:, None] + grid_L
        real_BL = inside_BL & (at_BL >= start[rows][:, None])
        items_BL[real_BL] = history.items[at_BL[real_BL]]
        yield rows, torch.from_numpy(items_BL), torch.from_numpy(read[rows])
        first += len(rows)
