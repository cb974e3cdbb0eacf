"""Analyze an A/B test: outcomes, sequential intervals and conclusions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segue.evaluation.confidence_sequences import (
    asymptotic_confidence_sequence,
    bounded_confidence_sequence,
    look_schedule,
    sample_ratio_mismatch,
)
from segue.reports.variants import draw_conclusions

if TYPE_CHECKING:
    from segue.serving.experiments.assignment import Experiment
    from segue.serving.experiments.outcomes import Outcomes
    from segue.serving.stores.store import Store

__all__ = ["analyze"]


def analyze(
    store: Store,
    experiment: str,
    definition: Experiment | None,
    *,
    action: str = "purchase",
    value: bool = False,
    within: int | None = None,
    shown: bool = False,
    alpha: float = 0.05,
    expected_users: int = 10_000,
    now: int,
) -> dict[str, Any]:
    """Compare the variants of an experiment with its control, as of the time ``now``.

    Args:
        definition: the experiment's variants and shares; ``None``: the variant named ``control`` is the control, and
            all variants have equal shares.
        action: the kind of event that counts as the outcome.
        value: sum the values of the events, instead of counting users with at least one event.
        within: seconds after a user's first exposure during which events count; users count once these have passed.
        shown: count only events with items that were shown.
        alpha: probability of any false positive, over all analyses and treatments; it is divided by the number of
            treatments, and p-values are multiplied by it (Bonferroni).
        expected_users: number of users at which the intervals are tightest.

    Returns:
        Numbers per variant and per comparison, conclusions and notes as sentences.

    Raises:
        ValueError: no user was exposed, or the control is unknown.
        StoreError: the store cannot be read.
    """
    from segue.serving.experiments.outcomes import collect_outcomes

    if not 0 < alpha < 1:
        raise ValueError(f"alpha: got {alpha}, expected a number between 0 and 1")
    names = ["control"] if definition is None else list(definition.variants)
    outcomes = collect_outcomes(store, experiment, names, action=action, value=value, within=within, shown=shown)
    if not len(outcomes):
        raise ValueError(f"experiment '{experiment}': no user was exposed to it yet")
    notes = _list_notes(outcomes, definition, action, within, names)
    if definition is None:
        names = _recorded_variants(outcomes, experiment)
    shares = [1 / len(names)] * len(names) if definition is None else [v.share for v in definition.variants.values()]
    is_complete_N = np.ones(len(outcomes), np.bool_) if within is None else outcomes.starts + within <= now
    is_known_N = outcomes.groups < len(names)
    mismatch_p = 1.0
    if is_known_N.any():
        mismatch_p = float(sample_ratio_mismatch(outcomes.groups[is_known_N], shares, expected_users)[-1])
    comparisons = []
    for code in range(1, len(names)):
        pair_N = is_complete_N & ((outcomes.groups == 0) | (outcomes.groups == code))
        share = shares[code] / (shares[0] + shares[code])
        comparison = _compare_to_control(
            outcomes.values[pair_N],
            outcomes.groups[pair_N] == code,
            share,
            value=value,
            alpha=alpha,
            n_comparisons=len(names) - 1,
            expected_users=expected_users,
        )
        comparisons.append({"variant": names[code], "control": names[0], **comparison})
    return {
        "experiment": experiment,
        "outcome": f"sum of values of {action}" if value else f"users with {action}",
        "within": within,
        "shown": shown,
        "alpha": alpha,
        "variants": _summarize_variants(outcomes, names, shares, is_complete_N),
        "sample_ratio_mismatch_p": mismatch_p,
        "comparisons": comparisons,
        "conclusions": draw_conclusions(comparisons, mismatch_p, alpha),
        "notes": notes,
    }


def _recorded_variants(outcomes: Outcomes, experiment: str) -> list[str]:
    """List the recorded variants of an experiment without a definition.

    The control comes first.
    """
    if not (outcomes.groups == 0).any():
        found = ", ".join(sorted(outcomes.variants[1:]))
        raise ValueError(
            f"experiment '{experiment}': no variant named control among {found}; define the experiment in a file: "
            "--experiments FILE"
        )
    return list(outcomes.variants)


def _summarize_variants(
    outcomes: Outcomes, names: list[str], shares: list[float], is_complete_N: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """Return share, users and mean of each variant.

    Users whose time window is still open are counted as waiting.
    """
    variants = []
    for code, (name, share) in enumerate(zip(names, shares, strict=True)):
        is_member_N = outcomes.groups == code
        values, waiting = outcomes.values[is_member_N & is_complete_N], int((is_member_N & ~is_complete_N).sum())
        mean = float(values.mean()) if len(values) else None
        variants.append({"variant": name, "share": share, "users": len(values), "waiting": waiting, "mean": mean})
    return variants


def _compare_to_control(
    values_N: NDArray[np.float64],
    treated_N: NDArray[np.bool_],
    share: float,
    *,
    value: bool,
    alpha: float,
    n_comparisons: int,
    expected_users: int,
) -> dict[str, Any]:
    """Compare one treatment with the control, as one of ``n_comparisons``."""
    if not len(values_N):
        return {"difference": None, "low": -np.inf, "high": np.inf, "p": 1.0, "significant_at": None}
    times, level = look_schedule(len(values_N)), alpha / n_comparisons
    if value:
        path = asymptotic_confidence_sequence(
            values_N, treated_N, analysis_times=times, alpha=level, expected_users=expected_users
        )
    else:
        path = bounded_confidence_sequence(
            values_N, treated_N, share, analysis_times=times, alpha=level, expected_users=expected_users
        )
    significant = np.flatnonzero(path.p * n_comparisons <= alpha)
    return {
        "difference": float(path.difference[-1]) if 0 < treated_N.sum() < len(treated_N) else None,
        "low": float(path.low[-1]),
        "high": float(path.high[-1]),
        "p": min(1.0, float(path.p[-1]) * n_comparisons),
        "significant_at": int(times[significant[0]]) if len(significant) else None,
    }


def _list_notes(
    outcomes: Outcomes, definition: Experiment | None, action: str, within: int | None, names: list[str]
) -> list[str]:
    """Name what limits the validity of the analysis."""
    notes = []
    if within is None:
        notes.append(
            "without --within, outcomes keep growing after they are counted, so the intervals are only approximately "
            "valid at any time"
        )
    if definition is None:
        notes.append("the shares of the variants are unknown and assumed equal; give them with --experiments FILE")
    elif len(outcomes.variants) > len(names):
        unknown = ", ".join(outcomes.variants[len(names) :])
        notes.append(f"left out, as the experiment has no such variants: {unknown}")
    if outcomes.n_switched:
        notes.append(f"users who saw another variant later and count for their first one: {outcomes.n_switched}")
    if action not in outcomes.action_counts:
        found = ", ".join(sorted(outcomes.action_counts)) or "none"
        notes.append(f"no event of kind '{action}' in time; kinds found: {found}")
    return notes
