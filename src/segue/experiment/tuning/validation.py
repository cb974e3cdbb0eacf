"""Measure models on validation during training, and remember the best values."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from segue.core.model import Model, Predictor, Recommender, is_lower_better
from segue.core.types import HeldOut
from segue.evaluation import rating_metrics
from segue.evaluation.bootstrap import Estimate, estimate_values
from segue.evaluation.evaluate import make_validator
from segue.evaluation.evaluate_examples import evaluate_predictions, score_rows
from segue.evaluation.metrics import resolve_metrics
from segue.evaluation.ranking import rank

__all__ = ["Clock", "ExampleRecorder", "Recorder", "Report", "ValidationRecorder"]

Clock = Callable[[], float]
"""Returns a time in seconds that never goes back."""

Report = Callable[[int, float], bool]
"""Receives an epoch and its validation metric; returns whether the trial should end."""


class Recorder(Protocol):
    """Computes the validation metric of a model, and remembers the best state."""

    last: float
    """The metric of the last validation."""
    is_best: bool
    """Whether the last validation is the best one so far."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was validated since the start or :meth:`clear`."""
        ...

    def clear(self) -> None:
        """Forget the best state."""
        ...

    def __call__(self, model: Any) -> Mapping[str, float]:
        """Return means by the names of metrics."""
        ...

    def estimate(self, seed: int) -> Estimate | None:
        """Return the metric of the best state with its 95 % interval.

        ``None`` without such a state.
        """
        ...


@dataclass(eq=False)
class ValidationRecorder:
    """Computes a ranking metric or an error of predicted ratings.

    Remembers the values of the best state.
    """

    held_out: HeldOut
    metric: str
    exclude_seen: Any
    values_N: NDArray[np.float64] | None = None
    """The best values of the metric, one per query."""
    last: float = math.nan
    is_best: bool = False
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

    @property
    def is_empty(self) -> bool:
        """See :class:`Recorder`."""
        return self.values_N is None

    def clear(self) -> None:
        """See :class:`Recorder`."""
        self.values_N = None

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


@dataclass(eq=False)
class ExampleRecorder:
    """Computes AUC and logarithmic loss on labeled rows.

    Remembers the predictions of the best state.
    """

    labels_T: NDArray[Any]
    predict: Callable[[Model], NDArray[Any]]
    """Returns the logits of the rows, ``(T,)``."""
    metric: str
    logits_T: NDArray[Any] | None = None
    """Those of the best state."""
    last: float = math.nan
    is_best: bool = False

    def __call__(self, model: Model) -> Mapping[str, float]:
        """Return the means by the names of the metrics."""
        logits_T = self.predict(model)
        found = score_rows(self.labels_T, logits_T)
        best = None if self.logits_T is None else score_rows(self.labels_T, self.logits_T)[self.metric]
        self.last = found[self.metric]
        self.is_best = best is None or (self.last < best if is_lower_better(self.metric) else self.last > best)
        if self.is_best:
            self.logits_T = logits_T
        return found

    @property
    def is_empty(self) -> bool:
        """See :class:`Recorder`."""
        return self.logits_T is None

    def clear(self) -> None:
        """See :class:`Recorder`."""
        self.logits_T = None

    def estimate(self, seed: int) -> Estimate | None:
        """See :class:`Recorder`."""
        if self.logits_T is None:
            return None
        p_T = expit(self.logits_T.astype(np.float64))
        return evaluate_predictions(self.labels_T, p_T, seed=seed)[self.metric]
