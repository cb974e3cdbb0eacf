"""Training objectives: choose the targets in a window of a history.

An objective is a function ``(windows, rng, **settings)`` that returns the batch an encoder reads; it works with any
loss. ``next_item`` and ``all_action`` have a later item as target at every position and need a causal encoder.
``cloze`` masks items and predicts them, and the encoder may be bidirectional.

Shapes: B windows, L length of the longest, M positions with a target.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from segue.core.batches import SequenceBatch, Windows, gather_columns, query_columns

__all__ = ["all_action", "cloze", "next_item"]


def next_item(windows: Windows, rng: np.random.Generator) -> SequenceBatch:
    """Predict the next item at every position (Kang & McAuley 2018, arXiv:1808.09781).

    A window that starts with the first event of a history is preceded by the start token, whose target is that event;
    any other window is preceded by the event before its first target.
    """
    target_BL, valid_BL = _grid(windows)
    return _shifted_batch(windows, target_BL, valid_BL, target_BL[valid_BL])


def all_action(windows: Windows, rng: np.random.Generator, horizon: int = 0) -> SequenceBatch:
    """Predict one random later item of the window at every position.

    The item is drawn anew in every epoch.

    Over epochs every later event is equally likely: the dense all-action loss (Pancha et al. 2022, arXiv:2205.04507)
    with one sample per position.

    Args:
        horizon: maximum number of events ahead; 0: to the end of the window.
    """
    target_BL, valid_BL = _grid(windows)
    ahead_M = (windows.stop[:, None] - target_BL)[valid_BL]
    ahead_M = np.minimum(ahead_M, horizon) if horizon else ahead_M
    sampled_M = target_BL[valid_BL] + (rng.random(len(ahead_M)) * ahead_M).astype(np.int64)
    return _shifted_batch(windows, target_BL, valid_BL, sampled_M)


def cloze(
    windows: Windows, rng: np.random.Generator, mask_prob: float = 0.2, mask_last_prob: float = 0.1
) -> SequenceBatch:
    """Mask random events and predict their items (Sun et al. 2019, arXiv:1904.06690).

    At least one event per window is masked. A masked event also loses its value, action, time and context; its time
    and context become those of the query of the position.

    Args:
        mask_prob: probability that an event is masked.
        mask_last_prob: probability that only the last event of a window is masked, as in prediction.
    """
    at_BL, valid_BL = _grid(windows)
    random_BL = np.where(valid_BL, rng.random(valid_BL.shape), 2.0)
    masked_BL = random_BL < mask_prob
    none = ~masked_BL.any(1)
    masked_BL[none, random_BL[none].argmin(1)] = True
    last_only = np.flatnonzero(rng.random(len(valid_BL)) < mask_last_prob)
    masked_BL[last_only] = False
    masked_BL[last_only, (windows.stop - windows.start)[last_only] - 1] = True
    items_BL = np.full(valid_BL.shape, windows.n_items, dtype=np.int64)
    items_BL[valid_BL] = windows.histories.items[at_BL[valid_BL]]
    targets_M = items_BL[masked_BL]
    items_BL[masked_BL] = windows.n_items + 1
    of_query = query_columns(windows.histories, windows.columns, masked_BL, at_BL[masked_BL])
    columns = gather_columns(windows.histories, at_BL, valid_BL & ~masked_BL, windows.columns, of_query)
    return SequenceBatch(
        torch.from_numpy(items_BL),
        torch.from_numpy(windows.stop - windows.start),
        torch.from_numpy(windows.rows),
        columns,
        torch.from_numpy(np.flatnonzero(masked_BL)),
        torch.from_numpy(targets_M),
    )


def _grid(windows: Windows) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the flat event positions of the windows, ``(B, L)``, and which are valid."""
    lengths = windows.stop - windows.start
    grid_L = np.arange(lengths.max())
    return windows.start[:, None] + grid_L, grid_L < lengths[:, None]


def _shifted_batch(
    windows: Windows, target_BL: NDArray[np.int64], valid_BL: NDArray[np.bool_], target_event_M: NDArray[np.int64]
) -> SequenceBatch:
    """Return inputs shifted by one event against ``target_BL``.

    The targets are ``target_event_M``.
    """
    is_event_BL = valid_BL.copy()
    is_event_BL[windows.is_history_start, 0] = False
    items_BL = np.full(valid_BL.shape, windows.n_items, dtype=np.int64)
    items_BL[is_event_BL] = windows.histories.items[target_BL[is_event_BL] - 1]
    of_query = query_columns(windows.histories, windows.columns, valid_BL, target_event_M)
    return SequenceBatch(
        torch.from_numpy(items_BL),
        torch.from_numpy(windows.stop - windows.start),
        torch.from_numpy(windows.rows),
        gather_columns(windows.histories, target_BL - 1, is_event_BL, windows.columns, of_query),
        torch.from_numpy(np.flatnonzero(valid_BL)),
        torch.from_numpy(windows.histories.items[target_event_M].astype(np.int64)),
    )
