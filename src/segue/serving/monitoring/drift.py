"""Input drift: how far recent requests differ from the training data.

Two measures compare two distributions over the same bins, ``live`` and ``training``:

* Population stability index, ``sum((live - training) * ln(live / training))`` (Lewis 1994, *An Introduction to Credit
  Scoring*): the sum of both Kullback-Leibler divergences. Conventionally, 0.1 to 0.25 is moderate drift and more is
  strong drift (Siddiqi 2006, *Credit Risk Scorecards*; reviewed by du Pisanie et al. 2023, arXiv:2303.01227). Without
  drift its expectation is about ``(B - 1) / sample`` (Yurdakul 2018, *Statistical Properties of Population Stability
  Index*), so small samples are not reported.
* Jensen-Shannon divergence in bits, from 0 to 1 (Lin 1991, doi:10.1109/18.61115).

Shapes: N requests, T events, B bins, I items, U training users, W slots of the window.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.events import Events

__all__ = ["Drift", "DriftMeasure", "jensen_shannon_divergence", "population_stability_index"]

TENTHS = np.arange(1, 10) / 10


@dataclass(frozen=True)
class DriftMeasure:
    """Drift of one input."""

    stability_index: float
    """Population stability index; NaN if the sample is too small."""
    divergence: float
    """Jensen-Shannon divergence in bits; NaN if the sample is too small."""
    sample_size: int
    """Number of events or requests in the window."""


class Drift:
    """Measures drift of three model inputs in a sliding window.

    ``items``: history events by training popularity of their item, in up to ten bins of about a tenth of the training
    events each; ``lengths``: histories by length, in bins of about a tenth of the training histories each; ``actions``:
    events by kind, if histories have kinds.

    Memory is constant: one count per bin and slot. Frequent users contribute many requests but only one training
    history, so observe a new service for some days before setting an alert.

    Args:
        histories: training histories, one row per user.
        n_items: I.
        max_history: maximum history length of requests; training histories are truncated in the same way.
        seconds: length of the window, which moves in ``slots`` steps.
        min_sample_size: smallest sample to report.
        clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        histories: Events,
        n_items: int,
        *,
        max_history: int | None = None,
        seconds: float = 3600.0,
        slots: int = 12,
        min_sample_size: int = 500,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if slots < 1 or seconds <= 0:
            raise ValueError(f"drift: got {slots} slots and {seconds} seconds, expected at least 1 and more than 0")
        self._min_sample_size, self._slots, self._clock = min_sample_size, slots, clock
        self._slot_seconds = seconds / slots
        self._lock = threading.Lock()
        blocks = list(_iter_blocks(histories))
        count_I = sum((np.bincount(block.items, minlength=n_items) for block in blocks), np.zeros(n_items, np.int64))
        order_I = np.argsort(-count_I, kind="stable")
        n_before_I = np.cumsum(count_I[order_I]) - count_I[order_I]
        self._decile_I = np.empty(n_items, np.int8)
        self._decile_I[order_I] = np.minimum(n_before_I * 10 // max(histories.size, 1), 9)
        lengths_U = histories.lengths if max_history is None else np.minimum(histories.lengths, max_history)
        inner_edges = np.quantile(lengths_U, TENTHS, method="lower") if len(lengths_U) else np.zeros(0)
        self._length_edges = np.unique(np.concatenate([[0], inner_edges]))
        n_actions = 0 if histories.actions is None else int(histories.actions.max(initial=0)) + 1
        self._n_bins = {"items": 10, "lengths": len(self._length_edges) + 1}
        self._n_bins |= {"actions": n_actions + 1} if n_actions else {}
        self._counts = {name: np.zeros((slots, bins), np.int64) for name, bins in self._n_bins.items()}
        self._slot = self._clock() // self._slot_seconds
        self._training_counts = {name: np.zeros(bins, np.int64) for name, bins in self._n_bins.items()}
        for block in blocks:
            for name, count_B in self._bin_counts(block if max_history is None else block.last(max_history)).items():
                self._training_counts[name] += count_B

    def record(self, histories: Events) -> None:
        """Add the histories of requests to the window."""
        counts = self._bin_counts(histories)
        with self._lock:
            self._advance()
            row = int(self._slot % self._slots)
            for name, count_B in counts.items():
                self._counts[name][row] += count_B

    def measure(self) -> dict[str, DriftMeasure]:
        """Return the drift of each input in the window."""
        with self._lock:
            self._advance()
            counts = {name: count_WB.sum(axis=0) for name, count_WB in self._counts.items()}
        return {name: self._compare(counts[name], self._training_counts[name]) for name in counts}

    def _compare(self, live_B: NDArray[np.int64], training_B: NDArray[np.int64]) -> DriftMeasure:
        size = int(live_B.sum())
        if size < self._min_sample_size or not training_B.any():
            return DriftMeasure(np.nan, np.nan, size)
        index = population_stability_index(live_B, training_B)
        return DriftMeasure(index, jensen_shannon_divergence(live_B, training_B), size)

    def _bin_counts(self, histories: Events) -> dict[str, NDArray[np.int64]]:
        n_bins = self._n_bins
        bins: dict[str, NDArray[np.integer[Any]]] = {
            "items": self._decile_I[histories.items[histories.items < len(self._decile_I)]],  # without added items
            "lengths": np.searchsorted(self._length_edges, histories.lengths, side="left"),
        }
        if "actions" in n_bins and histories.actions is not None:
            known = histories.context.get("action_known", True)
            last = n_bins["actions"] - 1  # unknown actions
            bins["actions"] = np.where(known, np.minimum(histories.actions, last), last)
        return {name: np.bincount(values, minlength=n_bins[name]) for name, values in bins.items()}

    def _advance(self) -> None:
        """Move the window to the current time and clear expired slots."""
        slot = self._clock() // self._slot_seconds
        n_expired = int(min(slot - self._slot, self._slots))
        if n_expired > 0:
            rows = (int(self._slot % self._slots) + 1 + np.arange(n_expired)) % self._slots
            for count_WB in self._counts.values():
                count_WB[rows] = 0
            self._slot = slot


def _iter_blocks(histories: Events, size: int = 1_000_000) -> Iterator[Events]:
    """Yield rows in blocks of about ``size`` events.

    Memory-mapped histories are therefore never loaded as a whole.
    """
    inner_edges = np.searchsorted(histories.offsets, np.arange(size, histories.size, size))
    edges = np.unique([0, *inner_edges.tolist(), len(histories)]).tolist()
    for start, stop in pairwise(edges):
        yield histories.rows_between(start, stop)


def population_stability_index(live_B: NDArray[np.int64], training_B: NDArray[np.int64]) -> float:
    """Return the population stability index of two counts over the same bins.

    It is symmetric and at least 0. Half an event is added to each bin, so that an empty bin is rare rather than
    impossible (Krichevsky and Trofimov 1981, doi:10.1109/TIT.1981.1056331).
    """
    p_B, q_B = _smoothed_proportions(live_B), _smoothed_proportions(training_B)
    return float(((p_B - q_B) * np.log(p_B / q_B)).sum())


def jensen_shannon_divergence(live_B: NDArray[np.int64], training_B: NDArray[np.int64]) -> float:
    """Return the Jensen-Shannon divergence of two counts over the same bins.

    It is in bits, from 0 to 1, and smoothed as in :func:`population_stability_index`.
    """
    p_B, q_B = _smoothed_proportions(live_B), _smoothed_proportions(training_B)
    mean_B = (p_B + q_B) / 2
    both = (p_B * np.log2(p_B / mean_B)).sum() + (q_B * np.log2(q_B / mean_B)).sum()
    return float(np.clip(both / 2, 0, 1))


def _smoothed_proportions(count_B: NDArray[np.int64]) -> NDArray[np.float64]:
    smooth_B: NDArray[np.float64] = count_B.astype(np.float64) + 0.5
    return smooth_B / float(smooth_B.sum())
