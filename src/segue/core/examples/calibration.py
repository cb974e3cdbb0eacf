"""Calibrate predicted probabilities on labels that the model was not trained on.

* ``platt``: sigmoid(a z + b) of the logit z (Platt 1999).
* ``temperature``: sigmoid(z / t) (Guo et al. 2017, arXiv:1706.04599).
* ``isotonic``: the best non-decreasing step function of the probability (Zadrozny & Elkan 2002), interpolated between
  steps. Logits that are nearer than 1 / :data:`RESOLUTION` of their range count as one, which limits the slope
  between two steps: float32 logits of a row differ by some 1e-7 of that range between batches of different sizes, and a
  step between logits that are almost equal would turn that into different probabilities.

Shapes: T examples, G groups of almost equal logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize, minimize_scalar
from scipy.special import expit, log_expit

__all__ = ["Calibration", "CalibrationMethod"]

CalibrationMethod: TypeAlias = Literal["platt", "temperature", "isotonic"]

Values: TypeAlias = NDArray[np.float64]

MIN_PROBABILITY = 1e-6
"""Isotonic probabilities are at least this far from 0 and 1, so that no label is impossible."""

RESOLUTION = 1_000
"""Steps of ``isotonic`` at most."""

MAX_LOGIT = 30.0
"""Larger logits count as this one for ``isotonic``; their probabilities differ by less than 1e-13."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """A function from logits to probabilities."""

    method: CalibrationMethod
    x: tuple[float, ...]
    """``platt``: a and b; ``temperature``: t; ``isotonic``: probabilities of the model in ascending order."""
    y: tuple[float, ...] = ()
    """``isotonic``: calibrated probabilities."""

    @classmethod
    def fit(cls, method: CalibrationMethod, logits_T: NDArray[Any], labels_T: NDArray[Any]) -> Self:
        """Fit a calibration by maximum likelihood (``isotonic``: least squares).

        Raises:
            ValueError: the method is unknown, or the labels are all equal.
        """
        z_T, y_T = np.asarray(logits_T, np.float64), np.asarray(labels_T, np.float64)
        if method not in get_args(CalibrationMethod):
            raise ValueError(f"calibration: got '{method}', expected {', '.join(get_args(CalibrationMethod))}")
        if len(y_T) == 0 or y_T.min() == y_T.max():
            raise ValueError(f"calibration: all {len(y_T)} labels are equal, expected positive and negative ones")

        # Platt's targets: one more example of either label, so that separable labels have finite parameters
        n_positive = y_T.sum()
        t_T = np.where(y_T > 0, (n_positive + 1) / (n_positive + 2), 1 / (len(y_T) - n_positive + 2))

        def loss(x_T: Values) -> float:
            return float(-(t_T * log_expit(x_T) + (1 - t_T) * log_expit(-x_T)).mean())

        if method == "platt":
            center, scale = float(z_T.mean()), float(z_T.std()) or 1.0
            s_T = (z_T - center) / scale

            def loss_and_gradient(parameters: Values) -> tuple[float, Values]:
                x_T = parameters[0] * s_T + parameters[1]
                errors_T = expit(x_T) - t_T
                return loss(x_T), np.array([(errors_T * s_T).mean(), errors_T.mean()])

            a, b = minimize(loss_and_gradient, np.array([scale, center]), jac=True, method="BFGS").x.tolist()
            return cls(method, (a / scale, b - a * center / scale))
        if method == "temperature":
            best = minimize_scalar(lambda log_t: loss(z_T * np.exp(-log_t)), bounds=(-5.0, 5.0))
            return cls(method, (float(np.exp(best.x)),))
        z_G, means_G, counts_G = _group_logits(z_T, y_T)
        steps_G = isotonic_regression(means_G, weights=counts_G).x
        is_end = np.ones(len(steps_G), np.bool_)  # both ends of each step
        is_end[1:-1] = (steps_G[1:-1] != steps_G[:-2]) | (steps_G[1:-1] != steps_G[2:])
        return cls(method, tuple(expit(z_G[is_end]).tolist()), tuple(steps_G[is_end].tolist()))

    def apply(self, logits_T: NDArray[Any]) -> Values:
        """Return calibrated probabilities, ``(T,)``."""
        z_T = np.asarray(logits_T, np.float64)
        if self.method == "platt":
            p_T: Values = expit(self.x[0] * z_T + self.x[1])
        elif self.method == "temperature":
            p_T = expit(z_T / self.x[0])
        else:
            p_T = np.clip(np.interp(expit(z_T), self.x, self.y), MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        return p_T

    def to_json(self) -> dict[str, Any]:
        """Return the values as JSON holds them."""
        return {"method": self.method, "x": list(self.x), "y": list(self.y)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` returned."""
        return cls(values["method"], tuple(values["x"]), tuple(values["y"]))


def _group_logits(z_T: Values, y_T: Values) -> tuple[Values, Values, Values]:
    """Return the mean logit, mean label and size of groups of almost equal logits.

    All are ``(G,)``. Mean logits are in ascending order, and apart by at least 1 / :data:`RESOLUTION` of their range.
    """
    distinct, rows_T = np.unique(np.clip(z_T, -MAX_LOGIT, MAX_LOGIT), return_inverse=True)
    distance = float(np.ptp(distinct)) / RESOLUTION
    groups: list[tuple[float, float, float]] = []  # sums of logits and of labels, number of examples
    sums = (np.bincount(rows_T) * distinct, np.bincount(rows_T, y_T), np.bincount(rows_T))
    for z, y, count in zip(*(one.tolist() for one in sums), strict=True):
        while groups and z / count - groups[-1][0] / groups[-1][2] < distance:
            before = groups.pop()
            z, y, count = z + before[0], y + before[1], count + before[2]
        groups.append((z, y, count))
    z_G, y_G, counts_G = np.array(groups).T
    return z_G / counts_G, y_G / counts_G, counts_G
