"""What a network has to find in a window of a history; each objective goes with any encoder and any loss.

An objective is a function ``(windows, rng, **settings)`` that gives the batch an encoder reads. ``next_item`` and
``all_following`` ask at every position for what comes later, and a causal encoder answers; ``cloze`` hides items and
asks for them, and the encoder may read both ways.

Shapes: B windows, L longest of them, M positions with a target.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from segue.core.batches import SequenceBatch, Windows, gather, times_at

__all__ = ["all_following", "cloze", "next_item"]


def next_item(windows: Windows, rng: np.random.Generator) -> SequenceBatch:
    """At every position the event that follows (Kang & McAuley 2018, arXiv:1808.09781).

    A window that begins at the first event of a history is preceded by the start token, which predicts that event;
    any other window begins with the event before its first target.
    """
    target_BL, inside_BL = _grid(windows)
    return _shifted(windows, target_BL, inside_BL, target_BL[inside_BL])


def all_following(windows: Windows, rng: np.random.Generator, horizon: int = 0) -> SequenceBatch:
    """At every position one of the events that follow within the window, drawn anew each time.

    Over epochs every following event is asked for alike: the dense all-action loss (Pancha et al. 2022,
    arXiv:2205.04507), with one draw per position.

    Args:
        horizon: how many events ahead may be asked for; 0: all to the end of the window.
    """
    target_BL, inside_BL = _grid(windows)
    ahead_M = (windows.stop[:, None] - target_BL)[inside_BL]
    ahead_M = np.minimum(ahead_M, horizon) if horizon else ahead_M
    drawn_M = target_BL[inside_BL] + (rng.random(len(ahead_M)) * ahead_M).astype(np.int64)
    return _shifted(windows, target_BL, inside_BL, drawn_M)


def cloze(
    windows: Windows, rng: np.random.Generator, hidden_share: float = 0.2, last_share: float = 0.1
) -> SequenceBatch:
    """Some events are hidden, and asked for where they stood (Sun et al. 2019, arXiv:1904.06690).

    At least one event of each window is hidden. With a hidden event go its value, action and time; but when it is asked
    for is that time.

    Args:
        hidden_share: chance of each event to be hidden.
        last_share: share of the windows in which only the last event is hidden, as when the next item is asked for.
    """
    at_BL, inside_BL = _grid(windows)
    drawn_BL = np.where(inside_BL, rng.random(inside_BL.shape), 2.0)
    hidden_BL = drawn_BL < hidden_share
    none = ~hidden_BL.any(1)
    hidden_BL[none, drawn_BL[none].argmin(1)] = True
    last_only = np.flatnonzero(rng.random(len(inside_BL)) < last_share)
    hidden_BL[last_only] = False
    hidden_BL[last_only, (windows.stop - windows.start)[last_only] - 1] = True
    items_BL = np.full(inside_BL.shape, windows.n_items, dtype=np.int64)
    items_BL[inside_BL] = windows.histories.items[at_BL[inside_BL]]
    targets_M = items_BL[hidden_BL]
    items_BL[hidden_BL] = windows.n_items + 1
    asked_BL = None
    if "asked" in windows.columns:
        asked_BL = np.full(inside_BL.shape, np.nan)
        asked_BL[hidden_BL] = times_at(windows.histories, at_BL[hidden_BL])
    columns = gather(windows.histories, at_BL, inside_BL & ~hidden_BL, windows.columns, asked_BL)
    return SequenceBatch(
        torch.from_numpy(items_BL),
        torch.from_numpy(windows.stop - windows.start),
        torch.from_numpy(windows.rows),
        columns,
        torch.from_numpy(np.flatnonzero(hidden_BL)),
        torch.from_numpy(targets_M),
    )


def _grid(windows: Windows) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """``(B, L)`` flat event positions of the windows, and which are inside."""
    lengths = windows.stop - windows.start
    grid_L = np.arange(lengths.max())
    return windows.start[:, None] + grid_L, grid_L < lengths[:, None]


def _shifted(
    windows: Windows, target_BL: NDArray[np.int64], inside_BL: NDArray[np.bool_], wanted_M: NDArray[np.int64]
) -> SequenceBatch:
    """The event before each target, and what is ``wanted`` there."""
    real_BL = inside_BL.copy()
    real_BL[windows.at_start, 0] = False
    items_BL = np.full(inside_BL.shape, windows.n_items, dtype=np.int64)
    items_BL[real_BL] = windows.histories.items[target_BL[real_BL] - 1]
    asked_BL = None
    if "asked" in windows.columns:
        asked_BL = np.full(inside_BL.shape, np.nan)
        asked_BL[inside_BL] = times_at(windows.histories, wanted_M)
    return SequenceBatch(
        torch.from_numpy(items_BL),
        torch.from_numpy(windows.stop - windows.start),
        torch.from_numpy(windows.rows),
        gather(windows.histories, target_BL - 1, real_BL, windows.columns, asked_BL),
        torch.from_numpy(np.flatnonzero(inside_BL)),
        torch.from_numpy(windows.histories.items[wanted_M].astype(np.int64)),
    )
