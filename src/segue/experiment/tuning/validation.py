"""Measure models on validation during training, and remember the best values."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.model import Predictor, Recommender, is_lower_better
from segue.core.types import HeldOut
from segue.evaluation import rating_metrics
from segue.evaluation.bootstrap import Estimate, estimate_values
from segue.evaluation.evaluate import make_validator
from segue.evaluation.metrics import resolve_metrics
from segue.evaluation.ranking import rank

__all__ = ["Clock", "Report", "ValidationRecorder"]

Clock = Callable[[], float]
"""Returns a time in seconds that never goes back."""

Report = Callable[[int, float], bool]
"""Receives an epoch and its validation metric; returns whether the trial should end."""


@dataclass(eq=False)
class ValidationRecorder:
    """Computes the validation metric of a model, and remembers the best values."""

    held_out: HeldOut
    metric: str
    exclude_seen: Any
    values_N: NDArray[np.float64] | None = None
    """The best values of the metric, one per query."""
    last: float = math.nan
    is_best: bool = False
    """Whether the last validation is the best one so far."""
    seconds: float = 0.0
    """Duration of the longest validation."""
    clock: Clock = time.monotonic

    def __call__(self, model: Recommender) -> Mapping[str, float]:
        """Return the mean by the name of the metric."""
        started = self.clock()
        values_N = self._values(model)
        self.last = float(np.nanmean(values_N))
        self.is_best = self.values_N is None or self._is_better(self.last)
        if self.is_best:
            self.values_N = values_N
        self.seconds = max(self.seconds, self.clock() - started)
        return {self.metric: self.last}

    def _values(self, model: Recommender) -> NDArray[np.float64]:
        if self.metric in rating_metrics.__all__:
            if not (isinstance(model, Predictor) and model.predicts_ratings):
                make_validator(self.held_out, self.metric)(model)  # raises the error that explains it
            errors = rating_metrics.prediction_errors(model, self.held_out)  # type: ignore[arg-type]
            values: NDArray[np.float64] = getattr(rating_metrics, self.metric)(errors)
            return values
        (metric,) = resolve_metrics([self.metric], (10,))
        ranks = rank(model, self.held_out, k=0, exclude_seen=self.exclude_seen)
        has_target = np.diff(ranks.offsets) > 0
        if not has_target.any():
            raise ValueError(f"no validation query has a true item, of {len(ranks)}; expected at least one")
        found: NDArray[np.float64] = np.asarray(metric(ranks))[has_target]
        return found

    def _is_better(self, value: float) -> bool:
        best = float(np.nanmean(self.values_N))  # type: ignore[arg-type]
        return value < best if is_lower_better(self.metric) else value > best

    def estimate(self, seed: int) -> Estimate | None:
        """Return the best mean with its interval, or ``None`` before the first validation."""
        if self.values_N is None:
            return None
        return estimate_values({self.metric: self.values_N}, seed)[self.metric]
