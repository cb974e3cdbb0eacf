"""Weight logged impressions by a target policy, and check the overlap.

Shapes: Q queries, K positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segue.core.messages import arg
from segue.evaluation.off_policy import estimators as formulas
from segue.evaluation.off_policy.estimators import PolicyTerms
from segue.evaluation.off_policy.overlap import (
    Overlap,
    OverlapLimits,
    ThinOverlapError,
    find_thin_overlap,
    measure_overlap,
)
from segue.experiment.off_policy.impressions import LoggedImpressions
from segue.experiment.off_policy.rewards import PredictedRewards
from segue.experiment.off_policy.target_policy import TargetPolicy

__all__ = ["WeightedPolicy"]


class WeightedPolicy:
    """The weights of a policy, their overlap, and the terms of its estimators."""

    def __init__(
        self,
        policy: TargetPolicy,
        impressions: LoggedImpressions,
        examination_K: NDArray[np.float64] | None,
        chosen: Sequence[str],
        limits: OverlapLimits,
        name: str,
    ) -> None:
        self.impressions, self.policy, self.limits, self.name = impressions, policy, limits, name
        self.weights_QK = impressions.to_grid(policy.logged_T / impressions.propensity_T)
        self.mass_QK = policy.mass_QK * impressions.is_shown
        self.overlap: dict[str, Overlap] = {}
        if any(one not in ("dm", "pbm") for one in chosen):
            self.overlap["item_position"] = measure_overlap(self.weights_QK, self.mass_QK, impressions.units)
        self.examination_weights_QK: NDArray[np.float64] | None = None
        if examination_K is not None:
            if policy.logged_TK is None:
                raise ValueError(
                    f"{arg(name)}: {impressions.table.name} has the probability of the policy at one position only, "
                    f"expected for pbm one column per position, such as {policy.name.split()[-1].strip(chr(39))}_1"
                )
            assert impressions.propensity_TK is not None
            self.examination_weights_QK = formulas.examination_weights(
                impressions.to_grid(policy.logged_TK), impressions.to_grid(impressions.propensity_TK), examination_K
            )
            # weights have their expectation if positions count by their examination
            share_QK = impressions.is_shown * examination_K
            share_QK = share_QK / share_QK.sum(1, keepdims=True)
            mean_Q1 = (self.examination_weights_QK * share_QK).sum(1, keepdims=True)
            mass_Q1 = (self.mass_QK * share_QK).sum(1, keepdims=True)
            self.overlap["pbm"] = measure_overlap(mean_Q1, mass_Q1, impressions.units)

    def refuse(self) -> None:
        """Check the overlap.

        Raises:
            ThinOverlapError: it is below the limits.
        """
        found = self._find(self.limits)
        if found:
            raise ThinOverlapError(
                f"{arg(self.name)}: the log says too little about {self.policy.name}: {'; '.join(found)}. Evaluate a "
                f"policy that is closer to the logging policy, such as one with a higher temperature, or log more; "
                f"{arg('limits')} can allow less overlap, which is then noted in the result"
            )

    @property
    def flags(self) -> list[str]:
        """What violates the default limits."""
        return [f"{self.policy.name}: {text}" for text in self._find(OverlapLimits())]

    def _find(self, limits: OverlapLimits) -> list[str]:
        return [
            f"{text} ({kind.replace('_', '-')} weights)" if len(self.overlap) > 1 else text
            for kind, one in self.overlap.items()
            for text in find_thin_overlap(one, limits)
        ]

    def terms(
        self, chosen: Sequence[str], clip: float, predicted: PredictedRewards | None, number: int
    ) -> dict[str, PolicyTerms]:
        """Return the chosen estimators.

        Args:
            number: of the policy among those with predicted rewards.
        """
        rewards_QK, weights_QK = self.impressions.to_grid(self.impressions.reward_T), self.weights_QK
        found: dict[str, PolicyTerms] = {}
        for name in chosen:
            match name:
                case "ips":
                    found[name] = formulas.ips(rewards_QK, weights_QK)
                case "clipped_ips":
                    found[name] = formulas.clipped_ips(rewards_QK, weights_QK, clip)
                case "snips":
                    found[name] = formulas.snips(rewards_QK, weights_QK, self.mass_QK)
                case "pbm":
                    assert self.examination_weights_QK is not None
                    found[name] = formulas.ips(rewards_QK, self.examination_weights_QK)
                case "dm":
                    assert predicted is not None
                    found[name] = formulas.direct_method(predicted.expected[number])
                case "dr":
                    assert predicted is not None
                    predicted_QK = self.impressions.to_grid(predicted.logged_T)
                    expected_Q = predicted.expected[number]
                    found[name] = formulas.doubly_robust(rewards_QK, weights_QK, predicted_QK, expected_Q)
        return found
