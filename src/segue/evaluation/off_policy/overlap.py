"""Measure how well a log supports a target policy, and refuse if it hardly does.

If the logging policy rarely shows what the target policy would show, a few impressions with large weights decide the
estimate. Its interval is then too narrow, as such impressions may also be missing from the log.

Shapes: Q queries, K positions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from pydantic import field_validator
from scipy.stats import norm

from segue.core.config import Settings
from segue.evaluation.bootstrap import CONFIDENCE, Estimate

__all__ = ["Overlap", "OverlapLimits", "ThinOverlapError", "find_thin_overlap", "measure_overlap"]


class ThinOverlapError(ValueError):
    """The log says too little about a policy."""


class OverlapLimits(Settings):
    """What a log has to have in common with a target policy."""

    min_effective_sample_size: Annotated[float, Ge(1.0)] = 100.0
    """Smallest effective sample size (Kish 1965): the number of queries of the target policy itself that would be as
    informative; of several positions, that of the position with the smallest."""
    min_units: Annotated[int, Ge(1)] = 30
    """Smallest number of users, or of queries if the log has no users: intervals over fewer are too narrow."""
    max_weight_share: Annotated[float, Gt(0.0), Le(1.0)] = 0.05
    """Largest share of one impression in the sum of all weights of its position."""
    max_unsupported: Annotated[float, Ge(0.0), Le(1.0)] = 0.05
    """Largest share of the impressions of the target policy that the logging policy cannot show, estimated as 1 minus
    the mean weight. A mean weight that is as much above 1 is refused, too: the propensities are then wrong."""

    @field_validator("*", mode="before")
    @classmethod
    def _reject_truth_values(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("expected a number")
        return value


@dataclass(frozen=True)
class Overlap:
    """What the weights of a target policy say about its overlap with a log."""

    queries: int
    units: int
    """Number of users, or of queries if the log has no users."""
    effective_sample_size: float
    """``(sum of weights)^2 / sum of squared weights``, of the position with the smallest."""
    max_weight: float
    max_weight_share: float
    """Share of the largest weight in the sum of the weights of its position."""
    mean_weight: Estimate
    """Mean weight, divided by its expectation if the logging policy can show all that the target policy shows."""

    @property
    def unsupported(self) -> float:
        """Estimated share of the target policy that the logging policy cannot show."""
        return max(0.0, 1.0 - self.mean_weight.mean)

    def record(self) -> dict[str, Any]:
        """Return everything by name, for JSON."""
        return asdict(self) | {"unsupported": self.unsupported}


def measure_overlap(
    weights_QK: NDArray[np.float64],
    mass_QK: NDArray[np.float64],
    units_Q: NDArray[np.int64] | None = None,
) -> Overlap:
    """Measure the overlap of a target policy and a log.

    Args:
        weights_QK: weight of each impression; 0 where nothing is shown.
        mass_QK: expectation of the weight if all is supported, as in
            :func:`segue.evaluation.off_policy.estimators.snips`.
        units_Q: user of each query, if queries of a user depend on each other.
    """
    totals_K = weights_QK.sum(0)
    squares_K, largest_K = np.square(weights_QK).sum(0), weights_QK.max(0)
    has_weight_K = totals_K > 0
    sizes_K = np.divide(np.square(totals_K), squares_K, out=np.zeros_like(totals_K), where=has_weight_K)
    shares_K = np.divide(largest_K, totals_K, out=np.ones_like(totals_K), where=has_weight_K)
    mean = _estimate_ratio(weights_QK.sum(1), mass_QK.sum(1), units_Q)
    units = len(weights_QK) if units_Q is None else len(np.unique(units_Q))
    return Overlap(len(weights_QK), units, float(sizes_K.min()), float(largest_K.max()), float(shares_K.max()), mean)


def _estimate_ratio(
    weights_Q: NDArray[np.float64], mass_Q: NDArray[np.float64], units_Q: NDArray[np.int64] | None
) -> Estimate:
    """Return the mean weight with its 95 % interval by the normal approximation."""
    if units_Q is not None:
        weights_Q, mass_Q = (np.bincount(units_Q, weights=one_Q).astype(np.float64) for one_Q in (weights_Q, mass_Q))
    if not mass_Q.any():
        return Estimate(0.0, 0.0, 0.0)
    mean = float(weights_Q.sum() / mass_Q.sum())
    residuals_Q = (weights_Q - mean * mass_Q) / mass_Q.mean()
    half = float(norm.ppf((1 + CONFIDENCE) / 2) * residuals_Q.std() / np.sqrt(len(residuals_Q)))
    return Estimate(mean, mean - half, mean + half)


def find_thin_overlap(overlap: Overlap, limits: OverlapLimits) -> list[str]:
    """Return what is wrong with an overlap, one sentence each; nothing if it suffices."""
    found, mean = [], overlap.mean_weight
    if overlap.effective_sample_size < limits.min_effective_sample_size:
        found.append(
            f"effective sample size {overlap.effective_sample_size:,.1f} of {overlap.queries:,} queries, expected at "
            f"least {limits.min_effective_sample_size:g}"
        )
    if overlap.units < limits.min_units:
        noun = "queries" if overlap.units == overlap.queries else "users"
        found.append(f"{overlap.units:,} {noun}, expected at least {limits.min_units:,}")
    if overlap.max_weight_share > limits.max_weight_share:
        found.append(
            f"one impression has {overlap.max_weight_share:.1%} of all weight (largest weight "
            f"{overlap.max_weight:,.1f}), expected at most {limits.max_weight_share:.1%}"
        )
    if mean.high < 1.0 - limits.max_unsupported:
        found.append(
            f"mean weight {mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}]: the log supports all but about "
            f"{overlap.unsupported:.1%} of what the target policy shows, expected at most {limits.max_unsupported:.1%}"
        )
    if mean.low > 1.0 + limits.max_unsupported:
        found.append(
            f"mean weight {mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}], expected about 1: the propensities are "
            "too small, or the probabilities of the target policy sum to more than 1"
        )
    return found
