"""How far what is asked now has drifted from what the model was trained on.

Two measures of two distributions over the same bins, ``now`` and ``then``:

* the population stability index, ``sum((now - then) * ln(now / then))`` (Lewis 1994, *An Introduction to Credit
  Scoring*): the Kullback-Leibler divergences both ways, added. By custom 0.1 to 0.25 is some drift and more is much
  (Siddiqi 2006, *Credit Risk Scorecards*; reviewed by du Pisanie et al. 2023, arXiv:2303.01227). Where nothing has
  changed it is about ``(B - 1) / sample`` (Yurdakul 2018, *Statistical Properties of Population Stability Index*), so
  that nothing is told of a small sample;
* the Jensen-Shannon divergence in bits, from 0 to 1 (Lin 1991, doi:10.1109/18.61115).

Shapes: N questions, T events, B bins, I items, W slots of the window.
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

__all__ = ["Drift", "Measured", "divergence", "stability"]

TENTHS = np.arange(1, 10) / 10


@dataclass(frozen=True)
class Measured:
    """The drift of one input."""

    stability: float
    """The population stability index; NaN of a sample that is too small."""
    divergence: float
    """The Jensen-Shannon divergence in bits; NaN of a sample that is too small."""
    sample: int
    """Events, or questions, in the window."""


class Drift:
    """Watches three inputs of a model in a sliding window.

    ``items``: events of histories by the popularity of their item in training, in up to ten bins with about a tenth of
    the events of training each; ``lengths``: histories by length, in bins with about a tenth of the histories of
    training each; ``actions``: events by kind, where histories have kinds.

    Memory does not grow: a number per bin and slot. What is asked by few people who ask often differs from a log with
    each user once, so that the first days in service are worth a look before an alarm is set.

    Args:
        histories: of training, a row per user.
        n_items: I.
        most: the longest history that a question is answered from, where longer ones are cut; those of training are
            cut alike.
        seconds: the length of the window, which moves in ``slots`` steps.
        fewest: the smallest sample that is told of.
        clock: seconds that never fall.
    """

    def __init__(
        self,
        histories: Events,
        n_items: int,
        *,
        most: int | None = None,
        seconds: float = 3600.0,
        slots: int = 12,
        fewest: int = 500,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if slots < 1 or seconds <= 0:
            raise ValueError(f"drift: {slots} slots of {seconds} seconds in all; expected at least one, and some time")
        self._fewest, self._slots, self._step, self._clock = fewest, slots, seconds / slots, clock
        self._lock = threading.Lock()
        blocks = list(_blocks(histories))
        count_I = sum((np.bincount(block.items, minlength=n_items) for block in blocks), np.zeros(n_items, np.int64))
        order_I = np.argsort(-count_I, kind="stable")
        before_I = np.cumsum(count_I[order_I]) - count_I[order_I]
        self._decile_I = np.empty(n_items, np.int8)
        self._decile_I[order_I] = np.minimum(before_I * 10 // max(histories.size, 1), 9)
        lengths_U = histories.lengths if most is None else np.minimum(histories.lengths, most)
        inner = np.quantile(lengths_U, TENTHS, method="lower") if len(lengths_U) else np.zeros(0)
        self._edges = np.unique(np.concatenate([[0], inner]))
        kinds = 0 if histories.actions is None else int(histories.actions.max(initial=0)) + 1
        self._bins = {"items": 10, "lengths": len(self._edges) + 1} | ({"actions": kinds + 1} if kinds else {})
        self._counts = {name: np.zeros((slots, bins), np.int64) for name, bins in self._bins.items()}
        self._slot = self._clock() // self._step
        self._then = {name: np.zeros(bins, np.int64) for name, bins in self._bins.items()}
        for block in blocks:
            for name, count_B in self._counted(block if most is None else block.last(most)).items():
                self._then[name] += count_B

    def asked(self, histories: Events) -> None:
        """Questions came, with these histories."""
        now = self._counted(histories)
        with self._lock:
            self._move()
            row = int(self._slot % self._slots)
            for name, count_B in now.items():
                self._counts[name][row] += count_B

    def measures(self) -> dict[str, Measured]:
        """The drift of each input in the window."""
        with self._lock:
            self._move()
            now = {name: count_WB.sum(axis=0) for name, count_WB in self._counts.items()}
        return {name: self._measured(now[name], self._then[name]) for name in now}

    def _measured(self, now_B: NDArray[np.int64], then_B: NDArray[np.int64]) -> Measured:
        sample = int(now_B.sum())
        if sample < self._fewest or not then_B.any():
            return Measured(np.nan, np.nan, sample)
        return Measured(stability(now_B, then_B), divergence(now_B, then_B), sample)

    def _counted(self, histories: Events) -> dict[str, NDArray[np.int64]]:
        bins = self._bins
        binned: dict[str, NDArray[np.integer[Any]]] = {
            "items": self._decile_I[histories.items],
            "lengths": np.searchsorted(self._edges, histories.lengths, side="left"),
        }
        if "actions" in bins and histories.actions is not None:
            binned["actions"] = np.minimum(histories.actions, bins["actions"] - 1)
        return {name: np.bincount(values, minlength=bins[name]) for name, values in binned.items()}

    def _move(self) -> None:
        slot = self._clock() // self._step
        passed = int(min(slot - self._slot, self._slots))
        if passed > 0:
            rows = (int(self._slot % self._slots) + 1 + np.arange(passed)) % self._slots
            for count_WB in self._counts.values():
                count_WB[rows] = 0
            self._slot = slot


def _blocks(histories: Events, size: int = 1_000_000) -> Iterator[Events]:
    """Rows in blocks of about ``size`` events, so that what is counted never stands in memory whole."""
    inner = np.searchsorted(histories.offsets, np.arange(size, histories.size, size))
    edges = np.unique([0, *inner.tolist(), len(histories)]).tolist()
    for start, stop in pairwise(edges):
        yield histories.block(start, stop)


def stability(now_B: NDArray[np.int64], then_B: NDArray[np.int64]) -> float:
    """The population stability index of two counts over the same bins; at least 0, symmetric.

    Each bin has half an event more, so that an empty one is rare and not impossible (Krichevsky and Trofimov 1981,
    doi:10.1109/TIT.1981.1056331).
    """
    p_B, q_B = _shares(now_B), _shares(then_B)
    return float(((p_B - q_B) * np.log(p_B / q_B)).sum())


def divergence(now_B: NDArray[np.int64], then_B: NDArray[np.int64]) -> float:
    """The Jensen-Shannon divergence of two counts over the same bins, in bits, from 0 to 1; half events as for
    :func:`stability`."""
    p_B, q_B = _shares(now_B), _shares(then_B)
    mean_B = (p_B + q_B) / 2
    both = (p_B * np.log2(p_B / mean_B)).sum() + (q_B * np.log2(q_B / mean_B)).sum()
    return float(np.clip(both / 2, 0, 1))


def _shares(count_B: NDArray[np.int64]) -> NDArray[np.float64]:
    smooth_B: NDArray[np.float64] = count_B.astype(np.float64) + 0.5
    return smooth_B / float(smooth_B.sum())
